"""Samples of video files, there and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dstnet_arch.video.colour import Colour, SampleFormat, alpha_of, from_rgb, to_rgb

av = pytest.importorskip('av')

from av.video import reformatter  # noqa: E402

from dstnet_arch.video.frames import planes_of  # noqa: E402

FORMATS = ['yuv420p', 'yuvj420p', 'yuv422p10le', 'yuv444p12le', 'yuv410p', 'yuv411p', 'yuv440p', 'yuva420p', 'gbrp',
           'gbrap12le', 'gray', 'gray10le']  # fmt: skip


def smooth(height: int, width: int) -> torch.Tensor:
    """Colours whose chroma changes slowly."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing='ij')
    return torch.stack([0.3 + 0.4 * x, 0.3 + 0.4 * y, 0.7 - 0.2 * x * y])


@pytest.mark.parametrize('name', FORMATS)
@pytest.mark.parametrize('size', [(16, 24), (17, 33), (1, 1)], ids=str)
def test_planes_are_what_ffmpeg_has(name: str, size: tuple[int, int]) -> None:
    form = SampleFormat.parse(name)
    assert form is not None
    frame = av.VideoFrame(size[1], size[0], name)
    assert [(plane.height, plane.width) for plane in frame.planes] == form.plane_sizes(*size)
    planes = from_rgb(torch.rand(3, *size), form, Colour().resolved(*size, form.family))
    assert [plane.shape for plane in planes] == form.plane_sizes(*size)
    assert {plane.dtype for plane in planes} == {form.dtype}


@pytest.mark.parametrize('name', FORMATS)
@pytest.mark.parametrize('colour', [Colour(), Colour(1, True), Colour(9, False), Colour(5, False)], ids=str)
def test_what_is_not_changed_comes_back_bit_for_bit(name: str, colour: Colour) -> None:
    form = SampleFormat.parse(name)
    assert form is not None
    colour = colour.resolved(64, 48, form.family)
    torch.manual_seed(0)
    rgb, alpha = 0.4 + 0.2 * torch.rand(3, 64, 48), torch.rand(64, 48)
    planes = from_rgb(rgb, form, colour, alpha)
    again = from_rgb(to_rgb(planes, form, colour), form, colour, alpha_of(planes, form))
    assert all(np.array_equal(a, b) for a, b in zip(planes, again, strict=True))


@pytest.mark.parametrize(('matrix', 'name'), [(1, 'itu709'), (6, 'smpte170m'), (9, 'bt2020')])
@pytest.mark.parametrize('full', [False, True])
@pytest.mark.parametrize('pix_fmt', ['yuv444p', 'yuv420p', 'yuv420p10le'])
def test_colours_are_ffmpegs(matrix: int, name: str, full: bool, pix_fmt: str) -> None:
    """Against its converter, which rounds on its way."""
    if name not in reformatter.Colorspace.__members__:
        pytest.skip(f'PyAV {av.__version__} has no name for {name}')
    form = SampleFormat.parse(pix_fmt)
    assert form is not None
    rgb = smooth(64, 96)
    planes = from_rgb(rgb, form, Colour(matrix, full))
    source = av.VideoFrame.from_ndarray((rgb * 255).round().byte().permute(1, 2, 0).contiguous().numpy(), 'rgb24')
    theirs = planes_of(source.reformat(format=pix_fmt, dst_colorspace=name, dst_color_range='JPEG' if full else 'MPEG'))
    one_level = 1 << form.depth - 8
    assert np.abs(planes[0].astype(int) - theirs[0]).max() <= one_level
    for ours, chroma in zip(planes[1:], theirs[1:], strict=True):  # subsampled by other filters
        assert np.abs(ours.astype(int) - chroma).max() <= one_level * (1 if form.shift == (0, 0) else 3)
    assert (to_rgb(planes, form, Colour(matrix, full)) - rgb).abs().max() < 0.02


def test_untagged_colours_are_guessed_as_players_do() -> None:
    assert Colour().resolved(480, 720, 'yuv')[:2] == (6, False)
    assert Colour().resolved(576, 1024, 'yuv')[:2] == (6, False)
    assert Colour().resolved(720, 1280, 'yuv')[:2] == (1, False)
    assert Colour().resolved(1280, 720, 'yuv')[:2] == (1, False)
    assert Colour(9, True).resolved(480, 720, 'yuv')[:2] == (9, True)
    assert Colour().resolved(480, 720, 'gray').full
    assert Colour(0).resolved(480, 720, 'rgb').full


@pytest.mark.parametrize('name', ['nv12', 'rgb24', 'yuv420p10be', 'gbrpf32le', 'pal8', 'p010le', 'cuda'])
def test_formats_of_other_kinds(name: str) -> None:
    assert SampleFormat.parse(name) is None

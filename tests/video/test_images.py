"""Image files with several pages, colour profiles and 16 bits."""

from __future__ import annotations

import os
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from video_clips import Copy, frames_of, picture, times

from dstnet_arch.errors import DataError
from dstnet_arch.video.images import file_type, read_image, write_png
from dstnet_arch.video.sources import open_source

DURATIONS = [100, 50, 200, 40]


def save_pages(path: Path, **options: object) -> Path:
    pages = [Image.fromarray(picture(t, 16, 24)) for t in range(4)]
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)
    return path


def test_multi_page_tiff_is_a_sequence(copy: Copy, tmp_path: Path) -> None:
    tiff = save_pages(tmp_path / 'a.tiff')
    assert file_type(tiff) == 'pages'
    copy(tiff, 'out')
    assert sorted(os.listdir(tmp_path / 'out')) == [f'{t:06d}.png' for t in range(4)]
    for t in range(4):
        assert np.array_equal(read_image(tmp_path / 'out' / f'{t:06d}.png'), picture(t, 16, 24))
    with closing(open_source(str(tiff), 1, 3)) as part, closing(open_source(str(tiff))) as complete:
        assert torch.equal(part[1], complete[2])


def test_multi_page_tiff_keeps_16_bits(copy: Copy, tmp_path: Path) -> None:
    pages = [np.random.default_rng(t).integers(0, 65536, (8, 12, 3), np.uint16) for t in range(3)]
    cv2.imwritemulti(str(tmp_path / 'a.tif'), [page[..., ::-1] for page in pages])
    copy(tmp_path / 'a.tif', 'out')
    for t, page in enumerate(pages):
        assert np.array_equal(read_image(tmp_path / 'out' / f'{t:06d}.png'), page)


@pytest.mark.parametrize('name', ['a.webp', 'a.gif', 'a.png'])
def test_animations_keep_their_times(copy: Copy, tmp_path: Path, name: str) -> None:
    path = save_pages(tmp_path / name, duration=DURATIONS, **({'lossless': True} if name == 'a.webp' else {}))
    out = copy(path, 'out.mp4').path
    assert times(out) == [Fraction(t, 1000) for t in (0, 100, 150, 350)]
    assert len(frames_of(out)) == 4


def test_pages_in_a_folder_are_named(tmp_path: Path) -> None:
    save_pages(tmp_path / 'a.tiff')
    source = open_source(str(tmp_path))
    assert len(source) == 1
    assert 'a.tiff have several pages; only the first is used' in source.warnings[0]


def test_colour_profile_is_kept(copy: Copy, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('LAB')).tobytes()
    (tmp_path / 'in').mkdir()
    for name in ('a.png', 'b.jpg', 'c.tif'):
        Image.fromarray(picture(0, 16, 24)).save(tmp_path / 'in' / name, icc_profile=profile)
    copy(tmp_path / 'in', 'out')
    for name in 'abc':
        with Image.open(tmp_path / 'out' / f'{name}.png') as image:
            assert image.info['icc_profile'] == profile


@pytest.mark.parametrize('shape', [(5, 7), (5, 7, 3), (5, 7, 4)])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_write_png_keeps_channels_and_depth(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    write_png(image, tmp_path / 'a.png', b'profile')
    read = read_image(tmp_path / 'a.png')
    assert read.dtype == dtype
    assert np.array_equal(read, image)


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_damaged_pages_are_refused(tmp_path: Path) -> None:
    tiff = save_pages(tmp_path / 'a.tiff', compression='tiff_lzw')
    data = tiff.read_bytes()
    tiff.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DataError, match='cannot be read as an image'):
        open_source(str(tiff))


def test_images_become_a_video(copy: Copy, tmp_path: Path) -> None:
    (tmp_path / 'in').mkdir()
    for t in range(3):
        cv2.imwrite(str(tmp_path / 'in' / f'{t}.png'), picture(t, 17, 23)[..., ::-1])
    lossless = copy(tmp_path / 'in', 'out.mkv', codec='ffv1').path
    for t, frame in enumerate(frames_of(lossless)):
        assert np.abs(frame.to_ndarray(format='rgb24').astype(int) - picture(t, 17, 23)).max() <= 1
    out = copy(tmp_path / 'in', 'out.mp4', rate=Fraction(30000, 1001)).path
    assert times(out) == [t * Fraction(1001, 30000) for t in range(3)]
    frame = frames_of(out)[2]
    assert (frame.colorspace, frame.color_range) == (6, 1)
    assert np.abs(frame.to_ndarray(format='rgb24').astype(int) - picture(2, 17, 23)).mean() < 4

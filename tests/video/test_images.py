"""Image files as videos and as results: folders, patterns, pages, depths, profiles."""

from __future__ import annotations

from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from deblur_utils import files, load_all, make_frames, noise, save
from PIL import Image, ImageCms, ImageOps
from video_clips import Copy, frames_of, picture, times

from dstnet_arch.deblur.preview import to_image
from dstnet_arch.errors import DataError
from dstnet_arch.video.images import file_type, read_image, write_png
from dstnet_arch.video.sources import open_source

DURATIONS = [100, 50, 200, 40]


def save_pages(path: Path, **options: object) -> Path:
    pages = [Image.fromarray(picture(t, 16, 24)) for t in range(4)]
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)
    return path


@pytest.mark.parametrize('pattern', ['b*.png', 'b%d.png', 'b%02d.png', ''])
def test_open_source_finds_images(tmp_path: Path, pattern: str) -> None:
    source = make_frames(tmp_path / 'mein Vidéo ☂', 11, 'b{}.png')
    (source / 'notes.txt').touch()
    (source / '.b0.png').touch()
    if pattern:
        save(source / 'other.png', noise(8, 8))
    assert open_source(str(source / pattern)).names == [f'b{t}' for t in range(11)]  # in natural order


def test_open_source_selects_images_by_number_or_time(tmp_path: Path) -> None:
    source = str(make_frames(tmp_path / 'in', 6))
    assert open_source(source, 2, 5).names == ['002', '003', '004']
    assert open_source(source, Fraction(1, 2), Fraction(1), Fraction(4)).names == ['002', '003']
    with pytest.raises(DataError, match='none of its frames 0 to 5'):
        open_source(source, 6)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_kind_of_images_is_kept(copy: Copy, tmp_path: Path, channels: int, dtype: Any) -> None:
    make_frames(tmp_path / 'in', 3, channels=channels, dtype=dtype)
    (tmp_path / 'in' / '001.png').rename(tmp_path / 'in' / '001.jpg')  # PNG inside: the content decides
    save(tmp_path / 'in' / '003.png', noise(channels=1))
    copy(tmp_path / 'in', 'out')
    assert files(tmp_path / 'out') == [f'{t:03d}.png' for t in range(4)]
    expected = [*(noise(channels=channels, dtype=dtype, seed=t) for t in range(3)), noise(channels=1)]
    for image, original in zip(load_all(tmp_path / 'out'), expected, strict=True):
        assert image.dtype == original.dtype
        np.testing.assert_array_equal(image, original)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_images_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(noise(6, 10))
    exif = image.getexif()
    exif[0x0112] = orientation
    for extension, options in (('png', {}), ('webp', {'lossless': True})):
        (tmp_path / extension).mkdir()
        image.save(tmp_path / extension / f'0.{extension}', exif=exif, **options)
        with Image.open(tmp_path / extension / f'0.{extension}') as saved:
            upright = np.asarray(ImageOps.exif_transpose(saved))
        source = open_source(str(tmp_path / extension))
        assert source.size == upright.shape[:2]
        np.testing.assert_array_equal(to_image(source[0]), upright)


@pytest.mark.parametrize('case', ['empty', 'folders', 'cut.png', 'cut.jpg', 'flipped.png', 'text.png', 'size', 'names'])
def test_unusable_folders_are_explained(tmp_path: Path, case: str) -> None:
    source, message = tmp_path / 'in', 'has no images in it'
    kind, _, extension = case.partition('.')
    if extension:
        make_frames(source, 3, f'{{:03d}}.{extension}', height=64, width=64)
        bad = source / f'001.{extension}'
        data, message = bad.read_bytes(), f'001.{extension} cannot be read as an image'
        flipped = bytes(b ^ 255 if i == len(data) // 2 else b for i, b in enumerate(data))
        bad.write_bytes({'cut': data[: len(data) * 3 // 4], 'flipped': flipped, 'text': b'not an image'}[kind])
    elif case == 'empty':
        source.mkdir()
    elif case == 'folders':
        make_frames(source / 'clip')
        message = 'It contains clip'
    else:
        make_frames(source, 3)
        message = '002.png \\(16x24\\)' if case == 'size' else '001.jpg and .*001.png would both be restored'
        save(source / ('002.png' if case == 'size' else '001.jpg'), noise(24, 16) if case == 'size' else noise())
    with pytest.raises(DataError, match=message):  # noqa: PT012
        frames = open_source(str(source))
        frames[1]


@pytest.mark.parametrize(
    ('names', 'gap'),
    [('0 1 2 5 6', '2 to 5'), ('a10 a20 a30', ''), ('a c d', ''), ('1 2 b7', ''), ('1 2', '')],
)
def test_gaps_in_numbers_are_a_warning(tmp_path: Path, names: str, gap: str) -> None:
    for name in names.split():
        save(tmp_path / f'{name}.png', noise())
    warnings = open_source(str(tmp_path)).warnings
    assert len(warnings) == bool(gap)
    assert gap in ''.join(warnings)


def test_multi_page_tiff_is_a_sequence(copy: Copy, tmp_path: Path) -> None:
    tiff = save_pages(tmp_path / 'a.tiff')
    assert file_type(tiff) == 'pages'
    copy(tiff, 'out')
    assert files(tmp_path / 'out') == [f'{t:06d}.png' for t in range(4)]
    assert all(map(np.array_equal, load_all(tmp_path / 'out'), [picture(t, 16, 24) for t in range(4)]))
    with closing(open_source(str(tiff), 1, 3, temp_dir=str(tmp_path))) as part, closing(open_source(str(tiff))) as full:
        assert torch.equal(part[1], full[2])
        assert part.identity() != full.identity()
    assert files(tmp_path) == ['a.tiff', 'out']


def test_multi_page_tiff_keeps_16_bits(copy: Copy, tmp_path: Path) -> None:
    pages = [noise(dtype=np.uint16, seed=t) for t in range(3)]
    cv2.imwritemulti(str(tmp_path / 'a.tif'), [page[..., ::-1] for page in pages])
    copy(tmp_path / 'a.tif', 'out')
    assert all(map(np.array_equal, load_all(tmp_path / 'out'), pages))


@pytest.mark.parametrize('name', ['a.webp', 'a.gif', 'a.png'])
def test_animations_keep_their_times(copy: Copy, tmp_path: Path, name: str) -> None:
    path = save_pages(tmp_path / name, duration=DURATIONS, **({'lossless': True} if name == 'a.webp' else {}))
    out = copy(path, 'out.mp4').path
    assert times(out) == [Fraction(t, 1000) for t in (0, 100, 150, 350)]


def test_pages_in_a_folder_are_named(tmp_path: Path) -> None:
    save_pages(tmp_path / 'a.tiff')
    source = open_source(str(tmp_path))
    assert len(source) == 1
    assert 'a.tiff have several pages; only the first is used' in source.warnings[0]


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_damaged_pages_are_refused(tmp_path: Path) -> None:
    tiff = save_pages(tmp_path / 'a.tiff', compression='tiff_lzw')
    data = tiff.read_bytes()
    tiff.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DataError, match='cannot be read as an image'):
        open_source(str(tiff))


def test_colour_profile_is_kept(copy: Copy, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('LAB')).tobytes()
    (tmp_path / 'in').mkdir()
    for name in ('a.png', 'b.jpg', 'c.tif'):
        Image.fromarray(picture(0, 16, 24)).save(tmp_path / 'in' / name, icc_profile=profile)
    copy(tmp_path / 'in', 'out')
    for name in 'abc':
        with Image.open(tmp_path / 'out' / f'{name}.png') as image:
            assert image.info['icc_profile'] == profile


@pytest.mark.parametrize('channels', [1, 3, 4])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_write_png_keeps_channels_and_depth(tmp_path: Path, channels: int, dtype: Any) -> None:
    image = noise(5, 7, channels, dtype)
    write_png(image, tmp_path / 'a.png', b'profile')
    np.testing.assert_array_equal(read_image(tmp_path / 'a.png'), image, strict=True)


def test_images_become_a_video(copy: Copy, tmp_path: Path) -> None:
    (tmp_path / 'in').mkdir()
    for t in range(3):
        save(tmp_path / 'in' / f'{t}.png', picture(t, 17, 23))
    lossless = copy(tmp_path / 'in', 'out.mkv', codec='ffv1').path
    for t, frame in enumerate(frames_of(lossless)):
        assert np.abs(frame.to_ndarray(format='rgb24').astype(int) - picture(t, 17, 23)).max() <= 1
    out = copy(tmp_path / 'in', 'out.mp4', rate=Fraction(30000, 1001)).path
    assert times(out) == [t * Fraction(1001, 30000) for t in range(3)]
    frame = frames_of(out)[2]
    assert (frame.colorspace, frame.color_range) == (6, 1)
    assert np.abs(frame.to_ndarray(format='rgb24').astype(int) - picture(2, 17, 23)).mean() < 4

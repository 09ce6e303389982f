"""``dstnet deblur`` with folders of images of all kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from deblur_utils import Deblur, assert_same, files, load, load_all, make_frames, noise, restore_clip, save
from PIL import Image, ImageOps

from dstnet_arch.archs.checkpoint import load_checkpoint
from dstnet_arch.deblur.preview import to_image
from dstnet_arch.video.sources import open_source


@pytest.mark.parametrize('pattern', ['b*.png', 'b%d.png', 'b%02d.png'])
def test_patterns(deblur: Deblur, tmp_path: Path, pattern: str) -> None:
    source = make_frames(tmp_path / 'frames', 2, 'b{}.png')
    save(source / 'other.png', noise(8, 8))
    assert deblur(source / pattern, '-o', tmp_path / 'sharp')[0] == 0
    assert files(tmp_path / 'sharp') == ['b0.png', 'b1.png']


def test_single_image(deblur: Deblur, weights: Path, tmp_path: Path) -> None:
    image = make_frames(tmp_path / 'blurry', 1) / '000.png'
    for name, source in {'folder': image.parent, 'file': image}.items():
        assert deblur(source, '-o', tmp_path / name)[0] == 0
        assert_same(load_all(tmp_path / name), restore_clip(weights, [noise()]))


@pytest.mark.parametrize('size', [(1, 1), (12, 16), (241, 321), (33, 17)], ids=lambda size: f'{size[1]}x{size[0]}')
def test_any_size(deblur: Deblur, weights: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    source = make_frames(tmp_path / 'blurry', 2, height=size[0], width=size[1])
    assert deblur(source, '-o', tmp_path / 'sharp')[0] == 0
    assert_same(load_all(tmp_path / 'sharp'), restore_clip(weights, [noise(*size, seed=t) for t in range(2)]))


def test_names_in_natural_order_and_any_script(deblur: Deblur, weights: Path, tmp_path: Path) -> None:
    names = [*map(str, range(11)), 'Übung 映像', "a'b x.y"]
    for t, name in enumerate(sorted(names[11:]) + names[:11]):
        save(tmp_path / 'mein Vidéo ☂' / f'{name}.png', noise(seed=t))
    assert deblur(tmp_path / 'mein Vidéo ☂', '-o', tmp_path / 'sharp')[0] == 0
    assert files(tmp_path / 'sharp') == sorted(f'{name}.png' for name in names)
    source = make_frames(tmp_path / 'numbers', 11, '{}.png')
    assert deblur(source, '-o', tmp_path / 'other')[0] == 0
    restored = [load(tmp_path / 'other' / f'{t}.png') for t in range(11)]
    assert_same(restored, restore_clip(weights, [noise(seed=t) for t in range(11)]))


def test_kinds_of_images_are_kept(deblur: Deblur, weights: Path, tmp_path: Path) -> None:
    make_frames(tmp_path / 'gray', 2, channels=1)
    make_frames(tmp_path / 'alpha', 2, channels=4)
    mixed = make_frames(tmp_path / 'mixed', 2)
    (mixed / '001.png').rename(mixed / '001.jpg')  # PNG inside: the content decides
    save(mixed / '002.png', noise(channels=1))
    (mixed / 'notes.txt').write_text('not a frame')
    for name in ('gray', 'alpha', 'mixed'):
        assert deblur(tmp_path / name, '-o', tmp_path / f'{name}_out')[0] == 0

    frames = [np.repeat(noise(channels=1, seed=t)[..., None], 3, axis=2) for t in range(2)]
    expected = [frame.mean(axis=2).round() for frame in restore_clip(weights, frames)]
    for restored, gray in zip(load_all(tmp_path / 'gray_out'), expected, strict=True):
        assert restored.ndim == 2
        assert np.abs(restored - gray).max() <= 1

    restored = load_all(tmp_path / 'alpha_out')
    frames = [noise(channels=4, seed=t) for t in range(2)]
    assert_same([image[..., :3] for image in restored], restore_clip(weights, [frame[..., :3] for frame in frames]))
    assert all(np.array_equal(a[..., 3], b[..., 3]) for a, b in zip(restored, frames, strict=True))

    assert files(tmp_path / 'mixed_out') == ['000.png', '001.png', '002.png']
    assert [image.ndim for image in load_all(tmp_path / 'mixed_out')] == [3, 3, 2]


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


def test_sixteen_bits_are_kept(deblur: Deblur, weights: Path, tmp_path: Path) -> None:
    source = make_frames(tmp_path / 'blurry', 2, dtype=np.uint16)
    assert deblur(source, '-o', tmp_path / 'sharp')[0] == 0
    clip = torch.stack([torch.from_numpy(noise(dtype=np.uint16, seed=t) / 65535).permute(2, 0, 1) for t in range(2)])
    with torch.no_grad():
        expected = load_checkpoint(weights).double()(clip[None])[0].clamp(0, 1).permute(0, 2, 3, 1).numpy() * 65535
    for restored, image in zip(load_all(tmp_path / 'sharp'), expected, strict=True):
        assert restored.dtype == np.uint16
        assert np.abs(restored - image).max() < 2


@pytest.mark.parametrize('case', ['empty', 'folders', 'cut.png', 'cut.jpg', 'flipped.png', 'text.png', 'size', 'names'])
def test_unusable_folders_are_explained(deblur: Deblur, tmp_path: Path, case: str) -> None:
    source, message = tmp_path / 'blurry', ''
    kind, _, extension = case.partition('.')
    if extension:
        make_frames(source, 3, f'{{:03d}}.{extension}', height=64, width=64)
        bad = source / f'001.{extension}'
        data, message = bad.read_bytes(), str(bad)
        flipped = bytes(b ^ 255 if i == len(data) // 2 else b for i, b in enumerate(data))
        bad.write_bytes({'cut': data[: len(data) * 3 // 4], 'flipped': flipped, 'text': b'not an image'}[kind])
    elif case == 'empty':
        source.mkdir()
    elif case == 'folders':
        make_frames(source / 'clip')
        message = 'clip'
    else:
        make_frames(source, 3)
        message = '002.png' if case == 'size' else '001.png'
        save(source / ('002.png' if case == 'size' else '001.jpg'), noise(24, 16) if case == 'size' else noise())
    status, _, err = deblur(source, '-o', tmp_path / 'sharp')
    assert (status, files(tmp_path)) == (2, ['blurry'])
    assert message in err


def test_gaps_in_numbers_are_a_warning(deblur: Deblur, tmp_path: Path) -> None:
    source = make_frames(tmp_path / 'blurry', 8)
    (source / '003.png').unlink()
    (source / '004.png').unlink()
    status, _, err = deblur(source, '-o', tmp_path / 'sharp')
    assert (status, len(files(tmp_path / 'sharp'))) == (0, 6)
    assert 'warning: ' in err
    assert '002' in err
    # A constant step is not a gap, and neither are names without numbers.
    for names in (['10', '20', '30'], ['a', 'c', 'd']):
        for name in names:
            save(tmp_path / names[0] / f'{name}.png', noise())
        assert deblur(tmp_path / names[0], '-o', tmp_path / f'{names[0]}_out')[::2] == (0, '')

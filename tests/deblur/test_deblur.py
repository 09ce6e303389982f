"""The command `dstnet deblur`: folders of pictures in, restored pictures out, whatever they are like."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from deblur_parts import Deblur, deblur_with, make_weights
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dstnet_arch.__main__ import main
from dstnet_arch.archs.checkpoint import load_checkpoint
from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.errors import DataError
from dstnet_arch.streaming.memory import place_states, free_memory, peak_memory
from dstnet_arch.video.images import Kind, read_picture, to_frame, to_picture, upright_size
from dstnet_arch.video.sinks import PictureSink
from dstnet_arch.video.sources import open_source

Picture = NDArray[Any]


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp('weights'))


@pytest.fixture
def deblur(weights: Path, capsys: pytest.CaptureFixture[str]) -> Deblur:
    return deblur_with(weights, capsys)


def noise(height: int = 16, width: int = 24, channels: int = 3, dtype: Any = np.uint8, seed: int = 0) -> Picture:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def save(path: Path, picture: Picture) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    code = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}.get(picture.shape[2] if picture.ndim == 3 else 1)
    data = cv2.imencode(path.suffix, picture if code is None else cv2.cvtColor(picture, code))[1]
    path.write_bytes(data.tobytes())
    return path


def load(path: Path) -> Picture:
    return read_picture(path)


def make_video(folder: Path, num_frame: int = 3, name: str = '{:03d}.png', **kwargs: Any) -> Path:
    for t in range(num_frame):
        save(folder / name.format(t), noise(seed=t, **kwargs))
    return folder


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def expected(weights: Path, frames: list[Picture]) -> list[Picture]:
    """What the network makes of the whole clip, as 8-bit pictures."""
    clip = torch.stack([torch.from_numpy(frame).permute(2, 0, 1) / 255 for frame in frames])
    with torch.no_grad():
        restored = load_checkpoint(weights)(clip[None])[0]
    return [(f.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy() for f in restored]


def assert_same(pictures: list[Picture], wanted: list[Picture]) -> None:
    """Equal but for values that lie between two levels."""
    for a, b in zip(pictures, wanted, strict=True):
        difference = np.abs(a.astype(int) - b.astype(int))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01


# The way through


def test_a_folder_becomes_a_folder(deblur: Deblur, weights: Path, tmp_path: Path) -> None:
    source = make_video(tmp_path / 'blurry', 4)
    before = {path: path.read_bytes() for path in source.iterdir()}
    status, out, _ = deblur(source, '-o', tmp_path / 'sharp')
    assert status == 0
    assert files(tmp_path / 'sharp') == ['000.png', '001.png', '002.png', '003.png']
    restored = [load(path) for path in sorted((tmp_path / 'sharp').iterdir())]
    assert_same(restored, expected(weights, [noise(seed=t) for t in range(4)]))
    assert files(tmp_path) == ['blurry', 'sharp']
    assert {path: path.read_bytes() for path in source.iterdir()} == before
    assert re.search(r'4 frames, 24x16; .*tiny\.pth, fp32, cpu', out)
    assert '4 of 4 at a time, 0.0 GB in main memory' in out
    assert 'of which 4 restored' in out


@pytest.mark.parametrize(
    'settings', [['--store', 'disk'], ['--interval', 'sqrt'], ['--store', 'device', '--interval', '2']]
)
def test_no_setting_of_memory_changes_a_pixel(deblur: Deblur, tmp_path: Path, settings: list[str]) -> None:
    source = make_video(tmp_path / 'blurry', 5)
    assert deblur(source, '-o', tmp_path / 'plain')[0] == 0
    assert deblur(source, '-o', tmp_path / 'other', *settings)[0] == 0
    for name in files(tmp_path / 'plain'):
        assert (tmp_path / 'plain' / name).read_bytes() == (tmp_path / 'other' / name).read_bytes()


def test_tiles_change_nothing(deblur: Deblur, tmp_path: Path) -> None:
    source = make_video(tmp_path / 'blurry', 2, height=70, width=102)
    for name, tile, computing in (('whole', 'off', 'whole frames'), ('tiles', '64x32', 'tiles of 64x32')):
        status, out, _ = deblur(source, '-o', tmp_path / name, '--tile', tile)
        assert status == 0
        assert f'Computing: {computing}\n' in out
    whole, tiles = ([load(path) for path in sorted((tmp_path / name).iterdir())] for name in ('whole', 'tiles'))
    assert_same(tiles, whole)


def test_start_and_end(deblur: Deblur, weights: Path, tmp_path: Path) -> None:
    source = make_video(tmp_path / 'blurry', 6)
    assert deblur(source, '-o', tmp_path / 'sharp', '--start', 2, '--end', 5)[0] == 0
    assert files(tmp_path / 'sharp') == ['002.png', '003.png', '004.png']
    restored = [load(path) for path in sorted((tmp_path / 'sharp').iterdir())]
    assert_same(restored, expected(weights, [noise(seed=t) for t in (2, 3, 4)]))
    status, _, err = deblur(source, '-o', tmp_path / 'none', '--start', 6)
    assert status == 2
    assert '6 frames, 0 to 5, of which none' in err


@pytest.mark.parametrize('pattern', ['b*.png', 'b%d.png', 'b%02d.png'])
def test_patterns(deblur: Deblur, tmp_path: Path, pattern: str) -> None:
    source = make_video(tmp_path / 'frames', 2, 'b{}.png')
    save(source / 'other.png', noise(8, 8))
    assert deblur(source / pattern, '-o', tmp_path / 'sharp')[0] == 0
    assert files(tmp_path / 'sharp') == ['b0.png', 'b1.png']


# Awkward input


def outcome(deblur: Deblur, folder: Path, source: object) -> tuple[int, str, list[str] | None]:
    """Exit status, what was said beside the progress, files in the result; nothing else may have been made."""
    before = set(files(folder)) - {'sharp'}
    status, _, err = deblur(source, '-o', folder / 'sharp')
    assert set(files(folder)) - {'sharp'} == before
    said = [line for line in err.splitlines() if not line.startswith(('looking ahead', 'restoring'))]
    return status, '\n'.join(said), files(folder / 'sharp') if (folder / 'sharp').exists() else None


def test_no_frames(deblur: Deblur, tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    status, err, made = outcome(deblur, tmp_path, tmp_path / 'empty')
    assert (status, made) == (2, None)
    assert 'holds no pictures' in err
    make_video(tmp_path / 'nested' / 'clip')
    status, err, made = outcome(deblur, tmp_path, tmp_path / 'nested')
    assert (status, made) == (2, None)
    assert 'folders in it (clip): give one' in err
    for missing in ('nowhere', 'nowhere/*.png', 'nowhere/%d.png'):
        status, err, made = outcome(deblur, tmp_path, tmp_path / missing)
        assert (status, made) == (2, None)
        assert 'nowhere' in err


def test_one_frame(deblur: Deblur, weights: Path, tmp_path: Path) -> None:
    picture = make_video(tmp_path / 'blurry', 1) / '000.png'
    for source in (picture.parent, picture):
        assert outcome(deblur, tmp_path, source)[::2] == (0, ['000.png'])
        assert_same([load(tmp_path / 'sharp' / '000.png')], expected(weights, [noise()]))
        (tmp_path / 'sharp' / '000.png').unlink()


@pytest.mark.parametrize('size', [(1, 1), (12, 16), (241, 321), (33, 17)], ids=lambda size: f'{size[1]}x{size[0]}')
def test_any_size_and_portrait(deblur: Deblur, weights: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    source = make_video(tmp_path / 'blurry', 2, height=size[0], width=size[1])
    assert outcome(deblur, tmp_path, source)[::2] == (0, ['000.png', '001.png'])
    restored = [load(path) for path in sorted((tmp_path / 'sharp').iterdir())]
    assert_same(restored, expected(weights, [noise(*size, seed=t) for t in range(2)]))


@pytest.mark.parametrize(
    ('damage', 'extension'),
    [('cut', '.png'), ('cut', '.jpg'), ('flipped', '.png'), ('empty', '.png'), ('text', '.png')],
)
def test_a_damaged_file_is_named(deblur: Deblur, tmp_path: Path, damage: str, extension: str) -> None:
    source = make_video(tmp_path / 'blurry', 3, '{:03d}' + extension, height=64, width=64)
    bad = source / f'001{extension}'
    data = bad.read_bytes()
    flipped = bytes(b ^ 255 if i == len(data) // 2 else b for i, b in enumerate(data))
    bad.write_bytes(
        {'cut': data[: len(data) * 3 // 4], 'flipped': flipped, 'empty': b'', 'text': b'no picture'}[damage]
    )
    status, err, made = outcome(deblur, tmp_path, source)
    assert (status, made) == (2, None)
    assert f'{bad} cannot be read as a picture' in err


def test_content_decides_not_the_extension(deblur: Deblur, weights: Path, tmp_path: Path) -> None:
    source = make_video(tmp_path / 'blurry', 2)
    (source / '001.png').rename(source / '001.jpg')  # PNG inside
    (source / 'notes.txt').write_text('no frame')
    assert outcome(deblur, tmp_path, source)[::2] == (0, ['000.png', '001.png'])
    assert_same([load(tmp_path / 'sharp' / '001.png')], expected(weights, [noise(), noise(seed=1)])[1:])


def test_gray(deblur: Deblur, weights: Path, tmp_path: Path) -> None:
    source = make_video(tmp_path / 'blurry', 2, channels=1)
    assert outcome(deblur, tmp_path, source)[0] == 0
    frames = [np.repeat(noise(channels=1, seed=t)[..., None], 3, axis=2) for t in range(2)]
    gray = [frame.mean(axis=2).round() for frame in expected(weights, frames)]
    for name, wanted in zip(files(tmp_path / 'sharp'), gray, strict=True):
        restored = load(tmp_path / 'sharp' / name)
        assert restored.ndim == 2
        assert np.abs(restored - wanted).max() <= 1


def test_alpha_stays(deblur: Deblur, weights: Path, tmp_path: Path) -> None:
    source = make_video(tmp_path / 'blurry', 2, channels=4)
    assert outcome(deblur, tmp_path, source)[0] == 0
    restored = [load(tmp_path / 'sharp' / name) for name in files(tmp_path / 'sharp')]
    frames = [noise(channels=4, seed=t) for t in range(2)]
    assert_same([picture[..., :3] for picture in restored], expected(weights, [frame[..., :3] for frame in frames]))
    assert all(np.array_equal(a[..., 3], b[..., 3]) for a, b in zip(restored, frames, strict=True))


def test_sixteen_bits_stay(deblur: Deblur, weights: Path, tmp_path: Path) -> None:
    source = make_video(tmp_path / 'blurry', 2, dtype=np.uint16)
    assert outcome(deblur, tmp_path, source)[0] == 0
    clip = torch.stack([torch.from_numpy(noise(dtype=np.uint16, seed=t) / 65535).permute(2, 0, 1) for t in range(2)])
    with torch.no_grad():
        wanted = load_checkpoint(weights).double()(clip[None])[0].clamp(0, 1).permute(0, 2, 3, 1).numpy() * 65535
    for name, picture in zip(files(tmp_path / 'sharp'), wanted, strict=True):
        restored = load(tmp_path / 'sharp' / name)
        assert restored.dtype == np.uint16
        assert np.abs(restored - picture).max() < 2


def test_mixed_sizes_are_named(deblur: Deblur, tmp_path: Path) -> None:
    source = make_video(tmp_path / 'blurry', 4)
    save(source / '002.png', noise(24, 16))
    status, err, made = outcome(deblur, tmp_path, source)
    assert (status, made) == (2, None)
    assert 'Most are 24x16, but not 002.png (16x24)' in err


def test_mixed_kinds_keep_theirs(deblur: Deblur, tmp_path: Path) -> None:
    source = make_video(tmp_path / 'blurry', 2)
    save(source / '002.png', noise(channels=1))
    save(source / '003.jpg', noise())
    assert outcome(deblur, tmp_path, source)[::2] == (0, ['000.png', '001.png', '002.png', '003.png'])
    assert [load(tmp_path / 'sharp' / name).ndim for name in files(tmp_path / 'sharp')] == [3, 3, 2, 3]


def test_two_files_of_one_name(deblur: Deblur, tmp_path: Path) -> None:
    source = make_video(tmp_path / 'blurry', 2)
    save(source / '001.jpg', noise())
    status, err, made = outcome(deblur, tmp_path, source)
    assert (status, made) == (2, None)
    assert 'both be restored to 001.png' in err


def test_gaps_in_the_numbering_are_said(deblur: Deblur, tmp_path: Path) -> None:
    source = make_video(tmp_path / 'blurry', 8)
    (source / '003.png').unlink()
    (source / '004.png').unlink()
    status, err, made = outcome(deblur, tmp_path, source)
    assert (status, len(made or [])) == (0, 6)
    assert 'frames are missing in the numbering, from 002 to 005' in err
    # A constant step is no gap, nor is there one where names are no numbers.
    for names in (['10', '20', '30', '40'], ['a', 'c', 'd', 'f'], ['a1', 'a2', 'b7', 'b9']):
        for name in names:
            save(tmp_path / names[0] / f'{name}.png', noise(1, 1))
        assert open_source(str(tmp_path / names[0])).warnings == []


def test_natural_order(deblur: Deblur, weights: Path, tmp_path: Path) -> None:
    source = make_video(tmp_path / 'blurry', 11, '{}.png')
    assert outcome(deblur, tmp_path, source)[0] == 0
    wanted = expected(weights, [noise(seed=t) for t in range(11)])
    assert_same([load(tmp_path / 'sharp' / f'{t}.png') for t in range(11)], wanted)


def test_odd_names(deblur: Deblur, tmp_path: Path) -> None:
    names = ['Übung 1', 'Übung 2', '映像 3', "a'b 4", 'x.y 5']
    for name in names:
        save(tmp_path / 'mein Vidéo ☂' / f'{name}.png', noise())
    status, _, made = outcome(deblur, tmp_path, tmp_path / 'mein Vidéo ☂')
    assert (status, made) == (0, sorted(f'{name}.png' for name in names))


@pytest.mark.parametrize('orientation', range(1, 9))
def test_pictures_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(noise(6, 10))
    exif = image.getexif()
    exif[0x0112] = orientation
    for name in ('a.png', 'a.jpg', 'a.webp'):
        image.save(tmp_path / name, exif=exif, **({'lossless': True} if name == 'a.webp' else {}))
        with Image.open(tmp_path / name) as saved:
            upright = np.asarray(ImageOps.exif_transpose(saved))
        assert upright_size(tmp_path / name) == upright.shape[:2]
        difference = np.abs(read_picture(tmp_path / name).astype(int) - upright)
        assert difference.max() <= (3 if name == 'a.jpg' else 0)  # decoders round JPEG differently


def test_pictures_become_frames_and_return() -> None:
    for dtype in (np.uint8, np.uint16):
        for channels in (1, 3, 4):
            picture = noise(5, 7, channels, dtype)
            frame = to_frame(picture)
            assert (frame.shape, frame.dtype) == ((3, 5, 7), torch.float32)
            assert np.array_equal(to_picture(frame, Kind.of(picture)), picture if channels == 1 else picture[..., :3])


def test_floating_point_pictures_are_refused(tmp_path: Path) -> None:
    path = tmp_path / 'a.tiff'
    path.write_bytes(cv2.imencode('.tiff', np.zeros((4, 4, 3), np.float32))[1].tobytes())
    with pytest.raises(DataError, match='float32 values; pictures of 8 or 16 bits'):
        read_picture(path)


# Results that are there, and interrupted runs


def test_nothing_is_replaced_unasked(deblur: Deblur, tmp_path: Path) -> None:
    source = make_video(tmp_path / 'blurry')
    (tmp_path / 'sharp').mkdir()
    assert deblur(source, '-o', tmp_path / 'sharp', '--end', 2)[0] == 0  # an empty folder is no loss
    before = (tmp_path / 'sharp' / '000.png').read_bytes()
    status, _, err = deblur(source, '-o', tmp_path / 'sharp')
    assert status == 2
    assert '--overwrite' in err
    assert files(tmp_path / 'sharp') == ['000.png', '001.png']

    assert deblur(source, '-o', tmp_path / 'sharp', '--overwrite')[0] == 0
    assert files(tmp_path / 'sharp') == ['000.png', '001.png', '002.png']
    assert (tmp_path / 'sharp' / '000.png').read_bytes() != before
    assert deblur(source, '-o', tmp_path / 'sharp', '--overwrite', '--end', 1)[0] == 0
    assert files(tmp_path / 'sharp') == ['000.png']

    (tmp_path / 'sharp' / 'notes.txt').write_text('mine')
    status, _, err = deblur(source, '-o', tmp_path / 'sharp', '--overwrite')
    assert status == 2
    assert 'notes.txt in it is no picture' in err
    assert files(tmp_path / 'sharp') == ['000.png', 'notes.txt']
    assert files(tmp_path) == ['blurry', 'sharp']


@pytest.mark.parametrize('flag', [[], ['--overwrite'], ['--resume']])
def test_wrong_outputs_are_refused(deblur: Deblur, tmp_path: Path, flag: list[str]) -> None:
    source = make_video(tmp_path / 'blurry', 1)
    (tmp_path / 'file').write_text('mine')
    for output, message in (
        ('blurry', 'never touched'),
        ('file', 'is a file'),
        ('out.png', 'go to a folder'),
        ('file/sharp', 'cannot be written'),
        *([('/proc/sharp', 'cannot be written')] if sys.platform == 'linux' else []),
    ):
        status, _, err = deblur(source, '-o', tmp_path / output, *flag)
        assert status == 2, output
        assert message in err
    assert files(tmp_path) == ['blurry', 'file']
    assert files(source) == ['000.png']


def interrupt_at(
    monkeypatch: pytest.MonkeyPatch, position: int, error: type[BaseException] = KeyboardInterrupt
) -> None:
    write = PictureSink.write

    def interrupted(self: PictureSink, t: int, make: Any) -> None:
        if t == position:
            raise error
        write(self, t, make)

    monkeypatch.setattr(PictureSink, 'write', interrupted)


@pytest.mark.parametrize('settings', [[], ['--interval', '2']])
def test_an_interrupted_run_goes_on(
    deblur: Deblur, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str]
) -> None:
    source = make_video(tmp_path / 'blurry', 6)
    assert deblur(source, '-o', tmp_path / 'whole')[0] == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        status, _, err = deblur(source, '-o', tmp_path / 'sharp', *settings)
    assert status == 130
    assert f'{tmp_path / "sharp"}.partial; --resume goes on' in err
    assert not (tmp_path / 'sharp').exists()
    ready = tmp_path / 'sharp.partial' / 'frames'
    assert files(ready) == ['000.png', '001.png', '002.png']
    stats = [(ready / name).stat().st_mtime_ns for name in files(ready)]

    status, _, err = deblur(source, '-o', tmp_path / 'sharp')
    assert status == 2
    assert '--resume' in err
    status, _, err = deblur(source, '-o', tmp_path / 'sharp', '--resume', '--precision', 'bf16')
    assert status == 2
    assert 'precision: fp32, now bf16' in err
    status, _, err = deblur(source, '-o', tmp_path / 'sharp', '--resume', '--end', 5)
    assert status == 2
    assert 'input: ' in err

    status, out, _ = deblur(source, '-o', tmp_path / 'sharp', '--resume')
    assert status == 0
    assert '3 frames are there already' in out
    assert '6 frames, of which 3 restored' in out
    assert files(tmp_path) == ['blurry', 'sharp', 'whole']
    for name in files(tmp_path / 'whole'):
        assert (tmp_path / 'sharp' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()
    assert [(tmp_path / 'sharp' / name).stat().st_mtime_ns for name in files(tmp_path / 'sharp')[:3]] == stats

    status, out, _ = deblur(source, '-o', tmp_path / 'sharp', '--resume')
    assert (status, 'nothing is to be done' in out) == (0, True)


def test_an_interrupted_run_can_be_forgotten(deblur: Deblur, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_video(tmp_path / 'blurry', 4)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        deblur(source, '-o', tmp_path / 'sharp')
    assert deblur(source, '-o', tmp_path / 'sharp', '--overwrite', '--end', 2)[0] == 0
    assert files(tmp_path) == ['blurry', 'sharp']
    assert files(tmp_path / 'sharp') == ['000.png', '001.png']


def test_frames_that_are_gone_are_made_again(deblur: Deblur, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_video(tmp_path / 'blurry', 4)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        deblur(source, '-o', tmp_path / 'sharp')
    (tmp_path / 'sharp.partial' / 'frames' / '001.png').unlink()
    assert deblur(source, '-o', tmp_path / 'sharp', '--resume')[0] == 0
    assert files(tmp_path / 'sharp') == ['000.png', '001.png', '002.png', '003.png']


def test_what_is_not_ours_is_left_alone(deblur: Deblur, tmp_path: Path) -> None:
    source = make_video(tmp_path / 'blurry', 1)
    (tmp_path / 'sharp.partial').mkdir()
    (tmp_path / 'sharp.partial' / 'mine').write_text('mine')
    for flag in ('--resume', '--overwrite'):
        status, _, err = deblur(source, '-o', tmp_path / 'sharp', flag)
        assert status == 2
        assert 'was not made by this command' in err
    assert files(tmp_path / 'sharp.partial') == ['mine']


def test_a_full_disk_leaves_what_is_done(deblur: Deblur, tmp_path: Path) -> None:
    resource = pytest.importorskip('resource')  # POSIX has it
    source = make_video(tmp_path / 'blurry', 5, height=32, width=32)
    save(source / '003.png', noise(32, 32, 4))  # the one file that gets larger than the limit
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = [path.stat().st_size for path in sorted(source.iterdir())]
    limit = (sizes[2] + sizes[3]) // 2
    assert max(sizes[:3]) < limit < sizes[3]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        status, _, err = deblur(source, '-o', tmp_path / 'sharp')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 2
    assert 'sharp.partial cannot be written' in err
    assert '--resume' in err
    assert not (tmp_path / 'sharp').exists()
    assert {'003.png', '.003.png.incomplete'}.isdisjoint(files(tmp_path / 'sharp.partial' / 'frames'))
    assert deblur(source, '-o', tmp_path / 'sharp', '--resume')[0] == 0
    assert len(files(tmp_path / 'sharp')) == 5


@pytest.mark.parametrize('target', ['/', '/out.mp4/../'])
def test_the_root_folder_is_no_result(target: str, tmp_path: Path, deblur: Deblur) -> None:
    status, _, err = deblur(make_video(tmp_path / 'blurry', 2), '-o', target)
    assert (status, err.count('error: ')) == (2, 1)
    assert 'Give another name' in err


def test_a_link_is_refused_before_the_work_and_not_after_it(tmp_path: Path, deblur: Deblur) -> None:
    source = make_video(tmp_path / 'blurry', 2)
    (tmp_path / 'real').mkdir()
    (tmp_path / 'link').symlink_to('real')
    status, _, err = deblur(source, '-o', tmp_path / 'link')
    assert status == 2
    assert f'Give {tmp_path / "real"} itself' in err
    assert files(tmp_path) == ['blurry', 'link', 'real']


def test_two_runs_for_one_result(weights: Path, tmp_path: Path, deblur: Deblur) -> None:
    source = make_video(tmp_path / 'blurry', 2)
    sink = PictureSink(tmp_path / 'sharp', ['000', '001'], {})
    status, _, err = deblur(source, '-o', tmp_path / 'sharp', '--overwrite')
    assert status == 2
    assert 'Another process is at work' in err
    sink.close()
    assert files(tmp_path) == ['blurry']


_SLOW = """
import sys, time
from dstnet_arch.deblur import command as deblur, restore
from dstnet_arch.video.sinks import PictureSink
restore._SAVE_SECONDS = 0.0
save = PictureSink.save
PictureSink.save = lambda self, *args: (save(self, *args), args[0] == 4 and (print('four', flush=True), time.sleep(60)))
deblur.command(sys.argv[1:])
"""


def test_a_killed_run_goes_on(deblur: Deblur, weights: Path, tmp_path: Path) -> None:
    source = make_video(tmp_path / 'blurry', 7)
    assert deblur(source, '-o', tmp_path / 'whole')[0] == 0
    arguments = [source, '-o', tmp_path / 'sharp', '--weights', weights, '--device', 'cpu']
    process = subprocess.Popen(
        [sys.executable, '-c', _SLOW, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
    )
    with process:
        assert process.stdout is not None
        assert 'four' in (line.strip() for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / 'sharp').exists()
    status, out, _ = deblur(source, '-o', tmp_path / 'sharp', '--resume')
    assert status == 0
    assert '4 frames are there already' in out
    for name in files(tmp_path / 'whole'):
        assert (tmp_path / 'sharp' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()


# Settings


def test_wrong_settings(deblur: Deblur, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_video(tmp_path / 'blurry', 1)
    for arguments, message in (
        (['--precision', 'tf32'], 'NVIDIA GPUs alone'),
        (['--store', 'disk', '--temp-dir', tmp_path / 'nowhere'], 'nowhere'),
    ):
        status, _, err = deblur(source, '-o', tmp_path / 'sharp', *arguments)
        assert status == 2
        assert message in err
    for arguments in (['--interval', '0'], ['--interval', 'none'], ['--resume', '--overwrite'], ['--store', 'ram']):
        with pytest.raises(SystemExit, match='2'):
            deblur(source, '-o', tmp_path / 'sharp', *arguments)
    assert main(['deblur', str(source), '-o', str(tmp_path / 'sharp'), '--device', 'gpu']) == 2
    assert '--device gpu cannot be used here' in capsys.readouterr().err
    assert main(['deblur', str(source), '-o', str(tmp_path / 'sharp'), '--weights', 'nowhere.pth']) == 2
    assert 'Weights nowhere.pth: no such file' in capsys.readouterr().err
    assert files(tmp_path) == ['blurry']


def test_values_that_are_not_finite_are_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = DSTNet(num_feat=2, num_block=1, num_cwgdn=1)
    net.reconstruct.bias.data[0] = float('nan')
    torch.save(net.state_dict(), tmp_path / 'nan.pth')
    source = make_video(tmp_path / 'blurry', 2)
    status = main(['deblur', str(source), '-o', str(tmp_path / 'sharp'), '--weights', str(tmp_path / 'nan.pth')])
    assert status == 2
    assert 'Frame 000: the network gave values that are not finite' in capsys.readouterr().err
    assert files(tmp_path) == ['blurry', 'nan.pth']


def test_where_states_wait() -> None:
    assert place_states(10, 100, 2000) == ('host', None)
    assert place_states(10, 101, 2000) == ('host', 'sqrt')
    assert 0 < free_memory() < 1 << 50
    if sys.platform == 'linux':
        assert peak_memory(torch.device('cpu')) > 10_000_000

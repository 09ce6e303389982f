"""Blur synthesis as a whole: from videos and folders of frames to GoPro's layout, and what goes wrong on the way."""

from __future__ import annotations

import builtins
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from prep_parts import failure

from data_prep import synthesize as synthesize_module
from data_prep import synthesize_clip
from data_prep.__main__ import main
from data_prep.blur_model import LINEAR
from data_prep.lmdb_writer import only_writer
from data_prep.synthesize import synthesize
from data_prep.synthesize_analysis import analyse
from data_prep.synthesize_footage import FrameFolder
from data_prep.synthesize_plan import Settings, needed, plan_clips
from data_prep.synthesize_survey import Video
from dstnet_arch.data.lmdb_format import read_meta_info
from dstnet_arch.errors import DataError

SIZE = (36, 52)


def write_frames(folder: Path, frames) -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f'{number}.png'), frame)
    return folder


def write_video(path: Path, frames, frame_rate: int = 240) -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), frame_rate, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def moving(count: int, seed: int = 0, size: tuple[int, int] = SIZE, step: int = 1) -> list[np.ndarray]:
    """Smooth random colours that move to the left."""
    noise = np.random.default_rng(seed).standard_normal((size[0], size[1] + step * count, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 6)
    picture = np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    return [picture[:, step * t : step * t + size[1]] for t in range(count)]


def run(*argv: object) -> None:
    assert main(['synthesize', *map(str, argv)]) == 0


def image(path: Path) -> np.ndarray:
    read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert read is not None, path
    return read


def pairs(clip: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    names = sorted(path.name for path in (clip / 'blur').iterdir())
    assert names == sorted(path.name for path in (clip / 'sharp').iterdir())
    assert names == [f'{number:06d}.png' for number in range(1, len(names) + 1)]
    return [(image(clip / 'blur' / name), image(clip / 'sharp' / name)) for name in names]


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


# What the pairs are

NAIVE = {
    'linear': (lambda x: x, lambda x: x),
    'gamma2.2': (lambda x: x**2.2, lambda x: x ** (1 / 2.2)),
    'srgb': (
        np.vectorize(lambda x: x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4),
        np.vectorize(lambda x: 12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055),
    ),
}


@pytest.mark.parametrize('response', sorted(NAIVE))
@pytest.mark.parametrize(
    ('options', 'weights', 'stride'),
    [
        (['--window', 5], [1] * 5, 5),
        (['--window', 3, '--stride', 2], [1] * 3, 2),
        (['--window', 3, '--duty-cycle', 0.5], [1] * 3, 6),
        (['--stride', 6, '--duty-cycle', 0.5], [1, 1, 1], 6),
        (['--stride', 8, '--duty-cycle', 0.5], [0.5, 1, 1, 1, 0.5], 8),
        (['--stride', 3, '--duty-cycle', 0.8], [0.7, 1, 0.7], 3),
    ],
)
def test_pairs_against_a_naive_average(tmp_path, response: str, options: list, weights: list, stride: int) -> None:
    to_light, to_stored = NAIVE[response]
    rng = np.random.default_rng(2)
    frames = [rng.integers(0, 256, (7, 9, 3), dtype=np.uint8) for _ in range(23)]  # noise: cuts everywhere, so:
    folder = write_frames(tmp_path / 'noise', frames)
    run(folder, '-o', tmp_path / 'out', '--response', response, '--cut-threshold', 255, *options)
    made = pairs(tmp_path / 'out/train/noise')
    half = len(weights) // 2
    centres = list(range(half, len(frames) - half, stride))
    assert len(made) == len(centres) > 1
    for (blurry, sharp), centre in zip(made, centres, strict=True):
        assert np.array_equal(sharp, frames[centre])
        light = np.zeros((7, 9, 3))
        for offset, weight in zip(range(-half, half + 1), weights, strict=True):
            light = light + weight * to_light(frames[centre + offset].astype(np.float64) / 255)
        expected = 255 * to_stored(light / sum(weights))
        assert np.abs(blurry - expected).max() <= 0.5 + 1e-6


def test_a_moving_bar_becomes_a_trapezoid(tmp_path) -> None:
    """A bar of width w, moved by one pixel a frame and averaged over N, is the box of w convolved with that of N."""
    width, window = 12, 5
    frames = []
    for t in range(15):
        frame = np.zeros((6, 60, 3), np.uint8)
        frame[:, 10 + t : 10 + t + width] = 200
        frames.append(frame)
    folder = write_frames(tmp_path / 'bar', frames)
    run(folder, '-o', tmp_path / 'out', '--response', 'linear', '--window', window)
    for (blurry, _), centre in zip(pairs(tmp_path / 'out/train/bar'), (2, 7, 12), strict=True):
        left = 10 + centre - window // 2
        for x in range(60):
            covered = max(0, min(x - left + 1, window) - max(x - left + 1 - width, 0))
            assert abs(blurry[3, x, 0] - 200 * covered / window) <= 0.5


def test_interpolation_smears_what_a_low_rate_would_repeat(tmp_path) -> None:
    """Every eighth frame, filled up again by flow, gives the blur that all frames give."""
    frames = moving(41, size=(64, 96), step=1)
    few = write_frames(tmp_path / 'few', frames[::8])
    shutil.copytree(few, tmp_path / 'ghosts')
    run(few, '-o', tmp_path / 'out', '--stride', 1, '--duty-cycle', 1, '--interpolate', 8)
    run(tmp_path / 'ghosts', '-o', tmp_path / 'out', '--window', 3, '--stride', 1)
    smeared, ghosts = pairs(tmp_path / 'out/train/few'), pairs(tmp_path / 'out/train/ghosts')
    assert len(smeared) == len(ghosts) == 4
    inner = (slice(8, -8), slice(12, -12))
    for t in range(4):
        centre = 8 * (t + 1)
        # The eight frames from half-way to half-way: nine, of which the outer ones count half.
        light = sum(
            weight * (frame.astype(np.float64) / 255) ** 2.2
            for weight, frame in zip([0.5, *[1] * 7, 0.5], frames[centre - 4 : centre + 5], strict=True)
        )
        truth = 255 * (light / 8) ** (1 / 2.2)
        assert np.array_equal(smeared[t][1], frames[centre])
        assert np.abs(smeared[t][0] - truth)[inner].mean() < 0.6
        assert np.abs(ghosts[t][0] - truth)[inner].mean() > 3


def test_noise_and_jpeg_are_for_blurry_frames_only(tmp_path) -> None:
    """Flat frames: the blurry ones have the noise that the model says, the sharp ones none."""
    folder = write_frames(tmp_path / 'flat', [np.full((90, 90, 3), 128, np.uint8)] * 6)
    run(folder, '-o', tmp_path / 'noisy', '--window', 3, '--response', 'linear', '--noise', 0.02, 0.001)
    variance = 255**2 * (0.02**2 + 0.001 * 128 / 255) + 1 / 12  # and that of rounding
    (first, sharp), (second, _) = pairs(tmp_path / 'noisy/train/flat')
    assert (sharp == 128).all()
    assert first.mean() == pytest.approx(128, abs=0.25)
    assert first.var() == pytest.approx(variance, rel=0.05)
    assert np.mean((first - 128.0) * (second - 128.0)) == pytest.approx(0, abs=2), 'each frame has noise of its own'
    run(folder, '-o', tmp_path / 'jpeg', '--window', 3, '--response', 'linear', '--noise', 0.02, 0.001, '--jpeg', 30)
    (coded, sharp), _ = pairs(tmp_path / 'jpeg/train/flat')
    assert (sharp == 128).all()
    expected = cv2.imdecode(cv2.imencode('.jpg', first, (cv2.IMWRITE_JPEG_QUALITY, 30))[1], cv2.IMREAD_COLOR)
    assert np.array_equal(coded, expected), 'the same noise, then JPEG'


def test_h264_is_for_blurry_frames_only(tmp_path, monkeypatch) -> None:
    pytest.importorskip('av')
    folder = write_frames(tmp_path / 'v', moving(9))
    options = ['--window', 3, '--h264', 35]
    run(folder, '-o', tmp_path / 'plain', '--window', 3)
    run(folder, '-o', tmp_path / 'coded', *options)
    plain, coded = pairs(tmp_path / 'plain/train/v'), pairs(tmp_path / 'coded/train/v')
    for (blurry, sharp), (after, same) in zip(plain, coded, strict=True):
        assert np.array_equal(sharp, same)
        assert 0 < np.abs(after.astype(int) - blurry).mean() < 15
    clip = tmp_path / 'coded/train/v'
    assert sorted(path.name for path in clip.iterdir()) == ['blur', 'sharp', 'synthesis.json']

    # Interrupted between coding and the name: what is coded must not be coded again.
    with monkeypatch.context() as patch:
        patch.setattr(synthesize_clip, '_write_preview', lambda *_: os.rmdir(tmp_path / 'absent'))
        assert main(['synthesize', str(folder), '-o', str(tmp_path / 'again'), '--preview', *map(str, options)]) == 2
    assert not (tmp_path / 'again/train/v').exists()
    run(folder, '-o', tmp_path / 'again', *options)
    assert tree(tmp_path / 'again') == tree(tmp_path / 'coded')


def test_scaling_and_cropping(tmp_path) -> None:
    frames = moving(5, size=(40, 60))
    run(write_frames(tmp_path / 'v', frames), '-o', tmp_path / 'out', '--window', 5, '--crop', '44x32+10+4',
        '--scale', 0.5, '--response', 'linear')  # fmt: skip
    ((blurry, sharp),) = pairs(tmp_path / 'out/train/v')
    means = [frame[4:36, 10:54].reshape(16, 2, 22, 2, 3).mean(axis=(1, 3)) for frame in frames]
    assert np.abs(sharp - means[2]).max() <= 0.5 + 1e-4
    assert np.abs(blurry - np.mean(means, axis=0)).max() <= 1 + 1e-4
    record = json.loads((tmp_path / 'out/train/v/synthesis.json').read_text())
    assert record['settings']['crop'] == {'left': 10, 'top': 4, 'width': 44, 'height': 32}


def test_the_record_is_enough_to_make_a_pair_again(tmp_path) -> None:
    frames = moving(60)
    folder = write_frames(tmp_path / 'v', frames)
    run(folder, '-o', tmp_path / 'out', '--response', 'srgb')
    clip = tmp_path / 'out/train/v'
    record = json.loads((clip / 'synthesis.json').read_text())
    assert record['source']['frames'] == 60
    assert record['source']['name'] == 'v'
    assert record['settings']['window'] in (7, 9, 11, 13)
    assert record['versions']['opencv'] == cv2.__version__
    to_light, to_stored = NAIVE[record['settings']['response']]
    assert len(record['pairs']) == len(pairs(clip)) >= 4
    for pair, (blurry, sharp) in zip(record['pairs'], pairs(clip), strict=True):
        assert np.array_equal(sharp, frames[pair['sharp']])
        window = np.array(frames[pair['first'] : pair['last'] + 1]) / 255
        expected = 255 * to_stored(to_light(window).mean(axis=0))
        assert np.array_equal(blurry, np.rint(expected))


# Cuts and clips


def test_a_clip_is_a_shot(tmp_path, capsys) -> None:
    first, second, third = moving(10, seed=1), moving(4, seed=2), moving(8, seed=3)
    folder = write_frames(tmp_path / 'cut', [*first, *second, *third])
    run(folder, '-o', tmp_path / 'out', '--window', 5, '--stride', 2)
    assert sorted(path.name for path in (tmp_path / 'out/train').iterdir()) == ['cut_00', 'cut_02']
    assert '1 shot too short, left out' in capsys.readouterr().out
    for name, frames in (('cut_00', first), ('cut_02', third)):
        made = pairs(tmp_path / 'out/train' / name)
        assert len(made) == (len(frames) - 5) // 2 + 1
        for number, (blurry, sharp) in enumerate(made):
            assert np.array_equal(sharp, frames[2 * number + 2])
            light = np.mean([(frame / 255.0) ** 2.2 for frame in frames[2 * number : 2 * number + 5]], axis=0)
            assert np.abs(blurry - 255 * light ** (1 / 2.2)).max() <= 0.5 + 1e-6, 'no frame from beyond the cut'


# Resuming


def test_same_result_whatever_the_threads_and_again_by_the_seed(tmp_path) -> None:
    folder = write_frames(tmp_path / 'v', moving(40, size=(48, 64), step=2))
    options = ['--noise', 0.01, 0.001, '--interpolate', 3]
    run(folder, '-o', tmp_path / 'a', '--threads', 1, *options)
    run(folder, '-o', tmp_path / 'b', '--threads', 4, *options)
    run(folder, '-o', tmp_path / 'c', '--seed', 1, *options)
    assert tree(tmp_path / 'a') == tree(tmp_path / 'b')
    first, other = (tree(tmp_path / name / 'train/v/blur') for name in 'ac')
    assert first['000001.png'] != other['000001.png']


def test_finished_clips_are_kept_and_others_are_not_overwritten(tmp_path, capsys) -> None:
    folder = write_frames(tmp_path / 'v', moving(12))
    run(folder, '-o', tmp_path / 'out', '--window', 5)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').rglob('*') if path.is_file()}
    capsys.readouterr()
    run(folder, '-o', tmp_path / 'out', '--window', 5, '--threads', 3)
    assert 'train/v: already complete' in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').rglob('*') if path.is_file()} == before

    for other in (['--window', 3], ['--window', 5, '--test', 'v'], ['--window', 5, '--response', 'srgb']):
        message = failure(capsys, 'synthesize', folder, '-o', tmp_path / 'out', *other)
        assert 'was made with other settings' in message
        assert '--overwrite' in message
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').rglob('*') if path.is_file()} == before

    run(folder, '-o', tmp_path / 'out', '--window', 3, '--test', 'v', '--overwrite')
    assert not (tmp_path / 'out/train/v').exists()
    assert len(pairs(tmp_path / 'out/test/v')) == 4


def test_what_is_not_ours_stays(tmp_path, capsys) -> None:
    folder = write_frames(tmp_path / 'v', moving(12))
    theirs = tmp_path / 'out/train/v/blur/000001.png'
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b'mine')
    message = failure(capsys, 'synthesize', folder, '-o', tmp_path / 'out', '--window', 5, '--overwrite')
    assert 'exists already and was not made by this command' in message
    assert theirs.read_bytes() == b'mine'
    (tmp_path / 'file').touch()
    assert 'is a file' in failure(capsys, 'synthesize', folder, '-o', tmp_path / 'file')


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path) -> None:
    """Killed twice while pairs are being written; the result is that of a run that nobody disturbed."""
    folder = write_frames(tmp_path / 'v', moving(150, size=(72, 96)))
    options = ['--window', '3', '--stride', '1', '--noise', '0.01', '0.001', '--cut-threshold', '255']
    run(folder, '-o', tmp_path / 'whole', *options)
    command = [sys.executable, '-m', 'data_prep', 'synthesize', folder, '-o', tmp_path / 'out', *options]
    blur = tmp_path / 'out/train/.v.partial/blur'
    kills = 0
    for wanted in (10, 60):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and (not blur.exists() or len(os.listdir(blur)) < wanted):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 1
    assert not (tmp_path / 'out/train/v').exists()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert 'are there from an earlier run' in done.stdout
    assert tree(tmp_path / 'out') == tree(tmp_path / 'whole')


def test_damaged_leftovers_are_made_anew(tmp_path, monkeypatch) -> None:
    folder = write_frames(tmp_path / 'v', moving(12))
    command = ['synthesize', str(folder), '-o', str(tmp_path / 'out'), '--window', '3']

    def stop(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(synthesize_module, 'finish_clip', stop)
        assert main(command) == 2
    partial = tmp_path / 'out/train/.v.partial'
    for name, data in (('blur/000001.png', b''), ('sharp/000002.png', b'no png'), ('blur/.000004.png.tmp', b'half')):
        (partial / name).write_bytes(data)
    half = (partial / 'blur/000003.png').read_bytes()
    (partial / 'blur/000003.png').write_bytes(half[: len(half) // 2])
    assert main(command) == 0
    run(folder, '-o', tmp_path / 'whole', '--window', 3)
    assert tree(tmp_path / 'out') == tree(tmp_path / 'whole')


def test_leftovers_of_other_settings_are_not_mixed_in(tmp_path, monkeypatch, capsys) -> None:
    folder = write_frames(tmp_path / 'v', moving(12))
    with monkeypatch.context() as patch:
        patch.setattr(synthesize_module, 'finish_clip', lambda *_: os.rmdir(tmp_path / 'absent'))
        assert main(['synthesize', str(folder), '-o', str(tmp_path / 'out'), '--window', '5']) == 2
    run(folder, '-o', tmp_path / 'out', '--window', 3)
    assert 'begun in another way' in capsys.readouterr().out
    run(folder, '-o', tmp_path / 'whole', '--window', 3)
    assert tree(tmp_path / 'out') == tree(tmp_path / 'whole')


def test_two_at_once(tmp_path, capsys) -> None:
    pytest.importorskip('fcntl')
    folder = write_frames(tmp_path / 'v', moving(12))
    (tmp_path / 'out').mkdir()
    with only_writer(tmp_path / 'out'):
        assert 'another process is writing' in failure(capsys, 'synthesize', folder, '-o', tmp_path / 'out')


def test_memory_holds_a_window(tmp_path, monkeypatch) -> None:
    """However long the video is, frames are read as they are needed, and let go."""
    footage = FrameFolder(write_frames(tmp_path / 'v', moving(40)))
    settings = Settings(window=(5, 5), stride=3)
    analysis = analyse(footage)
    plans, _ = plan_clips(footage, 'train', settings, analysis)
    read = 0
    original = footage.frames

    def counted() -> Iterator[np.ndarray]:
        nonlocal read
        for frame in original():
            read += 1
            yield frame

    monkeypatch.setattr(footage, 'frames', counted)
    video = Video(footage, '', analysis, plans, [])
    wanted = needed([(plan, range(1, len(plan.centres) + 1)) for plan in plans])
    for _, number, moments in synthesize_module._windows(video, wanted, settings):
        assert read == 3 * number + 2
        assert len(moments) == 5
        assert np.array_equal(moments[2].frame, image(tmp_path / f'v/{3 * (number - 1) + 2}.png'))
    assert number == 12


# What goes wrong


def test_errors(tmp_path, capsys) -> None:
    out = tmp_path / 'out'
    folder = write_frames(tmp_path / 'v', moving(6))
    one = write_frames(tmp_path / 'one', moving(1))
    mixed = write_frames(tmp_path / 'mixed', [*moving(3), np.zeros((9, 9, 3), np.uint8)])
    cases = [
        ([folder, '--window', 7], 'has 6 frames, but one pair takes 7. Give a smaller --window'),
        ([one], 'has 1 frame, but one pair takes'),
        ([mixed], 'frame 3 is 9x9, those before 52x36'),
        ([folder, '--window', 3, '--min-pairs', 3], 'gives 2 of the 3 pairs that --min-pairs asks for'),
        ([folder, folder], 'would both become v: rename one'),
        ([folder, '--window', 3, '--test', 'w'], '--test w: there is no such video; there are v'),
        ([folder, '--window', 3, '--stride', 3, '--duty-cycle', 1], 'leave one of them out'),
        ([folder, '--window', 3, '--crop', '60x10'], 'does not lie within frames of 52x36'),
        ([folder, '--window', 3, '--scale', 0.5, '--interpolate', 2], 'too small for --interpolate'),
        ([folder, '--response', 'rec709'], 'no such curve and no such file'),
        ([tmp_path / 'none.mp4'], 'does not exist'),
        ([one, mixed], '2 of 2 videos cannot be used'),
    ]
    for arguments, message in cases:
        assert message in failure(capsys, 'synthesize', *arguments, '-o', out)
        assert not list(out.glob('t*')), 'no clip'


@pytest.mark.parametrize(
    'argv',
    [
        ['--window', '6'],
        ['--window', '13-7'],
        ['--window', '0'],
        ['--stride', '0'],
        ['--duty-cycle', '0'],
        ['--duty-cycle', '1.5'],
        ['--duty-cycle', 'nan'],
        ['--crop', '10'],
        ['--crop', '0x10'],
        ['--scale', '2'],
        ['--scale', '0.5', '--max-size', '100'],
        ['--jpeg', '101'],
        ['--jpeg', '50', '--h264', '20'],
        ['--noise', '0.1'],
        ['--test', 'a', '--train-share', '0.5'],
        ['--interpolate', '65'],
    ],
)
def test_wrong_usage(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(['synthesize', 'v', '-o', 'out', *argv])
    assert stop.value.code == 2


def test_warnings(tmp_path, capsys) -> None:
    fast = write_frames(tmp_path / 'fast', moving(20, size=(64, 96), step=5))
    run(fast, '-o', tmp_path / 'out', '--window', 3)
    out = capsys.readouterr().out
    assert 'fast parts move by 5.' in out or 'fast parts move by 4.' in out
    assert 'add --interpolate 5' in out or 'add --interpolate 6' in out
    assert '6 pairs' not in out.partition('Warning')[0]
    assert '1 clip for training with fewer than 15 pairs' in out
    run(fast, '-o', tmp_path / 'out2', '--window', 3, '--interpolate', 6, '--test', 'fast')
    assert 'Warning' not in capsys.readouterr().out

    twice = write_frames(tmp_path / 'twice', [frame for frame in moving(15, step=2) for _ in range(2)])
    run(twice, '-o', tmp_path / 'out', '--window', 1, '--stride', 1)
    out = capsys.readouterr().out
    assert '% of the frames repeat the one before' in out
    assert 'mpdecimate' in out
    assert 'blurry frames are the sharp ones' in out
    run(write_frames(tmp_path / 'slow', moving(20)), '-o', tmp_path / 'out', '--window', 5, '--stride', 1)
    assert 'the shutter is open for 5 frames, but opens every 1' in capsys.readouterr().out


def test_without_mmcv(tmp_path, monkeypatch, capsys) -> None:
    original = builtins.__import__

    def absent(name: str, *rest: object, **more: object) -> object:
        if name.partition('.')[0] == 'mmcv':
            raise ModuleNotFoundError("No module named 'mmcv'")
        return original(name, *rest, **more)

    video = write_video(tmp_path / 'v.avi', moving(12))
    monkeypatch.setattr(builtins, '__import__', absent)
    message = failure(capsys, 'synthesize', video, '-o', tmp_path / 'out')
    assert "pip install 'dstnet-arch[video]'" in message
    assert "No module named 'mmcv'" in message
    run(write_frames(tmp_path / 'frames', moving(14)), '-o', tmp_path / 'out')  # folders need no mmcv


def test_preview(tmp_path) -> None:
    run(write_frames(tmp_path / 'v', moving(12)), '-o', tmp_path / 'out', '--window', 3, '--preview')
    sheet = image(tmp_path / 'out/train/v/preview.jpg')
    assert sheet.shape == (4 * SIZE[0], 2 * SIZE[1], 3)
    (first, sharp), *_ = pairs(tmp_path / 'out/train/v')
    assert np.abs(sheet[: SIZE[0], : SIZE[1]].astype(int) - first).mean() < 6
    assert np.abs(sheet[: SIZE[0], SIZE[1] :].astype(int) - sharp).mean() < 6


def test_in_python(tmp_path) -> None:
    folder = write_frames(tmp_path / 'v', moving(9))
    synthesize([folder], tmp_path / 'out', Settings(response=LINEAR, window=(3, 3)))
    assert len(pairs(tmp_path / 'out/train/v')) == 3
    with pytest.raises(DataError, match='other settings'):
        synthesize([folder], tmp_path / 'out', Settings(window=(3, 3)))


# The whole way


@pytest.mark.slow
def test_from_videos_to_the_training_data(tmp_path, run_python) -> None:
    """Real commands in fresh processes: synthesize, convert to LMDB, verify, and read it as training and tests do."""
    pytest.importorskip('mmcv')
    frames = {'one': moving(33, seed=1), 'two': moving(22, seed=2)}
    for name, made in frames.items():
        write_video(tmp_path / f'{name}.avi', made)
    (tmp_path / 'broken.avi').write_bytes(b'RIFF, or so it says')
    failed = run_python('-m', 'data_prep', 'synthesize', 'broken.avi', '-o', 'pairs', cwd=tmp_path)
    assert failed.returncode == 2
    assert 'error: broken.avi cannot be read as a video' in failed.stderr
    assert 'Traceback' not in failed.stderr
    arguments = [
        'synthesize',
        'one.avi',
        'two.avi',
        '-o',
        'pairs',
        '--window',
        11,
        '--test',
        'two',
        '--response',
        'srgb',
    ]
    done = run_python('-m', 'data_prep', *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'one.avi: 33 frames of 52x36, 240 frames a second, 1 shot.' in done.stdout
    assert '2 pairs of 52x36 at 21.818 frames a second, shutter open for 11 of every 11 frames' in done.stdout
    record = json.loads((tmp_path / 'pairs/test/two/synthesis.json').read_text())
    assert record['source']['frame_rate'] == 240
    # What is in the file, by another reader than the command's.
    capture = cv2.VideoCapture(str(tmp_path / 'one.avi'))
    stored = [capture.read()[1] for _ in range(33)]
    for number, (_, sharp) in enumerate(pairs(tmp_path / 'pairs/train/one')):
        assert np.array_equal(sharp, stored[11 * number + 5])

    converted = run_python('-m', 'data_prep', 'gopro', 'pairs', '-o', 'lmdb', cwd=tmp_path)
    assert converted.returncode == 0, converted.stderr
    assert 'synthesized with the camera response srgb' in converted.stdout
    assert 'as distributed' not in converted.stdout
    info = json.loads((tmp_path / 'lmdb/dataset_info.json').read_text())
    assert info['data_set'] == 'Synthesized pairs'
    assert 'response srgb' in info['splits']['train']['blur']['meaning']
    assert [entry.key for entry in read_meta_info(tmp_path / 'lmdb/train_sharp.lmdb')] == [
        'one/000001', 'one/000002', 'one/000003'
    ]  # fmt: skip
    assert main(['verify', str(tmp_path / 'lmdb')]) == 0

    pytest.importorskip('basicsr')
    from dstnet_arch.data.video_recurrent_deblur_dataset import VideoRecurrentDeblurTestDataset

    dataset = VideoRecurrentDeblurTestDataset(
        {
            'dataroot_lq': str(tmp_path / 'lmdb/test_blur.lmdb'),
            'dataroot_gt': str(tmp_path / 'lmdb/test_sharp.lmdb'),
            'io_backend': {'type': 'auto'},
        }
    )
    item = dataset[0]
    assert item['frames'] == ['000001', '000002']
    for side, key in (('blur', 'lq'), ('sharp', 'gt')):
        expected = image(tmp_path / f'pairs/test/two/{side}/000002.png')[..., ::-1] / 255
        assert np.abs(item[key][1].permute(1, 2, 0).numpy() - expected).max() < 1e-6

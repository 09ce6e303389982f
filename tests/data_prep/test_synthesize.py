"""data_prep synthesize: exposure, clips, files, and the command from videos and folders to GoPro's layout."""

from __future__ import annotations

import json
import shutil
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from data_utils import failure, moving, write_frames

from data_prep import synthesize as synthesize_module
from data_prep.__main__ import main
from data_prep.blur_model import SRGB
from data_prep.footage import Analysis, open_footage
from data_prep.lmdb_writer import only_writer
from data_prep.synthesize import assign_splits, windows
from data_prep.synthesize_plan import ClipPlan, Settings, plan_clips
from dstnet_arch.errors import DataError

SIZE = (36, 52)


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


def write_timed_video(path: Path, frames, milliseconds, transfer: int = 1) -> Path:
    """A lossless video whose frames have the given times."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('ffv1', rate=1000)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = 'bgr0', Fraction(1, 1000)
        stream.codec_context.color_trc = transfer
        for frame, time in zip(frames, milliseconds, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format='bgr24').reformat(format='bgr0')
            picture.pts, picture.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


# Exposure and clips


def weights(exposure: float, interpolate: int = 1, times=None, centre: int = 10) -> list[tuple[float, float]]:
    """(time relative to the sharp frame, weight) of the samples of a pair."""
    times = np.arange(21.0) if times is None else times
    plan = ClipPlan('train', 'v', 0, times, exposure, 1, interpolate)
    assert centre in plan.centres
    return [
        (np.interp(frame + part, np.arange(len(times)), times) - times[centre], weight)
        for frame, part, weight in plan.samples(centre)
    ]


@pytest.mark.parametrize('interpolate', [1, 5])
@pytest.mark.parametrize('exposure', [0.2, 1, 2, 6.4, 7, 9.99, 12])
def test_weights_are_overlaps_with_the_exposure(exposure: float, interpolate: int) -> None:
    """Each weight is the time that the exposure shares with the sample's time."""
    found = weights(exposure, interpolate)
    half = 0.5 / interpolate
    for time, weight in found:
        assert weight == pytest.approx(min(exposure / 2, time + half) - max(-exposure / 2, time - half))
        assert weight > 0
    assert sum(weight for _, weight in found) == pytest.approx(exposure)


def test_weights_follow_irregular_times() -> None:
    times = np.array([0, 1, 2, 4, 5, 6.0])
    assert weights(3, times=times, centre=3) == [(-2, 0.5), (0, 1.5), (1, 1)]
    assert weights(3, 2, times=times, centre=3) == [(-1, 1), (0, 0.75), (0.5, 0.5), (1, 0.5), (1.5, 0.25)]


def test_settings_that_follow_from_others() -> None:
    assert Settings(window=(11, 11)).shutter('a') == (11, 11)
    assert Settings(window=(5, 5), duty_cycle=0.25).shutter('a') == (5, 20)
    assert Settings(stride=8, duty_cycle=0.5).shutter('a') == (4.0, 8)
    assert Settings(window=(5, 5), stride=2).shutter('a') == (5, 2)
    assert {Settings().shutter(f'clip{number}')[0] for number in range(60)} == {7, 9, 11, 13}


def test_scaling_down_averages_light() -> None:
    for settings, size in ((Settings(), (12, 20)), (Settings(max_size=10), (6, 10)), (Settings(scale=0.01), (1, 1))):
        assert settings.output_size((12, 20)) == size
    assert Settings(max_size=100).output_size((12, 20)) == (12, 20), 'never up'
    (frame,) = moving(1, size=(12, 20), sigma=1)
    small = Settings(SRGB, scale=0.5).resize(frame)
    light = SRGB.light(frame).reshape(6, 2, 10, 2, 3).mean(axis=(1, 3))
    assert np.abs(SRGB.light(small) - light).max() < 0.006


def test_plan_clips_makes_one_clip_per_shot() -> None:
    differences = [1.0] * 9 + [50.0] + [1.0] * 4 + [50.0] + [1.0] * 2  # shots of 10, 5 and 3 frames
    analysis = Analysis(18, (8, 8), differences)
    plans, too_short = plan_clips('f', 'train', Settings(window=(5, 5)), analysis)
    found = [(plan.label, plan.first, len(plan.times), plan.centres) for plan in plans]
    assert found == [('train/f_00', 0, 10, [2, 7]), ('train/f_01', 10, 5, [12])]
    assert too_short == 1
    plans, _ = plan_clips('f', 'train', Settings(window=(3, 3), stride=1, min_pairs=3), analysis)
    assert [plan.centres for plan in plans] == [[1, 2, 3, 4, 5, 6, 7, 8], [11, 12, 13]]
    assert plan_clips('f', 'train', Settings(window=(11, 11)), analysis) == ([], 3)


def test_splits() -> None:
    names = [f'v{number}' for number in range(10)]
    chosen = assign_splits(names, ['v3', 'v7.mp4'], None)
    assert [name for name, split in chosen.items() if split == 'test'] == ['v3', 'v7']
    assert set(assign_splits(names, [], None).values()) == {'train'}
    shared = assign_splits(names, [], 0.8)
    assert shared == assign_splits(names[::-1], [], 0.8)
    for count, share, tests in ((10, 0.8, 2), (2, 0.9, 1), (10, 1, 0), (10, 0, 10)):
        found = assign_splits(names[:count], [], share).values()
        assert list(found).count('test') == tests, 'both get one unless the share is 0 or 1'


def test_windows_holds_one_window(tmp_path) -> None:
    settings = Settings(window=(5, 5), stride=3)
    (plan,), _ = plan_clips('v', 'train', settings, Analysis(40, SIZE, [0.0] * 39))
    read: list[int] = []
    images = moving(40)
    frames = ((read.append(number) or number, image) for number, image in enumerate(images))
    for number, window in enumerate(windows(plan, frames, settings)):
        assert len(read) == 3 * number + 5, 'no frame is read early'
        assert [frame.number for frame in window] == list(range(3 * number, 3 * number + 5))
        assert np.array_equal(window[2].image, images[3 * number + 2])
    assert number == 11
    with pytest.raises(DataError, match='changed while it was read'):
        list(windows(plan, enumerate(images[:30]), settings))


# What the pairs are

NAIVE = {
    'linear': (lambda x: x, lambda x: x),
    'gamma2.2': (lambda x: x**2.2, lambda x: x ** (1 / 2.2)),
    'srgb': (
        np.vectorize(lambda x: x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4),
        np.vectorize(lambda x: 12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055),
    ),
}


@pytest.mark.parametrize(
    ('response', 'options', 'weights', 'stride'),
    [
        ('linear', ['--window', 5], [1] * 5, 5),
        ('srgb', ['--window', 3, '--stride', 2], [1] * 3, 2),
        ('gamma2.2', ['--window', 3, '--duty-cycle', 0.5], [1] * 3, 6),
        ('srgb', ['--stride', 8, '--duty-cycle', 0.5], [0.5, 1, 1, 1, 0.5], 8),
        ('gamma2.2', ['--stride', 3, '--duty-cycle', 0.8], [0.7, 1, 0.7], 3),
    ],
)
def test_synthesize_equals_naive_average(tmp_path, response: str, options: list, weights: list, stride: int) -> None:
    to_light, to_stored = NAIVE[response]
    rng = np.random.default_rng(2)
    frames = [rng.integers(0, 256, (7, 9, 3), dtype=np.uint8) for _ in range(23)]  # noise: cuts everywhere, so:
    folder = write_frames(tmp_path / 'noise', frames)
    run(folder, '-o', tmp_path / 'out', '--response', response, '--cut-threshold', 255, *options)
    made = pairs(tmp_path / 'out/train/noise')
    half = len(weights) // 2
    for (blurry, sharp), centre in zip(made, range(half, len(frames) - half, stride), strict=True):
        assert np.array_equal(sharp, frames[centre])
        lights = [to_light(frame / 255.0) for frame in frames[centre - half : centre + half + 1]]
        expected = 255 * to_stored(np.average(lights, axis=0, weights=weights))
        assert np.abs(blurry - expected).max() <= 0.5 + 1e-6


def test_interpolate_equals_blur_of_the_full_rate(tmp_path) -> None:
    """Every eighth frame, filled up again by flow, gives the blur that all frames give."""
    frames = moving(41, size=(64, 96))
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
        lights = [(frame / 255.0) ** 2.2 for frame in frames[centre - 4 : centre + 5]]
        truth = 255 * np.average(lights, axis=0, weights=[0.5, *[1] * 7, 0.5]) ** (1 / 2.2)
        assert np.array_equal(smeared[t][1], frames[centre])
        assert np.abs(smeared[t][0] - truth)[inner].mean() < 0.6
        assert np.abs(ghosts[t][0] - truth)[inner].mean() > 3


def test_synthesize_averages_variable_frame_rate_by_time(tmp_path, capsys) -> None:
    """Frames every 10 ms; four are missing. A naive integral over time, in steps of 1/20 ms, gives the blur."""
    pytest.importorskip('mmcv')
    frames = moving(24, step=2)
    kept = [number for number in range(24) if number not in (5, 6, 13, 17)]
    video = write_timed_video(tmp_path / 'v.mkv', [frames[number] for number in kept], [10 * number for number in kept])
    run(video, '-o', tmp_path / 'out', '--window', 5, '--stride', 3, '--cut-threshold', 255)
    assert 'variable frame rate, nominally 100 frames per second' in capsys.readouterr().out
    record = json.loads((tmp_path / 'out/train/v/synthesis.json').read_text())
    made = pairs(tmp_path / 'out/train/v')
    assert [kept[frame] for frame in record['sharp_frames']] == [2, 4, 8, 11, 14, 16, 20]
    for frame, (blurry, sharp) in zip(record['sharp_frames'], made, strict=True):
        centre = kept[frame]
        assert np.array_equal(sharp, frames[centre])
        instants = np.linspace(centre - 2.5, centre + 2.5, 1001)[:-1] + 0.0025
        nearest = np.abs(instants[:, None] - np.array(kept)).argmin(axis=1)
        shares = np.bincount(nearest, minlength=len(kept)) / 1000
        light = sum(share * (frames[n] / 255.0) ** 2.2 for share, n in zip(shares, kept, strict=True))
        assert np.abs(blurry - 255 * light ** (1 / 2.2)).max() <= 1


@pytest.mark.parametrize(('transfer', 'name'), [(16, 'PQ'), (18, 'HLG'), (1, None)])
def test_open_footage_recognises_hdr(tmp_path, transfer: int, name: str | None) -> None:
    pytest.importorskip('mmcv')
    footage = open_footage(write_timed_video(tmp_path / 'v.mkv', moving(5), range(0, 50, 10), transfer))
    assert (footage.hdr, footage.listed) == (name, 5)


# Files


def test_result_is_repeatable_and_does_not_depend_on_threads(tmp_path) -> None:
    folder = write_frames(tmp_path / 'v', moving(40, size=(48, 64), step=2))
    options = ['--interpolate', 3, '--scale', 0.75]
    run(folder, '-o', tmp_path / 'a', '--threads', 1, *options)
    run(folder, '-o', tmp_path / 'b', '--threads', 4, *options)
    assert tree(tmp_path / 'a') == tree(tmp_path / 'b')
    assert pairs(tmp_path / 'a/train/v')[0][0].shape == (36, 48, 3)


def test_earlier_clips_are_replaced_only_with_overwrite(tmp_path, capsys) -> None:
    folder = write_frames(tmp_path / 'v', moving(12))
    run(folder, '-o', tmp_path / 'out', '--window', 5)
    run(write_frames(tmp_path / 'w', moving(12)), '-o', tmp_path / 'out', '--window', 5)
    before = tree(tmp_path / 'out')
    for other in ([], ['--test', 'v']):
        message = failure(capsys, 'synthesize', folder, '-o', tmp_path / 'out', '--window', 3, *other)
        assert 'train/v exists. Choose another folder with -o, or replace it with --overwrite' in message
    assert tree(tmp_path / 'out') == before
    run(folder, '-o', tmp_path / 'out', '--window', 3, '--test', 'v', '--overwrite')
    assert [path.name for path in (tmp_path / 'out/train').iterdir()] == ['w']
    assert len(pairs(tmp_path / 'out/test/v')) == 4


def test_foreign_folders_are_never_replaced(tmp_path, capsys) -> None:
    folder = write_frames(tmp_path / 'v', moving(12))
    theirs = tmp_path / 'out/train/v/blur/000001.png'
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b'mine')
    message = failure(capsys, 'synthesize', folder, '-o', tmp_path / 'out', '--window', 5, '--overwrite')
    assert 'was not made by this command' in message
    assert theirs.read_bytes() == b'mine'


def test_failed_run_leaves_nothing_and_replaces_leftovers(tmp_path, monkeypatch, capsys) -> None:
    folder = write_frames(tmp_path / 'v', moving(12))
    with monkeypatch.context() as patch:
        patch.setattr(synthesize_module, '_write_preview', lambda clip: (tmp_path / 'absent').rmdir())
        assert 'absent' in failure(capsys, 'synthesize', folder, '-o', tmp_path / 'out', '--window', 3, '--preview')
    assert tree(tmp_path / 'out') == {}
    leftover = tmp_path / 'out/train/.v.partial/blur/000009.png'
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b'half')
    run(folder, '-o', tmp_path / 'out', '--window', 3, '--preview')
    assert len(tree(tmp_path / 'out')) == 2 * 4 + 2
    sheet = image(tmp_path / 'out/train/v/preview.jpg')
    assert sheet.shape == (4 * SIZE[0], 2 * SIZE[1], 3)
    blurry, sharp = pairs(tmp_path / 'out/train/v')[0]
    assert np.abs(sheet[: SIZE[0]].astype(int) - np.hstack([blurry, sharp])).mean() < 6


def test_synthesize_errors(tmp_path, capsys) -> None:
    out = tmp_path / 'out'
    out.mkdir()
    folder = write_frames(tmp_path / 'v', moving(6))
    (empty := tmp_path / 'empty').mkdir()
    mixed = write_frames(tmp_path / 'mixed', [*moving(3), np.zeros((9, 9, 3), np.uint8)])
    cases = [
        ([folder, '--window', 7], '6 frames of 52x36, 1 shot: too short for a pair. Use a smaller --window or --min-p'),
        ([folder, '--window', 3, '--min-pairs', 3], 'too short'),
        ([mixed], 'frame 4 is 9x9, the previous ones are 52x36'),
        ([folder, folder], 'need different names'),
        ([folder, '--window', 3, '--test', 'w'], '--test w: no such video; the videos are v'),
        ([folder, '--window', 3, '--stride', 3, '--duty-cycle', 1], 'at most two of --window'),
        ([folder, '--window', 3, '--scale', 0.5, '--interpolate', 2], '--interpolate needs frames of at least 32'),
        ([folder, '--response', 'rec709'], 'rec709'),
        ([tmp_path / 'none.mp4'], 'does not exist'),
        ([empty], 'has no frames'),
    ]
    for arguments, message in cases:
        assert message in failure(capsys, 'synthesize', *arguments, '-o', out)
        assert not list(out.glob('t*')), 'no clip'
    with only_writer(out):
        assert 'another process is writing' in failure(capsys, 'synthesize', folder, '-o', out)


def test_missing_mmcv_is_one_error(tmp_path, monkeypatch, capsys) -> None:
    video = write_timed_video(tmp_path / 'v.mkv', moving(12), range(0, 120, 10))
    monkeypatch.setitem(sys.modules, 'mmcv', None)
    message = failure(capsys, 'synthesize', video, '-o', tmp_path / 'out')
    assert "pip install 'dstnet-arch[video]'" in message
    run(write_frames(tmp_path / 'frames', moving(14)), '-o', tmp_path / 'out')  # folders need no mmcv


def test_synthesize_convert_and_verify(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip('mmcv')
    monkeypatch.chdir(tmp_path)
    frames = {'one': moving(33, seed=1), 'two': moving(22, seed=2)}
    for name, made in frames.items():
        times = [round(1000 / 240 * number) for number in range(len(made))]  # rounded: intervals of 4 and 5 ms
        write_timed_video(Path(f'{name}.mkv'), made, times)
    Path('broken.avi').write_bytes(b'RIFF')
    assert 'broken.avi cannot be decoded' in failure(capsys, 'synthesize', 'broken.avi', '-o', 'pairs')

    run('one.mkv', 'two.mkv', '-o', 'pairs', '--window', 11, '--test', 'two', '--response', 'srgb')
    out = capsys.readouterr().out
    assert 'one.mkv: 33 frames of 52x36, 240.6 frames per second, 1 shot.' in out
    assert 'Warning' not in out
    assert '2 pairs of 52x36, exposure 11 of every 11 frames' in out
    for number, (_, sharp) in enumerate(pairs(tmp_path / 'pairs/train/one')):
        assert np.array_equal(sharp, frames['one'][11 * number + 5])

    assert main(['gopro', 'pairs', '-o', 'lmdb']) == 0
    out = capsys.readouterr().out
    assert 'synthesized with the camera response srgb' in out
    assert 'as distributed' not in out
    info = json.loads(Path('lmdb/train_blur.lmdb/dataset_info.json').read_text())
    assert info['data_set'] == 'Synthesized pairs'
    assert main(['verify', 'lmdb']) == 0

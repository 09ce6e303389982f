"""data_prep synthesize from videos and folders of frames to GoPro's layout."""

from __future__ import annotations

import builtins
import json
import re
import shutil
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from data_utils import failure

from data_prep import synthesize as synthesize_module
from data_prep.__main__ import main
from data_prep.lmdb_writer import only_writer
from data_prep.synthesize import windows
from data_prep.synthesize_analysis import Analysis, find_warnings
from data_prep.synthesize_footage import Footage, open_footage
from data_prep.synthesize_plan import Settings, plan_clips
from dstnet_arch.errors import DataError

SIZE = (36, 52)


def write_frames(folder: Path, frames) -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f'{number}.png'), frame)
    return folder


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
def test_synthesize_equals_naive_average(tmp_path, response: str, options: list, weights: list, stride: int) -> None:
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


def test_interpolate_equals_blur_of_the_full_rate(tmp_path) -> None:
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


# Cuts and clips


def test_each_shot_becomes_a_clip(tmp_path, capsys) -> None:
    first, second, third = moving(10, seed=1), moving(4, seed=2), moving(8, seed=3)
    folder = write_frames(tmp_path / 'cut', [*first, *second, *third])
    run(folder, '-o', tmp_path / 'out', '--window', 5, '--stride', 2)
    assert sorted(path.name for path in (tmp_path / 'out/train').iterdir()) == ['cut_00', 'cut_02']
    assert '1 shot too short, skipped' in capsys.readouterr().out
    for name, frames in (('cut_00', first), ('cut_02', third)):
        made = pairs(tmp_path / 'out/train' / name)
        assert len(made) == (len(frames) - 5) // 2 + 1
        for number, (blurry, sharp) in enumerate(made):
            assert np.array_equal(sharp, frames[2 * number + 2])
            light = np.mean([(frame / 255.0) ** 2.2 for frame in frames[2 * number : 2 * number + 5]], axis=0)
            assert np.abs(blurry - 255 * light ** (1 / 2.2)).max() <= 0.5 + 1e-6, 'no frame from beyond the cut'


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
    (tmp_path / 'file').touch()
    assert 'file' in failure(capsys, 'synthesize', folder, '-o', tmp_path / 'file')


def test_failed_run_leaves_nothing_and_replaces_leftovers(tmp_path, monkeypatch, capsys) -> None:
    folder = write_frames(tmp_path / 'v', moving(12))
    with monkeypatch.context() as patch:
        patch.setattr(synthesize_module, '_write_preview', lambda clip: (tmp_path / 'absent').rmdir())
        assert 'absent' in failure(capsys, 'synthesize', folder, '-o', tmp_path / 'out', '--window', 3, '--preview')
    assert tree(tmp_path / 'out') == {}
    leftover = tmp_path / 'out/train/.v.partial/blur/000009.png'
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b'half')
    run(folder, '-o', tmp_path / 'out', '--window', 3)
    run(folder, '-o', tmp_path / 'other', '--window', 3)
    assert tree(tmp_path / 'out') == tree(tmp_path / 'other')


def test_second_process_is_refused(tmp_path, capsys) -> None:
    pytest.importorskip('fcntl')
    folder = write_frames(tmp_path / 'v', moving(12))
    (tmp_path / 'out').mkdir()
    with only_writer(tmp_path / 'out'):
        assert 'another process is writing' in failure(capsys, 'synthesize', folder, '-o', tmp_path / 'out')


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


# Variable frame rate and HDR


def write_timed_video(path: Path, frames, milliseconds, **stream_options) -> Path:
    """A lossless video whose frames have the given times."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('ffv1', rate=1000)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = 'bgr0', Fraction(1, 1000)
        for name, value in stream_options.items():
            setattr(stream.codec_context, name, value)
        for frame, time in zip(frames, milliseconds, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format='bgr24').reformat(format='bgr0')
            picture.pts, picture.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


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


def test_synthesize_treats_rounded_time_stamps_as_constant_rate(tmp_path, capsys) -> None:
    pytest.importorskip('mmcv')
    times = [round(number * 1000 / 240) for number in range(30)]  # intervals of 4 and 5 ms
    run(write_timed_video(tmp_path / 'v.mkv', moving(30), times), '-o', tmp_path / 'out', '--window', 5)
    out = capsys.readouterr().out
    assert '239.67 frames per second' in out
    assert 'variable' not in out
    record = json.loads((tmp_path / 'out/train/v/synthesis.json').read_text())
    assert record['sharp_frames'] == [2, 7, 12, 17, 22, 27]


@pytest.mark.parametrize(('transfer', 'name'), [(16, 'PQ'), (18, 'HLG'), (1, None)])
def test_synthesize_warns_about_hdr(tmp_path, transfer: int, name: str | None) -> None:
    pytest.importorskip('mmcv')
    footage = open_footage(write_timed_video(tmp_path / 'v.mkv', moving(5), range(0, 50, 10), color_trc=transfer))
    warnings = find_warnings(footage, Analysis(5, SIZE, [1.0] * 4), step=0)  # decoding HDR is slow
    assert [f'HDR footage ({name})' in warning for warning in warnings] == ([True] if name else [])


def test_synthesize_warns_about_frames_that_cannot_be_decoded(tmp_path) -> None:
    footage = Footage(tmp_path / 'v.mp4', listed=5, stamps=np.arange(5.0))
    assert 'lists 5 frames, but 4 can be decoded' in find_warnings(footage, Analysis(4, SIZE, [1.0] * 3), step=0)[0]


# What goes wrong


def test_synthesize_errors(tmp_path, capsys) -> None:
    out = tmp_path / 'out'
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
        ([folder, '--window', 3, '--scale', 0.5, '--interpolate', 2], 'too small for --interpolate'),
        ([folder, '--response', 'rec709'], 'rec709'),
        ([tmp_path / 'none.mp4'], 'does not exist'),
        ([empty], 'has no frames'),
    ]
    for arguments, message in cases:
        assert message in failure(capsys, 'synthesize', *arguments, '-o', out)
        assert not list(out.glob('t*')), 'no clip'


@pytest.mark.parametrize(
    'argv',
    [
        ['--window', '6'],
        ['--window', '13-7'],
        ['--duty-cycle', '0'],
        ['--duty-cycle', '1.5'],
        ['--scale', '2'],
        ['--scale', '0.5', '--max-size', '100'],
        ['--test', 'a', '--train-share', '0.5'],
        ['--interpolate', '65'],
    ],
)
def test_synthesize_rejects_wrong_arguments(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(['synthesize', 'v', '-o', 'out', *argv])
    assert stop.value.code == 2


def test_warnings(tmp_path, capsys) -> None:
    fast = write_frames(tmp_path / 'fast', moving(20, size=(64, 96), step=5))
    run(fast, '-o', tmp_path / 'out', '--window', 3)
    assert re.search(r'fast parts move by [56]\..*--interpolate', capsys.readouterr().out)
    run(fast, '-o', tmp_path / 'out2', '--window', 3, '--interpolate', 6)
    assert 'Warning' not in capsys.readouterr().out
    twice = write_frames(tmp_path / 'twice', [frame for frame in moving(15, step=2) for _ in range(2)])
    run(twice, '-o', tmp_path / 'out', '--window', 3)
    out = capsys.readouterr().out
    assert '% of the frames repeat the previous one' in out
    assert 'mpdecimate' in out


def test_missing_mmcv_is_one_error(tmp_path, monkeypatch, capsys) -> None:
    original = builtins.__import__

    def absent(name: str, *rest: object, **more: object) -> object:
        if name.partition('.')[0] == 'mmcv':
            raise ModuleNotFoundError("No module named 'mmcv'")
        return original(name, *rest, **more)

    video = write_timed_video(tmp_path / 'v.mkv', moving(12), range(0, 120, 10))
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


def test_synthesize_convert_verify_and_load(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip('mmcv')
    monkeypatch.chdir(tmp_path)
    frames = {'one': moving(33, seed=1), 'two': moving(22, seed=2)}
    for name, made in frames.items():
        write_timed_video(Path(f'{name}.mkv'), made, range(0, 4 * len(made), 4))
    Path('broken.avi').write_bytes(b'RIFF')
    assert 'broken.avi cannot be decoded' in failure(capsys, 'synthesize', 'broken.avi', '-o', 'pairs')

    run('one.mkv', 'two.mkv', '-o', 'pairs', '--window', 11, '--test', 'two', '--response', 'srgb')
    out = capsys.readouterr().out
    assert 'one.mkv: 33 frames of 52x36, 250 frames per second, 1 shot.' in out
    assert '2 pairs of 52x36, exposure 11 of every 11 frames' in out
    for number, (_, sharp) in enumerate(pairs(tmp_path / 'pairs/train/one')):
        assert np.array_equal(sharp, frames['one'][11 * number + 5])

    assert main(['gopro', 'pairs', '-o', 'lmdb']) == 0
    out = capsys.readouterr().out
    assert 'synthesized with the camera response srgb' in out
    assert 'as distributed' not in out
    info = json.loads(Path('lmdb/train_blur.lmdb/dataset_info.json').read_text())
    assert info['data_set'] == 'Synthesized pairs'
    assert 'response srgb' in info['blur']['meaning']
    assert main(['verify', 'lmdb']) == 0

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

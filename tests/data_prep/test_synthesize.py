"""data_prep synthesize from videos and folders of frames to GoPro's layout."""

from __future__ import annotations

import builtins
import json
import shutil
from collections.abc import Iterator
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
from data_prep.synthesize import Video, windows
from data_prep.synthesize_analysis import Analysis, analyse
from data_prep.synthesize_footage import FrameFolder, open_footage
from data_prep.synthesize_plan import Settings, plan_clips
from data_prep.synthesize_warnings import find_warnings

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


def test_record_is_enough_to_reproduce_pairs(tmp_path) -> None:
    frames = moving(60)
    folder = write_frames(tmp_path / 'v', frames)
    run(folder, '-o', tmp_path / 'out', '--response', 'srgb')
    clip = tmp_path / 'out/train/v'
    record = json.loads((clip / 'synthesis.json').read_text())
    assert record['source']['frames'] == 60
    assert record['source']['name'] == 'v'
    assert record['settings']['window'] in (7, 9, 11, 13)
    assert record['settings']['weights'] == [1] * record['settings']['window']
    to_light, to_stored = NAIVE[record['settings']['response']]
    assert len(record['pairs']) == len(pairs(clip)) >= 4
    for pair, (blurry, sharp) in zip(record['pairs'], pairs(clip), strict=True):
        assert np.array_equal(sharp, frames[pair['sharp']])
        window = np.array(frames[pair['first'] : pair['last'] + 1]) / 255
        expected = 255 * to_stored(to_light(window).mean(axis=0))
        assert np.array_equal(blurry, np.rint(expected))


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


def test_result_depends_on_seed_and_not_on_threads(tmp_path) -> None:
    folder = write_frames(tmp_path / 'v', moving(40, size=(48, 64), step=2))
    options = ['--interpolate', 3]
    run(folder, '-o', tmp_path / 'a', '--threads', 1, *options)
    run(folder, '-o', tmp_path / 'b', '--threads', 4, *options)
    run(folder, '-o', tmp_path / 'c', '--seed', 1, *options)
    assert tree(tmp_path / 'a') == tree(tmp_path / 'b')
    first, other = (tree(tmp_path / name / 'train/v/blur') for name in 'ac')
    assert first['000001.png'] != other['000001.png']


def test_clips_are_kept_if_equal_and_replaced_only_with_overwrite(tmp_path, capsys) -> None:
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


def test_foreign_folders_are_never_replaced(tmp_path, capsys) -> None:
    folder = write_frames(tmp_path / 'v', moving(12))
    theirs = tmp_path / 'out/train/v/blur/000001.png'
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b'mine')
    message = failure(capsys, 'synthesize', folder, '-o', tmp_path / 'out', '--window', 5, '--overwrite')
    assert 'exists and was not made by this command' in message
    assert theirs.read_bytes() == b'mine'
    (tmp_path / 'file').touch()
    assert 'is a file' in failure(capsys, 'synthesize', folder, '-o', tmp_path / 'file')


def test_failed_run_leaves_nothing_and_replaces_leftovers(tmp_path, monkeypatch, capsys) -> None:
    folder = write_frames(tmp_path / 'v', moving(12))
    with monkeypatch.context() as patch:
        patch.setattr(synthesize_module, '_write_preview', lambda *_: (tmp_path / 'absent').rmdir())
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


def test_windows_holds_one_window(tmp_path, monkeypatch) -> None:
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
    for _, number, frames in windows(Video(footage, analysis, plans, []), plans, settings):
        assert read == 3 * number + 2
        assert len(frames) == 5
        assert np.array_equal(frames[2].image, image(tmp_path / f'v/{3 * (number - 1) + 2}.png'))
    assert number == 12


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
    assert [kept[pair['sharp']] for pair in record['pairs']] == [2, 4, 8, 11, 14, 18, 20]
    for pair, (blurry, sharp) in zip(record['pairs'], made, strict=True):
        centre = kept[pair['sharp']]
        assert np.array_equal(sharp, frames[centre])
        instants = np.linspace(centre - 2.5, centre + 2.5, 1001)[:-1] + 0.0025
        nearest = np.abs(instants[:, None] - np.array(kept)).argmin(axis=1)
        shares = np.bincount(nearest, minlength=len(kept)) / 1000
        used = shares[pair['first'] : pair['last'] + 1]
        assert np.array(pair['weights']) / sum(pair['weights']) == pytest.approx(used, abs=2e-3)
        light = sum(share * (frames[n] / 255.0) ** 2.2 for share, n in zip(shares, kept, strict=True))
        assert np.abs(blurry - 255 * light ** (1 / 2.2)).max() <= 1


def test_synthesize_treats_rounded_time_stamps_as_constant_rate(tmp_path, capsys) -> None:
    pytest.importorskip('mmcv')
    times = [round(number * 1000 / 240) for number in range(30)]  # intervals of 4 and 5 ms
    run(write_timed_video(tmp_path / 'v.mkv', moving(30), times), '-o', tmp_path / 'out', '--window', 5)
    out = capsys.readouterr().out
    assert '239.67 frames per second' in out
    assert 'variable' not in out
    assert [pair['sharp'] for pair in json.loads((tmp_path / 'out/train/v/synthesis.json').read_text())['pairs']] == [
        2, 7, 12, 17, 22, 27
    ]  # fmt: skip


@pytest.mark.parametrize(('transfer', 'name'), [(16, 'PQ'), (18, 'HLG'), (1, None)])
def test_synthesize_warns_about_hdr(tmp_path, transfer: int, name: str | None) -> None:
    pytest.importorskip('mmcv')
    footage = open_footage(write_timed_video(tmp_path / 'v.mkv', moving(5), range(0, 50, 10), color_trc=transfer))
    settings, analysis = Settings(window=(3, 3), stride=3), Analysis(5, SIZE, (1.0,) * 4)  # decoding HDR is slow
    plans, _ = plan_clips(footage, 'test', settings, analysis)
    warnings = find_warnings(footage, analysis, plans, 0, settings)
    assert [f'HDR footage ({name})' in warning for warning in warnings] == ([True] if name else [])


# What goes wrong


def test_synthesize_errors(tmp_path, capsys) -> None:
    out = tmp_path / 'out'
    folder = write_frames(tmp_path / 'v', moving(6))
    one = write_frames(tmp_path / 'one', moving(1))
    mixed = write_frames(tmp_path / 'mixed', [*moving(3), np.zeros((9, 9, 3), np.uint8)])
    cases = [
        ([folder, '--window', 7], 'has 6 frames, but a pair needs 7 or more. Use a smaller --window'),
        ([one], 'has 1 frame, but a pair needs'),
        ([mixed], 'frame 3 is 9x9, the previous ones are 52x36'),
        ([folder, '--window', 3, '--min-pairs', 3], 'gives 2 of the 3 pairs required by --min-pairs'),
        ([folder, folder], 'would both become v: rename one'),
        ([folder, '--window', 3, '--test', 'w'], '--test w: no such video; the videos are v'),
        ([folder, '--window', 3, '--stride', 3, '--duty-cycle', 1], 'at most two of --window'),
        ([folder, '--window', 3, '--crop', '60x10'], 'exceeds frames of 52x36'),
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
    out = capsys.readouterr().out
    assert 'fast parts move by 5.' in out or 'fast parts move by 4.' in out
    assert 'add --interpolate 5' in out or 'add --interpolate 6' in out
    assert '6 pairs' not in out.partition('Warning')[0]
    assert '1 training clip with fewer than 15 pairs' in out
    run(fast, '-o', tmp_path / 'out2', '--window', 3, '--interpolate', 6, '--test', 'fast')
    assert 'Warning' not in capsys.readouterr().out

    twice = write_frames(tmp_path / 'twice', [frame for frame in moving(15, step=2) for _ in range(2)])
    run(twice, '-o', tmp_path / 'out', '--window', 1, '--stride', 1)
    out = capsys.readouterr().out
    assert '% of the frames repeat the previous one' in out
    assert 'mpdecimate' in out
    assert 'blurry and sharp frames are identical' in out
    run(write_frames(tmp_path / 'slow', moving(20)), '-o', tmp_path / 'out', '--window', 5, '--stride', 1)
    assert 'the exposure (5 frames) is longer than the time between pairs (1)' in capsys.readouterr().out


def test_missing_mmcv_is_one_error(tmp_path, monkeypatch, capsys) -> None:
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


def test_synthesize_convert_verify_and_load(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip('mmcv')
    monkeypatch.chdir(tmp_path)
    for name, made in {'one': moving(33, seed=1), 'two': moving(22, seed=2)}.items():
        write_video(Path(f'{name}.avi'), made)
    Path('broken.avi').write_bytes(b'RIFF')
    assert 'broken.avi cannot be decoded' in failure(capsys, 'synthesize', 'broken.avi', '-o', 'pairs')

    run('one.avi', 'two.avi', '-o', 'pairs', '--window', 11, '--test', 'two', '--response', 'srgb')
    out = capsys.readouterr().out
    assert 'one.avi: 33 frames of 52x36, 240 frames per second, 1 shot.' in out
    assert '2 pairs of 52x36 at 21.818 frames per second, exposure 11 of every 11 frames' in out
    assert json.loads(Path('pairs/test/two/synthesis.json').read_text())['source']['frame_rate'] == 240
    capture = cv2.VideoCapture('one.avi')  # another reader
    stored = [capture.read()[1] for _ in range(33)]
    for number, (_, sharp) in enumerate(pairs(tmp_path / 'pairs/train/one')):
        assert np.array_equal(sharp, stored[11 * number + 5])

    assert main(['gopro', 'pairs', '-o', 'lmdb']) == 0
    out = capsys.readouterr().out
    assert 'synthesized with the camera response srgb' in out
    assert 'as distributed' not in out
    info = json.loads(Path('lmdb/dataset_info.json').read_text())
    assert info['data_set'] == 'Synthesized pairs'
    assert 'response srgb' in info['splits']['train']['blur']['meaning']
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

"""Parts of blur synthesis against independent computations: light, exposure, flow, cuts, names."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep.blur_model import LINEAR, RESPONSES, SRGB, blurry_and_sharp, power_law
from data_prep.synthesize import assign_splits
from data_prep.synthesize_analysis import Analysis, analyse, find_cuts, frame_times, repeated_share
from data_prep.synthesize_command import read_response
from data_prep.synthesize_flow import FlowFrame, flow_to, light_between
from data_prep.synthesize_footage import Footage, clip_name, open_footage
from data_prep.synthesize_plan import ClipPlan, Settings, plan_clips
from dstnet_arch.errors import DataError


def texture(height: int, width: int, seed: int = 0, sigma: float = 2.5) -> np.ndarray:
    """Smooth random colours that use most of the range; `sigma` is the size of the spots, pixels."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma)
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


# Response curves


def naive_srgb(value: int) -> float:
    stored = value / 255
    return stored / 12.92 if stored <= 0.04045 else ((stored + 0.055) / 1.055) ** 2.4


def test_srgb_against_its_definition() -> None:
    values = np.arange(256, dtype=np.uint8)
    assert SRGB.light(values) == pytest.approx([naive_srgb(value) for value in range(256)], abs=1e-12)
    assert SRGB.light(values)[188] == pytest.approx(0.5029, abs=1e-4)  # the well-known middle


@pytest.mark.parametrize('name', sorted(RESPONSES))
def test_curves_go_there_and_back(name: str) -> None:
    response = RESPONSES[name]
    values = np.arange(256, dtype=np.uint8)
    assert np.array_equal(response.image(response.light(values)), values)
    assert response.light(values)[[0, 255]] == pytest.approx([0, 1])
    assert response.image(np.array([-0.5, 2.0])).tolist() == [0, 255], 'clipped'


def test_blurry_and_sharp_against_a_naive_mean() -> None:
    frames = [texture(3, 4, seed) for seed in range(8)]
    made = list(blurry_and_sharp(iter(frames), 3, power_law(2.2)))
    assert len(made) == 2
    for (blurry, sharp), start in zip(made, (0, 3), strict=True):
        assert sharp is frames[start + 1]
        for position in np.ndindex(sharp.shape):
            light = math.fsum((int(frame[position]) / 255) ** 2.2 for frame in frames[start : start + 3]) / 3
            assert abs(int(blurry[position]) - 255 * light ** (1 / 2.2)) <= 0.5 + 1e-6


def test_measured_curve_ignores_unit_and_black_level(tmp_path) -> None:
    curve = tmp_path / 'curve.txt'
    curve.write_text(', '.join(str(7 + 300 * (value / 255) ** 1.8) for value in range(256)))
    frames = [texture(9, 8, seed) for seed in range(5)]
    ((measured, _),) = blurry_and_sharp(frames, 5, read_response(str(curve)))
    ((expected, _),) = blurry_and_sharp(frames, 5, power_law(1.8))
    assert np.abs(measured.astype(int) - expected).max() <= 1


@pytest.mark.parametrize('content', [b'1 2 three', b'1 2 3', b'\xff\xfe\x00', b'1 ' * 256, None])
def test_read_response_errors(tmp_path, content: bytes | None) -> None:
    curve = tmp_path / 'curve.txt'
    if content is not None:
        curve.write_bytes(content)
    with pytest.raises(DataError, match=r'curve\.txt: .*Use srgb, gamma2.2, linear, or a text file'):
        read_response(str(curve))


# Exposure


def weights(exposure: float, interpolate: int = 1, times=None, centre: int = 10) -> list[tuple[float, float]]:
    """(time relative to the sharp frame, weight) of the samples of a pair."""
    times = np.arange(21.0) if times is None else times
    plan = ClipPlan('train', 'v', 0, times, exposure, 1, interpolate)
    assert centre in plan.centres
    return [
        (times[frame] + part * (times[frame + 1] - times[frame] if part else 0) - times[centre], weight)
        for frame, part, weight in plan.samples(centre)
    ]


@pytest.mark.parametrize('interpolate', [1, 2, 5])
@pytest.mark.parametrize('exposure', [0.2, 1, 1.5, 2, 3, 6.4, 7, 9.99, 12])
def test_weights_are_overlaps_with_the_exposure(exposure: float, interpolate: int) -> None:
    """Each weight is the time that the exposure shares with the sample's time."""
    found = weights(exposure, interpolate)
    for time, weight in found:
        half = 0.5 / interpolate
        assert weight == pytest.approx(min(exposure / 2, time + half) - max(-exposure / 2, time - half))
        assert weight > 0
    assert sum(weight for _, weight in found) == pytest.approx(exposure)
    assert [time for time, _ in found] == pytest.approx([-time for time, _ in reversed(found)])


def test_weights_follow_irregular_times() -> None:
    times = np.array([0, 1, 2, 4, 5, 6.0])
    assert weights(3, times=times, centre=3) == [(-2, 0.5), (0, 1.5), (1, 1)]
    assert weights(3, 2, times=times, centre=3) == [(-2, 0), (-1, 1), (0, 0.75), (0.5, 0.5), (1, 0.5), (1.5, 0.25)][1:]


def test_frame_times() -> None:
    interval, times = frame_times(np.round(np.arange(50) * 1000 / 240))
    assert interval == pytest.approx(1000 / 240, rel=0.01)
    assert times is None, 'only rounded'
    interval, times = frame_times(np.array([700, 710, 720, 740, 750.0]))
    assert interval == 10
    assert times is not None
    assert times.tolist() == [0, 1, 2, 4, 5]


def test_settings_that_follow_from_others() -> None:
    assert Settings(window=(11, 11)).shutter('a') == (11, 11)
    assert Settings(window=(5, 5), duty_cycle=0.25).shutter('a') == (5, 20)
    assert Settings(stride=8, duty_cycle=0.5).shutter('a') == (4.0, 8)
    assert Settings(window=(5, 5), stride=2).shutter('a') == (5, 2)
    assert {Settings().shutter(f'clip{number}')[0] for number in range(60)} == {7, 9, 11, 13}


# Interpolation


@pytest.mark.parametrize('step', [(6, 0), (-3, 5)])
@pytest.mark.parametrize('time', [1 / 3, 0.5, 0.8])
def test_interpolation_of_a_translation(step: tuple[int, int], time: float) -> None:
    """What is in between is the same texture, moved by a part of the step; also near the borders, within two pixels."""
    big = cv2.GaussianBlur(texture(200, 260), (0, 0), 1.5)
    x, y = step
    first, second = big[40:140, 40:190], big[40 - y : 140 - y, 40 - x : 190 - x]
    between = light_between(
        LINEAR.light(first, np.float32),
        LINEAR.light(second, np.float32),
        flow_to(first, second),
        flow_to(second, first),
        time,
    )
    shift = np.array([[1, 0, time * x], [0, 1, time * y]])
    truth = cv2.warpAffine(big.astype(np.float32) / 255, shift, (260, 200), flags=cv2.INTER_CUBIC)[40:140, 40:190]
    error = np.abs(between - truth)
    assert error[10:-10, 10:-10].max() < 0.02
    assert error[2:-2, 2:-2].mean() < 0.01
    ghost = (1 - time) * LINEAR.light(first) + time * LINEAR.light(second)
    assert np.abs(ghost - truth)[10:-10, 10:-10].max() > 0.1, 'so the texture would show it'


def test_interpolation_is_in_linear_light() -> None:
    """A picture that brightens without motion: the light half-way is the mean of the light."""
    first, second = np.full((40, 48, 3), 60, np.uint8), np.full((40, 48, 3), 200, np.uint8)
    frame = FlowFrame(0, first, SRGB)
    frame.next = FlowFrame(1, second, SRGB)
    assert frame.light(0.25) == pytest.approx(0.75 * naive_srgb(60) + 0.25 * naive_srgb(200), abs=1e-5)
    assert frame.light() == pytest.approx(naive_srgb(60))


def test_what_comes_into_the_picture_is_taken_from_the_frame_that_shows_it() -> None:
    flow = np.zeros((40, 40, 2), np.float32)
    flow[..., 0] = 10  # to the right: the leftmost columns are new in the second frame
    first, second = np.full((40, 40, 3), 0.25, np.float32), np.full((40, 40, 3), 0.75, np.float32)
    between = light_between(first, second, flow, -flow, 0.5)
    assert between[:, 5:35] == pytest.approx(0.5)
    assert between[:, :4] == pytest.approx(0.75, abs=1e-4), 'the first frame has not seen it'
    assert between[:, 36:] == pytest.approx(0.25, abs=1e-4), 'the second one does not see it any more'


# Sizes


def test_scaling_down_averages_light() -> None:
    frame = texture(12, 20)
    small = Settings(SRGB, scale=0.5).resize(frame)
    assert small.shape == (6, 10, 3)
    for y, x, channel in ((0, 0, 0), (3, 7, 2), (5, 9, 1)):
        block = frame[2 * y : 2 * y + 2, 2 * x : 2 * x + 2, channel].ravel()
        light = math.fsum(naive_srgb(int(value)) for value in block) / 4
        stored = 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055
        assert abs(small[y, x, channel] - 255 * stored) <= 0.51


def test_output_sizes() -> None:
    assert Settings().output_size((12, 20)) == (12, 20)
    assert Settings(max_size=10).output_size((12, 20)) == (6, 10)
    assert Settings(max_size=100).output_size((12, 20)) == (12, 20), 'never up'
    assert Settings(scale=0.01).output_size((12, 20)) == (1, 1)


# Cuts, repeated frames, speed


def write_frames(folder: Path, frames) -> Footage:
    folder.mkdir()
    for number, frame in enumerate(frames, start=1):
        cv2.imwrite(str(folder / f'{number}.png'), frame)
    return open_footage(folder)


def pan(count: int, step: float, seed: int = 0, size: tuple[int, int] = (72, 128)) -> list[np.ndarray]:
    """A view that moves to the right by `step` pixels a frame."""
    big = texture(size[0], size[1] + int(step * count) + 1, seed, sigma=12)
    return [big[:, (start := round(step * t)) : start + size[1]] for t in range(count)]


def test_analysis_finds_cuts_between_moving_shots(tmp_path) -> None:
    shots = [pan(12, 2, seed=1), pan(9, 5, seed=2), pan(15, 0, seed=3)]
    analysis = analyse(write_frames(tmp_path / 'f', [frame for shot in shots for frame in shot]))
    assert (analysis.num_frames, analysis.size) == (36, (72, 128))
    assert find_cuts(analysis.differences) == [12, 21]


def test_speed_is_no_cut() -> None:
    """Differences as large as at a cut, but in frame after frame: a whip pan, which begins and ends suddenly."""
    assert find_cuts([1, 1, 1, 1, 1, 20, 22, 25, 21, 20, 1, 1, 1]) == []
    assert find_cuts([1, 1, 1, 1, 1, 20, 1, 1, 1]) == [6]
    assert find_cuts([5, 6, 5, 40, 6, 5, 6]) == [4]
    assert find_cuts([0, 0, 30, 0, 0]) == [3], 'between still pictures'
    assert find_cuts([1, 30, 1, 30, 1, 1]) == [2, 4], 'a shot of two frames'
    assert find_cuts([30]) == [1], 'two frames that have nothing in common'
    assert find_cuts([]) == []
    assert find_cuts([1, 1, 1], times=np.array([0, 1, 12, 13.0])) == [2], 'a pause of the recording'


def test_repeated_frames_hide_no_cut_and_make_none() -> None:
    for times in (2, 4):
        moving = [value for _ in range(8) for value in (*[0.0] * (times - 1), 14.0)]
        assert find_cuts(moving) == []
        assert repeated_share(moving) == pytest.approx(1 - 1 / times, abs=0.05)
        with_cut = [*moving, 60.0, *moving]
        assert find_cuts(with_cut) == [len(moving) + 1]


def test_repeats(tmp_path) -> None:
    frames = pan(20, 3)
    for times, expected in ((1, 0.0), (2, 0.5), (5, 0.8)):
        repeated = [frame for frame in frames for _ in range(times)]
        analysis = analyse(write_frames(tmp_path / f'f{times}', repeated))
        assert repeated_share(analysis.differences) == pytest.approx(expected, abs=0.06)
    assert repeated_share([]) == 0
    assert repeated_share([0.0] * 50) == 0, 'nothing moves, so nothing can be said'
    assert repeated_share([0.2, 0.01] * 50) == 0


def test_speed(tmp_path) -> None:
    analysis = analyse(write_frames(tmp_path / 'f', pan(10, 6, size=(96, 160))))
    assert analysis.step == pytest.approx(6, abs=0.6)


def test_plan_clips_makes_one_clip_per_shot() -> None:
    differences = [1.0] * 9 + [50.0] + [1.0] * 4 + [50.0] + [1.0] * 2  # shots of 10, 5 and 3 frames
    analysis = Analysis(18, (8, 8), differences)
    plans, too_short = plan_clips('f', 'train', Settings(window=(5, 5)), analysis)
    assert [(plan.label, plan.first, len(plan.times), plan.centres) for plan in plans] == [
        ('train/f_00', 0, 10, [2, 7]),
        ('train/f_01', 10, 5, [12]),
    ]
    assert too_short == 1
    plans, _ = plan_clips('f', 'train', Settings(window=(3, 3), stride=1, min_pairs=3), analysis)
    assert [plan.centres for plan in plans] == [[1, 2, 3, 4, 5, 6, 7, 8], [11, 12, 13]]
    assert plan_clips('f', 'train', Settings(window=(11, 11)), analysis) == ([], 3)


# Names and splits


def test_clip_names(tmp_path) -> None:
    (tmp_path / 'shot.one').mkdir()
    assert clip_name(Path('a/GX01 0042.MP4')) == 'GX01_0042'
    assert clip_name(Path('Füße am Strand.v2.mov')) == 'Fue_am_Strand_v2'
    assert clip_name(tmp_path / 'shot.one') == 'shot_one', 'a folder has no extension'
    with pytest.raises(DataError, match='rename it'):
        clip_name(Path('видео.mp4'))


def test_splits() -> None:
    names = [f'v{number}' for number in range(10)]
    assert assign_splits(names, ['v3', 'v7.mp4'], None) == {
        name: 'test' if name in ('v3', 'v7') else 'train' for name in names
    }
    assert set(assign_splits(names, [], None).values()) == {'train'}
    shared = assign_splits(names, [], 0.8)
    assert list(shared.values()).count('train') == 8
    assert shared == assign_splits(names[::-1], [], 0.8)
    assert list(assign_splits(names[:2], [], 0.9).values()).count('test') == 1, 'both parts get one'
    assert set(assign_splits(names, [], 1).values()) == {'train'}
    assert set(assign_splits(names, [], 0).values()) == {'test'}


def test_frames_come_in_natural_order(tmp_path) -> None:
    frames = [np.full((4, 4, 3), 10 * number, np.uint8) for number in range(12)]
    folder = write_frames(tmp_path / 'f', frames)
    (tmp_path / 'f/notes.txt').write_text('x')
    (tmp_path / 'f/.hidden.png').write_bytes(b'x')
    assert [int(frame[0, 0, 0]) for frame in folder.frames()] == [10 * number for number in range(12)]
    (tmp_path / 'f/5.png').write_bytes(b'no image')
    with pytest.raises(DataError, match=r'5\.png is not a readable image'):
        list(folder.frames())

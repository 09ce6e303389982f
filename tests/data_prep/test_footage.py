"""Footage: names, order of frames, cuts, repeated frames, motion, frame times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_utils import moving, write_frames

from data_prep.footage import (
    Analysis,
    Footage,
    analyse,
    clip_name,
    find_cuts,
    find_warnings,
    frame_times,
    open_footage,
    repeated_share,
)
from dstnet_arch.errors import DataError


def test_clip_names(tmp_path) -> None:
    (tmp_path / 'shot.one').mkdir()
    assert clip_name(Path('a/GX01 0042.MP4')) == 'GX01_0042'
    assert clip_name(Path('Füße am Strand.v2.mov')) == 'Fue_am_Strand_v2'
    assert clip_name(tmp_path / 'shot.one') == 'shot_one', 'a folder has no extension'
    with pytest.raises(DataError, match='rename it'):
        clip_name(Path('видео.mp4'))


def test_frames_come_in_natural_order(tmp_path) -> None:
    folder = write_frames(tmp_path / 'f', [np.full((4, 4, 3), 10 * number, np.uint8) for number in range(12)])
    (folder / 'notes.txt').write_text('x')
    (folder / '.hidden.png').write_bytes(b'x')
    footage = open_footage(folder)
    assert [int(frame[0, 0, 0]) for frame in footage.frames()] == [10 * number for number in range(12)]
    (folder / '5.png').write_bytes(b'no image')
    with pytest.raises(DataError, match=r'5\.png cannot be decoded'):
        list(footage.frames())


def test_analysis_finds_cuts_between_moving_shots(tmp_path) -> None:
    size = (72, 128)
    shots = [moving(count, seed, size, step, 12) for count, seed, step in ((12, 1, 2), (9, 2, 5), (15, 3, 0))]
    analysis = analyse(open_footage(write_frames(tmp_path / 'f', [frame for shot in shots for frame in shot])))
    assert (analysis.num_frames, analysis.size) == (36, size)
    assert find_cuts(analysis.differences) == [12, 21]


def test_analysis_measures_motion_and_repeats(tmp_path) -> None:
    for times, expected in ((1, 0.0), (2, 0.5), (5, 0.8)):
        frames = [frame for frame in moving(20, 0, (96, 160), 6, 12) for _ in range(times)]
        analysis = analyse(open_footage(write_frames(tmp_path / f'f{times}', frames)))
        assert repeated_share(analysis.differences) == pytest.approx(expected, abs=0.06)
        if times == 1:
            assert analysis.step == pytest.approx(6, abs=1)


@pytest.mark.parametrize(
    ('differences', 'cuts'),
    [
        ([1, 1, 1, 1, 1, 20, 22, 25, 21, 20, 1, 1, 1], []),  # a whip pan
        ([1, 1, 1, 1, 1, 20, 1, 1, 1], [6]),
        ([5, 6, 5, 40, 6, 5, 6], [4]),
        ([0, 0, 30, 0, 0], [3]),  # between still pictures
        ([1, 30, 1, 30, 1, 1], [2, 4]),  # a shot of two frames
        ([30], [1]),
        ([], []),
    ],
)
def test_find_cuts(differences: list[float], cuts: list[int]) -> None:
    assert find_cuts(differences) == cuts


def test_repeated_frames_and_pauses() -> None:
    assert find_cuts([1, 1, 1], times=np.array([0, 1, 12, 13.0])) == [2], 'a pause of the recording'
    for times in (2, 4):
        repeated = [value for _ in range(8) for value in (*[0.0] * (times - 1), 14.0)]
        assert find_cuts(repeated) == []
        assert repeated_share(repeated) == pytest.approx(1 - 1 / times, abs=0.05)
        assert find_cuts([*repeated, 60.0, *repeated]) == [len(repeated) + 1]
    for still in ([], [0.0] * 50, [0.2, 0.01] * 50):
        assert repeated_share(still) == 0, 'nothing moves, so nothing can be said'


def test_frame_times() -> None:
    interval, times = frame_times(np.round(np.arange(50) * 1000 / 240))
    assert interval == pytest.approx(1000 / 240, rel=0.01)
    assert times is None, 'only rounded'
    interval, times = frame_times(np.array([700, 710, 720, 740, 750.0]))
    assert interval == 10
    assert times is not None
    assert times.tolist() == [0, 1, 2, 4, 5]


@pytest.mark.parametrize(
    ('footage', 'analysis', 'warning'),
    [
        ({'hdr': 'PQ'}, {}, 'HDR footage (PQ)'),
        ({}, {'times': np.arange(5.0), 'frame_rate': 100.0}, 'variable frame rate, nominally 100 frames per second'),
        ({'listed': 6}, {}, 'lists 6 frames, but 5 can be decoded'),
        ({}, {'differences': [1.0, 0.0] * 10}, '50% of the frames repeat the previous one'),
        ({}, {'step': 5.0}, 'fast parts move by 2.5 pixels between averaged frames'),
        ({}, {'step': 3.0}, None),
    ],
)
def test_warnings(footage: dict, analysis: dict, warning: str | None) -> None:
    video = Footage(Path('v.mp4'), **{'listed': 5, **footage})
    found = find_warnings(video, Analysis(5, (36, 52), **{'differences': [1.0] * 4, **analysis}), scale=0.5)
    assert len(found) == (warning is not None)
    assert (warning or '') in ''.join(found)

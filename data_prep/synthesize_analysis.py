"""First pass over footage: frame count, cuts, repeated frames, speed and frame times.

Each frame is compared with the previous one by the mean absolute difference of thumbnails in grey levels, called its
*difference* below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from data_prep.blur_model import Image
from data_prep.synthesize_flow import MIN_SIZE, flow_to
from data_prep.synthesize_footage import Footage, size_text
from dstnet_arch.errors import DataError

CUT_THRESHOLD = 12.0
"""Minimum difference at a cut, in grey levels."""
CUT_RATIO = 4.0
"""Minimum ratio of the difference at a cut to those around it: fast motion is large in several frames in a row."""
PAUSE = 10.0
"""A gap between time stamps above this many frame intervals begins a new shot."""
REPEAT_RATIO = 0.1
"""Maximum ratio of a repeated frame's difference to the motion around it."""
_STILL = 0.4  # maximum difference of a repeated frame, caused by compression
_MOVING = 0.5  # minimum motion at which repeated frames can be recognised
_NEIGHBOURS = 15

_THUMBNAIL = (64, 36)
_FLOW_SIZE = 480
_SAMPLES = 60


@dataclass(frozen=True)
class Analysis:
    """Result of the first pass."""

    num_frames: int
    size: tuple[int, int]
    """(height, width)."""
    differences: tuple[float, ...]
    """Differences of frames 1, 2, ... from their predecessors."""
    step: float = 0.0
    """Motion from frame to frame in the faster parts of the footage, in pixels."""
    times: NDArray[np.float64] | None = None
    """Time of each frame in nominal frame intervals if the frame rate is variable; None if it is constant."""
    frame_rate: float | None = None
    """Nominal frames per second."""
    unmatched: bool = False
    """True if the frame rate is variable but the time stamps do not correspond to the decoded frames."""


def analyse(footage: Footage, progress: Callable[[], object] = lambda: None) -> Analysis:
    """Read all frames once.

    Args:
        footage: Footage to read.
        progress: Called after each frame.

    Raises:
        DataError: there are no frames, or they differ in size.
    """
    import cv2

    # An odd interval: repeated frames often come in pairs, and the sample must not consist of these alone.
    interval = max(1, footage.claimed // _SAMPLES) | 1
    size: tuple[int, int] | None = None
    differences: list[float] = []
    steps: list[float] = []
    last: NDArray[np.float32] | None = None
    sampled: Image | None = None
    count = 0
    for frame in footage.frames():
        shape = (frame.shape[0], frame.shape[1])
        if size is None:
            size = shape
        elif shape != size:
            raise DataError(
                f'{footage.path}: frame {count} is {size_text(shape)}, the previous ones are {size_text(size)}. '
                'All frames of a video must have the same size'
            )
        thumbnail = cv2.resize(frame, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
        if last is not None:
            differences.append(float(np.abs(thumbnail - last).mean()))
        last = thumbnail
        if sampled is not None:
            steps.append(_step(sampled, frame))
        sampled = frame.copy() if count % interval == 0 else None
        count += 1
        progress()
    if size is None:
        raise DataError(f'{footage.path}: no frame can be decoded. The file is damaged or not a video')
    step = float(np.percentile(steps, 90)) if steps else 0.0
    rate, times = frame_times(footage.stamps, footage.tick)
    matched = footage.stamps is not None and len(footage.stamps) == count
    return Analysis(
        count,
        size,
        tuple(differences),
        step,
        times=times if matched else None,
        frame_rate=rate if matched and rate else footage.frame_rate,
        unmatched=times is not None and not matched,
    )


def frame_times(stamps: NDArray[np.float64] | None, tick: float) -> tuple[float | None, NDArray[np.float64] | None]:
    """Find the nominal frame rate, and the frame times if the rate is variable.

    The rate is variable if an interval differs from the median interval by more than a quarter and more than the
    rounding of the time stamps.

    Args:
        stamps: Time stamps in seconds, increasing.
        tick: Their resolution in seconds.

    Returns:
        Frames per second, and the times in units of the median interval; None where unknown or constant.
    """
    if stamps is None or len(stamps) < 2:
        return None, None
    intervals = np.diff(stamps)
    typical = float(np.median(intervals))
    if np.all(np.abs(intervals - typical) <= max(0.25 * typical, 1.01 * tick)):
        return float(1 / intervals.mean()), None
    return 1 / typical, (stamps - stamps[0]) / typical


def find_cuts(
    differences: Sequence[float], threshold: float = CUT_THRESHOLD, times: NDArray[np.float64] | None = None
) -> list[int]:
    """Return the first frame of each shot except the first shot.

    A frame begins a shot if its difference exceeds `threshold` and `CUT_RATIO` times the median of the four
    neighbouring differences, repeated frames not counted; or if its time is more than `PAUSE` intervals after the
    previous one. Fades and dissolves are not found.

    Args:
        differences: See `Analysis`.
        threshold: Grey levels; 255 finds no cut.
        times: See `Analysis`.
    """
    real = [position for position, repeated in enumerate(find_repeats(differences)) if not repeated]
    cuts = set() if times is None else {int(frame) + 1 for frame in np.flatnonzero(np.diff(times) > PAUSE)}
    for index, position in enumerate(real):
        if differences[position] > threshold:
            near = [differences[real[i]] for i in (index - 2, index - 1, index + 1, index + 2) if 0 <= i < len(real)]
            if not near or differences[position] > CUT_RATIO * median(near):
                cuts.add(position + 1)
    return sorted(cuts)


def find_repeats(differences: Sequence[float]) -> list[bool]:
    """Return for each difference whether its frame repeats the previous one while there is motion around it.

    The motion around a frame is the third largest of 31 differences, since the two largest may be cuts. This finds up
    to tenfold repetition.
    """
    values = np.asarray(differences, np.float64)
    if not len(values):
        return []
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, _NEIGHBOURS), 2 * _NEIGHBOURS + 1)
    motion = np.partition(windows, -3, axis=1)[:, -3]
    return list(((values < np.minimum(REPEAT_RATIO * motion, _STILL)) & (motion > _MOVING)).tolist())


def repeated_share(differences: Sequence[float]) -> float:
    """Return the share of repeated frames among those with motion; 0 if there are too few to judge."""
    values = np.asarray(differences, np.float64)
    repeats = np.asarray(find_repeats(differences), bool)
    moving = int(np.count_nonzero(repeats | (values > _MOVING)))
    return int(repeats.sum()) / moving if moving >= 10 else 0.0


def _step(first: Image, second: Image) -> float:
    """Motion of the fastest hundredth of the picture, in pixels."""
    import cv2

    factor = min(1.0, _FLOW_SIZE / max(first.shape[:2]))
    small = [cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) for frame in (first, second)]
    if min(small[0].shape[:2]) < MIN_SIZE:
        return 0.0  # too small for optical flow
    flow = flow_to(small[0], small[1], fast=True)
    return float(np.percentile(np.hypot(flow[..., 0], flow[..., 1]), 99)) / factor

"""First pass over footage: frame count, cuts, repeated frames, motion and frame times.

Each frame is compared with the previous one by the mean absolute difference of thumbnails in grey levels, called its
*difference* below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from data_prep.blur_model import Image
from data_prep.synthesize_flow import MIN_SIZE, flow_to
from data_prep.synthesize_footage import Footage, size_text
from dstnet_arch.errors import DataError
from dstnet_arch.progress import Progress

CUT_THRESHOLD = 12.0
"""Minimum difference at a cut, in grey levels."""
CUT_RATIO = 4.0
"""Minimum ratio of the difference at a cut to those around it: fast motion is large in several frames in a row."""
PAUSE = 10.0
"""A gap between time stamps above this many frame intervals begins a new shot."""
GHOST_STEP = 2.0
"""Motion between averaged frames above which edges appear as several copies, in pixels."""
REPEATED_SHARE = 0.1
"""Share of repeated frames above which a video counts as converted from a lower rate."""
REPEAT_RATIO = 0.1
"""Maximum ratio of a repeated frame's difference to the motion around it."""
_STILL = 0.4  # maximum difference of a repeated frame, caused by compression
_MOVING = 0.5  # minimum motion at which repeated frames can be recognised
_MIN_MOVING = 10  # frames with motion from which the share of repeated ones is judged
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
    differences: list[float]
    """Differences of frames 1, 2, ... from their predecessors."""
    step: float = 0.0
    """Motion from frame to frame in the faster parts of the footage, in pixels."""
    times: NDArray[np.float64] | None = None
    """Time of each frame in nominal frame intervals if the frame rate is variable; None if it is constant."""
    frame_rate: float | None = None
    """Nominal frames per second."""


def analyse(footage: Footage) -> Analysis:
    """Read all frames once.

    Raises:
        DataError: there are no frames, or they differ in size.
    """
    import cv2

    # An odd interval: repeated frames often come in pairs, and the sample must not consist of these alone.
    interval = max(1, footage.listed // _SAMPLES) | 1
    size = (0, 0)
    count = 0
    differences: list[float] = []
    steps: list[float] = []
    last_thumbnail: NDArray[np.float32] | None = None
    sampled: Image | None = None
    with Progress(footage.listed, 'frame', f'analysing {footage.path.name}') as progress:
        for count, frame in enumerate(footage.frames(), start=1):
            size = size if count > 1 else (frame.shape[0], frame.shape[1])
            if frame.shape[:2] != size:
                raise DataError(
                    f'{footage.path}: frame {count} is {size_text(frame.shape[:2])}, the previous ones are '
                    f'{size_text(size)}. All frames of a video must have the same size'
                )
            thumbnail = cv2.resize(frame, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
            if last_thumbnail is not None:
                differences.append(float(np.abs(thumbnail - last_thumbnail).mean()))
            last_thumbnail = thumbnail
            if sampled is not None:
                steps.append(_step(sampled, frame))
            sampled = frame.copy() if (count - 1) % interval == 0 else None
            progress.update()
    if count == 0:
        raise DataError(f'{footage.path}: no frame can be decoded. The file is damaged or not a video')
    rate, times = footage.frame_rate, None
    if footage.stamps is not None and len(footage.stamps) == count > 1:
        typical_interval, times = frame_times(footage.stamps)
        rate = 1 / (typical_interval * footage.time_base)
    return Analysis(count, size, differences, float(np.percentile(steps, 90)) if steps else 0.0, times, rate)


def frame_times(stamps: NDArray[np.float64]) -> tuple[float, NDArray[np.float64] | None]:
    """Find the nominal frame interval, and the frame times if the rate is variable.

    The rate is variable if an interval differs from the median interval by more than a quarter and more than the unit
    of the time stamps, to which they are rounded.

    Args:
        stamps: Two or more increasing time stamps in any unit.

    Returns:
        The mean interval, and None; for a variable rate, the median interval, and the times in units of it.
    """
    intervals = np.diff(stamps)
    typical = float(np.median(intervals))
    if np.all(np.abs(intervals - typical) <= max(typical / 4, 1)):
        return float(intervals.mean()), None
    return typical, (stamps - stamps[0]) / typical


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
    real = np.flatnonzero(~find_repeats(differences)).tolist()
    cuts = set() if times is None else {int(frame) + 1 for frame in np.flatnonzero(np.diff(times) > PAUSE)}
    for index, position in enumerate(real):
        if differences[position] > threshold:
            neighbours = [*real[max(0, index - 2) : index], *real[index + 1 : index + 3]]
            typical = median(differences[neighbour] for neighbour in neighbours) if neighbours else 0.0
            if differences[position] > CUT_RATIO * typical:
                cuts.add(position + 1)
    return sorted(cuts)


def find_repeats(differences: Sequence[float]) -> NDArray[np.bool_]:
    """Return for each difference whether its frame repeats the previous one while there is motion around it.

    The motion around a frame is the third largest of 31 differences, since the two largest may be cuts. This finds up
    to tenfold repetition.
    """
    values = np.asarray(differences, np.float64)
    if not len(values):
        return np.zeros(0, bool)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, _NEIGHBOURS), 2 * _NEIGHBOURS + 1)
    motion = np.partition(windows, -3, axis=1)[:, -3]
    return np.asarray((values < np.minimum(REPEAT_RATIO * motion, _STILL)) & (motion > _MOVING))


def repeated_share(differences: Sequence[float]) -> float:
    """Return the share of repeated frames among those with motion; 0 if there are too few to judge."""
    repeats = find_repeats(differences)
    moving = np.count_nonzero(repeats | (np.asarray(differences) > _MOVING))
    return float(repeats.sum() / moving) if moving >= _MIN_MOVING else 0.0


def find_warnings(footage: Footage, analysis: Analysis, step: float) -> list[str]:
    """Return the properties of a video that make poor pairs.

    Args:
        footage: The video.
        analysis: Its analysis.
        step: Motion between averaged frames in the faster parts, in pixels.
    """
    warnings = []
    if footage.hdr:
        warnings.append(
            f'HDR footage ({footage.hdr}): its stored values do not follow the curves of --response, so blurry frames '
            'get wrong brightness. Film in SDR, convert to SDR with tone mapping, or measure the curve'
        )
    if analysis.times is not None:
        warnings.append(
            f'variable frame rate, nominally {analysis.frame_rate:.4g} frames per second: frames are averaged by their '
            f'times, and gaps above {PAUSE:g} frames begin a new shot. Blur is less even where frames are missing'
        )
    if analysis.num_frames != footage.listed:
        warnings.append(
            f'the file lists {footage.listed} frames, but {analysis.num_frames} can be decoded: their times are '
            f'unknown, so all have equal weight. Convert it: ffmpeg -i {footage.path} -c:v libx264 -crf 10 NEW.mp4'
        )
    share = repeated_share(analysis.differences)
    if share > REPEATED_SHARE:
        warnings.append(
            f'{share:.0%} of the frames repeat the previous one, as in a video converted from a lower rate, so the '
            'blur would have gaps. Use the original or drop the repeated frames: '
            f'ffmpeg -i {footage.path} -vf mpdecimate -fps_mode vfr -c:v libx264 -crf 10 NEW.mp4'
        )
    if step > GHOST_STEP:
        warnings.append(
            f'the frame rate is low for the motion: fast parts move by {step:.1f} pixels between averaged frames and '
            'will appear as several copies. Film at a higher rate, or use --interpolate'
        )
    return warnings


def _step(first: Image, second: Image) -> float:
    """Motion of the fastest hundredth of the picture, in pixels."""
    import cv2

    factor = min(1.0, _FLOW_SIZE / max(first.shape[:2]))
    small = [cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) for frame in (first, second)]
    if min(small[0].shape[:2]) < MIN_SIZE:
        return 0.0  # too small for optical flow
    flow = flow_to(small[0], small[1])
    return float(np.percentile(np.linalg.norm(flow, axis=2), 99)) / factor

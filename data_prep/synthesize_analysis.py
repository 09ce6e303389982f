"""What has to be known of footage before pairs are made of it: how many frames, cuts, repeated frames, speed.

Each frame is compared with the one before by the mean absolute difference of thumbnails, in grey levels: the
*difference* of the frame. Everything below follows from these numbers, so they are what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.blur_model import Image
from data_prep.synthesize_flow import MIN_SIZE, flow_to
from data_prep.synthesize_footage import Footage, size_text
from dstnet_arch.errors import DataError

VERSION = 1
"""Of the numbers; counts up when they come out differently."""

CUT_THRESHOLD = 12.0
"""Grey levels by which frames differ at a cut, at least."""
CUT_RATIO = 4.0
"""A cut also differs by so many times what its neighbours do: fast motion differs much in frame after frame."""
REPEAT_RATIO = 0.1
"""A frame is a repetition where its difference is below this part of what motion makes around it."""
_STILL = 0.4
"""Grey levels. Coding lets the repetition of a frame differ by so much."""
_MOVING = 0.5
"""Grey levels. Less than this around a frame, and nothing can be said about repetitions."""
_AROUND = 15

_THUMBNAIL = (64, 36)
_FLOW_SIZE = 480
_SAMPLES = 60


@dataclass(frozen=True)
class Analysis:
    """What one pass over the frames has found."""

    num_frames: int
    size: tuple[int, int]
    """(height, width)."""
    differences: tuple[float, ...]
    """Of the frames 1, 2, ... from those before."""
    steps: tuple[float, ...]
    """Of a sample of frames: how far the fastest hundredth of the picture moves to the next one, in pixels."""
    version: int = VERSION

    def as_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Analysis | None:
        """None where `data` is none of ours, or of another version."""
        try:
            if data['version'] != VERSION:
                return None
            height, width = map(int, data['size'])
            return cls(
                int(data['num_frames']),
                (height, width),
                tuple(map(float, data['differences'])),
                tuple(map(float, data['steps'])),
            )
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def step(self) -> float:
        """Pixels from frame to frame in the faster parts of the footage: exceeded by a tenth of the sample."""
        return float(np.percentile(self.steps, 90)) if self.steps else 0.0


def analyse(footage: Footage, progress: Callable[[], object] = lambda: None) -> Analysis:
    """Read all frames once.

    Args:
        footage: To be read.
        progress: Called after each frame.

    Raises:
        DataError: there is no frame, or they differ in size.
    """
    import cv2

    # An odd interval: repeated frames mostly come in twos, and the sample must not consist of them alone.
    interval = max(1, footage.claimed // _SAMPLES) | 1
    size: tuple[int, int] | None = None
    differences: list[float] = []
    steps: list[float] = []
    last: NDArray[np.float32] | None = None
    waiting: Image | None = None
    count = 0
    for frame in footage.frames():
        shape = (frame.shape[0], frame.shape[1])
        if size is None:
            size = shape
        elif shape != size:
            raise DataError(
                f'{footage.path}: frame {count} is {size_text(shape)}, those before {size_text(size)}. '
                'A video has frames of one size: put the others elsewhere'
            )
        thumbnail = cv2.resize(frame, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
        if last is not None:
            differences.append(round(float(np.abs(thumbnail - last).mean()), 3))
        last = thumbnail
        if waiting is not None:
            steps.append(_step(waiting, frame))
        waiting = frame.copy() if count % interval == 0 else None
        count += 1
        progress()
    if size is None:
        raise DataError(f'{footage.path}: not one frame can be read. It is damaged, or no video')
    return Analysis(count, size, tuple(differences), tuple(steps))


def find_cuts(differences: Sequence[float], threshold: float = CUT_THRESHOLD) -> list[int]:
    """The first frames of all shots but the first.

    A frame begins a shot where its difference is above `threshold` grey levels and above `CUT_RATIO` times the median
    of its neighbours', two on each side, repeated frames not counted. Fades and dissolves are not found.

    Args:
        differences: See `Analysis`.
        threshold: 255 finds none.
    """
    repeated = find_repeats(differences)
    real = [position for position, again in enumerate(repeated) if not again]
    cuts = []
    for index, position in enumerate(real):
        if differences[position] > threshold:
            near = [differences[real[i]] for i in (index - 2, index - 1, index + 1, index + 2) if 0 <= i < len(real)]
            if not near or differences[position] > CUT_RATIO * median(near):
                cuts.append(position + 1)
    return cuts


def find_repeats(differences: Sequence[float]) -> list[bool]:
    """For each difference whether its frame repeats the one before, while there is motion around it.

    What motion makes around a frame is the third largest of the differences of 15 frames on each side and its own: the
    two largest ones may be cuts. So a tenfold repetition is still found.
    """
    values = np.asarray(differences, np.float64)
    if not len(values):
        return []
    padded = np.pad(values, _AROUND, constant_values=0)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _AROUND + 1)
    motion = np.partition(windows, -3, axis=1)[:, -3]
    return list(((values < np.minimum(REPEAT_RATIO * motion, _STILL)) & (motion > _MOVING)).tolist())


def repeated_share(differences: Sequence[float]) -> float:
    """Share of the frames that repeat the one before, among those for which it can be said; 0 if for too few."""
    values = np.asarray(differences, np.float64)
    repeats = find_repeats(differences)
    moving = sum(repeats) + int(np.count_nonzero((values > _MOVING) & ~np.asarray(repeats, bool)))
    return sum(repeats) / moving if moving >= 10 else 0.0


def _step(first: Image, second: Image) -> float:
    """How far the fastest hundredth of the picture moves, pixels."""
    import cv2

    factor = min(1.0, _FLOW_SIZE / max(first.shape[:2]))
    small = [cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) for frame in (first, second)]
    if min(small[0].shape[:2]) < MIN_SIZE:
        return 0.0  # too small for an estimate, and for any use but tests
    flow = flow_to(small[0], small[1], fast=True)
    return round(float(np.percentile(np.hypot(flow[..., 0], flow[..., 1]), 99)) / factor, 2)

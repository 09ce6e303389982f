"""Settings of blur synthesis, and the clips and weights that follow from them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.blur_model import GAMMA_22, Image, Response
from data_prep.footage import CUT_THRESHOLD, Analysis, find_cuts
from dstnet_arch.errors import DataError

WINDOW = (7, 13)
"""Number of frames averaged for GoPro's blurry frames; it varies between clips."""

_TOLERANCE = 1e-6  # in frame intervals


@dataclass(frozen=True)
class Settings:
    """How pairs are made. Two of `window`, `stride` and `duty_cycle` (= window / stride) determine the third.

    Raises:
        DataError: `window`, `stride` and `duty_cycle` are all given.
    """

    response: Response = GAMMA_22
    window: tuple[int, int] | None = None  # range of the exposure in frames; each clip uses one odd number of it
    stride: int | None = None  # frames from one pair to the next
    duty_cycle: float | None = None  # exposure time divided by the time between pairs, in (0, 1]
    interpolate: int = 1  # samples per frame interval: K adds K - 1 interpolated frames between two frames
    scale: float = 1.0  # scale factor of the frames, in (0, 1]
    max_size: int | None = None  # of the longer side in pixels; replaces `scale`
    cut_threshold: float = CUT_THRESHOLD
    min_pairs: int = 1  # shots with fewer pairs are skipped

    def __post_init__(self) -> None:
        if self.window and self.stride and self.duty_cycle:
            raise DataError('duty cycle = window / stride: give at most two of --window, --stride and --duty-cycle')

    def shutter(self, clip: str) -> tuple[float, int]:
        """Return exposure and stride of a clip in frames; a range of windows is resolved by a hash of the name."""
        if self.window is None and self.stride and self.duty_cycle:
            return self.stride * self.duty_cycle, self.stride
        first, last = self.window or WINDOW
        windows = range(first | 1, last + 1, 2)
        window = windows[zlib.crc32(clip.encode()) % len(windows)]
        return window, self.stride or max(1, round(window / (self.duty_cycle or 1)))

    def factor(self, size: tuple[int, int]) -> float:
        """Return the scale factor in (0, 1] for frames of this (height, width)."""
        return self.scale if self.max_size is None else min(1.0, self.max_size / max(size))

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of pairs from frames of this (height, width)."""
        height, width = size
        return max(1, round(height * self.factor(size))), max(1, round(width * self.factor(size)))

    def resize(self, frame: Image) -> Image:
        """Scale a frame (height, width, 3), uint8, averaging areas in linear light."""
        height, width = self.output_size(frame.shape[:2])
        if (height, width) == frame.shape[:2]:
            return frame
        light = self.response.light(np.ascontiguousarray(frame), np.float32)
        return self.response.image(cv2.resize(light, (width, height), interpolation=cv2.INTER_AREA))


@dataclass(frozen=True)
class ClipPlan:
    """A clip to make from one shot.

    Each sample (frame or interpolated frame) represents the time from half-way to the previous sample to half-way to
    the next one. Its weight is the part of that time during which the shutter is open.
    """

    split: str  # train or test
    name: str
    first: int  # first frame of the shot, numbered in the footage
    times: NDArray[np.float64]  # of each frame of the shot, in frame intervals
    exposure: float  # in frame intervals
    stride: int  # time between pairs in frame intervals
    interpolate: int = 1  # see `Settings`

    @property
    def label(self) -> str:
        """`train/NAME` or `test/NAME`."""
        return f'{self.split}/{self.name}'

    @cached_property
    def _edges(self) -> NDArray[np.float64]:
        """Times at which one sample's time ends and the next begins; one more than there are samples."""
        step = self.interpolate
        count = (len(self.times) - 1) * step + 1
        samples = np.interp(np.arange(count) / step, np.arange(len(self.times)), self.times)
        middles = (samples[1:] + samples[:-1]) / 2
        half = 0.5 / step
        return np.concatenate([[samples[0] - half], middles, [samples[-1] + half]])

    @cached_property
    def centres(self) -> list[int]:
        """The sharp frame of each pair, numbered in the footage."""
        half = self.exposure / 2 - _TOLERANCE
        complete = np.flatnonzero((self.times - half >= self._edges[0]) & (self.times + half <= self._edges[-1]))
        if not len(complete):
            return []
        times = self.times[complete]
        targets = np.arange(times[0], times[-1] + _TOLERANCE, self.stride)
        # The frame nearest to each target: the boundaries between frames are half-way.
        nearest = np.searchsorted((times[1:] + times[:-1]) / 2, targets)
        return [self.first + int(frame) for frame in complete[np.unique(nearest)]]

    def samples(self, centre: int) -> list[tuple[int, float, float]]:
        """Return (frame, time from it to the next one in [0, 1), weight) of the samples of the pair at `centre`."""
        time, half = self.times[centre - self.first], self.exposure / 2
        overlaps = np.minimum(self._edges[1:], time + half) - np.maximum(self._edges[:-1], time - half)
        step = self.interpolate
        return [
            (self.first + index // step, index % step / step, float(overlaps[index]))
            for index in np.flatnonzero(overlaps > _TOLERANCE).tolist()
        ]


def plan_clips(name: str, split: str, settings: Settings, analysis: Analysis) -> tuple[list[ClipPlan], int]:
    """Plan one clip per shot, called `name`, or NAME_00, NAME_01, ... if there are several shots.

    Returns:
        The clips that have `min_pairs` pairs or more, and the number of other shots.
    """
    times = np.arange(analysis.num_frames, dtype=np.float64) if analysis.times is None else analysis.times
    cuts = find_cuts(analysis.differences, settings.cut_threshold, analysis.times)
    bounds = list(zip([0, *cuts], [*cuts, analysis.num_frames], strict=True))
    digits = max(2, len(str(len(cuts))))
    plans = []
    for index, (first, end) in enumerate(bounds):
        clip = f'{name}_{index:0{digits}d}' if cuts else name
        plans.append(ClipPlan(split, clip, first, times[first:end], *settings.shutter(clip), settings.interpolate))
    long_enough = [plan for plan in plans if len(plan.centres) >= settings.min_pairs]
    return long_enough, len(plans) - len(long_enough)

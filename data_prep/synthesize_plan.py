"""Settings of blur synthesis, the clips that follow from them, and the record of each clip."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.blur_model import GAMMA_22, Response
from data_prep.layouts import Clip, Layout
from data_prep.synthesize_analysis import CUT_THRESHOLD, Analysis, find_cuts
from data_prep.synthesize_flow import MIN_SIZE
from data_prep.synthesize_footage import Footage, Geometry
from dstnet_arch.errors import DataError, counted

RECORD = 'synthesis.json'
WINDOW = (7, 13)
"""Number of frames averaged for GoPro's blurry frames; it varies between clips."""

_TOLERANCE = 1e-6  # in frame intervals


@dataclass(frozen=True)
class Shutter:
    """Exposure time and interval of the synthetic camera, in frame intervals of the footage."""

    exposure: float
    stride: int
    interpolate: int = 1
    """Samples per frame interval: K adds K - 1 interpolated frames between two frames."""


@dataclass(frozen=True)
class Settings:
    """How pairs are made. Two of `window`, `stride` and `duty_cycle` (= window / stride) determine the third.

    Raises:
        DataError: the values contradict each other.
    """

    response: Response = GAMMA_22
    window: tuple[int, int] | None = None
    """Range of the exposure in frames; each clip uses one odd number of it. None: stride * duty cycle if both are
    given, else `WINDOW`."""
    stride: int | None = None
    """Frames from one pair to the next. None: window / duty cycle."""
    duty_cycle: float | None = None
    """Exposure time divided by the time between pairs, in (0, 1]. None: 1 where it is needed."""
    interpolate: int = 1
    geometry: Geometry = field(default_factory=Geometry)
    cut_threshold: float = CUT_THRESHOLD
    min_pairs: int = 1
    """Shots with fewer pairs are skipped."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.window and self.stride and self.duty_cycle:
            raise DataError('duty cycle = window / stride: give at most two of --window, --stride and --duty-cycle')
        if self.window and not self._odd_windows():
            raise DataError(
                f'--window {self.window[0]}: the number must be odd, so that one frame is in the middle. '
                'For other exposure times use --stride and --duty-cycle'
            )

    def shutter(self, clip: str) -> Shutter:
        """Return the shutter of a clip; a range of windows is resolved at random by seed and clip name."""
        if self.window is None and self.stride and self.duty_cycle:
            return Shutter(self.stride * self.duty_cycle, self.stride, self.interpolate)
        rng = np.random.default_rng([self.seed, zlib.crc32(clip.encode())])
        window = int(rng.choice(self._odd_windows()))
        stride = self.stride or max(1, round(window / (self.duty_cycle or 1)))
        return Shutter(window, stride, self.interpolate)

    def _odd_windows(self) -> list[int]:
        first, last = self.window or WINDOW
        return [number for number in range(first, last + 1) if number % 2]


@dataclass(frozen=True)
class ClipPlan:
    """A clip to make from one shot.

    Each sample (frame or interpolated frame) represents the time from half-way to the previous sample to half-way to
    the next one. Its weight is the part of that time during which the shutter is open.
    """

    split: str
    name: str
    first: int
    """First frame of the shot, numbered in the footage."""
    times: NDArray[np.float64]
    """Time of each frame of the shot, in frame intervals."""
    shutter: Shutter

    @property
    def label(self) -> str:
        """`train/NAME` or `test/NAME`."""
        return f'{self.split}/{self.name}'

    @cached_property
    def _edges(self) -> NDArray[np.float64]:
        """Times at which one sample's time ends and the next begins; one more than there are samples."""
        step = self.shutter.interpolate
        count = (len(self.times) - 1) * step + 1
        samples = np.interp(np.arange(count) / step, np.arange(len(self.times)), self.times)
        middles = (samples[1:] + samples[:-1]) / 2
        half = 0.5 / step
        return np.concatenate([[samples[0] - half], middles, [samples[-1] + half]])

    @cached_property
    def centres(self) -> list[int]:
        """The sharp frame of each pair, numbered in the footage."""
        half = self.shutter.exposure / 2
        complete = (self.times - half >= self._edges[0] - _TOLERANCE) & (
            self.times + half <= self._edges[-1] + _TOLERANCE
        )
        found = np.flatnonzero(complete)
        if not len(found):
            return []
        times = self.times[found]
        wanted = np.arange(times[0], times[-1] + _TOLERANCE, self.shutter.stride)
        after = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
        nearest = after - (wanted - times[after - 1] <= times[np.minimum(after, len(times) - 1)] - wanted)
        return [self.first + int(found[index]) for index in np.unique(nearest)]

    def samples(self, centre: int) -> list[tuple[int, float, float]]:
        """Return (frame, time from it to the next one in [0, 1), weight) of the samples of the pair at `centre`."""
        time, half = self.times[centre - self.first], self.shutter.exposure / 2
        edges = self._edges
        begin = int(np.searchsorted(edges, time - half + _TOLERANCE, 'right')) - 1
        end = int(np.searchsorted(edges, time + half - _TOLERANCE, 'left'))
        begin, end = max(begin, 0), min(end, len(edges) - 1)
        upper = np.minimum(edges[begin + 1 : end + 1], time + half)
        weights = upper - np.maximum(edges[begin:end], time - half)
        step = self.shutter.interpolate
        return [
            (self.first + index // step, index % step / step, float(weight))
            for index, weight in zip(range(begin, end), weights, strict=True)
        ]

    def window(self, centre: int) -> tuple[int, int]:
        """Return the first and last frame needed for the pair at `centre`."""
        samples = self.samples(centre)
        return samples[0][0], samples[-1][0] + (samples[-1][1] > 0)


def plan_clips(footage: Footage, split: str, settings: Settings, analysis: Analysis) -> tuple[list[ClipPlan], int]:
    """Plan one clip per shot, named NAME, or NAME_00, NAME_01, ... if there are several shots.

    Returns:
        The clips, and the number of shots that are too short.

    Raises:
        DataError: no shot is long enough, or the frames are too small for interpolation.
    """
    height, width = settings.geometry.size(analysis.size)
    if settings.interpolate > 1 and min(height, width) < MIN_SIZE:
        raise DataError(
            f'{footage.path}: frames of {width}x{height} are too small for --interpolate; it needs {MIN_SIZE} pixels'
        )
    times = np.arange(analysis.num_frames, dtype=np.float64) if analysis.times is None else analysis.times
    cuts = find_cuts(analysis.differences, settings.cut_threshold, analysis.times)
    bounds = list(zip([0, *cuts], [*cuts, analysis.num_frames], strict=True))
    digits = max(2, len(str(len(bounds) - 1)))
    plans = []
    for index, (first, end) in enumerate(bounds):
        name = footage.name if len(bounds) == 1 else f'{footage.name}_{index:0{digits}d}'
        plans.append(ClipPlan(split, name, first, times[first:end], settings.shutter(name)))
    long_enough = [plan for plan in plans if len(plan.centres) >= settings.min_pairs]
    if not long_enough:
        raise DataError(_too_short(footage, settings, analysis, plans))
    return long_enough, len(plans) - len(long_enough)


def _too_short(footage: Footage, settings: Settings, analysis: Analysis, plans: list[ClipPlan]) -> str:
    longest = max(plans, key=lambda plan: (len(plan.centres), len(plan.times)))
    text = f'{footage.path} has {counted(analysis.num_frames, "frame")}'
    if len(plans) > 1:
        text += f' in {len(plans)} shots, the longest of {len(longest.times)}'
    if longest.centres:
        text += f', which gives {len(longest.centres)} of the {settings.min_pairs} pairs required by --min-pairs'
    else:
        text += f', but a pair needs {math.ceil(longest.shutter.exposure)} or more. Use a smaller --window'
    return text + ('; or raise --cut-threshold if these are not cuts' if len(plans) > 1 else '')


def describe(plan: ClipPlan, footage: Footage, digest: str, settings: Settings, analysis: Analysis) -> dict[str, Any]:
    """Return the record of a clip: everything needed to make the same pairs again."""
    shutter, rate, variable_rate = plan.shutter, analysis.frame_rate, analysis.times is not None
    height, width = settings.geometry.size(analysis.size)
    top, left, box_height, box_width = settings.geometry.box(analysis.size)
    return {
        'clip': plan.label,
        'video': footage.name,
        'source': {
            'name': footage.path.name or str(footage.path),
            'sha256': digest,
            'frames': analysis.num_frames,
            'width': analysis.size[1],
            'height': analysis.size[0],
            'frame_rate': round(rate, 3) if rate else None,
            'variable_frame_rate': variable_rate,
        },
        'shot': {'first_frame': plan.first, 'last_frame': plan.first + len(plan.times) - 1},
        'settings': {
            'response': settings.response.name,
            'response_values': list(settings.response.values) or None,
            'window': shutter.exposure,
            'stride': shutter.stride,
            'duty_cycle': round(shutter.exposure / shutter.stride, 6),
            'interpolate': shutter.interpolate,
            'weights': None if variable_rate else _weights(plan, plan.centres[0]),
            'crop': {'left': left, 'top': top, 'width': box_width, 'height': box_height},
            'width': width,
            'height': height,
            'seed': settings.seed,
        },
        'frame_rate': round(rate / shutter.stride, 3) if rate else None,
        'pairs': [
            _describe_pair(plan, number, centre, variable_rate) for number, centre in enumerate(plan.centres, start=1)
        ],
    }


def _describe_pair(plan: ClipPlan, number: int, centre: int, variable_rate: bool) -> dict[str, Any]:
    first, last = plan.window(centre)
    pair = {'number': number, 'first': first, 'sharp': centre, 'last': last}
    return {**pair, 'weights': _weights(plan, centre)} if variable_rate else pair


def _weights(plan: ClipPlan, centre: int) -> list[float]:
    return [round(weight, 6) for _, _, weight in plan.samples(centre)]


def record_text(record: dict[str, Any]) -> str:
    """Format a record as JSON with one line for the weights and one per pair."""
    rows = ',\n'.join('    ' + json.dumps(pair) for pair in record['pairs'])
    weights = json.dumps(record['settings']['weights'])
    settings = {**record['settings'], 'weights': None}
    text = json.dumps({**record, 'settings': settings, 'pairs': None}, indent=2)
    text = text.replace('"weights": null', f'"weights": {weights}', 1)
    return text.replace('"pairs": null', f'"pairs": [\n{rows}\n  ]', 1) + '\n'


def read_record(clip: Path) -> dict[str, Any] | None:
    """Read the record in a clip's folder; None if this command did not write one."""
    try:
        record = json.loads((clip / RECORD).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get('video'), str) else None


def as_synthesized(layout: Layout, clips: Iterable[Clip]) -> Layout:
    """Return GoPro's layout with the right description if any clips are synthesized, else `layout`."""
    records = [read_record(clip.blur.parent) for clip in clips]
    responses = {str(record.get('settings', {}).get('response')) for record in records if record is not None}
    if not responses or layout.choice is None:
        return layout
    meaning = f'synthesized with the camera response {" and ".join(sorted(responses))}, see {RECORD} of each clip'
    if None in records:
        meaning = f'{layout.choice.values["blur"]}; other clips are {meaning}'
    return replace(
        layout,
        title=layout.title if None in records else 'Synthesized pairs',
        choice=replace(layout.choice, values={**layout.choice.values, 'blur': meaning}),
        clips={},
        totals={},
    )

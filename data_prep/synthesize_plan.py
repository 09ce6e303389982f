"""From settings and the analysis of footage to the clips that are made of it, and their records."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.blur_model import GAMMA_22, Response, exposure_weights
from data_prep.layouts import Clip, Layout
from data_prep.synthesize_analysis import CUT_THRESHOLD, Analysis, find_cuts
from data_prep.synthesize_camera import Noise
from data_prep.synthesize_flow import MIN_SIZE
from data_prep.synthesize_footage import Footage, Geometry
from dstnet_arch.errors import DataError, counted

FORMAT = 1
"""Of `synthesis.json`; counts up when the same settings give other pairs."""
RECORD = 'synthesis.json'
WINDOW = (7, 13)
"""Frames that GoPro's blurry frames are the mean of: another number for each clip."""
_NOT_COMPARED = ('asked', 'versions')


@dataclass(frozen=True)
class Shutter:
    """For how long it is open, and how often it opens."""

    exposure: float
    """In frames of the footage."""
    stride: int
    """Frames of the footage from one pair to the next."""
    interpolate: int = 1
    """Samples a frame: 1 takes the frames alone, K adds K - 1 in between."""

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Of the samples, an odd number."""
        return exposure_weights(self.exposure * self.interpolate)

    @property
    def samples(self) -> list[tuple[int, float]]:
        """(frame, time from it to the next in [0, 1)) of each weight, relative to the sharp frame."""
        half = len(self.weights) // 2
        positions = (divmod(offset, self.interpolate) for offset in range(-half, half + 1))
        return [(frame, part / self.interpolate) for frame, part in positions]

    @property
    def reach(self) -> int:
        """Frames that are needed on each side of the sharp one."""
        return math.ceil(len(self.weights) // 2 / self.interpolate)

    @property
    def frames(self) -> int:
        """Frames that are needed for a pair."""
        return 2 * self.reach + 1


@dataclass(frozen=True)
class Settings:
    """How pairs are made. Of `window`, `stride` and `duty_cycle` (= window / stride) two give the third.

    Raises:
        DataError: values that do not go together.
    """

    response: Response = GAMMA_22
    window: tuple[int, int] | None = None
    """Frames of the footage during which the shutter is open: an odd number from the first to the second, another one
    for each clip. None: by stride and duty cycle where both are given, else `WINDOW`."""
    stride: int | None = None
    """Frames of the footage from one pair to the next. None: by window and duty cycle."""
    duty_cycle: float | None = None
    """Part of the time from pair to pair in which the shutter is open, in (0, 1]. None: 1, where it is needed."""
    interpolate: int = 1
    geometry: Geometry = field(default_factory=Geometry)
    noise: Noise | None = None
    jpeg: int | None = None
    """Quality."""
    h264: int | None = None
    """Constant rate factor."""
    cut_threshold: float = CUT_THRESHOLD
    min_pairs: int = 1
    """Shots that give fewer are left out."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.window and self.stride and self.duty_cycle:
            raise DataError(
                '--window, --stride and --duty-cycle together say too much, since duty cycle = window / stride: '
                'leave one of them out'
            )
        if self.window and not self._odd_windows():
            raise DataError(
                f'--window {window_text(self.window)}: there must be an odd number in it, so that one frame is in the '
                'middle. For other shutter times give --stride and --duty-cycle'
            )
        if self.geometry.scale is not None and self.geometry.max_size is not None:
            raise DataError('--scale and --max-size both say how large frames become: leave one of them out')

    def shutter(self, clip: str) -> Shutter:
        """The shutter of a clip; where the window is a range, a random choice that depends on seed and name alone."""
        if self.window is None and self.stride and self.duty_cycle:
            return Shutter(self.stride * self.duty_cycle, self.stride, self.interpolate)
        window = int(self.rng(clip).choice(self._odd_windows()))
        stride = self.stride or max(1, round(window / (self.duty_cycle or 1)))
        return Shutter(window, stride, self.interpolate)

    def rng(self, clip: str, *more: int) -> np.random.Generator:
        """Random numbers of a clip, or of a frame in it, which do not depend on any other."""
        return np.random.default_rng([self.seed, zlib.crc32(clip.encode()), *more])

    def _odd_windows(self) -> list[int]:
        first, last = self.window or WINDOW
        return [number for number in range(first, last + 1) if number % 2]


@dataclass(frozen=True)
class ClipPlan:
    """A clip to make: some frames of one shot."""

    split: str
    name: str
    video: str
    first: int
    """First and last frame of the shot, in the footage."""
    last: int
    shutter: Shutter

    @property
    def label(self) -> str:
        return f'{self.split}/{self.name}'

    @property
    def centres(self) -> range:
        """The sharp frames; pair number 1 belongs to the first one."""
        reach = self.shutter.reach
        return range(self.first + reach, self.last - reach + 1, self.shutter.stride)


def plan_clips(footage: Footage, split: str, settings: Settings, analysis: Analysis) -> tuple[list[ClipPlan], int]:
    """The clips of a video, a shot each, named NAME or, where there are several shots, NAME_00, NAME_01, ...

    Returns:
        The clips, and how many shots are too short to give one.

    Raises:
        DataError: no shot is long enough, or the frames are too small for what is asked.
    """
    height, width = settings.geometry.size(analysis.size)
    if settings.interpolate > 1 and min(height, width) < MIN_SIZE:
        raise DataError(
            f'{footage.path}: frames of {width}x{height} are too small for --interpolate, which needs {MIN_SIZE} pixels'
        )
    cuts = find_cuts(analysis.differences, settings.cut_threshold)
    bounds = list(zip([0, *cuts], [*(cut - 1 for cut in cuts), analysis.num_frames - 1], strict=True))
    digits = max(2, len(str(len(bounds) - 1)))
    plans = []
    for index, (first, last) in enumerate(bounds):
        name = footage.name if len(bounds) == 1 else f'{footage.name}_{index:0{digits}d}'
        plans.append(ClipPlan(split, name, footage.name, first, last, settings.shutter(name)))
    long_enough = [plan for plan in plans if len(plan.centres) >= settings.min_pairs]
    if not long_enough:
        raise DataError(_too_short(footage, settings, analysis, plans))
    return long_enough, len(plans) - len(long_enough)


def describe(plan: ClipPlan, footage: Footage, digest: str, settings: Settings, analysis: Analysis) -> dict[str, Any]:
    """The record of a clip: all that is needed to make the same pairs again."""
    shutter = plan.shutter
    height, width = settings.geometry.size(analysis.size)
    top, left, box_height, box_width = settings.geometry.box(analysis.size)
    rate = footage.frame_rate
    return {
        'format': FORMAT,
        'clip': plan.label,
        'video': plan.video,
        'source': {
            'name': footage.path.name or str(footage.path),
            'sha256': digest,
            'frames': analysis.num_frames,
            'width': analysis.size[1],
            'height': analysis.size[0],
            'frame_rate': rate,
        },
        'shot': {'first_frame': plan.first, 'last_frame': plan.last},
        'settings': {
            'response': settings.response.name,
            'response_values': list(settings.response.values) or None,
            'window': shutter.exposure,
            'stride': shutter.stride,
            'duty_cycle': round(shutter.exposure / shutter.stride, 6),
            'interpolate': shutter.interpolate,
            'weights': shutter.weights.tolist(),
            'crop': {'left': left, 'top': top, 'width': box_width, 'height': box_height},
            'width': width,
            'height': height,
            'noise': asdict(settings.noise) if settings.noise else None,
            'jpeg': settings.jpeg,
            'h264': settings.h264,
            'seed': settings.seed,
        },
        'asked': {
            'window': window_text(settings.window) if settings.window else None,
            'stride': settings.stride,
            'duty_cycle': settings.duty_cycle,
            'cut_threshold': settings.cut_threshold,
            'min_pairs': settings.min_pairs,
        },
        'frame_rate': round(rate / shutter.stride, 3) if rate else None,
        'pairs': [
            {'number': number, 'first': centre - shutter.reach, 'sharp': centre, 'last': centre + shutter.reach}
            for number, centre in enumerate(plan.centres, start=1)
        ],
    }


def same_pairs(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two records stand for the same pairs, pixel by pixel, as far as the program can say."""
    return all(first.get(key) == second.get(key) for key in {*first, *second} if key not in _NOT_COMPARED)


def read_record(clip: Path) -> dict[str, Any] | None:
    """The record in a clip's folder; None where there is none of ours."""
    try:
        record = json.loads((clip / RECORD).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return None
    ours = isinstance(record, dict) and isinstance(record.get('video'), str) and isinstance(record.get('clip'), str)
    return record if ours else None


def as_synthesized(layout: Layout, clips: Iterable[Clip]) -> Layout:
    """A layout that says the truth about clips of ours: which response they have, and that no published set has them.

    Args:
        layout: GoPro's, whose folder `blur` means a linear response.
        clips: As found in a folder.

    Returns:
        `layout` itself where no clip has a record of ours.
    """
    records = [read_record(clip.blur.parent) for clip in clips]
    ours = [record for record in records if record is not None]
    if not ours or layout.choice is None:
        return layout
    responses = sorted({str(record.get('settings', {}).get('response')) for record in ours})
    all_ours = len(ours) == len(records)
    made = f'synthesized with the camera response {" and ".join(responses)}, see {RECORD} of each clip'
    meaning = made if all_ours else f'{layout.choice.values["blur"]}; {counted(len(ours), "clip")} {made}'
    return replace(
        layout,
        title='Synthesized pairs' if all_ours else layout.title,
        choice=replace(layout.choice, values={**layout.choice.values, 'blur': meaning}),
        clips={},
        totals={},
    )


def record_text(record: dict[str, Any]) -> str:
    """JSON, with a line for each pair."""
    rows = ',\n'.join('    ' + json.dumps(pair) for pair in record['pairs'])
    weights = json.dumps(record['settings']['weights'])
    text = json.dumps({**record, 'pairs': None, 'settings': {**record['settings'], 'weights': None}}, indent=2)
    text = text.replace('"weights": null', f'"weights": {weights}', 1)
    return text.replace('"pairs": null', f'"pairs": [\n{rows}\n  ]', 1) + '\n'


def window_text(window: tuple[int, int]) -> str:
    """`11`, or `7-13`."""
    return str(window[0]) if window[0] == window[1] else f'{window[0]}-{window[1]}'


def needed(plans: Sequence[tuple[ClipPlan, Sequence[int]]]) -> Iterator[tuple[ClipPlan, int, int, int]]:
    """(clip, number, first frame, last frame) of each pair that is still to make, in the order of time.

    Args:
        plans: Clips of one video in their order, each with the numbers of its pairs.
    """
    for plan, numbers in plans:
        for number in numbers:
            centre = plan.centres[number - 1]
            yield plan, number, centre - plan.shutter.reach, centre + plan.shutter.reach


def _too_short(footage: Footage, settings: Settings, analysis: Analysis, plans: Sequence[ClipPlan]) -> str:
    longest = max(plans, key=lambda plan: (len(plan.centres), plan.last - plan.first))
    length = longest.last - longest.first + 1
    one = longest.shutter.frames
    have = f'{footage.path} has {counted(analysis.num_frames, "frame")}'
    if len(plans) > 1:
        have += f' in {len(plans)} shots, the longest of {length}'
    if not longest.centres:
        text = f'{have}, but one pair takes {one}. Give a smaller --window'
    else:
        text = f'{have}, which gives {len(longest.centres)} of the {settings.min_pairs} pairs that --min-pairs asks for'
    return text + ('; or raise --cut-threshold if there are no such cuts' if len(plans) > 1 else '')

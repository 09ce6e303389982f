"""Training pairs of blurry and sharp frames from high-frame-rate footage, in GoPro's layout.

Each video is read twice: first to count frames and find cuts, then to make the pairs. Memory holds the frames of a few
windows. A clip is written to a hidden folder `.NAME.partial` and renamed when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from data_prep.blur_model import MIN_FLOW_SIZE, Flow, Image, Light, Response, flow_to, light_between, mean_light
from data_prep.footage import Analysis, Footage, analyse, clip_name, find_warnings, open_footage
from data_prep.lmdb_writer import only_writer
from data_prep.synthesize_plan import ClipPlan, Settings, plan_clips
from dstnet_arch.arguments import check_writable
from dstnet_arch.data.frame_source import size_text
from dstnet_arch.errors import DataError, counted
from dstnet_arch.files import read_json
from dstnet_arch.progress import Progress, say

RECORD = 'synthesis.json'
"""File in a clip's folder that records how the clip was made."""

_MAX_THREADS = 8  # each holds several frames in float64
_PNG_LEVEL = 3
_PREVIEW_ROWS = 4
_PREVIEW_WIDTH = 480


class Video(NamedTuple):
    """Footage, its analysis, and the clips to make from it."""

    footage: Footage
    analysis: Analysis
    plans: list[ClipPlan]


@dataclass(eq=False)
class Frame:
    """A frame (height, width, 3), BGR, uint8, with its number in the footage and its successor."""

    number: int
    image: Image
    next: Frame | None = None

    @cached_property
    def flows(self) -> tuple[Flow, Flow]:
        """Optical flow to the successor and back."""
        assert self.next is not None
        return flow_to(self.image, self.next.image), flow_to(self.next.image, self.image)

    def light(self, response: Response, time: float = 0.0) -> Light:
        """Return the light (height, width, 3) at `time` in [0, 1): 0 is this frame, 1 the next one."""
        if time == 0:
            return response.light(self.image)
        assert self.next is not None
        first, second = (response.light(image, np.float32) for image in (self.image, self.next.image))
        return light_between(first, second, *self.flows, time)


def synthesize(
    paths: Sequence[Path],
    output: Path,
    settings: Settings,
    test: Sequence[str] = (),
    train_share: float | None = None,
    overwrite: bool = False,
    preview: bool = False,
    threads: int | None = None,
) -> None:
    """Write `<output>/{train,test}/<clip>/{blur,sharp}/000001.png` and `synthesis.json` for each clip.

    Args:
        paths: video files or folders of frames.
        output: folder for the result; created if necessary.
        settings: how pairs are made.
        test: names of the videos for testing.
        train_share: alternative to `test`: share of the videos for training, in [0, 1].
        overwrite: replace earlier clips of these videos.
        preview: write a contact sheet for each clip.
        threads: number of threads that average and write.

    Raises:
        DataError: a video cannot be used, or its clips exist; nothing is written then.
    """
    check_writable(output)
    footages = [open_footage(path) for path in paths]
    names = [footage.name for footage in footages]
    if len(set(names)) < len(names):
        raise DataError(f'videos need different names, but their clips would be called {", ".join(sorted(names))}')
    splits = assign_splits(names, test, train_share)
    cv2.setNumThreads(1)  # the result of its optical flow depends on the number of threads
    output.mkdir(parents=True, exist_ok=True)
    with only_writer(output):
        videos = [_plan(footage, splits[footage.name], settings) for footage in footages]
        _remove_earlier(videos, output, overwrite)
        total = sum(len(plan.centres) for video in videos for plan in video.plans)
        with (
            ThreadPoolExecutor(threads or min(os.cpu_count() or 2, _MAX_THREADS)) as pool,
            Progress(total, 'pair', 'synthesizing') as progress,
        ):
            for video in videos:
                frames = enumerate(video.footage.frames())
                for plan in video.plans:
                    partial = output / plan.split / f'.{plan.name}.partial'
                    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
                    try:
                        _write_pairs(partial, plan, windows(plan, frames, settings), settings, pool, progress)
                        _write_record(partial, video, plan, settings)
                        if preview:
                            _write_preview(partial)
                        partial.rename(output / plan.label)
                    finally:
                        shutil.rmtree(partial, ignore_errors=True)
    for video in videos:
        size = size_text(settings.output_size(video.analysis.size))
        for plan in video.plans:
            pairs = f'{counted(len(plan.centres), "pair")} of {size}'
            print(f'{output / plan.label}: {pairs}, exposure {plan.exposure:g} of every {plan.stride} frames')
    say(f'Next: python -m data_prep gopro {output} -o FOLDER')


def assign_splits(names: Sequence[str], test: Sequence[str], train_share: float | None) -> dict[str, str]:
    """Assign each video as a unit to 'train' or 'test', so that no test scene was trained on.

    Raises:
        DataError: `test` names an unknown video.
    """
    chosen = {name if name in names else clip_name(Path(name)) for name in test}
    if unknown := sorted(chosen - set(names)):
        raise DataError(f'--test {unknown[0]}: no such video; the videos are {", ".join(sorted(names))}')
    if train_share is not None:
        shuffled = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        # Both splits get a video unless the share is 0 or 1.
        count = round(train_share * len(names))
        if len(names) > 1:
            count = min(max(count, math.ceil(train_share)), len(names) - math.ceil(1 - train_share))
        chosen = set(shuffled[count:])
    return {name: 'test' if name in chosen else 'train' for name in names}


def windows(plan: ClipPlan, frames: Iterator[tuple[int, Image]], settings: Settings) -> Iterator[list[Frame]]:
    """Yield the frames of each pair's window, holding one window in memory.

    `frames` are (number, frame) of the footage, read as far as the clip needs.

    Raises:
        DataError: there are fewer frames than in the first pass.
    """
    held: deque[Frame] = deque()
    for centre in plan.centres:
        samples = plan.samples(centre)
        first, last = samples[0][0], samples[-1][0] + (samples[-1][1] > 0)
        while not held or held[-1].number < last:
            number, image = next(frames, (-1, None))
            if image is None:
                raise DataError('the video changed while it was read: run the same command again')
            if number >= first:
                frame = Frame(number, settings.resize(image))
                if held:
                    held[-1].next = frame
                held.append(frame)
        while held[0].number < first:
            held.popleft()
        yield list(held)


def read_record(clip: Path) -> dict[str, Any] | None:
    """Read the record in a clip's folder; None if `synthesize` did not write one."""
    try:
        record = read_json(clip / RECORD)
    except (OSError, ValueError):
        return None
    return record if {'video', 'response'} <= record.keys() else None


def _plan(footage: Footage, split: str, settings: Settings) -> Video:
    analysis = analyse(footage)
    plans, too_short = plan_clips(footage.name, split, settings, analysis)
    rate = f', {analysis.frame_rate:.5g} frames per second' if analysis.frame_rate else ''
    summary = (
        f'{footage.path}: {counted(analysis.num_frames, "frame")} of {size_text(analysis.size)}{rate}, '
        f'{counted(len(plans) + too_short, "shot")}'
    )
    if not plans:
        raise DataError(f'{summary}: too short for a pair. Use a smaller --window or --min-pairs')
    if settings.interpolate > 1 and min(settings.output_size(analysis.size)) < MIN_FLOW_SIZE:
        raise DataError(f'{footage.path}: --interpolate needs frames of at least {MIN_FLOW_SIZE} pixels per side')
    say(f'{summary}.')
    warnings = find_warnings(footage, analysis, settings.factor(analysis.size) / settings.interpolate)
    if too_short:
        warnings.append(f'{counted(too_short, "shot")} too short, skipped')
    for warning in warnings:
        print(f'Warning: {footage.path}: {warning}.')
    return Video(footage, analysis, plans)


def _remove_earlier(videos: Sequence[Video], output: Path, overwrite: bool) -> None:
    """Remove earlier clips of these videos in both splits, or report that they exist."""
    names = {video.footage.name for video in videos}
    labels = {plan.label for video in videos for plan in video.plans}
    for clip in sorted(output.glob('t*/[!.]*')):
        record = read_record(clip)
        if record is None and clip.relative_to(output).as_posix() in labels:
            raise DataError(f'{clip} was not made by this command. Move it away, or choose another folder with -o')
        if record and record['video'] in names:
            if not overwrite:
                raise DataError(f'{clip} exists. Choose another folder with -o, or replace it with --overwrite')
            shutil.rmtree(clip)


def _write_pairs(
    clip: Path,
    plan: ClipPlan,
    frames: Iterator[list[Frame]],
    settings: Settings,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> None:
    def write_pair(number: int, centre: int, window: list[Frame]) -> None:
        first = window[0].number
        samples = plan.samples(centre)
        lights = (window[index - first].light(settings.response, time) for index, time, _ in samples)
        blurry = settings.response.image(mean_light(lights, [weight for _, _, weight in samples]))
        for side, image in (('blur', blurry), ('sharp', window[centre - first].image)):
            png = cv2.imencode('.png', image, (cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL))[1]
            (clip / side / f'{number:06d}.png').write_bytes(png.tobytes())

    for side in ('blur', 'sharp'):
        (clip / side).mkdir(parents=True)
    pairs = enumerate(zip(plan.centres, frames, strict=True), start=1)
    while batch := list(islice(pairs, _MAX_THREADS)):  # so that memory holds few windows
        for pending in [pool.submit(write_pair, number, *pair) for number, pair in batch]:
            pending.result()
        progress.update(len(batch))


def _write_record(clip: Path, video: Video, plan: ClipPlan, settings: Settings) -> None:
    record = {
        'video': video.footage.name,
        'source': video.footage.path.absolute().name,
        'frame_rate': video.analysis.frame_rate,
        'variable_frame_rate': video.analysis.times is not None,
        'response': settings.response.name,
        'exposure': plan.exposure,
        'stride': plan.stride,
        'interpolate': plan.interpolate,
        'size': size_text(settings.output_size(video.analysis.size)),
        'sharp_frames': plan.centres,
    }
    (clip / RECORD).write_text(json.dumps(record, indent=2) + '\n', encoding='utf-8')


def _write_preview(clip: Path) -> None:
    """Write a contact sheet of some pairs, blurry on the left and sharp on the right."""
    names = sorted(file.name for file in (clip / 'sharp').iterdir())
    rows = []
    for position in np.linspace(0, len(names) - 1, min(_PREVIEW_ROWS, len(names))).round().astype(int):
        pair = np.hstack([np.asarray(cv2.imread(str(clip / side / names[position]))) for side in ('blur', 'sharp')])
        factor = min(1.0, 2 * _PREVIEW_WIDTH / pair.shape[1])
        rows.append(cv2.resize(pair, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA))
    (clip / 'preview.jpg').write_bytes(cv2.imencode('.jpg', np.vstack(rows))[1].tobytes())

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
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_prep.blur_model import Image, Response, mean_light
from data_prep.lmdb_writer import only_writer
from data_prep.synthesize_analysis import Analysis, analyse, find_warnings
from data_prep.synthesize_flow import MIN_SIZE, FlowFrame
from data_prep.synthesize_footage import Footage, clip_name, open_footage, size_text
from data_prep.synthesize_plan import ClipPlan, Settings, plan_clips
from data_prep.synthesize_record import RECORD, read_record
from dstnet_arch.errors import DataError, counted
from dstnet_arch.progress import Progress

PREVIEW = 'preview.jpg'

_MAX_THREADS = 8  # each holds several frames in float64
_PNG_LEVEL = 3
_PREVIEW_ROWS = 4
_PREVIEW_WIDTH = 480


@dataclass(frozen=True)
class Video:
    """Footage, its analysis, and the clips to make from it."""

    footage: Footage
    analysis: Analysis
    plans: Sequence[ClipPlan]


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
        paths: Video files or folders of frames.
        output: Output folder; created if necessary.
        settings: How pairs are made.
        test: Names of the videos for testing.
        train_share: Alternative to `test`: share of the videos for training, in [0, 1].
        overwrite: Replace earlier clips of these videos.
        preview: Write a contact sheet for each clip.
        threads: Number of threads that average and write.

    Raises:
        DataError: a video cannot be used, or its clips exist; nothing is written then.
    """
    footages = [open_footage(path) for path in paths]
    names = [footage.name for footage in footages]
    if len(set(names)) < len(names):
        raise DataError(f'videos need different names, but their clips would be called {", ".join(sorted(names))}')
    splits = assign_splits(names, test, train_share)
    threads = threads or min(os.cpu_count() or 2, _MAX_THREADS)
    cv2.setNumThreads(1)  # the result of its optical flow depends on the number of threads
    output.mkdir(parents=True, exist_ok=True)
    with only_writer(output):
        videos = [_plan(footage, splits[footage.name], settings) for footage in footages]
        _remove_earlier(videos, output, overwrite)
        total = sum(len(plan.centres) for video in videos for plan in video.plans)
        with Progress(total, 'pair', 'synthesizing') as progress:
            for video in videos:
                frames = enumerate(video.footage.frames())
                for plan in video.plans:
                    _make_clip(video, plan, frames, output, settings, preview, threads, progress)
    for video in videos:
        for plan in video.plans:
            print(
                f'{output / plan.label}: {counted(len(plan.centres), "pair")} of '
                f'{size_text(settings.output_size(video.analysis.size))}, exposure {plan.exposure:g} of every '
                f'{plan.stride} frames'
            )
    print(f'Next: python -m data_prep gopro {output} -o FOLDER')


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


def windows(plan: ClipPlan, frames: Iterator[tuple[int, Image]], settings: Settings) -> Iterator[list[FlowFrame]]:
    """Yield the frames of each pair's window, holding one window in memory.

    Args:
        plan: Clip of the pairs.
        frames: (number, frame) of the footage; read as far as the clip needs.
        settings: How pairs are made.

    Raises:
        DataError: there are fewer frames than in the first pass.
    """
    held: deque[FlowFrame] = deque()
    for centre in plan.centres:
        samples = plan.samples(centre)
        first, last = samples[0][0], samples[-1][0] + (samples[-1][1] > 0)
        while not held or held[-1].number < last:
            number, image = next(frames, (-1, None))
            if image is None:
                raise DataError('the video changed while it was read: run the same command again')
            if number >= first:
                frame = FlowFrame(number, settings.resize(image), settings.response)
                if held:
                    held[-1].next = frame
                held.append(frame)
        while held[0].number < first:
            held.popleft()
        yield list(held)


def make_blurry(frames: Sequence[FlowFrame], plan: ClipPlan, centre: int, response: Response) -> Image:
    """Return the blurry frame, (height, width, 3), BGR, uint8, of the pair whose sharp frame is number `centre`."""
    samples = plan.samples(centre)
    lights = (frames[number - frames[0].number].light(time) for number, time, _ in samples)
    return response.image(mean_light(lights, [weight for _, _, weight in samples]))


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
    if settings.interpolate > 1 and min(settings.output_size(analysis.size)) < MIN_SIZE:
        raise DataError(f'{footage.path}: the frames are too small for --interpolate, which needs {MIN_SIZE} pixels')
    print(f'{summary}.')
    step = analysis.step * settings.factor(analysis.size) / settings.interpolate
    for warning in find_warnings(footage, analysis, step):
        print(f'Warning: {footage.path}: {warning}.')
    if too_short:
        print(f'Warning: {footage.path}: {counted(too_short, "shot")} too short, skipped.')
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


def _make_clip(
    video: Video,
    plan: ClipPlan,
    frames: Iterator[tuple[int, Image]],
    output: Path,
    settings: Settings,
    preview: bool,
    threads: int,
    progress: Progress,
) -> None:
    partial = output / plan.split / f'.{plan.name}.partial'

    def make_pair(number: int, centre: int, window: Sequence[FlowFrame]) -> None:
        sharp = window[centre - window[0].number].image
        for side, image in (('blur', make_blurry(window, plan, centre, settings.response)), ('sharp', sharp)):
            png = cv2.imencode('.png', image, (cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL))[1]
            (partial / side / f'{number:06d}.png').write_bytes(png.tobytes())

    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
    try:
        for side in ('blur', 'sharp'):
            (partial / side).mkdir(parents=True)
        pending: deque[Future[None]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for number, window in enumerate(windows(plan, frames, settings), start=1):
                pending.append(pool.submit(make_pair, number, plan.centres[number - 1], window))
                if len(pending) > threads:
                    pending.popleft().result()
                progress.update()
            for future in pending:
                future.result()
        (partial / RECORD).write_text(json.dumps(_describe(video, plan, settings), indent=2) + '\n', encoding='utf-8')
        if preview:
            _write_preview(partial)
        partial.rename(output / plan.label)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _describe(video: Video, plan: ClipPlan, settings: Settings) -> dict[str, Any]:
    return {
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


def _write_preview(clip: Path) -> None:
    """Write a contact sheet of some pairs, blurry on the left and sharp on the right."""
    names = sorted(file.name for file in (clip / 'sharp').iterdir())
    rows = []
    for position in np.linspace(0, len(names) - 1, min(_PREVIEW_ROWS, len(names))).round().astype(int):
        sides = [np.asarray(cv2.imread(str(clip / side / names[position]))) for side in ('blur', 'sharp')]
        pair = np.hstack(sides)
        factor = min(1.0, 2 * _PREVIEW_WIDTH / pair.shape[1])
        rows.append(cv2.resize(pair, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA))
    (clip / PREVIEW).write_bytes(cv2.imencode('.jpg', np.vstack(rows))[1].tobytes())

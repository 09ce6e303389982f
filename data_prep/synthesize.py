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
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.blur_model import Image, mean_light
from data_prep.lmdb_writer import only_writer
from data_prep.synthesize_analysis import Analysis, analyse
from data_prep.synthesize_flow import FlowFrame
from data_prep.synthesize_footage import Footage, clip_name, open_footage, size_text
from data_prep.synthesize_plan import RECORD, ClipPlan, Settings, describe, plan_clips, read_record, record_text
from data_prep.synthesize_warnings import find_warnings
from dstnet_arch.errors import DataError, Problems, counted
from dstnet_arch.progress import Progress

PREVIEW = 'preview.jpg'

_MAX_THREADS = 8  # each holds several frames in float64
_PNG_LEVEL = 3
_PREVIEW_ROWS = 4
_PREVIEW_WIDTH = 480


@dataclass(frozen=True)
class Video:
    """Footage, its analysis, and the clips to make from it with their records."""

    footage: Footage
    analysis: Analysis
    plans: Sequence[ClipPlan]
    records: Sequence[dict[str, Any]]


def synthesize(
    videos: Sequence[Path],
    output: Path,
    settings: Settings,
    test: Sequence[str] = (),
    train_share: float | None = None,
    overwrite: bool = False,
    preview: bool = False,
    threads: int | None = None,
) -> None:
    """Write `<output>/{train,test}/<clip>/{blur,sharp}/000001.png` and `synthesis.json` for each clip.

    Clips that exist with the same record are kept.

    Args:
        videos: Video files or folders of frames.
        output: Output folder; created if necessary.
        settings: How pairs are made.
        test: Names of the videos for testing.
        train_share: Alternative to `test`: share of the videos for training, in [0, 1].
        overwrite: Replace clips of these videos that were made with other settings.
        preview: Write a contact sheet for each clip.
        threads: Number of threads that average and write.

    Raises:
        DataError: lists everything that is wrong, before any clip is written.
    """
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise DataError(f'{output} is a file; choose another folder with -o')
    footages = _collect(videos, open_footage)
    names = [footage.name for footage in footages]
    if taken := next((name for name in names if names.count(name) > 1), None):
        paths = [str(footage.path) for footage in footages if footage.name == taken]
        raise DataError(f'{" and ".join(paths)} would both become {taken}: rename one')
    splits = assign_splits(names, test, train_share, settings.seed)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with only_writer(output), _one_opencv_thread():
            found = _collect(footages, lambda footage: _survey(footage, splits[footage.name], settings))
            todo, outdated = _compare_with_output(found, output, overwrite)
            _make_all(
                found, todo, outdated, output, settings, preview, threads or min(os.cpu_count() or 2, _MAX_THREADS)
            )
    except OSError as error:
        raise DataError(f'{error}. Fix the cause and run the same command again') from None
    _print_summary(found, output)


def assign_splits(names: Sequence[str], test: Sequence[str], train_share: float | None, seed: int) -> dict[str, str]:
    """Assign each video as a unit to 'train' or 'test', so that no test scene was trained on.

    Raises:
        DataError: `test` names an unknown video.
    """
    chosen = {name if name in names else clip_name(Path(name)) for name in test}
    if unknown := sorted(chosen - set(names)):
        raise DataError(f'--test {unknown[0]}: no such video; the videos are {", ".join(sorted(names))}')
    if train_share is not None:
        ranked = sorted(names, key=lambda name: hashlib.sha256(f'{seed}/{name}'.encode()).digest())
        # Both splits get a video unless the share is 0 or 1.
        count = round(train_share * len(names))
        if len(names) > 1:
            count = min(max(count, math.ceil(train_share)), len(names) - math.ceil(1 - train_share))
        chosen = set(ranked[count:])
    return {name: 'test' if name in chosen else 'train' for name in names}


def make_pair(
    frames: Sequence[FlowFrame], first: int, plan: ClipPlan, centre: int, settings: Settings
) -> tuple[Image, Image]:
    """Return a blurry and a sharp frame, (height, width, 3), BGR, uint8.

    Args:
        frames: Frames of the window.
        first: Number of the first one in the footage.
        plan: Clip of the pair.
        centre: Number of the sharp frame in the footage.
        settings: How pairs are made.
    """
    samples = plan.samples(centre)
    lights = (frames[frame - first].light(time) for frame, time, _ in samples)
    light = mean_light(lights, [weight for _, _, weight in samples])
    return settings.response.image(light), frames[centre - first].image


def windows(
    video: Video, plans: Sequence[ClipPlan], settings: Settings
) -> Iterator[tuple[ClipPlan, int, list[FlowFrame]]]:
    """Read a video once and yield (clip, pair number, frames of its window), holding one window in memory."""
    source = video.footage.frames()
    held: deque[FlowFrame] = deque()
    end = 0  # number of frames read
    for plan in plans:
        for number, centre in enumerate(plan.centres, start=1):
            first, last = plan.window(centre)
            while end <= last:
                image = next(source, None)
                if image is None or image.shape[:2] != video.analysis.size:
                    raise DataError(f'{video.footage.path} changed while it was read: run the same command again')
                end += 1
                if end > first:
                    frame = FlowFrame(settings.geometry.apply(image, settings.response), settings.response)
                    if held:
                        held[-1].next = frame
                    held.append(frame)
            while len(held) > end - first:
                held.popleft()
            yield plan, number, list(held)


def _collect(items: Sequence[Any], function: Any) -> list[Any]:
    """Apply a function to all items and raise one DataError for all that fail."""
    problems, results = Problems(), []
    for item in items:
        try:
            results.append(function(item))
        except DataError as error:
            problems.add(str(error))
    if len(problems) == 1:
        raise DataError(problems.found[0])
    problems.raise_if_any(f'{len(problems)} of {len(items)} videos cannot be used', 'Nothing was written.')
    return results


def _survey(footage: Footage, split: str, settings: Settings) -> Video:
    with Progress(footage.claimed, 'frame', f'Analysing {footage.path.name}') as progress:
        analysis = analyse(footage, progress.update)
    plans, too_short = plan_clips(footage, split, settings, analysis)
    digest = footage.sha256()
    video = Video(footage, analysis, plans, [describe(plan, footage, digest, settings, analysis) for plan in plans])
    rate = f', {analysis.frame_rate:.5g} frames per second' if analysis.frame_rate else ''
    print(
        f'{footage.path}: {counted(analysis.num_frames, "frame")} of {size_text(analysis.size)}{rate}, '
        f'{counted(len(plans) + too_short, "shot")}.'
    )
    for warning in find_warnings(footage, analysis, plans, too_short, settings):
        print(f'Warning: {footage.path}: {warning}.')
    return video


def _compare_with_output(found: Sequence[Video], output: Path, overwrite: bool) -> tuple[set[str], list[Path]]:
    """Return the labels of the clips to make, and the folders of outdated clips of these videos."""
    planned: dict[str, dict[str, Any]] = {}
    for video in found:
        for record in video.records:
            if record['clip'] in planned:
                raise DataError(f'two videos would both have a clip {record["clip"]}: rename one')
            planned[record['clip']] = json.loads(json.dumps(record))
    existing = {
        f'{split}/{path.name}': read_record(path)
        for split in ('train', 'test')
        for path in sorted(output.glob(f'{split}/[!.]*'))
    }
    if foreign := [label for label, record in existing.items() if label in planned and record is None]:
        raise DataError(
            f'{output / foreign[0]} exists and was not made by this command. Move it away, or choose another folder '
            'with -o'
        )
    names = {video.footage.name for video in found}
    done = {label for label, record in existing.items() if record and record == planned.get(label)}
    outdated = [
        output / label
        for label, record in existing.items()
        if record and record['video'] in names and label not in done
    ]
    if outdated and not overwrite:
        more = f' and {len(outdated) - 1} more' if len(outdated) > 1 else ''
        raise DataError(
            f'{outdated[0]}{more} was made with other settings or from another video of that name. '
            'Choose another folder with -o, or replace it with --overwrite'
        )
    for label in sorted(done):
        print(f'{label}: already complete.')
    return planned.keys() - done, outdated


def _make_all(
    found: Sequence[Video],
    todo: set[str],
    outdated: Sequence[Path],
    output: Path,
    settings: Settings,
    preview: bool,
    threads: int,
) -> None:
    total = sum(len(plan.centres) for video in found for plan in video.plans if plan.label in todo)
    with Progress(total, 'pair', 'Synthesizing') as progress:
        for video in found:
            records = {plan.label: record for plan, record in zip(video.plans, video.records, strict=True)}
            plans = [plan for plan in video.plans if plan.label in todo]
            with closing(_make_clips(video, plans, output, settings, threads, progress)) as clips:
                for plan in clips:
                    partial, target = _partial(output, plan), output / plan.label
                    (partial / RECORD).write_text(record_text(records[plan.label]), encoding='utf-8')
                    if preview:
                        _write_preview(partial, len(plan.centres))
                    if target in outdated:
                        shutil.rmtree(target)
                    partial.rename(target)
    for path in outdated:  # clips of these videos that no longer exist
        if path.relative_to(output).as_posix() not in todo:
            shutil.rmtree(path)


def _make_clips(
    video: Video, plans: Sequence[ClipPlan], output: Path, settings: Settings, threads: int, progress: Progress
) -> Generator[ClipPlan, None, None]:
    """Write the frames of the clips to their partial folders; yields each clip when it is complete."""

    def make(plan: ClipPlan, number: int, frames: list[FlowFrame]) -> None:
        centre = plan.centres[number - 1]
        images = make_pair(frames, plan.window(centre)[0], plan, centre, settings)
        for folder, image in zip(('blur', 'sharp'), images, strict=True):
            _write_png(_partial(output, plan) / folder / _file_name(number), image)

    def finish(job: tuple[ClipPlan, int, Future[None]]) -> Iterator[ClipPlan]:
        plan, number, future = job
        future.result()
        progress.update()
        if number == len(plan.centres):
            yield plan

    for plan in plans:
        shutil.rmtree(_partial(output, plan), ignore_errors=True)  # left by a run that was killed
    pending: deque[tuple[ClipPlan, int, Future[None]]] = deque()
    try:
        with ThreadPoolExecutor(threads) as pool:
            for plan, number, frames in windows(video, plans, settings):
                if number == 1:
                    for folder in ('blur', 'sharp'):
                        (_partial(output, plan) / folder).mkdir(parents=True)
                pending.append((plan, number, pool.submit(make, plan, number, frames)))
                if len(pending) > threads:
                    yield from finish(pending.popleft())
            while pending:
                yield from finish(pending.popleft())
    finally:
        for plan in plans:
            shutil.rmtree(_partial(output, plan), ignore_errors=True)


def _partial(output: Path, plan: ClipPlan) -> Path:
    return output / plan.split / f'.{plan.name}.partial'


def _file_name(number: int) -> str:
    return f'{number:06d}.png'


def _write_png(path: Path, image: Image) -> None:
    import cv2

    path.write_bytes(cv2.imencode('.png', image, (cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL))[1].tobytes())


def _write_preview(partial: Path, count: int) -> None:
    """Write a contact sheet of some pairs, blurry on the left and sharp on the right."""
    import cv2
    import numpy as np

    rows = min(_PREVIEW_ROWS, count)
    sheet = []
    for row in range(rows):
        number = (2 * row + 1) * count // (2 * rows) + 1
        pair = np.hstack(
            [np.asarray(cv2.imread(str(partial / side / _file_name(number)))) for side in ('blur', 'sharp')]
        )
        factor = min(1.0, 2 * _PREVIEW_WIDTH / pair.shape[1])
        sheet.append(cv2.resize(pair, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA))
    (partial / PREVIEW).write_bytes(cv2.imencode('.jpg', np.vstack(sheet))[1].tobytes())


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Restrict OpenCV to one thread: the result of its optical flow depends on the number of threads."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _print_summary(found: Sequence[Video], output: Path) -> None:
    for video in found:
        for plan, record in zip(video.plans, video.records, strict=True):
            settings, rate = record['settings'], record['frame_rate']
            at = f' at {rate:g} frames per second' if rate else ''
            print(
                f'{output / plan.label}: {counted(len(plan.centres), "pair")} of '
                f'{settings["width"]}x{settings["height"]}{at}, exposure {settings["window"]:g} of every '
                f'{settings["stride"]} frames'
            )
    if not any(plan.split == 'test' for video in found for plan in video.plans):
        print('All videos are for training; --test NAME or --train-share 0.8 reserves some for testing.')
    print(f'Next: python -m data_prep gopro {output} -o FOLDER')

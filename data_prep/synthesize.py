"""Pairs of blurry and sharp frames from anyone's footage of a high frame rate, in GoPro's layout.

Each video is read twice: once to count its frames and to find cuts, once to make the pairs. Memory holds the frames of
a few windows, whatever the length of the video. A clip grows in a hidden folder `.NAME.partial` and gets its name when
it is whole; beside its frames lies `synthesis.json`, which says how they were made. By it an interrupted run finds
what is done, and a later one sees whether it would make the same again.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.blur_model import Image, mean_light
from data_prep.lmdb_writer import PARTIAL_SUFFIX, default_threads, in_order, only_writer
from data_prep.synthesize_camera import import_av, jpeg_round_trip
from data_prep.synthesize_clip import begin_clip, file_name, finish_clip, frame_folders, partial_folder, write_png
from data_prep.synthesize_flow import Moment
from data_prep.synthesize_plan import RECORD, ClipPlan, Settings, needed, read_record, same_pairs
from data_prep.synthesize_survey import Video, assign_splits, look_at_all, open_all
from dstnet_arch.errors import DataError, counted

SPLITS = ('train', 'test')

_MAX_THREADS = 8  # each holds several frames in float64


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
    """Make `<output>/{train,test}/<clip>/{blur,sharp}/000001.png` and a `synthesis.json` in each clip's folder.

    Args:
        videos: Video files or folders of frames.
        output: Folder for the result; made if need be.
        settings: How pairs are made.
        test: Names of the videos that are for testing.
        train_share: Instead of `test`: the share of the videos that are for training, in [0, 1].
        overwrite: Replace clips that were made from these videos in another way, instead of refusing.
        preview: Write a contact sheet for each clip, too.
        threads: Threads that average and write.

    Raises:
        DataError: with everything that is wrong; nothing is written before all videos have been looked at.
    """
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise DataError(f'{output} is a file; choose another folder with -o')
    if settings.h264 is not None:
        import_av()
    footages = open_all(videos)
    splits = assign_splits([footage.name for footage in footages], test, train_share, settings.seed)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with only_writer(output), _one_opencv_thread():
            found = look_at_all(footages, splits, settings, output)
            todo = _what_is_left(found, output, overwrite)
            _make_all(todo, output, settings, preview, threads or min(default_threads(), _MAX_THREADS))
    except OSError as error:
        raise DataError(
            f'{error}. Mend the cause, then run the same command again: it continues with what is there.'
        ) from None
    _print_summary(found, output)


# What is there already


def _what_is_left(found: Sequence[Video], output: Path, overwrite: bool) -> list[tuple[Video, list[ClipPlan]]]:
    """The clips that are still to be made. Clips that would have to be replaced are removed, or refused."""
    there = {
        path.parent: record
        for split in SPLITS
        for path in sorted(output.glob(f'{split}/*/{RECORD}'))
        if not path.parent.name.startswith('.') and (record := read_record(path.parent)) is not None
    }
    names = {video.footage.name for video in found}
    planned = {
        output / plan.split / plan.name: record
        for video in found
        for plan, record in zip(video.plans, video.records, strict=True)
    }
    done = {path for path, record in planned.items() if path in there and same_pairs(there[path], _plain(record))}
    foreign = [path for path in planned if os.path.lexists(path) and path not in there]
    if foreign:
        raise DataError(
            f'{foreign[0]} exists already and was not made by this command. Move it away, or choose another folder '
            'with -o'
        )
    # A clip of the same video that would not be made today would stand beside the others as if it belonged to them.
    stale = [
        path for path, record in there.items() if path not in done and (path in planned or record['video'] in names)
    ]
    if stale and not overwrite:
        more = f' and {len(stale) - 1} more' if len(stale) > 1 else ''
        raise DataError(
            f'{stale[0]}{more} was made with other settings, or from another video of that name. '
            'Choose another folder with -o, or replace it with --overwrite'
        )
    for path in stale:
        print(f'{path}: replaced, since it was made in another way.')
        shutil.rmtree(path)
    for path in (path for split in SPLITS for path in output.glob(f'{split}/.*{PARTIAL_SUFFIX}')):
        record = read_record(path)
        clip = path.with_name(path.name[1 : -len(PARTIAL_SUFFIX)])
        goes_on = clip in planned and record is not None and same_pairs(record, _plain(planned[clip]))
        if not goes_on and (clip in planned or (record is not None and record['video'] in names)):
            print(f'{clip}: what an interrupted run has left was begun in another way, and is removed.')
            shutil.rmtree(path)
    todo = []
    for video in found:
        left = []
        for plan in video.plans:
            if output / plan.split / plan.name in done:
                print(f'{plan.label}: already complete.')
            else:
                left.append(plan)
        todo.append((video, left))
    return todo


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from a file."""
    return dict(json.loads(json.dumps(record)))


# Making


def _make_all(
    todo: Sequence[tuple[Video, list[ClipPlan]]], output: Path, settings: Settings, preview: bool, threads: int
) -> None:
    from tqdm import tqdm

    kept = {
        plan.label: begin_clip(partial_folder(output, plan), record, settings)
        for video, plans in todo
        for plan, record in zip(video.plans, video.records, strict=True)
        if plan in plans
    }
    total = sum(len(plan.centres) for _, plans in todo for plan in plans)
    ready = sum(map(len, kept.values()))
    if ready:
        print(f'{counted(ready, "pair")} of {total} are there from an earlier run.')
    _warn_of_space(todo, output, settings)
    with tqdm(total=total, initial=ready, desc='Synthesizing', unit='pair', disable=not total) as bar:
        for video, plans in todo:
            missing = [
                (plan, [number for number in range(1, len(plan.centres) + 1) if number not in kept[plan.label]])
                for plan in plans
            ]
            # Clips without a missing pair only lack their name.
            for plan in _make_clips(video, missing, output, settings, threads, bar):
                finish_clip(plan, output, settings, preview)


def _make_clips(
    video: Video,
    missing: Sequence[tuple[ClipPlan, list[int]]],
    output: Path,
    settings: Settings,
    threads: int,
    bar: Any,
) -> Iterator[ClipPlan]:
    """Make the missing pairs of a video's clips; yields each clip when all its pairs are written."""
    yield from (plan for plan, numbers in missing if not numbers)
    last = {plan.label: max(numbers) for plan, numbers in missing if numbers}

    def make(job: tuple[ClipPlan, int, Sequence[Moment]]) -> None:
        plan, number, moments = job
        blurry, sharp = make_pair(moments, plan, number, settings)
        for folder, image in zip(frame_folders(settings), (blurry, sharp), strict=True):
            write_png(partial_folder(output, plan) / folder / file_name(number), image)

    with ThreadPoolExecutor(threads) as pool:
        jobs = _windows(video, needed(missing), settings)
        for (plan, number, _), writing in in_order(pool, make, jobs, ahead=threads + 1):
            writing.result()
            bar.update()
            if number == last[plan.label]:
                yield plan


def make_pair(moments: Sequence[Moment], plan: ClipPlan, number: int, settings: Settings) -> tuple[Image, Image]:
    """A blurry and a sharp frame, (height, width, 3), BGR, uint8.

    Args:
        moments: The frames of the window, `plan.shutter.frames` of them.
        plan: Its clip.
        number: Of the pair; decides its noise.
        settings: How.
    """
    middle = plan.shutter.reach
    lights = (moments[middle + frame].light(time) for frame, time in plan.shutter.samples)
    light = mean_light(lights, plan.shutter.weights)
    if settings.noise is not None:
        light = settings.noise.add(light, settings.rng(plan.name, number))
    blurry = settings.response.picture(light)
    if settings.jpeg is not None:
        blurry = jpeg_round_trip(blurry, settings.jpeg)
    return blurry, moments[middle].frame


def _windows(
    video: Video, wanted: Iterable[tuple[ClipPlan, int, int, int]], settings: Settings
) -> Iterator[tuple[ClipPlan, int, Sequence[Moment]]]:
    """Read the video once and hold no more frames than a window has."""
    jobs = iter(wanted)
    job = next(jobs, None)
    held: deque[Moment] = deque()
    held_from = 0
    frames = video.footage.frames()
    index = -1
    while job is not None:
        plan, number, first, last = job
        while held and held_from < first:
            held.popleft()
            held_from += 1
        while index < last:
            frame = next(frames, None)
            index += 1
            if frame is None or frame.shape[:2] != video.analysis.size:
                raise DataError(f'{video.footage.path} was changed while it was read: run the same command again')
            if index < first:
                continue
            moment = Moment(settings.geometry.apply(frame, settings.response), settings.response)
            if held:
                held[-1].next = moment
            else:
                held_from = index
            held.append(moment)
        yield plan, number, list(held)
        job = next(jobs, None)


def _warn_of_space(todo: Sequence[tuple[Video, list[ClipPlan]]], output: Path, settings: Settings) -> None:
    # PNG files take 1 to 2 bytes a pixel of most footage, and there are two for each pair.
    needed_bytes = sum(
        3 * math.prod(settings.geometry.size(video.analysis.size)) * len(plan.centres)
        for video, plans in todo
        for plan in plans
    )
    free = shutil.disk_usage(output).free
    if needed_bytes > free:
        print(f'Warning: about {needed_bytes / 1e9:.1f} GB will be written, {free / 1e9:.1f} GB are free.')


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """OpenCV's optical flow depends on its number of threads; there are threads enough without its own."""
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
            at = f' at {rate:g} frames a second' if rate else ''
            print(
                f'{output / plan.split / plan.name}: {counted(len(plan.centres), "pair")} of '
                f'{settings["width"]}x{settings["height"]}{at}, shutter open for {settings["window"]:g} of every '
                f'{settings["stride"]} frames'
            )
    if not any(plan.split == 'test' for video in found for plan in video.plans):
        print('All videos are for training; --test NAME or --train-share 0.8 keeps some for tests.')
    print(f'Next: python -m data_prep gopro {output} -o FOLDER')

"""Pairs of blurry and sharp frames from anyone's footage of a high frame rate, in GoPro's layout.

Each video is read twice: once to count its frames and to find cuts, once to make the pairs. Memory holds the frames of
a few windows, whatever the length of the video. A clip grows in a hidden folder `.NAME.partial` and gets its name when
it is whole; beside its frames lies `synthesis.json`, which says how they were made. By it an interrupted run finds
what is done, and a later one sees whether it would make the same again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data_prep.blur_model import RESPONSES, Image, Response, mean_light, response_from_values
from data_prep.errors import PrepError, Problems, counted
from data_prep.image_check import PNG, check_structure
from data_prep.lmdb_writer import PARTIAL_SUFFIX, default_threads, in_order, only_writer, write_text
from data_prep.synthesize_analysis import Analysis, analyse, repeated_share
from data_prep.synthesize_camera import h264_round_trip, import_av, jpeg_round_trip
from data_prep.synthesize_flow import Moment
from data_prep.synthesize_footage import Footage, clip_name, open_footage, size_text
from data_prep.synthesize_plan import (
    RECORD,
    ClipPlan,
    Settings,
    describe,
    needed,
    plan_clips,
    read_record,
    record_text,
    same_pairs,
)

SPLITS = ('train', 'test')
ANALYSES = '.analysis'
"""Folder in the output with what is known of each video, so that a second run need not look again."""
PREVIEW = 'preview.jpg'
GHOST_STEP = 2.0
"""Pixels from one averaged frame to the next beyond which edges show as several copies."""
REPEATED_SHARE = 0.1
"""Share of repeated frames beyond which a video counts as converted from a lower rate."""
CLIP_LENGTH = 15
"""Frames that training takes at once by default; a warning is given of shorter clips."""

_MAX_THREADS = 8  # each holds several frames in float64
_PNG_LEVEL = 3
_PREVIEW_ROWS = 4
_PREVIEW_WIDTH = 480


@dataclass(frozen=True)
class Video:
    """Footage with all that is known of it, and the clips to make of it."""

    footage: Footage
    digest: str
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
        PrepError: with everything that is wrong; nothing is written before all videos have been looked at.
    """
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise PrepError(f'{output} is a file; choose another folder with -o')
    if settings.h264 is not None:
        import_av()
    footages = _open_all(videos)
    splits = assign_splits([footage.name for footage in footages], test, train_share, settings.seed)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with only_writer(output), _one_opencv_thread():
            found = _look_at_all(footages, splits, settings, output)
            todo = _what_is_left(found, output, overwrite)
            _make_all(todo, output, settings, preview, threads or min(default_threads(), _MAX_THREADS))
    except OSError as error:
        raise PrepError(
            f'{error}. Mend the cause, then run the same command again: it continues with what is there.'
        ) from None
    _print_summary(found, output)


def read_response(text: str) -> Response:
    """A response curve by its name, or from a text file of 256 numbers.

    Raises:
        PrepError: there is neither, or the file holds something else.
    """
    if text in RESPONSES:
        return RESPONSES[text]
    path = Path(text)
    known = f'--response is one of {", ".join(RESPONSES)}, or a text file with the light of each value from 0 to 255'
    if not path.is_file():
        raise PrepError(f'--response {text}: no such curve and no such file. {known}')
    try:
        numbers = [float(word) for word in path.read_text(encoding='utf-8').replace(',', ' ').split()]
        return response_from_values('file', numbers)
    except (OSError, ValueError) as error:
        raise PrepError(f'--response {path}: {error}. {known}') from None


def assign_splits(names: Sequence[str], test: Sequence[str], train_share: float | None, seed: int) -> dict[str, str]:
    """Which videos are for training and which for testing; whole videos, so that no test scene was trained on.

    Raises:
        PrepError: `test` names a video that is not there.
    """
    wanted = {name if name in names else clip_name(Path(name)) for name in test}
    if unknown := sorted(wanted - set(names)):
        raise PrepError(f'--test {unknown[0]}: there is no such video; there are {", ".join(sorted(names))}')
    if train_share is not None:
        ranked = sorted(names, key=lambda name: hashlib.sha256(f'{seed}/{name}'.encode()).digest())
        # Both parts get a video, unless one is to be empty.
        count = round(train_share * len(names))
        if len(names) > 1:
            count = min(max(count, math.ceil(train_share)), len(names) - math.ceil(1 - train_share))
        wanted = set(ranked[count:])
    return {name: 'test' if name in wanted else 'train' for name in names}


# Looking


def _open_all(videos: Sequence[Path]) -> list[Footage]:
    problems = Problems()
    footages: dict[str, Footage] = {}
    for path in videos:
        try:
            footage = open_footage(path)
        except PrepError as error:
            problems.add(str(error))
            continue
        except OSError as error:
            problems.add(f'{path}: {error.strerror or error}')
            continue
        if footage.name in footages:
            problems.add(f'{footages[footage.name].path} and {path} would both become {footage.name}: rename one')
        footages[footage.name] = footage
    if len(problems) == 1:
        raise PrepError(problems.found[0])
    problems.raise_if_any(f'{len(problems)} of {len(videos)} videos cannot be used', 'Nothing was written.')
    return list(footages.values())


def _look_at_all(footages: Sequence[Footage], splits: dict[str, str], settings: Settings, output: Path) -> list[Video]:
    problems = Problems()
    found = []
    for footage in footages:
        try:
            found.append(_look_at(footage, splits[footage.name], settings, output))
        except PrepError as error:
            problems.add(str(error))
    if len(problems) == 1:
        raise PrepError(problems.found[0])
    problems.raise_if_any(f'{len(problems)} of {len(footages)} videos cannot be used', 'No clip was written.')
    taken: dict[str, str] = {}
    for video in found:
        for plan in video.plans:
            if plan.name in taken:
                raise PrepError(f'{taken[plan.name]} and {plan.video} would both have a clip {plan.name}: rename one')
            taken[plan.name] = plan.video
    return found


def _look_at(footage: Footage, split: str, settings: Settings, output: Path) -> Video:
    digest = footage.sha256()
    analysis = _analysis(footage, digest, output / ANALYSES / f'{footage.name}.json')
    plans, too_short = plan_clips(footage, split, settings, analysis)
    records = [describe(plan, footage, digest, settings, analysis) for plan in plans]
    video = Video(footage, digest, analysis, plans, records)
    _print_findings(video, settings, too_short)
    return video


def _analysis(footage: Footage, digest: str, path: Path) -> Analysis:
    from tqdm import tqdm

    try:
        kept = json.loads(path.read_text(encoding='utf-8'))
        analysis = Analysis.from_json(kept['analysis']) if kept['sha256'] == digest else None
    except (OSError, ValueError, KeyError, TypeError):
        analysis = None
    if analysis is None:
        total = footage.claimed or None
        with tqdm(total=total, desc=f'Looking at {footage.path.name}', unit='frame', leave=False, delay=1) as bar:
            analysis = analyse(footage, bar.update)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({'sha256': digest, 'analysis': analysis.as_json()}) + '\n')
    return analysis


def _print_findings(video: Video, settings: Settings, too_short: int) -> None:
    footage, analysis = video.footage, video.analysis
    rate = f', {footage.frame_rate:g} frames a second' if footage.frame_rate else ''
    shots = len(video.plans) + too_short
    print(
        f'{footage.path}: {counted(analysis.num_frames, "frame")} of {size_text(analysis.size)}{rate}, '
        f'{counted(shots, "shot")}.'
    )
    for warning in find_warnings(video, settings, too_short):
        print(f'Warning: {footage.path}: {warning}.')


def find_warnings(video: Video, settings: Settings, too_short: int = 0) -> list[str]:
    """What the user should know before, if anything."""
    footage, analysis = video.footage, video.analysis
    warnings = []
    if too_short:
        warnings.append(f'{counted(too_short, "shot")} too short, left out')
    if footage.claimed and not 0.98 <= analysis.num_frames / footage.claimed <= 1.02:
        warnings.append(
            f'the file says that it has {footage.claimed} frames, but {analysis.num_frames} can be read; '
            'it may be damaged'
        )
    share = repeated_share(analysis.differences)
    if share > REPEATED_SHARE:
        real = f' of about {footage.frame_rate * (1 - share):.3g}' if footage.frame_rate else ''
        warnings.append(
            f'{share:.0%} of the frames repeat the one before, as in a video that was converted from a lower '
            f'rate{real}; the blur would have gaps. Use the original, or drop the repetitions: '
            f'ffmpeg -i {footage.path} -vf mpdecimate -fps_mode vfr -c:v libx264 -crf 10 NEW.mp4'
        )
    longest = max((plan.shutter for plan in video.plans), key=lambda shutter: shutter.exposure)
    step = analysis.step * settings.geometry.factor(analysis.size) / settings.interpolate
    if step > GHOST_STEP and longest.exposure * settings.interpolate > 1:
        better = math.ceil(step * settings.interpolate)
        warnings.append(
            f'its frame rate is low for its speed: fast parts move by {step:.1f} pixels from one averaged frame to the '
            f'next, and will show as several copies. Film at a higher rate, or add --interpolate {min(better, 64)}'
        )
    if len(longest.weights) == 1:
        warnings.append('the shutter is open for one frame alone, so blurry frames are the sharp ones')
    if longest.exposure > longest.stride:
        warnings.append(
            f'the shutter is open for {longest.exposure:g} frames, but opens every {longest.stride}: longer than any '
            'camera can at this rate'
        )
    short = [plan for plan in video.plans if plan.split == 'train' and len(plan.centres) < CLIP_LENGTH]
    if short:
        warnings.append(
            f'{counted(len(short), "clip")} for training with fewer than {CLIP_LENGTH} pairs, which is what the '
            f'options files take at once (num_frame). Lower that, or leave such clips out: --min-pairs {CLIP_LENGTH}'
        )
    return warnings


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
        raise PrepError(
            f'{foreign[0]} exists already and was not made by this command. Move it away, or choose another folder '
            'with -o'
        )
    # A clip of the same video that would not be made today would stand beside the others as if it belonged to them.
    stale = [
        path for path, record in there.items() if path not in done and (path in planned or record['video'] in names)
    ]
    if stale and not overwrite:
        more = f' and {len(stale) - 1} more' if len(stale) > 1 else ''
        raise PrepError(
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
        plan.label: _begin_clip(_partial(output, plan), record, settings)
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
                _finish_clip(plan, output, settings, preview)


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
        for folder, image in zip(_folders(settings), (blurry, sharp), strict=True):
            _write_png(_partial(output, plan) / folder / _file_name(number), image)

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
                raise PrepError(f'{video.footage.path} was changed while it was read: run the same command again')
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


# Files


def _partial(output: Path, plan: ClipPlan) -> Path:
    return output / plan.split / f'.{plan.name}{PARTIAL_SUFFIX}'


def _file_name(number: int) -> str:
    return f'{number:06d}.png'


def _folders(settings: Settings) -> tuple[str, str]:
    """Where a clip's blurry and sharp frames are written. H.264 needs all blurry ones before it can code the first."""
    return ('blur' if settings.h264 is None else 'blur.plain'), 'sharp'


def _begin_clip(partial: Path, record: dict[str, Any], settings: Settings) -> set[int]:
    """Make a clip's folders, or find which of its pairs are there."""
    folders = [partial / name for name in _folders(settings)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    if not (partial / RECORD).exists():
        write_text(partial / RECORD, record_text({**record, 'versions': _versions()}))
    numbers = [pair['number'] for pair in record['pairs']]
    return {number for number in numbers if all(_is_whole(folder / _file_name(number)) for folder in folders)}


def _is_whole(path: Path) -> bool:
    try:
        data = path.read_bytes()
        check_structure(data)
    except (OSError, ValueError):
        return False
    return data.startswith(PNG)  # other kinds of files have passed the check


def _read(path: Path) -> Image:
    import cv2

    image = cv2.imread(str(path))
    if image is None:
        raise PrepError(f'{path} was changed while it was in use: run the same command again')
    return image


def _write_png(path: Path, image: Image) -> None:
    import cv2

    data = cv2.imencode('.png', image, (cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL))[1]
    temporary = path.with_name(f'.{path.name}.tmp')
    temporary.write_bytes(data.tobytes())
    os.replace(temporary, path)


def _finish_clip(plan: ClipPlan, output: Path, settings: Settings, preview: bool) -> None:
    """What concerns a clip as a whole, and its name."""
    partial = _partial(output, plan)
    names = [_file_name(number) for number in range(1, len(plan.centres) + 1)]
    if settings.h264 is not None:
        _code(partial, names, settings.h264)
    for temporary in partial.glob('*/.*.tmp'):
        temporary.unlink()
    if preview:
        _write_preview(partial, names)
    partial.rename(output / plan.split / plan.name)


def _code(partial: Path, names: Sequence[str], crf: int) -> None:
    """Write what H.264 leaves of the blurry frames, and remove these. An interruption at any point costs time alone."""
    plain, coded = partial / 'blur.plain', partial / 'blur'
    shutil.rmtree(coded, ignore_errors=True)
    coded.mkdir()
    pictures = (_read(plain / name) for name in names)
    for name, picture in zip(names, h264_round_trip(pictures, crf), strict=True):
        _write_png(coded / name, picture)
    shutil.rmtree(plain)


def _write_preview(partial: Path, names: Sequence[str]) -> None:
    """Some pairs, blurry on the left and sharp on the right."""
    import cv2
    import numpy as np

    count = min(_PREVIEW_ROWS, len(names))
    chosen = [names[(2 * i + 1) * len(names) // (2 * count)] for i in range(count)]
    rows = []
    for name in chosen:
        sides = [_read(partial / side / name) for side in ('blur', 'sharp')]
        factor = min(1.0, _PREVIEW_WIDTH / sides[0].shape[1])
        small = [cv2.resize(side, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) for side in sides]
        rows.append(np.hstack(small))
    data = cv2.imencode('.jpg', np.vstack(rows))[1]
    temporary = partial / f'.{PREVIEW}.tmp'
    temporary.write_bytes(data.tobytes())
    os.replace(temporary, partial / PREVIEW)


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


def _versions() -> dict[str, str]:
    import cv2

    versions = {'opencv': cv2.__version__}
    for name in ('dstnet-arch', 'numpy', 'mmcv-lite', 'av'):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


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

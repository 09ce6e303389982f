"""What is to be known of all footage before pairs are made of it: its split, its shots, and what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.lmdb_writer import write_text
from data_prep.synthesize_analysis import Analysis, analyse, repeated_share
from data_prep.synthesize_footage import Footage, clip_name, open_footage, size_text
from data_prep.synthesize_plan import ClipPlan, Settings, describe, plan_clips
from dstnet_arch.errors import DataError, Problems, counted

ANALYSES = '.analysis'
"""Folder in the output with what is known of each video, so that a second run need not look again."""
GHOST_STEP = 2.0
"""Pixels from one averaged frame to the next beyond which edges show as several copies."""
REPEATED_SHARE = 0.1
"""Share of repeated frames beyond which a video counts as converted from a lower rate."""
CLIP_LENGTH = 15
"""Frames that training takes at once by default; a warning is given of shorter clips."""


@dataclass(frozen=True)
class Video:
    """Footage with all that is known of it, and the clips to make of it."""

    footage: Footage
    digest: str
    analysis: Analysis
    plans: Sequence[ClipPlan]
    records: Sequence[dict[str, Any]]


def assign_splits(names: Sequence[str], test: Sequence[str], train_share: float | None, seed: int) -> dict[str, str]:
    """Which videos are for training and which for testing; whole videos, so that no test scene was trained on.

    Raises:
        DataError: `test` names a video that is not there.
    """
    wanted = {name if name in names else clip_name(Path(name)) for name in test}
    if unknown := sorted(wanted - set(names)):
        raise DataError(f'--test {unknown[0]}: there is no such video; there are {", ".join(sorted(names))}')
    if train_share is not None:
        ranked = sorted(names, key=lambda name: hashlib.sha256(f'{seed}/{name}'.encode()).digest())
        # Both parts get a video, unless one is to be empty.
        count = round(train_share * len(names))
        if len(names) > 1:
            count = min(max(count, math.ceil(train_share)), len(names) - math.ceil(1 - train_share))
        wanted = set(ranked[count:])
    return {name: 'test' if name in wanted else 'train' for name in names}


def open_all(videos: Sequence[Path]) -> list[Footage]:
    """Open videos and folders of frames.

    Raises:
        DataError: with everything that cannot be used, or two would have the same name.
    """
    problems = Problems()
    footages: dict[str, Footage] = {}
    for path in videos:
        try:
            footage = open_footage(path)
        except DataError as error:
            problems.add(str(error))
            continue
        except OSError as error:
            problems.add(f'{path}: {error.strerror or error}')
            continue
        if footage.name in footages:
            problems.add(f'{footages[footage.name].path} and {path} would both become {footage.name}: rename one')
        footages[footage.name] = footage
    if len(problems) == 1:
        raise DataError(problems.found[0])
    problems.raise_if_any(f'{len(problems)} of {len(videos)} videos cannot be used', 'Nothing was written.')
    return list(footages.values())


def look_at_all(footages: Sequence[Footage], splits: dict[str, str], settings: Settings, output: Path) -> list[Video]:
    """Read all footage once, print what is found, and plan the clips.

    Args:
        footages: What was opened.
        splits: Name of the footage -> 'train' or 'test'.
        settings: How pairs are made.
        output: Folder in which what is found is kept, in `ANALYSES`.

    Raises:
        DataError: with everything that cannot be used, or two clips would have the same name.
    """
    problems = Problems()
    found = []
    for footage in footages:
        try:
            found.append(_look_at(footage, splits[footage.name], settings, output))
        except DataError as error:
            problems.add(str(error))
    if len(problems) == 1:
        raise DataError(problems.found[0])
    problems.raise_if_any(f'{len(problems)} of {len(footages)} videos cannot be used', 'No clip was written.')
    taken: dict[str, str] = {}
    for video in found:
        for plan in video.plans:
            if plan.name in taken:
                raise DataError(f'{taken[plan.name]} and {plan.video} would both have a clip {plan.name}: rename one')
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
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
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

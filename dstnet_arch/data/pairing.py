"""Opening blurry frames and their ground truth, and finding what does not fit together before work starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from dstnet_arch.data.frame_source import FrameSource, name_some, open_source, size_text
from dstnet_arch.data.lmdb_format import natural_key
from dstnet_arch.errors import DataError, OptionsError

_MAX_LINES = 40


def open_sources(opt: Mapping[str, Any], gt_required: bool) -> tuple[FrameSource, FrameSource | None]:
    """Open `dataroot_lq` and `dataroot_gt` with the backend `io_backend.type` (default: auto).

    Raises:
        OptionsError: a data root is not given, or the backend is unknown.
        DataError: what cannot be opened, with the option's name; both where both fail.
    """
    backend = (opt.get('io_backend') or {}).get('type', 'auto')
    sources: dict[str, FrameSource | None] = {}
    problems = []
    for key, required in (('dataroot_lq', True), ('dataroot_gt', gt_required)):
        sources[key] = None
        if opt.get(key) is None:
            if required:
                raise OptionsError(f'{_name(opt)} needs {key}: an LMDB folder, or a folder of folders of frames.')
            continue
        try:
            sources[key] = open_source(opt[key], backend)
        except DataError as error:
            problems.append(f'{key}: {error}')
    raise_problems(opt, problems)
    lq = sources['dataroot_lq']
    assert lq is not None  # for type checkers: it was required
    return lq, sources['dataroot_gt']


def find_problems(lq: FrameSource, gt: FrameSource | None, smallest_side: int = 1) -> list[str]:
    """Missing partners both ways, unreadable headers, sizes that differ within a clip or between lq and gt, and frames
    with a side of less than `smallest_side`.
    """
    problems = _find_missing_partners(lq, gt) if gt else []
    total = sum(map(len, lq.clips.values()))
    # Headers of files on a slow disk take their time; those of an LMDB are there already.
    with tqdm(total=total, desc=f'Checking {lq.root}', unit=' frames', delay=2, leave=False, disable=None) as progress:
        for clip, frames in lq.clips.items():
            sizes = _find_sizes(lq, clip, problems)
            for size in sizes:
                if min(size) < smallest_side:
                    problems.append(
                        f'clip {clip} is {size_text(size)}, smaller than the crop of {smallest_side}x{smallest_side}. '
                        'Remove it, or lower gt_size'
                    )
            if gt and clip in gt.clips:
                gt_sizes = _find_sizes(gt, clip, problems)
                if len(sizes) == len(gt_sizes) == 1 and sizes != gt_sizes:
                    sides = size_text(sizes.pop()), size_text(gt_sizes.pop())
                    problems.append(f'clip {clip} is {sides[0]} in lq, but {sides[1]} in gt')
            progress.update(len(frames))
    return problems


def raise_problems(opt: Mapping[str, Any], problems: list[str]) -> None:
    """Raise DataError with all the problems, where there are any."""
    if not problems:
        return
    lines = problems[:_MAX_LINES]
    if len(problems) > _MAX_LINES:
        lines.append(f'... and {len(problems) - _MAX_LINES} problems more')
    lines += [f'{key}: {opt[key]}' for key in ('dataroot_lq', 'dataroot_gt') if opt.get(key)]
    raise DataError('\n- '.join([f'{_name(opt)} cannot use its data:', *lines]))


def _find_missing_partners(lq: FrameSource, gt: FrameSource) -> list[str]:
    problems = []
    both_ways = ('in lq but not in gt', lq.clips, gt.clips), ('in gt but not in lq', gt.clips, lq.clips)
    for text, here, there in both_ways:
        if clips := [clip for clip in here if clip not in there]:
            problems.append(f'{text}: {_count(clips, "clip")}')
    for clip in (clip for clip in lq.clips if clip in gt.clips):
        for text, here, there in both_ways:
            if frames := sorted(set(here[clip]).difference(there[clip]), key=natural_key):
                problems.append(f'clip {clip}: {text}: {_count(frames, "frame")}')
    return problems


def _find_sizes(source: FrameSource, clip: str, problems: list[str]) -> set[tuple[int, int]]:
    first_frame: dict[tuple[int, int], str] = {}
    counts: Counter[tuple[int, int]] = Counter()
    for frame in source.clips[clip]:
        try:
            size = source.shape(clip, frame)
        except DataError as error:
            problems.append(str(error))
            continue
        first_frame.setdefault(size, frame)
        counts[size] += 1
    if len(counts) > 1:
        listed = (f'{size_text(size)} ({number} from {first_frame[size]})' for size, number in counts.most_common())
        problems.append(f'clip {clip} of {source.root} mixes sizes: {", ".join(listed)}')
    return set(counts)


def _count(names: list[str], what: str) -> str:
    return f'{len(names)} {what}{"s" if len(names) > 1 else ""} ({name_some(names)})'


def _name(opt: Mapping[str, Any]) -> str:
    return f'data set {opt["name"]}' if opt.get('name') else 'the data set'

"""Opening blurry frames and their ground truth, and checking that they fit together before a run starts."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dstnet_arch.data.folder_layouts import DEFAULT_BLUR, Layout, blur_variants, find_layout
from dstnet_arch.data.frame_source import FolderSource, FrameSource, is_lmdb, name_some, open_source, size_text
from dstnet_arch.data.lmdb_format import natural_key
from dstnet_arch.errors import DataError, OptionsError, counted
from dstnet_arch.progress import Progress

_MAX_LINES = 40
_LOGGER = logging.getLogger('basicsr')  # the logger of stock BasicSR's runs
_ROOTS = {'lq': 'dataroot_lq', 'gt': 'dataroot_gt'}


def open_sources(opt: Mapping[str, Any], gt_required: bool, phase: str) -> tuple[FrameSource, FrameSource | None]:
    """Open `dataroot_lq` and `dataroot_gt` with the backend `io_backend.type` (default: auto).

    Both roots may name one folder that contains blurry and sharp frames, see `dstnet_arch.data.folder_layouts`.

    Args:
        opt: the data set's options.
        gt_required: True if `dataroot_gt` must be given.
        phase: which part of the data set to read if `opt` has no `phase` and folders divide it.

    Raises:
        OptionsError: a data root is missing, or the backend or `blur` is wrong.
        DataError: roots cannot be opened; the message names the options.
    """
    backend = (opt.get('io_backend') or {}).get('type', 'auto')
    phase = opt.get('phase') or phase
    blur = opt.get('blur', DEFAULT_BLUR)
    if not isinstance(blur, str) or not blur:
        raise OptionsError(f'blur is {blur!r}, expected the name of a folder, such as blur or blur_gamma.')
    roots = {}
    for side, key in _ROOTS.items():
        if opt.get(key) is not None:
            roots[side] = os.path.expanduser(opt[key])
        elif side == 'lq' or gt_required:
            raise OptionsError(
                f'{_name(opt)} needs {key}: an LMDB folder, a folder <clip>/<frame>.png, or a folder that contains '
                'blurry and sharp frames.'
            )
    same = len(roots) == 2 and len({os.path.realpath(root) for root in roots.values()}) == 1
    sources: dict[str, FrameSource] = {}
    problems = []
    for side, root in roots.items():
        try:
            layout = None if is_lmdb(root, backend) else find_layout(Path(root), phase, blur)
            folders = {} if layout is None else layout.lq if side == 'lq' else layout.gt
            if layout is not None and not folders:
                raise DataError(_missing_side(root, side, layout, blur))
            if layout is None and same:
                raise DataError(
                    f'{root} is given for both dataroot_lq and dataroot_gt, but it contains no folders of blurry and '
                    f'sharp frames, such as {phase}/<clip>/blur and {phase}/<clip>/sharp, or <clip>/blur and '
                    '<clip>/sharp. Give the folder of the sharp frames as dataroot_gt.'
                )
            if layout is None and side == 'lq' and blur != DEFAULT_BLUR:
                _LOGGER.warning('%s: blur: %s has no effect, %s contains no such folders.', _name(opt), blur, root)
            if layout is None:
                sources[side] = open_source(root, backend)
            else:
                sources[side] = FolderSource(root, folders)
                _log_layout(opt, side, folders, layout)
        except DataError as error:
            problems.append(f'{_ROOTS[side]}: {error}')
    raise_problems(opt, problems)
    return sources['lq'], sources.get('gt')


def find_problems(lq: FrameSource, gt: FrameSource | None, smallest_side: int = 1) -> list[str]:
    """Find missing partners, unreadable headers, sizes that differ and frames with a side below `smallest_side`."""
    problems = _find_missing_partners(lq, gt) if gt else []
    with Progress(sum(map(len, lq.clips.values())), 'frame', f'Checking {lq.root}') as progress:
        for clip, frames in lq.clips.items():
            sizes = _find_sizes(lq, clip, problems)
            for size in sizes:
                if min(size) < smallest_side:
                    problems.append(
                        f'clip {clip} is {size_text(size)}, smaller than the crop of {smallest_side}x{smallest_side}. '
                        'Remove the clip, or lower gt_size'
                    )
            if gt and clip in gt.clips:
                gt_sizes = _find_sizes(gt, clip, problems)
                if len(sizes) == len(gt_sizes) == 1 and sizes != gt_sizes:
                    sides = size_text(sizes.pop()), size_text(gt_sizes.pop())
                    problems.append(f'clip {clip} is {sides[0]} in lq, but {sides[1]} in gt')
            progress.update(len(frames))
    return problems


def find_bit_depth(opt: Mapping[str, Any], *sources: FrameSource | None) -> int:
    """Return the bits per sample of a data set, 8 or 16: the largest of its sources.

    Raises:
        DataError: the first frame of a clip is not a readable image.
    """
    try:
        return max(source.bit_depth() for source in sources if source is not None)
    except DataError as error:
        raise_problems(opt, [str(error)])
        raise


def raise_problems(opt: Mapping[str, Any], problems: list[str]) -> None:
    """Raise DataError with all problems, if there are any."""
    if not problems:
        return
    lines = problems[:_MAX_LINES]
    if len(problems) > _MAX_LINES:
        lines.append(f'... and {len(problems) - _MAX_LINES} more problems')
    lines += [f'{key}: {opt[key]}' for key in _ROOTS.values() if opt.get(key)]
    raise DataError('\n- '.join([f'{_name(opt)} cannot be used:', *lines]))


def _missing_side(root: str, side: str, layout: Layout, blur: str) -> str:
    example = next(iter((layout.gt if side == 'lq' else layout.lq).values()))
    if side == 'gt':
        return f'{root} contains {example.relative_to(root)}, but no folder sharp, target or gt beside it.'
    variants = blur_variants(layout)
    hint = f' It contains {" and ".join(variants)}: set `blur: {variants[0]}` in the data set.' if variants else ''
    names = 'blur or input' if blur == DEFAULT_BLUR else blur
    return f'{root} contains {example.relative_to(root)}, but no folder {names} beside it.{hint}'


def _log_layout(opt: Mapping[str, Any], side: str, folders: Mapping[str, Path], layout: Layout) -> None:
    example = next(iter(folders.values()))
    text = f'{_name(opt)}: {_ROOTS[side]} read from {counted(len(folders), "folder")} such as {example}'
    others = [name for name in blur_variants(layout) if name != example.name] if side == 'lq' else []
    if others:
        text += f' (also there: {", ".join(others)}; choose with the key blur)'
    _LOGGER.info('%s.', text)


def _find_missing_partners(lq: FrameSource, gt: FrameSource) -> list[str]:
    problems = []
    both_ways = ('in lq but not in gt', lq.clips, gt.clips), ('in gt but not in lq', gt.clips, lq.clips)
    for text, here, there in both_ways:
        if clips := [clip for clip in here if clip not in there]:
            problems.append(f'{text}: {counted(len(clips), "clip")} ({name_some(clips)})')
    for clip in (clip for clip in lq.clips if clip in gt.clips):
        for text, here, there in both_ways:
            if frames := sorted(set(here[clip]).difference(there[clip]), key=natural_key):
                problems.append(f'clip {clip}: {text}: {counted(len(frames), "frame")} ({name_some(frames)})')
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


def _name(opt: Mapping[str, Any]) -> str:
    return f'data set {opt["name"]}' if opt.get('name') else 'the data set'

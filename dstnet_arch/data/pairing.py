"""Opening blurry frames and their ground truth, and checking that they fit together before a run starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dstnet_arch.data.folder_layouts import DEFAULT_BLUR, ClipKey, find_layout, image_files, subfolders
from dstnet_arch.data.frame_source import FolderSource, FrameSource, is_lmdb, name_some, open_source, size_text
from dstnet_arch.data.lmdb_format import natural_key
from dstnet_arch.errors import DataError, OptionsError, Problems, counted
from dstnet_arch.progress import Progress

_LOGGER = logging.getLogger('basicsr')  # the logger of stock BasicSR's runs
_ROOTS = {'lq': 'dataroot_lq', 'gt': 'dataroot_gt'}
_SPLITS = {'val': ('', 'val', 'valid', 'test')}
_MAX_THREADS = 16  # for reading headers


def open_sources(opt: Mapping[str, Any], gt_required: bool, phase: str) -> tuple[FrameSource, FrameSource | None]:
    """Open `dataroot_lq` and `dataroot_gt`, which may be one folder, see `dstnet_arch.data.folder_layouts`.

    Args:
        opt: the data set's options.
        gt_required: True if `dataroot_gt` must be given.
        phase: which part of the data set to read if `opt` has no `phase` and folders divide it.

    Raises:
        OptionsError: a data root is missing, or the backend is unknown.
        DataError: roots cannot be opened; the message names the options.
    """
    roots = {side: os.path.expanduser(opt[key]) for side, key in _ROOTS.items() if opt.get(key)}
    for side in ('lq', 'gt') if gt_required else ('lq',):
        if side not in roots:
            raise OptionsError(f'{_name(opt)} needs {_ROOTS[side]}: an LMDB folder or a folder of clips.')
    same = len(roots) == 2 and len({os.path.realpath(root) for root in roots.values()}) == 1
    sources: dict[str, FrameSource] = {}
    problems = Problems()
    for side, root in roots.items():
        try:
            sources[side] = _open_side(opt, side, root, opt.get('phase') or phase, plain_allowed=not same)
        except DataError as error:
            problems.add(f'{_ROOTS[side]}: {error}')
    raise_problems(opt, problems)
    return sources['lq'], sources.get('gt')


def find_problems(lq: FrameSource, gt: FrameSource | None, smallest_side: int = 1) -> Problems:
    """Find missing partners, unreadable headers, sizes that differ within a clip or from the partner's, small frames.

    Args:
        lq: the blurry frames.
        gt: the sharp frames; None if there are none.
        smallest_side: least height and width in pixels.
    """
    problems = Problems()
    if gt:
        _find_missing_partners('sharp', lq, gt, problems)
        _find_missing_partners('blurry', gt, lq, problems)
    total = sum(map(len, lq.clips.values()))
    with ThreadPoolExecutor(_MAX_THREADS) as pool, Progress(total, 'frame', f'checking {lq.root}') as progress:
        for clip, frames in lq.clips.items():
            sizes = _find_sizes(lq, clip, problems, pool)
            for size in sizes:
                if min(size) < smallest_side:
                    problems.add(
                        f'clip {clip} is {size_text(size)}, smaller than the crop of {smallest_side}x{smallest_side}. '
                        'Remove the clip, or lower gt_size'
                    )
            gt_sizes = _find_sizes(gt, clip, problems, pool) if gt and clip in gt.clips else sizes
            if len(sizes) == len(gt_sizes) == 1 and sizes != gt_sizes:
                problems.add(f'clip {clip} is {size_text(*sizes)}, but its sharp frames are {size_text(*gt_sizes)}')
            progress.update(len(frames))
    return problems


def raise_problems(opt: Mapping[str, Any], problems: Problems) -> None:
    """Raise DataError with the problems and the data roots, if there are problems."""
    roots = '\n'.join(f'{key}: {opt[key]}' for key in _ROOTS.values() if opt.get(key))
    problems.raise_if_any(f'{_name(opt)} cannot be used', roots)


def _open_side(opt: Mapping[str, Any], side: str, root: str, phase: str, plain_allowed: bool) -> FrameSource:
    """Open one of the two roots: as an LMDB, by a known layout, or as `<clip>/<frame>.png`."""
    backend = (opt.get('io_backend') or {}).get('type', 'auto')
    blur = opt.get('blur') or DEFAULT_BLUR
    folders: dict[ClipKey, Path] = {}
    plain = is_lmdb(root, backend)
    if not plain:
        layout = find_layout(Path(root), blur)
        folders = layout.blur if side == 'lq' else layout.sharp
        found = layout.blur or layout.sharp
        plain = not found or (not layout.num_pairs and any(map(image_files, subfolders(Path(root)))))
    if plain and plain_allowed:
        if side == 'lq' and blur != DEFAULT_BLUR:
            _LOGGER.warning('%s: blur: %s has no effect, %s contains no such folders.', _name(opt), blur, root)
        return open_source(root, backend)
    for split in _SPLITS.get(phase, ('', phase)):
        if chosen := {key.clip: folder for key, folder in folders.items() if key.split == split}:
            example = next(iter(chosen.values()))
            number = counted(len(chosen), 'folder')
            _LOGGER.info('%s: %s read from %s such as %s.', _name(opt), _ROOTS[side], number, example)
            return FolderSource(root, chosen)
    if plain:
        raise DataError(
            f'{root} is given for both dataroot_lq and dataroot_gt, but has no folders of blurry and sharp frames, '
            f'such as {phase}/<clip>/{blur} and {phase}/<clip>/sharp. Give the folder of sharp frames as dataroot_gt.'
        )
    names = 'sharp, target or gt' if side == 'gt' else 'blur or input' if blur == DEFAULT_BLUR else blur
    hint = ' For other blurry frames, set the key blur, for example to blur_gamma.' if names == 'blur or input' else ''
    raise DataError(f'{root} contains no frames for {phase} in a folder {names}.{hint}')


def _find_missing_partners(kind: str, here: FrameSource, there: FrameSource, problems: Problems) -> None:
    """Add the clips and frames `here` that have no partner of this kind `there`."""
    if clips := [clip for clip in here.clips if clip not in there.clips]:
        problems.add(f'{counted(len(clips), "clip")} without {kind} frames: {name_some(clips)}')
    for clip in (clip for clip in here.clips if clip in there.clips):
        if frames := sorted(set(here.clips[clip]).difference(there.clips[clip]), key=natural_key):
            problems.add(f'clip {clip}: {counted(len(frames), "frame")} without a {kind} partner: {name_some(frames)}')


def _find_sizes(source: FrameSource, clip: str, problems: Problems, pool: ThreadPoolExecutor) -> set[tuple[int, int]]:
    def size_or_error(frame: str) -> tuple[int, int] | DataError:
        try:
            return source.shape(clip, frame)
        except DataError as error:
            return error

    first_frame: dict[tuple[int, int], str] = {}
    for frame, size in zip(source.clips[clip], pool.map(size_or_error, source.clips[clip]), strict=True):
        if isinstance(size, DataError):
            problems.add(str(size))
        else:
            first_frame.setdefault(size, frame)
    if len(first_frame) > 1:
        listed = ', '.join(f'{size_text(size)} from {frame}' for size, frame in first_frame.items())
        problems.add(f'clip {clip} of {source.root} mixes sizes: {listed}')
    return set(first_frame)


def _name(opt: Mapping[str, Any]) -> str:
    return f'data set {opt["name"]}' if opt.get('name') else 'the data set'

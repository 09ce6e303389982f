"""Layouts of folders in which one folder contains both the blurry frames and their ground truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dstnet_arch.data.frame_source import image_files, subfolders

DEFAULT_BLUR = 'blur'
_LQ_NAMES = (DEFAULT_BLUR, 'input')
_GT_NAMES = ('sharp', 'target', 'gt')
# {side} is a folder of blurry or sharp frames. Names are compared without regard to case.
_PATTERNS = (
    '{phase}/{side}',
    '{clip}/{side}',
    '{phase}/{clip}/{side}',
    '{side}/{clip}',
    '{phase}/{side}/{clip}',
    '{side}',
)
_PHASES = {'val': ('val', 'valid', 'test')}


@dataclass(frozen=True)
class Layout:
    """Folders of the blurry and of the sharp frames by clip; one of the two may be empty."""

    lq: dict[str, Path]
    gt: dict[str, Path]


def find_layout(root: Path, phase: str, blur: str = DEFAULT_BLUR) -> Layout | None:
    """Find the clips of a folder that contains folders of blurry and of sharp frames.

    Args:
        root: the folder.
        phase: 'train', 'val' or 'test': which part of the data set to use if folders divide it.
        blur: name of the folders of blurry frames; for the default, `input` is accepted as well.

    Returns:
        The first known layout with blurry and sharp frames. If there is none, a layout with frames of one kind, or None
        if `root` contains plain `<clip>/<frame>` or no frames.

    Raises:
        DataError: a folder cannot be listed.
    """
    lq_names = _LQ_NAMES if blur == DEFAULT_BLUR else (blur.casefold(),)
    layouts = []
    for pattern in _PATTERNS:
        lq, gt = (dict(_expand(root, pattern.split('/'), phase, names, None)) for names in (lq_names, _GT_NAMES))
        if lq and gt:
            return Layout(lq, gt)
        if lq or gt:
            layouts.append(Layout(lq, gt))
    plain = any(image_files(folder) for folder in subfolders(root))
    return None if plain or not layouts else layouts[0]


def blur_variants(layout: Layout) -> list[str]:
    """Return the names that `blur` can have: `blur` and those that begin with it, beside the frames of a layout."""
    parents = {folder.parent for folder in (*layout.lq.values(), *layout.gt.values())}
    names = {child.name for parent in parents for child in subfolders(parent)}
    return sorted(name for name in names if name.casefold().startswith(DEFAULT_BLUR))


def _expand(
    folder: Path, parts: list[str], phase: str, side_names: tuple[str, ...], clip: str | None
) -> Iterator[tuple[str, Path]]:
    """Yield (clip, folder) for every folder of images that matches the rest of a pattern."""
    if not parts:
        if image_files(folder):
            yield str(clip), folder
        return
    children = subfolders(folder)
    if parts[0] == '{clip}':
        for child in children:
            yield from _expand(child, parts[1:], phase, side_names, child.name)
        return
    names = side_names if parts[0] == '{side}' else _PHASES.get(phase, (phase,))
    by_name = {child.name.casefold(): child for child in children}
    match = next((by_name[name] for name in names if name in by_name), None)
    if match is not None:
        yield from _expand(match, parts[1:], phase, side_names, clip or folder.absolute().name)

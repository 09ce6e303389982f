"""Search for pairs of folders of blurry and of sharp frames in a data set as distributed or re-arranged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dstnet_arch.data.lmdb_format import IMAGE_EXTENSIONS, natural_key
from dstnet_arch.errors import DataError

DEFAULT_BLUR = 'blur'
BLUR_NAMES = (DEFAULT_BLUR, 'input')
SHARP_NAMES = ('sharp', 'target', 'gt')
SPLITS = ('train', 'val', 'valid', 'test')
PATTERNS = (
    '{split}/{clip}/{side}',
    '{split}/{side}/{clip}',
    '{split}/{clip}/{side}/RGB',
    '{clip}/{side}',
    '{clip}/{side}/RGB',
    '{side}/{clip}',
    '{split}/{side}',
    '{side}',
)
"""Paths of folders of images; {side} is a name of a side. Names are compared without regard to case."""


class ClipKey(NamedTuple):
    """A clip; `split` is empty if no folder says it."""

    split: str
    clip: str


class Layout(NamedTuple):
    """Folders of the blurry and of the sharp frames by clip, both in natural order."""

    blur: dict[ClipKey, Path]
    sharp: dict[ClipKey, Path]

    @property
    def num_pairs(self) -> int:
        """Number of clips with both folders."""
        return len(self.blur.keys() & self.sharp.keys())


def find_layout(root: Path, blur: str = DEFAULT_BLUR) -> Layout:
    """Find the clips in a folder that contains folders of blurry and of sharp frames.

    Args:
        root: the folder.
        blur: name of the folders of blurry frames; for the default, `input` is accepted as well.

    Returns:
        The layout with most pairs. If `root` has none and a single folder, as of an archive that was unpacked into a
        folder of the same name, that one is searched. Both sides are empty if there are no folders of the known names.

    Raises:
        DataError: a folder cannot be listed.
    """
    blur_names = BLUR_NAMES if blur == DEFAULT_BLUR else (blur.casefold(),)
    layouts = [
        Layout(*(dict(_expand(root, pattern.split('/'), names)) for names in (blur_names, SHARP_NAMES)))
        for pattern in PATTERNS
    ]
    found = max(layouts, key=lambda layout: (layout.num_pairs, len(layout.blur) + len(layout.sharp)))
    inside = subfolders(root)
    return found if found.blur or found.sharp or len(inside) != 1 else find_layout(inside[0], blur)


def _expand(
    folder: Path, parts: list[str], side_names: tuple[str, ...], split: str = '', clip: str = ''
) -> Iterator[tuple[ClipKey, Path]]:
    """Yield every folder of images that matches the rest of a pattern."""
    if not parts:
        if image_files(folder):
            yield ClipKey(split, clip), folder
        return
    part, rest = parts[0], parts[1:]
    children = subfolders(folder)
    by_name = {child.name.casefold(): child for child in children}
    if part == '{clip}':
        for child in children:
            if child.name.casefold() not in SPLITS:
                yield from _expand(child, rest, side_names, split, child.name)
    elif part == '{split}':
        for name in SPLITS:
            if name in by_name:
                yield from _expand(by_name[name], rest, side_names, name)
    else:
        names = side_names if part == '{side}' else (part.casefold(),)
        match = next((by_name[name] for name in names if name in by_name), None)
        if match is not None:
            yield from _expand(match, rest, side_names, split, clip or folder.absolute().name)


def subfolders(folder: Path) -> list[Path]:
    """Return the visible folders in `folder`, in natural order. Raises DataError if it cannot be listed."""
    return [folder / name for name in _visible(folder, folders=True)]


def image_files(folder: Path) -> list[Path]:
    """Return the visible image files in `folder`, in natural order. Raises DataError if it cannot be listed."""
    names = _visible(folder, folders=False)
    return [folder / name for name in names if name.lower().endswith(IMAGE_EXTENSIONS)]


def _visible(folder: Path, folders: bool) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            # Archives made on macOS hold a second tree of hidden files.
            hidden = ('.', '__MACOSX')
            names = [entry.name for entry in entries if entry.is_dir() == folders and not entry.name.startswith(hidden)]
    except OSError as error:
        raise DataError(f'{folder} cannot be listed: {error}') from None
    return sorted(names, key=natural_key)

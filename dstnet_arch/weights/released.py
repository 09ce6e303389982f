"""The released files and their identification."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

REPOSITORY = 'https://github.com/xuboming8/DSTNet'

SOURCES = (f'{REPOSITORY}/raw/d42c1e3/experiments', f'{REPOSITORY}/raw/main/experiments')
"""Folders of the files: the commit that the ids below are from, and the newest one in case it disappears."""

_LFS_VERSION = b'version https://git-lfs.github.com/spec/v1\n'
_CHUNK = 2**20


@dataclass(frozen=True)
class Released:
    """A released file."""

    name: str
    """Name on the command line."""
    file: str
    """File name in the authors' repository."""
    blob_id: str
    """Git's id of the file: SHA-1 of ``blob <size>\\0`` and the content."""
    network: str
    """Network, as the paper calls it."""
    num_values: int
    """Number of values in its tensors, including 1,024 of frozen Haar filters."""
    psnr: float
    """Mean PSNR in dB on the test set, quoted from the paper."""
    table: str
    """Table of the paper."""


_BASE, _LARGE = 7_450_819, 16_965_027

RELEASED = (
    Released('GoPro', 'GOPRO.pth', '11e52c76f3b5a190e45e0e638008100d876535fe', 'DSTNet', _BASE, 34.16, 'Table 1'),
    Released(
        'GoPro-L', 'GOPRO_Large.pth', 'ba5179ba5e9d2b37cb4d81afffcba187d3d037b4', 'DSTNet-L', _LARGE, 35.05, 'Table 1'
    ),
    Released('DVD', 'DVD.pth', 'f2e15877fb78c13ca8a8fddc46bd13ca4309deaf', 'DSTNet', _BASE, 33.79, 'Table 2'),
    Released('BSD', 'BSD.pth', '1dd35d47707671e20b2db6e9d0db72503b621a32', 'DSTNet', _BASE, 34.45, 'Table 3'),
)


def find_released(name: str) -> Released | None:
    """Find released weights by name or file stem (GOPRO_Large), ignoring case and ``_`` or ``-``."""
    wanted = _plain(name)
    return next((r for r in RELEASED if wanted in (_plain(r.name), _plain(Path(r.file).stem))), None)


def names() -> str:
    """List all names, for messages."""
    return ', '.join(r.name for r in RELEASED)


def suggestion(name: str) -> str:
    """Return ' Did you mean …?' for a misspelt name, or an empty string."""
    by_name = {_plain(r.name): r.name for r in RELEASED}
    near = get_close_matches(_plain(name), by_name, 1, 0.5)
    return f' Did you mean {by_name[near[0]]}?' if near else ''


def git_ids(path: Path) -> tuple[str, str]:
    """Return the git blob ids of the file and of the Git LFS pointer to it.

    The ids in the table do not tell whether the repository stores a file directly or by Git LFS. A pointer contains the
    SHA-256 and the size of the file, so both ids identify it.
    """
    size = path.stat().st_size
    blob = hashlib.sha1(b'blob %d\0' % size, usedforsecurity=False)
    content = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(_CHUNK):
            blob.update(chunk)
            content.update(chunk)
    pointer = _LFS_VERSION + f'oid sha256:{content.hexdigest()}\nsize {size}\n'.encode()
    return blob.hexdigest(), hashlib.sha1(b'blob %d\0' % len(pointer) + pointer, usedforsecurity=False).hexdigest()


def is_lfs_pointer(path: Path) -> bool:
    """Return True if the file is a Git LFS pointer instead of the content."""
    with open(path, 'rb') as file:
        return file.read(len(_LFS_VERSION)) == _LFS_VERSION


def identify(path: Path) -> Released | None:
    """Return the released file that has exactly this content, if any."""
    if is_lfs_pointer(path):
        return None
    ids = git_ids(path)
    return next((r for r in RELEASED if r.blob_id in ids), None)


def _plain(name: str) -> str:
    return name.casefold().replace('_', '-')

"""The files that the authors released, and their identification by content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = 'https://github.com/xuboming8/DSTNet'


@dataclass(frozen=True)
class Released:
    r"""A released file.

    Attributes:
        name: Name on the command line.
        file: File name in the authors' repository.
        blob_id: Git's id of the file: SHA-1 of ``blob <size>\0`` and the content.
        network: Network, as the paper calls it.
    """

    name: str
    file: str
    blob_id: str
    network: str


RELEASED = (
    Released('GoPro', 'GOPRO.pth', '11e52c76f3b5a190e45e0e638008100d876535fe', 'DSTNet'),
    Released('GoPro-L', 'GOPRO_Large.pth', 'ba5179ba5e9d2b37cb4d81afffcba187d3d037b4', 'DSTNet-L'),
    Released('DVD', 'DVD.pth', 'f2e15877fb78c13ca8a8fddc46bd13ca4309deaf', 'DSTNet'),
    Released('BSD', 'BSD.pth', '1dd35d47707671e20b2db6e9d0db72503b621a32', 'DSTNet'),
)


def find_released(name: str) -> Released | None:
    """Return the released weights of this name, ignoring case."""
    return next((r for r in RELEASED if r.name.casefold() == name.casefold()), None)


def names() -> str:
    """Return all names, for messages."""
    return ', '.join(r.name for r in RELEASED)


def git_blob_id(path: Path) -> str:
    """Return Git's id of a file."""
    digest = hashlib.sha1(b'blob %d\0' % path.stat().st_size, usedforsecurity=False)
    with open(path, 'rb') as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def identify(path: Path) -> Released | None:
    """Return the released file that has exactly this content, if any."""
    blob_id = git_blob_id(path)
    return next((r for r in RELEASED if r.blob_id == blob_id), None)

"""The files that the authors have released, and how to tell them from others."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

REPOSITORY = 'https://github.com/xuboming8/DSTNet'

# Where the files are, in the order of trying. The first is the state that the ids below were taken from, and the second
# serves if it has become unreachable: what comes is checked, so it does not matter from where. GitHub leads from here
# to the file itself, also where the repository keeps only a Git LFS pointer to it.
SOURCES = (f'{REPOSITORY}/raw/d42c1e3/experiments', f'{REPOSITORY}/raw/main/experiments')

LFS_VERSION = b'version https://git-lfs.github.com/spec/v1\n'
_CHUNK = 2**20


@dataclass(frozen=True)
class Released:
    """One released file.

    Attributes:
        name: what the command line calls it.
        file: its name in the authors' repository, and here.
        blob_id: the id that Git has for it there: SHA-1 of ``blob <size>\\0`` and the bytes. It tells files apart; it
            is not what makes loading them safe, which is that nothing in them is executed (`read_state_dict`).
        network: the network that it is for, as the paper calls it.
        num_values: how many numbers its tensors hold, the frozen Haar filters included.
        psnr: mean PSNR in dB on the data set's test videos, as the paper has it.
        table: where the paper has it.
    """

    name: str
    file: str
    blob_id: str
    network: str
    num_values: int
    psnr: float
    table: str

    @property
    def approximate_size(self) -> int:
        """Bytes of its values in float32. The authors state no size."""
        return 4 * self.num_values


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
    """The released weights of this name; case and ``_`` for ``-`` do not matter, and the file's name without its
    suffix (GOPRO_Large) will do as well."""
    wanted = _plain(name)
    return next((r for r in RELEASED if wanted in (_plain(r.name), _plain(Path(r.file).stem))), None)


def names() -> str:
    """All names, for messages."""
    return ', '.join(r.name for r in RELEASED)


def nearest(name: str) -> str:
    """A question that offers the name nearest to a wrong one, or nothing."""
    by_name = {_plain(r.name): r.name for r in RELEASED}
    near = get_close_matches(_plain(name), by_name, 1, 0.5)
    return f' Did you mean {by_name[near[0]]}?' if near else ''


def git_blob_id(content: bytes) -> str:
    """The id that ``git hash-object`` gives a file of this content."""
    return hashlib.sha1(b'blob %d\0' % len(content) + content, usedforsecurity=False).hexdigest()


def git_ids(path: Path) -> tuple[str, str]:
    """The two ids under which Git can know a file: of its bytes, and of the Git LFS pointer that stands for them.

    Whether a repository stores a file in the one way or the other cannot be seen from the id alone. A pointer names the
    SHA-256 and the size of the file, so its id vouches for the file just as well.
    """
    size = path.stat().st_size
    blob = hashlib.sha1(b'blob %d\0' % size, usedforsecurity=False)
    content = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(_CHUNK):
            blob.update(chunk)
            content.update(chunk)
    pointer = LFS_VERSION + f'oid sha256:{content.hexdigest()}\nsize {size}\n'.encode()
    return blob.hexdigest(), git_blob_id(pointer)


def is_lfs_pointer(path: Path) -> bool:
    """Whether the file is not the content, but Git LFS's note where that is."""
    with open(path, 'rb') as file:
        return file.read(len(LFS_VERSION)) == LFS_VERSION


def identify(path: Path) -> Released | None:
    """Which of the authors' files `path` holds, byte for byte and whatever its name; None for all other files."""
    if is_lfs_pointer(path):
        return None  # its id can be the known one, and still it is not the file
    ids = git_ids(path)
    return next((r for r in RELEASED if r.blob_id in ids), None)


def _plain(name: str) -> str:
    return name.casefold().replace('_', '-')

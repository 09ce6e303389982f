"""Format of LMDB folders, shared with stock BasicSR and described in docs/data.md.

Needs the standard library only.
"""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import NamedTuple

META_INFO = 'meta_info.txt'
MAX_KEY_BYTES = 511
RAW_EXTENSION = '.ppm'
"""Extension of frames that are stored as pixels."""
IMAGE_EXTENSIONS = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')
"""Extensions of frames in folders, in lower case."""

_META_LINE = re.compile(
    r'(?P<key>[^.]+)(?P<extension>\.[A-Za-z0-9]+) \((?P<shape>[1-9][0-9]{0,8}(,[1-9][0-9]{0,8}){2})\)( [0-9]+)?'
)
_NUMBER = re.compile('([0-9]+)')
_RAW_HEADER = re.compile(rb'P6\n([1-9][0-9]{0,8}) ([1-9][0-9]{0,8})\n(255|65535)\n')
_RAW_HEADER_BYTES = 28  # at most


class MetaEntry(NamedTuple):
    """One line of `meta_info.txt`: key without extension, extension with its dot, (height, width, channels)."""

    key: str
    extension: str
    shape: tuple[int, int, int]

    @property
    def clip(self) -> str:
        """The part of the key before the last slash; empty if there is no slash."""
        return self.key.rpartition('/')[0]

    @property
    def frame(self) -> str:
        """The part of the key after the last slash."""
        return self.key.rpartition('/')[2]


class RawHeader(NamedTuple):
    """Header of a frame that is stored as pixels: its size, its bits per sample, and where its samples start."""

    height: int
    width: int
    bit_depth: int
    start: int

    @property
    def num_bytes(self) -> int:
        """Size of the complete file."""
        return self.start + 3 * self.height * self.width * self.bit_depth // 8


def natural_key(name: str) -> tuple[tuple[object, ...], str]:
    """Sort key that compares numbers within names by value: `frame9` before `frame10`."""
    # Even positions are text, odd ones digits; the name itself orders names that differ only in leading zeros.
    parts = (int(part) if position % 2 else part for position, part in enumerate(_NUMBER.split(name)))
    return tuple(parts), name


def check_key(key: str) -> None:
    """Check that BasicSR and LMDB accept a key and that it stays inside a folder when used as a path.

    Raises:
        ValueError: the key is not allowed.
    """
    if (
        not (key.isascii() and key.isprintable())
        or any(character in key for character in '.\\:')
        or not all(part.strip() for part in key.split('/'))
        or len(key) > MAX_KEY_BYTES
    ):
        raise ValueError(
            f'{key[:60]!r} is not a valid key: keys are <clip>/<frame> in printable ASCII without dots, colons and '
            f'backslashes, at most {MAX_KEY_BYTES} bytes'
        )


def raw_header(height: int, width: int, bit_depth: int = 8) -> bytes:
    """Return the bytes that precede the samples of a frame stored as pixels."""
    return b'P6\n%d %d\n%d\n' % (width, height, 2**bit_depth - 1)


def parse_raw_header(data: bytes | memoryview) -> RawHeader | None:
    """Return the header of a frame stored as pixels, or None for other files.

    Raises:
        ValueError: the file is truncated.
    """
    match = _RAW_HEADER.match(bytes(data[:_RAW_HEADER_BYTES]))
    if match is None:
        return None
    header = RawHeader(int(match[2]), int(match[1]), 8 if match[3] == b'255' else 16, match.end())
    if len(data) < header.num_bytes:
        raise ValueError('is truncated')
    return header


def format_meta_line(entry: MetaEntry) -> str:
    """Return the line of `meta_info.txt` for a frame, without line end; stock BasicSR expects a number at its end."""
    height, width, channels = entry.shape
    return f'{entry.key}{entry.extension} ({height},{width},{channels}) 1'


def parse_meta_line(line: str) -> MetaEntry:
    """Parse one line of `meta_info.txt`; the number at its end is optional.

    Raises:
        ValueError: the line has another form or its key is not allowed.
    """
    match = _META_LINE.fullmatch(line.rstrip('\r\n'))
    if match is None:
        raise ValueError(f'expected "<clip>/<frame>.png (height,width,channels) 1", found {line.rstrip()[:120]!r}')
    check_key(match['key'])
    height, width, channels = map(int, match['shape'].split(','))
    return MetaEntry(match['key'], match['extension'], (height, width, channels))


def read_meta_info(lmdb_path: str | PathLike[str]) -> list[MetaEntry]:
    """Read all entries of an LMDB folder's `meta_info.txt`, in the file's order.

    Raises:
        FileNotFoundError: the folder or its `meta_info.txt` does not exist.
        ValueError: the file is empty or not text, or a line is malformed or repeats a key; the text names the line.
    """
    path = Path(lmdb_path) / META_INFO
    if not path.is_file():
        what = f'has no {META_INFO}' if Path(lmdb_path).is_dir() else 'does not exist'
        raise FileNotFoundError(f'{lmdb_path} {what}. To make such a folder, see `python -m data_prep --help`')
    try:
        lines = path.read_text(encoding='ascii').splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is not ASCII text ({error})') from None
    entries: dict[str, MetaEntry] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = parse_meta_line(line)
            if entry.key in entries:
                raise ValueError(f'{entry.key!r} is listed twice')
        except ValueError as error:
            raise ValueError(f'{path}, line {number}: {error}') from None
        entries[entry.key] = entry
    if not entries:
        raise ValueError(f'{path} is empty')
    return list(entries.values())

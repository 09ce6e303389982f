"""The format on disk: LMDB folders that this project and stock BasicSR both read.

A data set `train_blur.lmdb/` holds LMDB's own `data.mdb` and a text file `meta_info.txt`. The key of a frame is
`<clip>/<frame>` without extension, e.g. `GOPR0372_07_00/000047`; the value is the PNG or JPEG file, byte for byte, or
its pixels as a PPM file: a header of one kind (`raw_header`), then rows of RGB bytes. OpenCV, and so stock BasicSR,
decodes that like any picture; who knows where the pixels begin reads any part of them without decoding the rest.
`meta_info.txt` has one line a frame, `GOPR0372_07_00/000047.png (720,1280,3) 1`: file name, (height, width, channels)
and the PNG compression level that stock BasicSR writes there.

BasicSR takes the text before the first dot for the key and encodes keys as ASCII, and LMDB's keys are at most 511
bytes long: that is where the rules for names come from.

Needs the standard library alone, so that whoever reads the data pays nothing for it.
"""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import NamedTuple

META_INFO = 'meta_info.txt'
MAX_KEY_BYTES = 511
RAW_EXTENSION = '.ppm'
"""Of frames that are stored as their pixels."""

_META_LINE = re.compile(r'(?P<key>[^.]+)(?P<extension>\.[A-Za-z0-9]+) \((?P<shape>[0-9]+,[0-9]+,[0-9]+)\)( [0-9]+)?')
_NUMBER = re.compile('([0-9]+)')
_RAW_HEADER = re.compile(rb'P6\n([1-9][0-9]{0,8}) ([1-9][0-9]{0,8})\n255\n')
_RAW_HEADER_BYTES = 26  # at most


class MetaEntry(NamedTuple):
    """One line of `meta_info.txt`."""

    key: str
    """`<clip>/<frame>`, without extension."""
    extension: str
    """Of the source file, with its dot, e.g. `.png`."""
    shape: tuple[int, int, int]
    """(height, width, channels), all at least 1."""

    @property
    def clip(self) -> str:
        """The part of the key before the last slash; empty where the key has none."""
        return self.key.rpartition('/')[0]

    @property
    def frame(self) -> str:
        """The part of the key after the last slash."""
        return self.key.rpartition('/')[2]


def natural_key(name: str) -> tuple[tuple[object, ...], str]:
    """Sort key under which numbers within names count as numbers: `frame9` before `frame10`.

    Names that differ in leading zeros only keep a fixed order, too.
    """
    # Even positions are text, odd ones digits, so like is compared with like. Digits are compared by length, then
    # as text: int() refuses very long ones.
    parts = [
        (len(part.lstrip('0')), part.lstrip('0')) if position % 2 else part
        for position, part in enumerate(_NUMBER.split(name))
    ]
    return tuple(parts), name


def check_key(key: str) -> None:
    """Raise ValueError where `key` cannot be used by BasicSR or LMDB, or could lead out of a folder as a path."""
    rule = f'keys are <clip>/<frame> in printable ASCII, with no dot, at most {MAX_KEY_BYTES} bytes'
    if not key.isascii():
        raise ValueError(f'{key!r} is not ASCII: {rule}')
    if not key.isprintable():
        raise ValueError(f'{key!r} holds control characters: {rule}')
    if '.' in key:
        raise ValueError(f'{key!r} holds a dot, but BasicSR ends a key at the first one: {rule}')
    if '\\' in key or ':' in key or not all(part.strip() for part in key.split('/')):
        raise ValueError(f'{key!r} is not a plain relative name: {rule}')
    if len(key) > MAX_KEY_BYTES:
        raise ValueError(f'{key[:40]!r}... has {len(key)} bytes: {rule}')


def frame_key(clip: str, frame: str) -> str:
    """`<clip>/<frame>` for a clip and a frame name without extension.

    Raises:
        ValueError: the names cannot be used (see the rules at the top of this module).
    """
    if '/' in frame:
        raise ValueError(f'the frame name {frame!r} holds a slash')
    key = f'{clip}/{frame}'
    check_key(key)
    return key


def raw_header(height: int, width: int) -> bytes:
    """What stands before the pixels, rows of RGB bytes, of a frame that is stored as them."""
    return b'P6\n%d %d\n255\n' % (width, height)


def parse_raw_header(data: bytes | memoryview) -> tuple[int, int, int] | None:
    """(height, width, position of the first pixel) of a frame that is stored as its pixels; None for other files.

    Raises:
        ValueError: the pixels are not all there.
    """
    match = _RAW_HEADER.match(bytes(data[:_RAW_HEADER_BYTES]))
    if match is None:
        return None
    width, height = int(match[1]), int(match[2])
    if len(data) < match.end() + 3 * height * width:
        raise ValueError('is truncated')
    return height, width, match.end()


def format_meta_line(entry: MetaEntry, compress_level: int = 1) -> str:
    """The line of `meta_info.txt` for a frame, without the line end.

    `compress_level` says nothing here, files being copied as they are; stock BasicSR wants a number in its place.
    """
    height, width, channels = entry.shape
    return f'{entry.key}{entry.extension} ({height},{width},{channels}) {compress_level}'


def parse_meta_line(line: str) -> MetaEntry:
    """Read one line of `meta_info.txt`; the compression level may be absent.

    Raises:
        ValueError: the line has another form, or its key is refused (a dot, an absolute path, ...).
    """
    match = _META_LINE.fullmatch(line.rstrip('\r\n'))
    if match is None:
        raise ValueError(f'expected "<clip>/<frame>.png (height,width,channels) 1", found {line.rstrip()[:120]!r}')
    check_key(match['key'])
    # The pattern allows digits of any number; no image has a side of more.
    sides = match['shape'].split(',')
    if max(map(len, sides)) > 9 or min(map(int, sides)) < 1:
        raise ValueError(f'({match["shape"][:60]}) is no (height,width,channels)')
    height, width, channels = map(int, sides)
    return MetaEntry(match['key'], match['extension'], (height, width, channels))


def read_meta_info(lmdb_path: str | PathLike[str]) -> list[MetaEntry]:
    """All entries of an LMDB folder's `meta_info.txt`, in the file's order.

    Raises:
        FileNotFoundError: no such folder, or no `meta_info.txt` in it.
        ValueError: the file is empty or not text, a line is malformed (its number is given), or a key comes twice.
    """
    path = Path(lmdb_path) / META_INFO
    if not path.is_file():
        what = f'has no {META_INFO}' if Path(lmdb_path).is_dir() else 'does not exist'
        raise FileNotFoundError(f'{lmdb_path} {what}; python -m data_prep makes such folders (see its --help)')
    try:
        lines = path.read_text(encoding='ascii').split('\n')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is not ASCII text ({error})') from None
    entries = []
    first_seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = parse_meta_line(line)
        except ValueError as error:
            raise ValueError(f'{path}, line {number}: {error}') from None
        if entry.key in first_seen:
            raise ValueError(f'{path}, line {number}: {entry.key!r} stands in line {first_seen[entry.key]} already')
        first_seen[entry.key] = number
        entries.append(entry)
    if not entries:
        raise ValueError(f'{path} is empty')
    return entries

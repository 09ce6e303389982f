"""Is the file of an LMDB whole? LMDB follows the numbers in its pages without a doubt: a damaged one ends the process.

Only what leads from page to page is looked at, some megabytes of a data set of many gigabytes, and no frame.

A file is an array of pages. Each begins with its number, flags and either the ends of its table of nodes or, before
data that are too large for a page, the number of pages. The first two pages say, in turn, where the tree's root is.
"""

from __future__ import annotations

import mmap
import struct
import sys
from pathlib import Path

_PAGE = struct.Struct('<QHHHH')  # number, padding, flags, end of the node table, begin of the nodes
_NODE = struct.Struct('<HHHH')  # size or page: its low and middle part; flags or high part; size of the key
# Magic number, version; of the record of free pages, size of a page and kind; of the tree's, kind, depth and root;
# number of the transaction.
_META = struct.Struct('<II16xIH46xHH32xQ8xQ')
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _IS_META = 1, 2, 4, 8
_FREE_KIND = 8  # whole numbers
_BIG = 1  # flag of a node: its value has pages of its own
_NO_ROOT = 2**64 - 1
_DEEPEST = 32  # as LMDB has it


def check_pages(file: Path) -> None:
    """Check that every page that leads to a key or value lies in the file and is what it is taken for.

    Nothing is checked on machines whose numbers have another form than nearly all have (64 bits, little-endian).

    Raises:
        ValueError: the file is damaged, truncated, no LMDB, or of a kind that `data_prep` does not write. The text is
            to follow its name.
        OSError: it cannot be read.
    """
    if sys.byteorder != 'little' or sys.maxsize < 2**32:
        return
    with open(file, 'rb') as opened:
        if opened.seek(0, 2) < 2 * 512:
            raise ValueError('is no LMDB: it is too short')
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Pages(data).check()


class _Pages:
    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.size = 512
        self.seen: set[int] = set()

    def check(self) -> None:
        self.size = self._meta(0)[0]
        if self.size not in (2**i for i in range(8, 17)):
            raise ValueError(f'is damaged: pages of {self.size} bytes')
        # Of the first two pages, the one that was written later is in use.
        first, second = self._meta(0), self._meta(self.size)
        if second[0] != self.size:
            raise ValueError(f'is damaged: pages of {self.size} bytes and of {second[0]}')
        _, _, depth, root = second if second[1] > first[1] else first
        if root != _NO_ROOT:
            self._branch_or_leaf(root, depth)

    def _meta(self, at: int) -> tuple[int, int, int, int]:
        """Size of a page, number of the transaction, depth of the tree of keys, and the page of its root."""
        self._need(at, _PAGE.size + _META.size)
        flags = _PAGE.unpack_from(self.data, at)[2]
        magic, version, size, free_kind, kind, depth, root, transaction = _META.unpack_from(self.data, at + _PAGE.size)
        if not flags & _IS_META or (magic, version) != (_MAGIC, _VERSION):
            raise ValueError('is no LMDB')
        if (free_kind, kind) != (_FREE_KIND, 0):
            raise ValueError('is damaged, or its keys are of a kind that is not used for frames')
        return size, transaction, depth, root

    def _branch_or_leaf(self, number: int, depth: int) -> None:
        at, flags = self._page(number)
        if number in self.seen or not 0 < depth <= _DEEPEST:
            raise ValueError(f'is damaged: page {number} leads back to itself')
        self.seen.add(number)
        if flags != (_LEAF if depth == 1 else _BRANCH):
            raise ValueError(f'is damaged: page {number} is of another kind')
        lower, upper = _PAGE.unpack_from(self.data, at)[3:]
        count = (lower - _PAGE.size) // 2
        if not _PAGE.size <= lower <= upper <= self.size or count < (2 if flags == _BRANCH else 1):
            raise ValueError(f'is damaged: the table of page {number} does not fit into it')
        for node in struct.unpack_from(f'<{count}H', self.data, at + _PAGE.size):
            if not upper <= node <= self.size - _NODE.size:
                raise ValueError(f'is damaged: a node of page {number} lies outside')
            low, middle, high, key = _NODE.unpack_from(self.data, at + node)
            value = node + _NODE.size + key
            if flags == _BRANCH:
                if value > self.size:
                    raise ValueError(f'is damaged: a key of page {number} lies outside')
                self._branch_or_leaf(low | middle << 16 | high << 32, depth - 1)
            else:
                self._value(number, at, value, low | middle << 16, high)

    def _value(self, number: int, at: int, value: int, length: int, flags: int) -> None:
        if flags not in (0, _BIG) or value + (8 if flags else length) > self.size:
            raise ValueError(f'is damaged: a value of page {number} lies outside')
        if flags == _BIG:
            (page,) = struct.unpack_from('<Q', self.data, at + value)
            start, kind = self._page(page)
            if kind != _OVERFLOW:
                raise ValueError(f'is damaged: page {page} is of another kind')
            self._need(start, _PAGE.size + length)

    def _page(self, number: int) -> tuple[int, int]:
        """Where a page begins, and its flags."""
        self._need(number * self.size, self.size)
        own, _, flags, _, _ = _PAGE.unpack_from(self.data, number * self.size)
        if own != number:
            raise ValueError(f'is damaged: page {number} is another one')
        return number * self.size, flags

    def _need(self, start: int, length: int) -> None:
        if start + length > len(self.data):
            raise ValueError(f'is truncated, cut short at {len(self.data)} of {start + length} bytes or more')

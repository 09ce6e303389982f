"""Tables of scores as text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dstnet_arch.errors import DataError
from dstnet_arch.files import atomic_file

_NUMBER = re.compile(r'([-+]?(\d+(\.\d+)?|inf)|-)?')


@dataclass(frozen=True)
class Table:
    """A table for people to read; columns of numbers are right-aligned.

    Attributes:
        title: the line above the table.
        header: names of the columns.
        rows: the cells.
        highlighted: indices of rows to highlight: with an asterisk in text, in bold in Markdown.
        notes: lines below the table.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    highlighted: frozenset[int] = frozenset()
    notes: Sequence[str] = ()

    def text(self) -> str:
        """Return the table for a terminal."""
        marks = ['', *('*' if i in self.highlighted else '' for i in range(len(self.rows)))]
        lines = [[mark, *cells] for mark, cells in zip(marks, [self.header, *self.rows], strict=True)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        right = [False, *self._right_aligned()]
        text = [
            '  '.join(
                cell.rjust(width) if to_right else cell.ljust(width)
                for cell, width, to_right in zip(cells, widths, right, strict=True)
                if width
            ).rstrip()
            for cells in lines
        ]
        return '\n'.join([self.title, *text, *self.notes])

    def markdown(self) -> str:
        """Return a heading, the table and the notes as Markdown."""
        rules = ['---:' if to_right else '---' for to_right in self._right_aligned()]
        lines = [_line(self.header), _line(rules)]
        for i, row in enumerate(self.rows):
            cells = [re.sub(r'([\\|*_`<\[])', r'\\\1', cell) for cell in row]
            lines.append(_line(f'**{cell}**' if i in self.highlighted else cell for cell in cells))
        return '\n\n'.join([f'### {self.title}', '\n'.join(lines), *self.notes]) + '\n'

    def _right_aligned(self) -> list[bool]:
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.header)
        return [all(_NUMBER.fullmatch(cell) for cell in column) for column in columns]


def _line(cells: Iterable[str]) -> str:
    return f'| {" | ".join(cells)} |'


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV; numbers keep all their digits."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(text.encode('utf-8'))
    except (OSError, ValueError) as error:
        raise DataError(f'Cannot write {path}: {error}. Free some space or choose another folder.') from error

"""Tables of scores as text, Markdown and CSV: measured scores among those that papers print, and ``dstnet tables``.

`published.json` holds the printed scores: those of DSTNet's own Tables 1 to 3 (origin 'paper'), and methods and sets
that are not in them, from other papers (origin 'quoted').
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from dstnet_arch.arguments import command_parser
from dstnet_arch.errors import DataError, printable
from dstnet_arch.files import atomic_file, read_json
from dstnet_arch.metrics.protocols import PROTOCOLS

MEASURED = 'measured'
FORMATS = ('text', 'markdown', 'csv')

_NUMBER = re.compile(r'([-+]?(\d+(\.\d+)?|inf)|-)?')
_ABOUT_QUOTED = (
    "paper: DSTNet's paper (CVPR 2023), as printed; quoted: other papers. Papers compute SSIM in different ways (the "
    'measured one is SSIM-3D), so the ranks follow PSNR.'
)
_SUMMARIES = '*_summary.json'


# ---- tables in general


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


# ---- tables of methods


class Row(NamedTuple):
    """One method in a table of methods.

    Attributes:
        method: name of the method, or of the run.
        psnr: dB; infinity if all frames are restored exactly, None if unknown.
        ssim: None if unknown.
        origin: 'measured', 'paper' or 'quoted'.
        source: where the score is printed; for a measured row, the network.
        protocol: the scoring protocol of a measured row; likewise the rest.
        date: day of the measurement.
        dataset: name of the test set.
        frames: number of scored frames.
        weights: file name of the weights.
    """

    method: str
    psnr: float | None
    ssim: float | None
    origin: str
    source: str
    protocol: str = ''
    date: str = ''
    dataset: str = ''
    frames: int | None = None
    weights: str = ''

    def cells(self, rank: int) -> list[str]:
        """Return the cells of a table for people to read."""
        psnr, ssim = ('-' if score is None else f'{score:.{n}f}' for score, n in ((self.psnr, 2), (self.ssim, 4)))
        details = self.source
        if self.origin == MEASURED:
            frames = f'{self.frames} frame{"s" * (self.frames != 1)} of {self.dataset}'
            details = ', '.join([self.date, frames, self.source, self.weights])
        return [str(rank), self.method, psnr, ssim, self.origin, details]


@dataclass(frozen=True)
class ResultTable:
    """Methods on one test set, the highest PSNR first.

    Attributes:
        title: the line above the table.
        rows: the methods.
        notes: lines below the table.
    """

    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> Table:
        """Return the table for people to read, with the measured rows highlighted."""
        return Table(
            title=self.title,
            header=['#', 'Method', 'PSNR (dB)', 'SSIM', 'Origin', 'Details'],
            rows=[row.cells(rank) for rank, row in enumerate(self.rows, 1)],
            highlighted=frozenset(i for i, row in enumerate(self.rows) if row.origin == MEASURED),
            notes=self.notes,
        )


def render(tables: Sequence[ResultTable], format_: str) -> str:
    """Return tables as one text in one of `FORMATS`. CSV keeps all digits and has a column for each field of `Row`."""
    if format_ == 'csv':
        lines = [[table.title, rank, *row] for table in tables for rank, row in enumerate(table.rows, 1)]
        return csv_text([['table', 'rank', *Row._fields], *lines])
    if format_ == 'markdown':
        return '\n'.join(table.table().markdown() for table in tables)
    return '\n'.join(table.table().text() + '\n' for table in tables)


@cache
def published() -> tuple[Mapping[str, Any], ...]:
    """Return the printed tables in `published.json`."""
    return tuple(json.loads(Path(__file__).with_name('published.json').read_text(encoding='utf-8')))


def published_for(dataset: str) -> Mapping[str, Any] | None:
    """Return the printed table of a test set, or None.

    Args:
        dataset: name of the set. Only letters and digits at its start count, so GoPro, gopro_test, DVD, BSD1ms8ms and
            BSD_1ms-8ms are all recognised.
    """
    name = re.sub('[^a-z0-9]', '', dataset.lower())
    return next((table for table in published() if name.startswith(table['prefix'])), None)


def measured_row(summary: Mapping[str, Any]) -> Row:
    """Return the row of a test run.

    Its PSNR and SSIM are the metrics with the protocol's own type and crop, whatever their names.

    Args:
        summary: content of a `*_summary.json`.
    """
    protocol = PROTOCOLS[summary['protocol']]

    def mean(type_: str) -> float | None:
        for name, opt in summary['metrics'].items():
            same_crop = (opt.get('crop_border') or 0) == protocol.crop_border
            if opt['type'] == type_ and same_crop and not opt.get('test_y_channel'):
                value = summary[f'mean_over_{protocol.over}']['restored'][name]
                return math.inf if value is None else float(value)  # JSON has no infinity
        return None

    notes = [f'iteration {summary["iteration"]}'] if 'iteration' in summary else []
    notes += ['self-ensemble'] if summary.get('self_ensemble') else []
    notes += [precision] if (precision := summary.get('precision', 'fp32')) != 'fp32' else []
    weights = PurePath(summary['weights'] or 'no weights given').name if 'weights' in summary else 'in training'
    return Row(
        method=summary['run'] + (f' ({", ".join(notes)})' if notes else ''),
        psnr=mean('calculate_psnr'),
        ssim=mean(protocol.ssim or 'calculate_ssim3d'),
        origin=MEASURED,
        source=summary['network']['type'],
        protocol=protocol.name,
        date=summary['date'],
        dataset=summary['dataset'],
        frames=int(summary['frames']),
        weights=weights,
    )


def result_tables(rows: Iterable[Row]) -> list[ResultTable]:
    """Return one table for each test set and protocol, in the order of their first measured rows.

    Printed scores are included for protocol dstnet only, the one that the paper used.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        printed = published_for(row.dataset)
        groups.setdefault((printed['dataset'] if printed else row.dataset, row.protocol), []).append(row)
    return [_result_table(*key, group) for key, group in groups.items()]


def _result_table(dataset: str, protocol: str, rows: list[Row]) -> ResultTable:
    title, notes = f'{dataset}, protocol {protocol}', [f'Protocol {PROTOCOLS[protocol]}.']
    printed = published_for(dataset)
    if printed and protocol == 'dstnet':
        title = printed['title']
        notes += [
            f'{row.method}: {row.frames} of the {printed["frames"]} frames, so not comparable.'
            for row in rows
            if printed['frames'] not in (None, row.frames)
        ]
        notes += [_ABOUT_QUOTED, *printed['notes']]
        rows = [*rows, *(Row(**row) for row in printed['rows'])]
    rows = sorted(rows, key=lambda row: -math.inf if row.psnr is None else row.psnr, reverse=True)
    return ResultTable(title, tuple(rows), tuple(notes))


# ---- the command


def read_results(paths: Iterable[Path]) -> list[Row]:
    """Read the rows of test runs.

    Args:
        paths: summaries, or folders that contain summaries at any depth.

    Raises:
        DataError: a folder contains none, or a file is not the summary of a run.
    """
    files: dict[Path, Path] = {}
    for path in paths:
        found = sorted(path.rglob(_SUMMARIES)) if path.is_dir() else [path]
        if not found:
            raise DataError(
                f'{path} contains no {_SUMMARIES}. A test with ground truth (dataroot_gt) writes one for each set: '
                'dstnet test -opt …'
            )
        files |= {file.resolve(): file for file in found}
    rows = []
    for file in files.values():
        try:
            rows.append(measured_row(read_json(file)))
        except OSError as error:
            raise DataError(f'Cannot read {file}: {error.strerror}. Pass a folder of results.') from None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f'{file} is damaged or of another version ({type(error).__name__}: {error}). Run the test again.'
            ) from None
    return rows


def command(arguments: Sequence[str]) -> None:
    """Run ``dstnet tables RESULTS... [--format text|markdown|csv] [-o FILE]``.

    Raises:
        DataError: a summary cannot be read or the output cannot be written.
    """
    parser = command_parser('dstnet tables', "Show the scores of test runs in the paper's tables, one table per set.")
    parser.add_argument(
        'results', nargs='+', type=Path, metavar='RESULTS', help='folder of a test, e.g. results/test_DSTNet_GoPro'
    )
    parser.add_argument('--format', choices=FORMATS, help='default: by the suffix of FILE (.md, .csv), else text')
    parser.add_argument('-o', '--output', type=Path, metavar='FILE', help='write to FILE instead of the terminal')
    parser.add_argument('--overwrite', action='store_true', help='replace FILE if it exists')
    args = parser.parse_args(arguments)

    suffix = args.output.suffix.lower() if args.output else ''
    format_ = args.format or {'.md': 'markdown', '.csv': 'csv'}.get(suffix, 'text')
    text = printable(render(result_tables(read_results(args.results)), format_))
    if args.output is None:
        print(text, end='')
    elif args.output.exists() and not args.overwrite:
        raise DataError(f'{args.output} exists. Pass another file, or --overwrite to replace it.')
    else:
        write_text(args.output, text)

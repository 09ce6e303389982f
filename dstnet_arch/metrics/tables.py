"""Result tables: measured scores among the figures that papers print.

The printed figures stand in `published.json`: those of DSTNet's own Tables 1 to 3 (origin 'paper'), and of methods and
data that are not in them, from other papers (origin 'quoted').
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
from typing import Any

from dstnet_arch.errors import printable
from dstnet_arch.metrics.protocols import PROTOCOLS

MEASURED = 'measured'
FORMATS = ('text', 'markdown', 'csv')
HEADER = (
    *('table', 'rank', 'method', 'psnr', 'ssim', 'origin', 'source'),
    *('protocol', 'date', 'dataset', 'frames', 'weights'),
)
"""The columns of a CSV file. For a printed figure, those from `protocol` on are empty."""

_ABOUT_QUOTED = (
    "paper: DSTNet's paper (CVPR 2023), as printed; quoted: other papers. Their SSIMs are computed in various ways, "
    'the measured one is SSIM-3D: the ranks are those of PSNR.'
)


@dataclass(frozen=True)
class Row:
    """One method in a table.

    Attributes:
        method: its name; of a measured row, the name of the run.
        psnr: dB; infinite where all frames were restored exactly, None where it is not known.
        ssim: None where it is not known.
        origin: 'measured', 'paper' or 'quoted'.
        source: where it is printed; of a measured row, the network.
        protocol, date, dataset, frames, weights: how, when and on what a measured row was measured, and with what.
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

    @property
    def details(self) -> str:
        """What is said about the row beside its scores."""
        if self.origin != MEASURED:
            return self.source
        frames = f'{self.frames} frame{"s" * (self.frames != 1)}'
        return ', '.join([self.date, f'{frames} of {self.dataset}', self.source, self.weights])


@dataclass(frozen=True)
class ResultTable:
    """The rows of one test set, the best PSNR first, and what is to be said about them."""

    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """For the screen; measured rows are marked with an asterisk."""
        cells = [['', '#', 'Method', 'PSNR (dB)', 'SSIM', 'Origin', 'Details']]
        cells += [['*' * (row.origin == MEASURED), *line] for row, line in zip(self.rows, self._cells(), strict=True)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        to_the_right = (False, True, False, True, True, False, False)
        lines = [
            '  '.join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(line, widths, to_the_right, strict=True)
            ).rstrip()
            for line in cells
        ]
        return '\n'.join([self.title, *lines, *self.notes])

    def markdown(self) -> str:
        """A heading and a table; measured rows are bold."""
        lines = ['| # | Method | PSNR (dB) | SSIM | Origin | Details |', '| ---: | --- | ---: | ---: | --- | --- |']
        for row, cells in zip(self.rows, self._cells(), strict=True):
            cells = [re.sub(r'([\\|*_`<\[])', r'\\\1', cell) for cell in cells]
            lines.append(f'| {" | ".join(f"**{c}**" if row.origin == MEASURED else c for c in cells)} |')
        return '\n\n'.join([f'### {self.title}', '\n'.join(lines), *self.notes]) + '\n'

    def csv(self, header: bool = True) -> str:
        """Lines with the columns of `HEADER`, scores in full."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator='\n')
        if header:
            writer.writerow(HEADER)
        for rank, row in enumerate(self.rows, 1):
            scores = ['' if score is None else score for score in (row.psnr, row.ssim)]
            frames = '' if row.frames is None else row.frames
            of = [row.origin, row.source, row.protocol, row.date, row.dataset, frames, row.weights]
            writer.writerow([self.title, rank, row.method, *scores, *of])
        return text.getvalue()

    def _cells(self) -> list[list[str]]:
        return [
            [str(rank), row.method, _number(row.psnr, 2), _number(row.ssim, 4), row.origin, row.details]
            for rank, row in enumerate(self.rows, 1)
        ]


def render(tables: Sequence[ResultTable], format_: str) -> str:
    """Several tables as one text in one of `FORMATS`."""
    if format_ == 'csv':
        return ''.join(table.csv(header=i == 0) for i, table in enumerate(tables))
    if format_ == 'markdown':
        return '\n'.join(table.markdown() for table in tables)
    return '\n\n'.join(table.text() for table in tables) + '\n'


@cache
def published() -> tuple[Mapping[str, Any], ...]:
    """The printed tables, as `published.json` has them."""
    return tuple(json.loads(Path(__file__).with_name('published.json').read_text(encoding='utf-8')))


def published_for(dataset: str) -> Mapping[str, Any] | None:
    """The printed table of a test set; None where there is none.

    Args:
        dataset: name of the set. What counts is its beginning, letters and digits only: GoPro, gopro_test, DVD,
            BSD1ms8ms and BSD_1ms-8ms are all recognised.
    """
    name = re.sub('[^a-z0-9]', '', dataset.lower())
    return next((table for table in published() if name.startswith(table['prefix'])), None)


def measured_row(summary: Mapping[str, Any]) -> Row:
    """The row of a test run.

    Its PSNR and SSIM are those scores whose type and crop are the protocol's own, whatever they are called there.

    Args:
        summary: `ScoreBook.summary` with what `VideoRecurrentDeblurModel` adds to it: `run`, `network`, `metrics`, `date`, …

    Raises:
        ValueError: it lacks something; the message says what.
    """
    try:
        protocol = PROTOCOLS[summary['protocol']]
        means = summary[f'mean_over_{protocol.over}']['restored']
        notes = [f'iteration {summary["iteration"]}'] if 'iteration' in summary else []
        notes += ['self-ensemble'] if summary['self_ensemble'] else []
        notes += [summary['amp']] if summary['amp'] != 'none' else []
        return Row(
            method=_text(summary['run'] + (f' ({", ".join(notes)})' if notes else '')),
            psnr=_mean(means, summary['metrics'], 'calculate_psnr', protocol.crop_border),
            ssim=_mean(means, summary['metrics'], protocol.ssim or 'calculate_ssim3d', protocol.crop_border),
            origin=MEASURED,
            source=_text(summary['network']['type']),
            protocol=protocol.name,
            date=_text(summary['date']),
            dataset=_text(summary['dataset']),
            frames=_count(summary['frames']),
            weights=_text(PurePath(summary['weights'] or 'no weights given').name)
            if 'weights' in summary
            else 'in training',
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f'not the summary of a test of this version ({type(error).__name__}: {error})') from None


def result_tables(summaries: Iterable[Mapping[str, Any]]) -> list[ResultTable]:
    """One table for each test set and protocol, in the order in which they first appear.

    The printed figures are in the tables of protocol dstnet, with which the paper's own were made; a set that no paper
    scored, or another protocol, gives a table of measured rows only.

    Raises:
        ValueError: as `measured_row`.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in map(measured_row, summaries):
        printed = published_for(row.dataset)
        groups.setdefault((printed['dataset'] if printed else row.dataset, row.protocol), []).append(row)
    return [_table(*key, rows) for key, rows in groups.items()]


def _table(dataset: str, protocol: str, rows: Sequence[Row]) -> ResultTable:
    notes = [f'Protocol {PROTOCOLS[protocol]}.']
    printed = published_for(dataset)
    if not printed or protocol != 'dstnet':
        return ResultTable(f'{dataset}, protocol {protocol}', _ranked(rows), tuple(notes))
    notes += [
        f'{row.method}: {row.frames} of the {printed["frames"]} frames, so not comparable.'
        for row in rows
        if printed['frames'] not in (None, row.frames)
    ]
    return ResultTable(
        title=printed['title'],
        rows=_ranked([*rows, *(Row(**row) for row in printed['rows'])]),
        notes=(*notes, _ABOUT_QUOTED, *printed['notes']),
    )


def _ranked(rows: Iterable[Row]) -> tuple[Row, ...]:
    return tuple(sorted(rows, key=lambda row: -math.inf if row.psnr is None else row.psnr, reverse=True))


def _mean(
    means: Mapping[str, float | None], metrics: Mapping[str, Mapping[str, Any]], type_: str, crop_border: int
) -> float | None:
    """The mean of the metric that is computed in this way; None where the run has none."""
    for name, opt in metrics.items():
        if opt['type'] == type_ and (opt.get('crop_border') or 0) == crop_border and not opt.get('test_y_channel'):
            mean = means[name]
            if not (mean is None or isinstance(mean, (int, float))):
                raise TypeError(f'{mean!r} is no score')
            return math.inf if mean is None else mean  # JSON has no infinity
    return None


def _text(value: object) -> str:
    """A text from a file, for a line of a table."""
    if not isinstance(value, str):
        raise TypeError(f'{value!r} is no text')
    return printable(value.replace('\n', ' '))


def _count(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f'{value!r} is no count')
    return value


def _number(score: float | None, digits: int) -> str:
    return '-' if score is None else f'{score:.{digits}f}'

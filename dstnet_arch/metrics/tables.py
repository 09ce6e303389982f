"""Result tables: measured scores among the scores that papers print, and the command ``dstnet tables``.

`published.json` holds the printed scores: those of DSTNet's own Tables 1 to 3 (origin 'paper'), and methods and sets
that are not in them, from other papers (origin 'quoted').
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from dstnet_arch.errors import DataError, printable
from dstnet_arch.files import read_json
from dstnet_arch.metrics.protocols import PROTOCOLS
from dstnet_arch.metrics.table import Table, csv_text, write_text

MEASURED = 'measured'
FORMATS = ('text', 'markdown', 'csv')
CSV_HEADER = (
    *('table', 'rank', 'method', 'psnr', 'ssim', 'origin', 'source'),
    *('protocol', 'date', 'dataset', 'frames', 'weights'),
)
"""Columns of a CSV file; those from `protocol` on are empty for printed scores."""

_ABOUT_QUOTED = (
    "paper: DSTNet's paper (CVPR 2023), as printed; quoted: other papers. Papers compute SSIM in different ways (the "
    'measured one is SSIM-3D), so the ranks follow PSNR.'
)
_SUMMARIES = '*_summary.json'
_FORMAT_BY_SUFFIX = {'.md': 'markdown', '.csv': 'csv'}
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class Row:
    """One method in a table.

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

    @property
    def details(self) -> str:
        """Text of the last column."""
        if self.origin != MEASURED:
            return self.source
        frames = f'{self.frames} frame{"s" * (self.frames != 1)}'
        return ', '.join([self.date, f'{frames} of {self.dataset}', self.source, self.weights])


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

    def render(self, format_: str) -> str:
        """Return the table in one of `FORMATS`; CSV has no header and keeps all digits."""
        if format_ == 'csv':
            return csv_text(
                [
                    *(self.title, rank, row.method, row.psnr, row.ssim, row.origin, row.source),
                    *(row.protocol, row.date, row.dataset, row.frames, row.weights),
                ]
                for rank, row in enumerate(self.rows, 1)
            )
        table = Table(
            title=self.title,
            header=['#', 'Method', 'PSNR (dB)', 'SSIM', 'Origin', 'Details'],
            rows=[
                [str(rank), row.method, _number(row.psnr, 2), _number(row.ssim, 4), row.origin, row.details]
                for rank, row in enumerate(self.rows, 1)
            ],
            highlighted=frozenset(i for i, row in enumerate(self.rows) if row.origin == MEASURED),
            notes=self.notes,
        )
        return table.markdown() if format_ == 'markdown' else table.text() + '\n'


def render(tables: Sequence[ResultTable], format_: str) -> str:
    """Return several tables as one text in one of `FORMATS`."""
    if format_ == 'csv':
        return csv_text([CSV_HEADER]) + ''.join(table.render('csv') for table in tables)
    return '\n'.join(table.render(format_) for table in tables)


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

    Raises:
        ValueError: an entry is missing or wrong.
    """
    try:
        protocol = PROTOCOLS[summary['protocol']]
        means = summary[f'mean_over_{protocol.over}']['restored']
        notes = [f'iteration {summary["iteration"]}'] if 'iteration' in summary else []
        notes += ['self-ensemble'] if summary.get('self_ensemble') else []
        notes += [precision] if (precision := summary.get('precision', 'fp32')) != 'fp32' else []
        weights = PurePath(summary['weights'] or 'no weights given').name if 'weights' in summary else 'in training'
        return Row(
            method=_text(summary['run'] + (f' ({", ".join(notes)})' if notes else '')),
            psnr=_mean(means, summary['metrics'], 'calculate_psnr', protocol.crop_border),
            ssim=_mean(means, summary['metrics'], protocol.ssim or 'calculate_ssim3d', protocol.crop_border),
            origin=MEASURED,
            source=_text(summary['network']['type']),
            protocol=protocol.name,
            date=_text(summary['date']),
            dataset=_text(summary['dataset']),
            frames=int(summary['frames']),
            weights=_text(weights),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f'not a summary written by a test of this version ({type(error).__name__}: {error})') from None


def result_tables(summaries: Iterable[Mapping[str, Any]]) -> list[ResultTable]:
    """Return one table for each test set and protocol, in the order of their first summaries.

    Printed scores are included for protocol dstnet only, the one that the paper used.

    Raises:
        ValueError: a summary is wrong; see `measured_row`.
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
    """Mean of the metric with this type and crop; None if the run has none."""
    for name, opt in metrics.items():
        if opt['type'] == type_ and (opt.get('crop_border') or 0) == crop_border and not opt.get('test_y_channel'):
            mean = means[name]
            return math.inf if mean is None else float(mean)  # JSON has no infinity
    return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f'{value!r} is not a text')
    return printable(value.replace('\n', ' '))


def _number(score: float | None, digits: int) -> str:
    return '-' if score is None else f'{score:.{digits}f}'


def read_summaries(results: Sequence[Path]) -> list[Mapping[str, Any]]:
    """Read the summaries of test runs.

    Args:
        results: folders with `*_summary.json` files, or such files.

    Raises:
        DataError: a folder contains none, or a file is not the summary of a run.
    """
    files = [file for path in results for file in (_summaries_in(path) if path.is_dir() else [path])]
    return [_read_summary(file) for file in {file.resolve(): file for file in files}.values()]


def _summaries_in(folder: Path) -> list[Path]:
    files = sorted(folder.glob(_SUMMARIES))
    if not files:
        below = sorted({str(file.parent) for file in folder.glob(f'*/{_SUMMARIES}')})
        hint = (
            f'Pass one of its folders: {", ".join(below[:_NAMES_SHOWN])}{", …" * (len(below) > _NAMES_SHOWN)}.'
            if below
            else 'A test with ground truth (dataroot_gt) writes one for each set: dstnet test -opt …'
        )
        raise DataError(f'{folder} contains no {_SUMMARIES}. {hint}')
    return files


def _read_summary(file: Path) -> Mapping[str, Any]:
    try:
        summary = read_json(file)
        measured_row(summary)
    except OSError as error:
        raise DataError(f'Cannot read {file}: {error.strerror}. Pass the folder of a test below results/.') from None
    except ValueError as error:
        raise DataError(f'{file} is damaged or of another version: {error}. Run the test again.') from None
    return summary


def command(arguments: Sequence[str]) -> None:
    """Run ``dstnet tables RESULTS... [--format text|markdown|csv] [-o FILE]``.

    Raises:
        DataError: a summary cannot be read or the output cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog='dstnet tables', description="Show the scores of test runs in the paper's tables, one table per set."
    )
    parser.add_argument(
        'results', nargs='+', type=Path, metavar='RESULTS', help='folder of a test, e.g. results/test_DSTNet_GoPro'
    )
    parser.add_argument('--format', choices=FORMATS, help='default: by the suffix of FILE (.md, .csv), else text')
    parser.add_argument('-o', '--output', type=Path, metavar='FILE', help='write to FILE instead of the terminal')
    parser.add_argument('--overwrite', action='store_true', help='replace FILE if it exists')
    args = parser.parse_args(arguments)

    by_suffix = _FORMAT_BY_SUFFIX.get(args.output.suffix.lower(), 'text') if args.output else 'text'
    text = render(result_tables(read_summaries(args.results)), args.format or by_suffix)
    if args.output is None:
        print(text, end='')
    elif args.output.exists() and not args.overwrite:
        raise DataError(f'{args.output} exists. Pass another file, or --overwrite to replace it.')
    else:
        write_text(args.output, text)

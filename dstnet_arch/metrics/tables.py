"""Measured scores among those that papers print, as Markdown tables, and ``dstnet tables``.

`published.json` holds the printed scores: those of DSTNet's own Tables 1 to 3 (origin 'paper'), and methods and sets
that are not in them, from other papers (origin 'quoted').
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from dstnet_arch.arguments import command_parser
from dstnet_arch.errors import DataError, counted, printable
from dstnet_arch.files import read_json
from dstnet_arch.metrics.protocols import PROTOCOLS

_NUMBER = re.compile(r'[-+]?(\d+(\.\d+)?|inf)|-')
_ABOUT_QUOTED = (
    "paper: DSTNet's paper (CVPR 2023), as printed; quoted: other papers. Papers compute SSIM in different ways (the "
    'measured one is SSIM-3D), so the ranks follow PSNR.'
)


def markdown_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], notes: Iterable[str] = ()) -> str:
    """Return a table in Markdown with aligned columns, so that it is readable on a terminal, too."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(2, *map(len, column)) for column in columns]  # a rule needs a dash
    right = [all(_NUMBER.fullmatch(cell) for cell in column[1:]) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = (f'{cell:{">" if r else "<"}{w}}' for cell, w, r in zip(cells, widths, right, strict=True))
        return f'| {" | ".join(padded)} |'

    rule = [f'{"-" * (w - 1)}{":" if r else "-"}' for w, r in zip(widths, right, strict=True)]
    table = '\n'.join(map(line, [header, rule, *rows]))
    return '\n\n'.join([f'### {title}', table, *notes]) + '\n'


class Row(NamedTuple):
    """One method in a table of methods.

    Attributes:
        method: name of the method, or of the run.
        psnr: dB; infinity if all frames are restored exactly, None if unknown.
        ssim: None if unknown.
        origin: 'measured', 'paper' or 'quoted'.
        source: where the score is printed, or how it was measured.
        dataset, protocol, frames: test set, scoring protocol and number of scored frames of a measured row.
    """

    method: str
    psnr: float | None
    ssim: float | None
    origin: str
    source: str
    dataset: str = ''
    protocol: str = ''
    frames: int | None = None


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
    frames = int(summary['frames'])
    weights = PurePath(summary['weights'] or 'no weights given').name if 'weights' in summary else 'in training'
    measured = f'{counted(frames, "frame")} of {summary["dataset"]}'
    return Row(
        method=summary['run'] + (f' ({", ".join(notes)})' if notes else ''),
        psnr=mean('calculate_psnr'),
        ssim=mean(protocol.ssim or 'calculate_ssim3d'),
        origin='measured',
        source=', '.join([summary['date'], measured, summary['network']['type'], weights]),
        dataset=summary['dataset'],
        protocol=protocol.name,
        frames=frames,
    )


def result_tables(rows: Iterable[Row]) -> str:
    """Return Markdown with one table for each test set and protocol, the highest PSNR first.

    Printed scores are included for protocol dstnet only, the one that the paper used.

    Args:
        rows: measured rows.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        printed = published_for(row.dataset)
        groups.setdefault((printed['dataset'] if printed else row.dataset, row.protocol), []).append(row)
    return '\n'.join(_result_table(*key, group) for key, group in groups.items())


def _result_table(dataset: str, protocol: str, rows: list[Row]) -> str:
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
    cells = [[str(rank), *_cells(row)] for rank, row in enumerate(rows, 1)]
    return markdown_table(title, ['#', 'Method', 'PSNR (dB)', 'SSIM', 'Origin', 'Details'], cells, notes)


def _cells(row: Row) -> list[str]:
    psnr = '-' if row.psnr is None else f'{row.psnr:.2f}'
    ssim = '-' if row.ssim is None else f'{row.ssim:.4f}'
    # Names from files must not change the table.
    method, source = (re.sub(r'([\\|*`<\[])', r'\\\1', printable(text)) for text in (row.method, row.source))
    return [f'**{method}**' if row.origin == 'measured' else method, psnr, ssim, row.origin, source]


def command(arguments: Sequence[str]) -> None:
    """Run ``dstnet tables RESULTS...``.

    Raises:
        DataError: a folder contains no results, or a file is not the summary of a run.
    """
    parser = command_parser('dstnet tables', "Show the scores of test runs in the paper's tables, in Markdown.")
    parser.add_argument(
        'results', nargs='+', type=Path, metavar='RESULTS', help='folder of a test, e.g. results/test_DSTNet_GoPro'
    )
    files: dict[Path, Path] = {}
    for path in parser.parse_args(arguments).results:
        found = sorted(path.rglob('*_summary.json')) if path.is_dir() else [path]
        if not found:
            raise DataError(
                f'{path} contains no *_summary.json. A test with ground truth (dataroot_gt) writes one for each set: '
                'dstnet test -opt …'
            )
        files |= {file.resolve(): file for file in found}
    print(result_tables(map(_read_row, files.values())), end='')


def _read_row(file: Path) -> Row:
    try:
        return measured_row(read_json(file))
    except OSError as error:
        raise DataError(f'Cannot read {file}: {error.strerror}. Pass a folder of results.') from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f'{file} is damaged or of another version ({type(error).__name__}: {error}). Run the test again.'
        ) from None

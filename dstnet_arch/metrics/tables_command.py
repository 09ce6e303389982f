"""``dstnet tables``: the scores of several test runs in the paper's tables."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dstnet_arch.errors import DataError
from dstnet_arch.files import read_json
from dstnet_arch.metrics.report import write_text
from dstnet_arch.metrics.tables import FORMATS, measured_row, render, result_tables

_PATTERN = '*_summary.json'
_BY_SUFFIX = {'.md': 'markdown', '.csv': 'csv'}
_NAMED_AT_MOST = 5


def command(arguments: Sequence[str]) -> None:
    """``dstnet tables RESULTS... [--format text|markdown|csv] [-o FILE]``."""
    parser = argparse.ArgumentParser(
        prog='dstnet tables', description="Collect the scores of test runs into the paper's tables, one for each set."
    )
    parser.add_argument(
        'results', nargs='+', type=Path, metavar='RESULTS', help='folder of a test, e.g. results/test_DSTNet_GoPro'
    )
    parser.add_argument(
        '--format', choices=FORMATS, help='by default that of the file (.md: markdown, .csv: csv), else text'
    )
    parser.add_argument('-o', '--output', type=Path, metavar='FILE', help='write there instead of to the screen')
    parser.add_argument('--overwrite', action='store_true', help='replace FILE')
    args = parser.parse_args(arguments)

    text = render(
        result_tables(read_summaries(args.results)),
        args.format or (_BY_SUFFIX.get(args.output.suffix.lower(), 'text') if args.output else 'text'),
    )
    if args.output is None:
        print(text, end='')
        return
    if args.output.exists() and not args.overwrite:
        raise DataError(f'{args.output} is there already. Give another file, or --overwrite to replace it.')
    try:
        write_text(args.output, text)
    except OSError as error:
        raise DataError(f'{args.output} cannot be written: {error.strerror}. Give another file.') from None


def read_summaries(results: Sequence[Path]) -> list[Mapping[str, Any]]:
    """Read the summaries that tests have left.

    Args:
        results: folders with `*_summary.json` files, or such files.

    Raises:
        DataError: a folder holds none, or a file is not the summary of a run.
    """
    files = [file for path in results for file in (_files(path) if path.is_dir() else [path])]
    return [_read(file) for file in {file.resolve(): file for file in files}.values()]


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob(_PATTERN))
    if not files:
        below = sorted({str(file.parent) for file in folder.glob(f'*/{_PATTERN}')})
        hint = (
            f'There are some in {", ".join(below[:_NAMED_AT_MOST])}{", …" * (len(below) > _NAMED_AT_MOST)}.'
            if below
            else 'A test with sharp frames to compare with (dataroot_gt) writes one for each set: dstnet test -opt …'
        )
        raise DataError(f'{folder} holds no {_PATTERN}. {hint}')
    return files


def _read(file: Path) -> Mapping[str, Any]:
    try:
        summary = read_json(file)
    except OSError as error:
        raise DataError(
            f'{file} cannot be read: {error.strerror}. Give the folder of a test, under results/.'
        ) from None
    except ValueError as error:
        raise DataError(f'{file} is damaged: {error}. Run the test again.') from None
    try:
        measured_row(summary)
    except ValueError as error:
        raise DataError(f'{file} is {error}. Run the test again.') from None
    return summary

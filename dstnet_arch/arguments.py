"""Running of commands, their parsers, and types of their arguments."""

from __future__ import annotations

import argparse
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from dstnet_arch.errors import EXIT_STATUS, OptionsError, escape_unencodable_output, explain, printable
from dstnet_arch.progress import NORMAL, QUIET, VERBOSE, is_verbose, set_verbosity

_BROKEN_PIPE = 141  # 128 + SIGPIPE, as for programs that the signal ends
_MAX_FRAME_RATE = 100_000  # frames per second


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command and report its errors.

    Returns:
        The exit status: that of the command, None being 0; 2 after an error that the user can fix, with one message on
        stderr; 130 after Ctrl-C; 141 if the reader of stdout has ended, such as `head`. Unexpected errors are raised,
        and Python then exits with 1.
    """
    escape_unencodable_output()
    set_verbosity(NORMAL)
    try:
        try:
            return command() or 0
        finally:
            print(end='', flush=True)  # fails here, if it fails, and not when Python ends
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still writes when it ends
        return _BROKEN_PIPE
    except (Exception, KeyboardInterrupt) as error:
        explained = explain(error)
        if explained is None and isinstance(error, OSError):
            explained = printable(f'error: {error}'), EXIT_STATUS
        if explained is None:
            raise
        if is_verbose():
            traceback.print_exception(error)
        print(explained[0], file=sys.stderr)
        return explained[1]


def command_parser(prog: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """Return a parser with -q and -v, which apply when they are parsed. Its sub-commands have them, too.

    Args:
        prog: name of the command.
        description: text above the options. It is wrapped unless it or `epilog` consists of several lines.
        epilog: text below the options.
    """
    return _Parser(prog, description=description, epilog=epilog)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Define --device, for `precision.choose_device`."""
    parser.add_argument('--device', metavar='NAME', help='cpu, cuda or cuda:N; default: cuda if available')


def take_verbosity(arguments: Sequence[str]) -> list[str]:
    """Apply -q and -v of a command whose parser does not know them; return the other arguments."""
    return _Parser(add_help=False, allow_abbrev=False).parse_known_args(arguments)[1]


class _Parser(argparse.ArgumentParser):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if '\n' in f'{kwargs.get("description")}{kwargs.get("epilog")}':  # its lines are broken already
            kwargs.setdefault('formatter_class', argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)
        group = self.add_mutually_exclusive_group()
        for names, level, text in (
            (('-q', '--quiet'), QUIET, 'print only results, warnings and errors'),
            (('-v', '--verbose'), VERBOSE, 'also print how long stages take, and the traceback of an error'),
        ):
            group.add_argument(*names, action=_SetVerbosity, const=level, nargs=0, help=text)


class _SetVerbosity(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, **kwargs)

    def __call__(self, *_: object) -> None:
        set_verbosity(self.const)


class Size(NamedTuple):
    """Width and height of a frame or a tile, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f'{self.width}x{self.height}'


def size(text: str) -> Size:
    """Parse 'WIDTHxHEIGHT'."""
    try:
        parsed = Size(*map(int, text.lower().split('x')))
    except (TypeError, ValueError):
        parsed = Size(0, 0)
    if min(parsed) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a size. Expected WIDTHxHEIGHT, such as 1280x720')
    return parsed


def frame_rate(text: str) -> Fraction:
    """Parse frames per second: '25', '23.976', '30000/1001'."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= _MAX_FRAME_RATE:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a frame rate. Expected frames per second, such as 25 or 30000/1001'
        )
    return rate


def whole_number(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Return a parser of integers from `minimum` to `maximum`, both included."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < minimum or (maximum and int(text) > maximum):
            to = 'up' if maximum is None else f'to {maximum}'
            raise argparse.ArgumentTypeError(f'{text!r} is not an integer from {minimum} {to}')
        return int(text)

    return number


def real_number(minimum: float, maximum: float, exclusive: bool = False) -> Callable[[str], float]:
    """Return a parser of numbers from `minimum` (itself allowed unless `exclusive`) to `maximum`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not minimum <= value <= maximum or (exclusive and value == minimum):
            above = 'above' if exclusive else 'from'
            raise argparse.ArgumentTypeError(f'{text!r} is not a number {above} {minimum:g} to {maximum:g}')
        return value

    return number


def check_output(path: Path, suffixes: Sequence[str], overwrite: bool) -> None:
    """Check an output file before the work.

    Raises:
        OptionsError: its name does not end in one of `suffixes`, it exists, or its folder is not writable.
    """
    if path.suffix.lower() not in suffixes:
        raise OptionsError(f'-o {path}: unsupported file type. Use one of {", ".join(suffixes)}.')
    if path.exists() and (path.is_dir() or not overwrite):
        raise OptionsError(f'{path} exists. Give another name with -o, or replace the file with --overwrite.')
    check_writable(path.parent)


def check_writable(folder: Path) -> None:
    """Raise before the work if its result could not be written to a folder.

    Raises:
        OptionsError: the folder cannot be created or written to.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise OptionsError(f'-o {folder}: {existing} is not a writable folder. Choose another folder.')

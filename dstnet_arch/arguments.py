"""Types of command-line arguments for argparse."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from dstnet_arch.errors import OptionsError

_MAX_FRAME_RATE = 100_000  # frames per second


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


def check_writable(folder: Path) -> None:
    """Raise before the work if its result could not be written to a folder.

    Raises:
        OptionsError: the folder cannot be created or written to.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise OptionsError(f'-o {folder}: {existing} is not a writable folder. Choose another folder.')

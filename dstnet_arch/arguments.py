"""Types of command-line arguments for argparse."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

_MOST_FRAMES = 100_000  # a second


class Size(NamedTuple):
    """Size of a frame, or of a part of it, in pixels."""

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
        raise argparse.ArgumentTypeError(f'{text!r} is not a size; write it as 1280x720, width first')
    return parsed


def frame_rate(text: str) -> Fraction:
    """Parse a number of frames a second: '25', '23.976', '30000/1001'."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= _MOST_FRAMES:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no frame rate: give a number above 0, such as 25, or two as in 30000/1001'
        )
    return rate


def whole_number(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """A whole number of at least `minimum`, and at most `maximum`, if given."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < minimum or (maximum and int(text) > maximum):
            to = 'up' if maximum is None else f'to {maximum}'
            raise argparse.ArgumentTypeError(f'{text!r} is no whole number from {minimum} {to}')
        return int(text)

    return number


def real_number(minimum: float, maximum: float, exclusive: bool = False) -> Callable[[str], float]:
    """A number from `minimum` to `maximum`; `minimum` itself is allowed unless `exclusive`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not minimum <= value <= maximum or (exclusive and value == minimum):
            above = 'above' if exclusive else 'from'
            raise argparse.ArgumentTypeError(f'{text!r} is no number {above} {minimum:g} to {maximum:g}')
        return value

    return number

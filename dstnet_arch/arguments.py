"""Types of command line arguments, for argparse, beside those of `data_prep.arguments`."""

from __future__ import annotations

import argparse
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

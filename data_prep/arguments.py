"""Types of command line arguments, for argparse."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


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

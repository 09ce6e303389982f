"""Types of command-line arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fractions import Fraction

import pytest

from dstnet_arch.arguments import Size, frame_rate, real_number, size, whole_number


def test_values() -> None:
    assert size('1280x720') == size('1280X720') == Size(width=1280, height=720)
    assert str(size('1x2')) == '1x2'
    assert frame_rate('25') == 25
    assert frame_rate('30000/1001') == Fraction(30000, 1001)
    assert frame_rate('23.976') == Fraction(2997, 125)
    assert whole_number(2, 3)('3') == 3
    assert real_number(0, 1)('0') == 0


@pytest.mark.parametrize(
    ('parse', 'texts', 'message'),
    [
        (size, ['', '12', '0x4', '4x-1', 'axb', '1x2x3', '1.5x2'], 'such as 1280x720'),
        (frame_rate, ['', '0', '-25', '1/0', 'nan', 'inf', '100001', 'fast'], 'is not a frame rate'),
        (whole_number(2), ['', '1', '-2', '2.0', '\N{SUPERSCRIPT THREE}'], 'is not an integer from 2 up'),
        (whole_number(2, 3), ['4'], 'is not an integer from 2 to 3'),
        (real_number(0, 1, exclusive=True), ['', '0', '1.1', 'nan'], 'is not a number above 0 to 1'),
    ],
)
def test_errors(parse: Callable[[str], object], texts: list[str], message: str) -> None:
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError, match=message):
            parse(text)

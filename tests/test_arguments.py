"""Types of command line arguments."""

from __future__ import annotations

import argparse
from fractions import Fraction

import pytest

from dstnet_arch.arguments import Size, frame_rate, size


def test_sizes() -> None:
    assert size('1280x720') == size('1280X720') == Size(width=1280, height=720)
    assert str(size('1x2')) == '1x2'


@pytest.mark.parametrize('text', ['', '12', '0x4', '4x-1', 'axb', '1x2x3', '1.5x2'])
def test_no_sizes(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match='1280x720, width first'):
        size(text)


@pytest.mark.parametrize(
    ('text', 'rate'), [('25', Fraction(25)), ('30000/1001', Fraction(30000, 1001)), ('23.976', Fraction(2997, 125))]
)
def test_frame_rates(text: str, rate: Fraction) -> None:
    assert frame_rate(text) == rate


@pytest.mark.parametrize('text', ['', '0', '-25', '1/0', 'nan', 'inf', '100001', 'fast'])
def test_no_frame_rates(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match='is no frame rate'):
        frame_rate(text)

"""Repair of time stamps, and frame rates."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstnet_arch.video.timing import Timing, average_rate, repair_times, usual_step


@pytest.mark.parametrize(
    ('stamps', 'repaired', 'changed'),
    [
        ([0, 40, 80], [0, 40, 80], 0),
        ([0, 40, 40, 120], [0, 40, 41, 120], 1),  # a duplicate moves by a tick
        ([0, 40, 10**9, 120, 160], [0, 40, 80, 120, 160], 1),
        ([0, 40, 5, 120, 160], [0, 40, 80, 120, 160], 1),
        ([10**9, 40, 80, 120, 160], [0, 40, 80, 120, 160], 1),
        ([0, 40, 80] * 3, list(range(0, 360, 40)), 6),  # the clock restarts
        ([500, 540, 580, 0, 40, 80, 120], [500, 540, 580, 620, 660, 700, 740], 4),
        ([None, None, None], [0, 40, 80], 0),
        ([None, 40, None, 120, None], [0, 40, 80, 120, 160], 0),
        ([5, 5, 5, 6], [5, 6, 7, 8], 3),  # no room
        ([7], [7], 0),
    ],
)
def test_repair_times_changes_few_stamps(stamps: list[int | None], repaired: list[int], changed: int) -> None:
    assert repair_times(stamps, 40) == (repaired, changed)


@given(st.lists(st.none() | st.integers(-100, 100), min_size=1, max_size=30))
def test_repair_times_increase_strictly(stamps: list[int | None]) -> None:
    repaired, _ = repair_times(stamps, 3)
    assert len(repaired) == len(stamps)
    assert all(a < b for a, b in pairwise(repaired))


@given(st.sets(st.integers(0, 1000), min_size=1))
def test_repair_times_keeps_good_stamps(stamps: set[int]) -> None:
    assert repair_times(sorted(stamps), 40) == (sorted(stamps), 0)


def test_repair_times_moves_duplicates_by_what_a_container_can_hold() -> None:
    assert repair_times([0, 3600, 3600, 10800], 3600, smallest=90)[0] == [0, 3600, 3690, 10800]
    assert repair_times([0, 3600, 3600, 3610], 3600, smallest=90)[0] == [0, 3600, 3605, 3610]


@pytest.mark.parametrize(
    ('times', 'unit', 'declared', 'rate'),
    [
        ([0, 1, 2, 3], Fraction(1, 25), [Fraction(25)], Fraction(25)),
        ([0, 42, 83, 125], Fraction(1, 1000), [Fraction(60000)], Fraction(24000, 1001)),
        ([0, 33, 67, 100], Fraction(1, 1000), [Fraction(1000), None], Fraction(30000, 1001)),
        ([0, 100, 250], Fraction(1, 1000), [Fraction(600)], Fraction(8)),
        ([0], Fraction(1, 1000), [Fraction(60000)], Fraction(25)),
        ([0], Fraction(1, 1000), [Fraction(30)], Fraction(30)),
        ([*range(0, 400, 40), 1000], Fraction(1, 1000), [Fraction(25)], Fraction(10)),
    ],
)
def test_average_rate(times: list[int], unit: Fraction, declared: list[Fraction | None], rate: Fraction) -> None:
    assert average_rate(times, unit, declared) == rate


def test_usual_step_is_the_median() -> None:
    assert usual_step([0, 40, 80, None, 5000, 5040], 1) == 40
    assert usual_step([None, 7], 3) == 3


def test_timing_knows_its_duration_and_whether_it_is_constant() -> None:
    timing = Timing.constant(Fraction(25), 5)
    assert (timing.duration, timing.is_constant) == (Fraction(1, 5), True)
    assert not Timing(Fraction(1, 25), [0, 1, 5], 1, Fraction(25)).is_constant
    assert Timing(Fraction(1, 1000), [0, 33, 67, 100], 33, Fraction(30)).is_constant

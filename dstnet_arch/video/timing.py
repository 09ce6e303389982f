"""Times of frames: repair of time stamps, and the frame rate behind them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from statistics import median_low
from typing import NamedTuple

DEFAULT_RATE = Fraction(24)
"""Frames per second of a video made from images."""

_COMMON_RATES = [Fraction(*rate) for rate in ((24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (50, 1),
                                              (60000, 1001), (60, 1))]  # fmt: skip
_REGULAR = 0.9  # share of the steps that must have the declared length
_MAX_REMOVED = 0.1  # more time stamps out of order than this: the clock has restarted


class Timing(NamedTuple):
    """Display times of the frames of a source.

    Attributes:
        time_base: length of one tick in seconds.
        times: time of each frame in ticks after `origin`, strictly increasing.
        last_duration: duration of the last frame in ticks.
        rate: average number of frames per second.
        origin: time on the input file's clock at which the result begins, in seconds.
    """

    time_base: Fraction
    times: list[int]
    last_duration: int
    rate: Fraction
    origin: Fraction = Fraction(0)

    @classmethod
    def constant(cls, rate: Fraction, count: int) -> Timing:
        """Times of `count` frames at a constant rate."""
        return cls(1 / rate, list(range(count)), 1, rate)

    @property
    def duration(self) -> Fraction:
        """Seconds from `origin` to the end of the last frame."""
        return (self.times[-1] + self.last_duration) * self.time_base

    @property
    def is_constant(self) -> bool:
        """True if all frames are shown equally long, up to rounding by one tick (or 1 ms)."""
        steps = [b - a for a, b in pairwise(self.times)]
        return not steps or (max(steps) - min(steps)) <= max(Fraction(1), Fraction(2, 1000) / self.time_base)


def repair_times(stamps: Sequence[int | None], usual: int, smallest: int = 1) -> tuple[list[int], int]:
    """Make time stamps strictly increasing and change as few of them as possible.

    A duplicate moves by `smallest`, other wrong stamps move between their neighbours. If many stamps are out of order,
    the clock was restarted; it then continues after the frame before.

    Args:
        stamps: time stamps in presentation order; None: unknown.
        usual: duration of a frame if the stamps do not tell.
        smallest: distance of a moved duplicate from the frame before.

    Returns:
        The new time stamps and the number of changed ones.
    """
    times = _drop_outliers(stamps)
    kept = _longest_increasing(times)
    known = sum(time is not None for time in times)
    if known - len(kept) > max(2, _MAX_REMOVED * known):
        times = _continue_clock(times, usual)
        kept = _longest_increasing(times)
    if not kept:
        return [i * usual for i in range(len(times))], 0
    repaired: list[int] = []
    for place, number in enumerate(kept):
        base = times[number]
        assert base is not None
        if place == 0:
            repaired = [base - (number - i) * usual for i in range(number)]
        repaired.append(base)
        following = kept[place + 1] if place + 1 < len(kept) else None
        count = (len(times) if following is None else following) - number - 1
        end = None if following is None else times[following]
        step = Fraction(usual) if end is None else Fraction(end - base, count + 1)
        for i in range(1, count + 1):
            is_duplicate = stamps[number + i] == stamps[number] and count == 1
            repaired.append(base + (min(smallest, int(step) or 1) if is_duplicate else int(i * step)))
    for i in range(1, len(repaired)):  # no room between two stamps
        repaired[i] = max(repaired[i], repaired[i - 1] + 1)
    return repaired, sum(old is not None and old != new for old, new in zip(stamps, repaired, strict=True))


def usual_step(stamps: Iterable[int | None], default: int) -> int:
    """Median distance between consecutive time stamps, or `default` if there is none."""
    steps = [b - a for a, b in pairwise(stamps) if a is not None and b is not None and b > a]
    return median_low(steps) if steps else max(1, default)


def average_rate(times: Sequence[int], time_base: Fraction, declared: Iterable[Fraction | None]) -> Fraction:
    """Average number of frames per second.

    Args:
        times: strictly increasing times in ticks.
        time_base: length of one tick in seconds.
        declared: rates that the file states. One of them, or a common rate, is returned if it agrees with the times.
    """
    rates = [rate for rate in declared if rate]
    if len(times) < 2:
        return next((rate for rate in rates if 1 <= rate <= 300), Fraction(25))
    duration = (times[-1] - times[0]) * time_base
    measured = (len(times) - 1) / duration
    tolerance = max(Fraction(1, 1000), 2 * time_base / duration)
    usual = [rate for rate in rates if rate in _COMMON_RATES]
    for rate in (*usual, *_COMMON_RATES, *rates):
        if abs(rate / measured - 1) <= tolerance:
            return rate
    steps = [(b - a) * time_base for a, b in pairwise(times)]
    for rate in rates:
        if sum(abs(step - 1 / rate) <= time_base for step in steps) > _REGULAR * len(steps):
            return rate
    return measured.limit_denominator(1000) or measured


def _drop_outliers(stamps: Sequence[int | None]) -> list[int | None]:
    """Replace single stamps that do not fit between their neighbours by None."""
    times = list(stamps)
    known = [(i, stamp) for i, stamp in enumerate(stamps) if stamp is not None]
    for (_, a), (i, b), (j, c), (_, d) in zip(known, known[1:], known[2:], known[3:], strict=False):
        if a < d and b >= c:
            first_is_wrong = b > c and abs(3 * b - 2 * a - d) > abs(3 * c - a - 2 * d)  # expected at thirds of a to d
            times[i if first_is_wrong else j] = None
    return times


def _longest_increasing(values: Sequence[int | None]) -> list[int]:
    """Return the indices of a longest strictly increasing subsequence of the known values."""
    ends: list[int] = []  # smallest last value of a subsequence of each length
    ends_at: list[int] = []
    before: dict[int, int | None] = {}
    for i, value in enumerate(values):
        if value is None:
            continue
        length = bisect_left(ends, value)
        before[i] = ends_at[length - 1] if length else None
        if length < len(ends) and ends[length] == value:
            continue
        ends[length : length + 1] = [value]
        ends_at[length : length + 1] = [i]
    chain: list[int] = []
    last = ends_at[-1] if ends_at else None
    while last is not None:
        chain.append(last)
        last = before[last]
    return chain[::-1]


def _continue_clock(values: Sequence[int | None], usual: int) -> list[int | None]:
    """Move the time stamps after each restart of the clock behind those before it."""
    known = [(i, value) for i, value in enumerate(values) if value is not None]
    moved: list[int | None] = list(values)
    offset = 0
    last: int | None = None
    for place, (i, value) in enumerate(known):
        following = [v for _, v in known[place + 1 : place + 3]]
        is_back = last is not None and value + offset <= last
        if is_back and value < min(following, default=value) and following[-1] + offset <= (last or 0):
            offset = (last or 0) + usual - value
        moved[i] = value + offset
        last = value + offset
    return moved

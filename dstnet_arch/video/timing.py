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

_COMMON_RATES = [Fraction(1000 * rate, 1001) for rate in (24, 30, 60)] + [
    Fraction(rate) for rate in (24, 25, 30, 50, 60)
]
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
    known = _without_outliers({i: stamp for i, stamp in enumerate(stamps) if stamp is not None})
    kept = _longest_increasing(known)
    if len(known) - len(kept) > max(2, _MAX_REMOVED * len(known)):
        kept = _longest_increasing(_continue_clock(known, usual))
    if not kept:
        return [i * usual for i in range(len(stamps))], 0
    first, last = min(kept), max(kept)
    repaired = [kept[first] - (first - i) * usual for i in range(first)]
    for (i, start), (following, end) in pairwise(
        [*kept.items(), (len(stamps), kept[last] + (len(stamps) - last) * usual)]
    ):
        step = Fraction(end - start, following - i)
        repaired += [start + int(k * step) for k in range(following - i)]
        if following - i == 2 and stamps[i] == stamps[i + 1]:
            repaired[-1] = start + min(smallest, int(step) or 1)
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


def _without_outliers(known: dict[int, int]) -> dict[int, int]:
    """Remove single stamps that do not fit between their neighbours."""
    stamps, wrong = list(known.items()), set()
    for (_, a), (i, b), (j, c), (_, d) in zip(stamps, stamps[1:], stamps[2:], stamps[3:], strict=False):
        if a < d and b >= c:
            first_is_wrong = b > c and abs(3 * b - 2 * a - d) > abs(3 * c - a - 2 * d)  # expected at thirds of a to d
            wrong.add(i if first_is_wrong else j)
    return {i: stamp for i, stamp in known.items() if i not in wrong}


def _longest_increasing(known: dict[int, int]) -> dict[int, int]:
    """Return a longest strictly increasing subsequence of the stamps by number."""
    ends: list[int] = []  # smallest last stamp of a subsequence of each length
    ends_at: list[int] = []
    before: dict[int, int | None] = {}
    for i, stamp in known.items():
        length = bisect_left(ends, stamp)
        before[i] = ends_at[length - 1] if length else None
        if length == len(ends) or ends[length] != stamp:
            ends[length : length + 1], ends_at[length : length + 1] = [stamp], [i]
    chain: list[int] = []
    last = ends_at[-1] if ends_at else None
    while last is not None:
        chain.append(last)
        last = before[last]
    return {i: known[i] for i in reversed(chain)}


def _continue_clock(known: dict[int, int], usual: int) -> dict[int, int]:
    """Move the time stamps after each restart of the clock behind those before it."""
    moved: dict[int, int] = {}
    stamps = list(known.items())
    offset, last = 0, stamps[0][1] - 1 if stamps else 0
    for place, (i, stamp) in enumerate(stamps):
        following = [later for _, later in stamps[place + 1 : place + 3]]
        is_back = stamp + offset <= last and stamp < min(following, default=stamp)
        if is_back and following[-1] + offset <= last:
            offset = last + usual - stamp
        last = moved[i] = stamp + offset
    return moved

"""Output of long jobs: a bar with the remaining time on a terminal, else a line every few seconds; -q and -v."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

_SECONDS_BEFORE_BAR = 1.0
_SECONDS_BETWEEN_LINES = 10.0

QUIET, NORMAL, VERBOSE = -1, 0, 1
_verbosity = NORMAL


def set_verbosity(level: int) -> None:
    """Set how much this process prints.

    Args:
        level: QUIET: results, warnings and errors only; NORMAL; VERBOSE: also the duration of each stage, and the
            traceback of errors.
    """
    global _verbosity
    _verbosity = level


def is_verbose() -> bool:
    """Return True after -v."""
    return _verbosity == VERBOSE


def say(line: str) -> None:
    """Print a line about the work on standard output, except after -q."""
    if _verbosity != QUIET:
        print(line, flush=True)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Show how much of a stage is done and how long the rest takes.

    On a terminal this is a tqdm bar on standard error, from the second second on. Without a terminal, for example in a
    log file, it is one line every ten seconds; stages that end earlier print nothing. Can be used in a `with`
    statement. After -q it shows nothing; after -v, a line with the duration follows each stage.

    Args:
        total: number of units; 0 if it is unknown.
        unit: name of a unit, such as 'frame'; bytes are shown as kB, MB or GB.
        label: name of the stage, such as 'reading'.
        log: receives the lines; default: standard error.
        done: units that are done already.
    """

    def __init__(
        self, total: int, unit: str, label: str, log: Callable[[str], None] = _to_stderr, done: int = 0
    ) -> None:
        self.total = total
        self.done = done
        self._first = done
        self._unit = unit
        self._label = label
        self._log = log
        self._start = self._last_line = time.monotonic()
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._bar = self._make_bar() if terminal and _verbosity != QUIET else None

    def _make_bar(self) -> Any:
        try:
            from tqdm import tqdm
        except ImportError:  # the network alone needs only PyTorch
            return None
        return tqdm(
            total=self.total or None,
            initial=self.done,
            desc=self._label,
            unit='B' if self._unit == 'byte' else f' {self._unit}s',
            unit_scale=self._unit == 'byte',
            delay=_SECONDS_BEFORE_BAR,
            dynamic_ncols=True,
            leave=False,
        )

    def update(self, number: int = 1) -> None:
        """Count units that are done."""
        self.done += number
        if self._bar is not None:
            self._bar.update(number)
            return
        now = time.monotonic()
        if _verbosity != QUIET and now - self._last_line >= _SECONDS_BETWEEN_LINES and self.done > self._first:
            self._last_line = now
            left = remaining(now - self._start, self.done - self._first, self.total - self._first)
            self._log(f'{self._label}: {self._counted()}{f", {left} left" if left else ""}')

    def relabel(self, label: str) -> None:
        """Name the stage that begins."""
        if label == self._label:
            return
        self._label = label
        if self._bar is not None:
            self._bar.set_description_str(label, refresh=False)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
        if is_verbose() and self.done > self._first:
            self._log(f'{self._label}: {self._counted()} in {duration(time.monotonic() - self._start)}')

    def _counted(self) -> str:
        scale, unit = (1e6, 'MB') if self._unit == 'byte' else (1, f'{self._unit}s')
        total = f' of {self.total / scale:.0f}' if self.total else ''
        return f'{self.done / scale:.0f}{total} {unit}'

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def remaining(seconds: float, done: int, total: int) -> str:
    """Return the estimated remaining time of a job, '' if nothing is done yet or the total is unknown.

    Args:
        seconds: time since the start of the job.
        done: units done since then.
        total: units to do since then.
    """
    return duration(seconds / done * max(total - done, 0)) if done > 0 and total > 0 else ''


def duration(seconds: float) -> str:
    """Return a time as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}'

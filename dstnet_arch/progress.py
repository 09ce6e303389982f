"""Progress of long jobs: a bar with the remaining time on a terminal, else a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

_SECONDS_BEFORE_BAR = 2.0
_SECONDS_BETWEEN_LINES = 10.0


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Show how much of a job is done and how long the rest takes.

    On a terminal this is a tqdm bar on standard error, from the third second on. Without a terminal, for example in a
    log file, it is one line every ten seconds; jobs that end earlier print nothing. Can be used in a `with` statement.

    Args:
        total: number of units of the job; 0 if it is unknown.
        unit: name of a unit, such as 'frame'.
        label: name of the job.
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
        self._bar = self._make_bar() if sys.stderr is not None and sys.stderr.isatty() else None

    def _make_bar(self) -> Any:
        try:
            from tqdm import tqdm
        except ImportError:  # the network alone needs only PyTorch
            return None
        return tqdm(
            total=self.total or None,
            initial=self.done,
            desc=self._label,
            unit=f' {self._unit}s',
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
        if now - self._last_line >= _SECONDS_BETWEEN_LINES and self.done > self._first:
            self._last_line = now
            if not self.total:
                self._log(f'{self._label}: {self.done} {self._unit}s')
                return
            left = (now - self._start) / (self.done - self._first) * max(self.total - self.done, 0)
            self._log(f'{self._label}: {self.done} of {self.total} {self._unit}s, {_duration(left)} left')

    def relabel(self, label: str) -> None:
        """Name the stage of the job that begins."""
        self._label = label
        if self._bar is not None:
            self._bar.set_description_str(label, refresh=False)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}'

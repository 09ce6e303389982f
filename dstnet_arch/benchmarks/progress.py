"""A progress bar where tqdm is installed, and a line now and then where it is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Progress:
    """Counts steps. `update` after each, `describe` for what they are."""

    def __init__(self, total: int, bar: Any = None) -> None:
        self._total, self._bar = total, bar
        self._done, self._title = 0, ''

    def describe(self, title: str) -> None:
        """Say what the following steps are."""
        self._title = title
        if self._bar is not None:
            self._bar.set_description(title)

    def update(self) -> None:
        """One step is done."""
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        elif self._done * 10 // self._total > (self._done - 1) * 10 // self._total:
            print(f'{self._title}: {self._done} of {self._total}', file=sys.stderr)


@contextmanager
def progress(total: int) -> Iterator[Progress]:
    """Progress over `total` steps, on stderr."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield Progress(total)
        return
    with tqdm(total=total, leave=False) as bar:
        yield Progress(total, bar)

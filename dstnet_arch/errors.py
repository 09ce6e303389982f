"""Errors that end a command with one message and exit status 2, without a traceback.

A message has three parts: what was given, what is allowed, how to mend it.
"""

from __future__ import annotations

import sys
from types import TracebackType

EXIT_STATUS = 2

_LONGEST_LINE = 200


class DSTNetError(Exception):
    """Something that the user can mend. Catch this one to catch them all."""


class OptionsError(DSTNetError):
    """The options file, or a value forced on the command line, is wrong."""


class DataError(DSTNetError):
    """Pictures, videos or data bases on disk are missing, damaged or do not fit together."""


class CheckpointError(DSTNetError):
    """A file of weights or a training state is missing, damaged or does not fit the network."""


class TrainingError(DSTNetError):
    """A training run cannot go on, for instance because its loss is no longer finite."""


def message_of(error: DSTNetError) -> str:
    """The message for the user, also where a loading process of PyTorch has put its traceback in front of it."""
    return printable(f'error: {str(error).rsplit(f"{type(error).__qualname__}: ", 1)[-1].rstrip()}')


def first_line(error: BaseException) -> str:
    """What an error of a library says, short enough for a message of ours: PyTorch's go on for pages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:_LONGEST_LINE]


def printable(text: str) -> str:
    """Text with names from files in it, for a terminal: control characters, which could command it, are written out."""
    return ''.join(c if c.isprintable() or c in '\n\t' else repr(c)[1:-1] for c in text)


def install_excepthook() -> None:
    """Have an uncaught error of this package end the program as described above; all others go their usual way.

    For runs of stock BasicSR's own pipelines, which have no place to catch our errors in.
    """
    previous = sys.excepthook
    if getattr(previous, '__module__', None) == __name__:
        return

    def excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not isinstance(error, DSTNetError):
            previous(kind, error, traceback)
            return
        print(message_of(error), file=sys.stderr)
        sys.exit(EXIT_STATUS)

    sys.excepthook = excepthook


def counted(number: int, noun: str) -> str:
    """`1 frame`, `2 frames`."""
    return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


class Problems:
    """Collects everything that is wrong, so that it can be mended in one go instead of one at a time."""

    SHOWN = 10

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        self.found.append(problem)

    def __len__(self) -> int:
        return len(self.found)

    def text(self) -> str:
        """The first ten, a line each, and how many more there are."""
        lines = [f'  {problem}' for problem in self.found[: self.SHOWN]]
        if len(self) > self.SHOWN:
            lines.append(f'  ... and {len(self) - self.SHOWN} more')
        return '\n'.join(lines)

    def raise_if_any(self, heading: str, remedy: str = '') -> None:
        """Raise DataError with `heading`, the list and `remedy`, unless nothing was found."""
        if self.found:
            raise DataError('\n'.join(part for part in (f'{heading}:', self.text(), remedy) if part))

"""Errors that end a command with one message and exit status 2, without a traceback.

A message says what is wrong, what is expected and what to run.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

EXIT_STATUS = 2
INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT."""
BASICSR_MISSING = 'BasicSR is not installed. Install it with: dstnet setup-basicsr'

_LONGEST_LINE = 200
_THREADS_TIMEOUT = 10.0
_interrupted: Callable[[], str] | None = None


class DSTNetError(Exception):
    """An error that the user can fix. The base class of this package's errors."""


class OptionsError(DSTNetError):
    """The options file, or a value forced on the command line, is wrong."""


class DataError(DSTNetError):
    """Images, videos or data bases on disk are missing, damaged or do not fit together."""


class CheckpointError(DSTNetError):
    """A file of weights or a training state is missing, damaged or does not fit the network."""


class TrainingError(DSTNetError):
    """A training run cannot continue, for instance because its loss is no longer finite."""


def message_of(error: DSTNetError) -> str:
    """Return the message for the user, without the traceback that a loader process of PyTorch puts in front of it."""
    return printable(f'error: {str(error).rsplit(f"{type(error).__qualname__}: ", 1)[-1].rstrip()}')


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error, shortened: PyTorch's messages can fill pages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:_LONGEST_LINE]


def printable(text: str) -> str:
    """Escape control characters, which a name from a file could use to control the terminal."""
    return ''.join(c if c.isprintable() or c in '\n\t' else repr(c)[1:-1] for c in text)


def explain(error: BaseException) -> tuple[str, int] | None:
    """Return the message and the exit status of an error that is reported without a traceback.

    Returns:
        None for all other errors.
    """
    if isinstance(error, DSTNetError):
        return message_of(error), EXIT_STATUS
    if isinstance(error, KeyboardInterrupt):
        return _interrupted() if _interrupted else 'Interrupted.', INTERRUPTED
    if isinstance(error, ModuleNotFoundError) and (error.name or '').partition('.')[0] == 'basicsr':
        return f'error: {BASICSR_MISSING}', EXIT_STATUS
    if isinstance(error, UnicodeEncodeError) and sys.getfilesystemencoding() != 'utf-8':
        text = ascii(error.object[:_LONGEST_LINE])
        message = f'error: This locale uses {sys.getfilesystemencoding()}, which cannot represent {text}. '
        return message + 'Set the environment variable PYTHONUTF8=1 and run the command again.', EXIT_STATUS
    return None


def escape_unencodable_output() -> None:
    """Escape characters that the terminal cannot encode (cp1252, ASCII), instead of failing with UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):  # else it was replaced, for example in a notebook
            stream.reconfigure(errors='backslashreplace')


def install_excepthook(interrupted: Callable[[], str] | None = None) -> None:
    """Report uncaught errors of this package as described above, for pipelines of stock BasicSR.

    Args:
        interrupted: returns the message after Ctrl-C in a run of this package. Without it, only DSTNetError is
            reported here; all other errors use the previous hook.
    """
    global _interrupted
    _interrupted = interrupted
    previous = sys.excepthook
    if getattr(previous, '__module__', None) == __name__:
        return

    def excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        explained = explain(error) if _interrupted or isinstance(error, DSTNetError) else None
        if explained is None:
            previous(kind, error, traceback)
            return
        print(explained[0], file=sys.stderr)
        sys.exit(explained[1])

    sys.excepthook = excepthook


def counted(number: int, noun: str) -> str:
    """Return '1 frame', '2 frames'."""
    return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


class Problems:
    """Collects problems, to report them all at once."""

    SHOWN = 40

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        """Add the description of a problem."""
        self.found.append(problem)

    def __len__(self) -> int:
        return len(self.found)

    def text(self) -> str:
        """Return the first problems, one on each line, and the number of the others."""
        lines = [f'  {problem}' for problem in self.found[: self.SHOWN]]
        if len(self) > self.SHOWN:
            lines.append(f'  ... and {len(self) - self.SHOWN} more')
        return '\n'.join(lines)

    def raise_if_any(self, heading: str, remedy: str = '') -> None:
        """Raise DataError with `heading`, the problems and `remedy`, if there are problems."""
        if self.found:
            raise DataError('\n'.join(part for part in (f'{heading}:', self.text(), remedy) if part))


@atexit.register
def _wait_for_threads() -> None:
    """Wait for threads that were at work when Ctrl-C came.

    Python before 3.13 marks a thread as ended if Ctrl-C comes while it is joined. Python then exits while the thread
    runs, and the process aborts ("terminate called without an active exception") when it returns from native code.
    """
    end = time.monotonic() + _THREADS_TIMEOUT
    while time.monotonic() < end:
        others = set(threading.enumerate()) - {threading.current_thread()}
        if all(thread.daemon for thread in others):
            break
        time.sleep(0.01)

"""Processes that are killed at a chosen moment.

A moment is given by a file that the process opens or renames, which Python reports to audit hooks: the program itself
is not changed for it. The process kills itself at that moment, or is killed some time after it. Victims are forks of
this process, so that nothing has to be imported again.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

EVENTS = ('open', 'os.rename', 'os.remove', 'shutil.rmtree')
_TIMEOUT = 600.0


@dataclass(frozen=True)
class Place:
    """Where to kill.

    Attributes:
        name: for the report.
        event: one of `EVENTS`; '' for a random time since the start.
        pattern: of the file's path, for `fnmatch`.
        most: one of the first so many occurrences is chosen.
        delay: longest delay after it, in seconds; None for no delay, 0 for the time that the work takes.
    """

    name: str
    event: str = ''
    pattern: str = ''
    most: int = 1
    delay: float | None = None


@dataclass(frozen=True)
class Shot:
    """A place, with the chosen occurrence and the chosen delay in seconds."""

    place: Place
    count: int
    delay: float | None


def aim(place: Place, rng: random.Random, seconds: float) -> Shot:
    """Choose the moment at a place; `seconds` is the time that the work takes."""
    longest = seconds if place.delay == 0 or not place.event else place.delay
    return Shot(place, rng.randint(1, place.most), None if longest is None else rng.uniform(0, longest))


def run_forked(work: Callable[[], object], folder: Path, log: Path, shot: Shot | None) -> int | None:
    """Run `work` in a fork of this process, in `folder`, with its output in `log`, and kill it as `shot` says.

    Returns:
        The exit status; None if it was killed.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _become(work, folder, log, shot, writing)
    os.close(writing)
    try:
        if shot is not None and shot.delay is not None:
            # select returns at the place, or when the process ends.
            arrived = not shot.place.event or (
                select.select([reading], [], [], _TIMEOUT)[0] and bool(os.read(reading, 1))
            )
            if arrived:
                _sleep_unless_ended(process, shot.delay)
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return None if code == -signal.SIGKILL else code
    finally:
        os.close(reading)


def _become(work: Callable[[], object], folder: Path, log: Path, shot: Shot | None, pipe: int) -> None:
    """Run `work` in the forked process. Does not return."""
    status = 1
    try:
        os.chdir(folder)
        signal.alarm(round(_TIMEOUT))  # no process outlives it
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if shot is not None and shot.place.event:
            sys.addaudithook(_hook(shot, pipe))
        work()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _hook(shot: Shot, pipe: int) -> Callable[[str, tuple[object, ...]], None]:
    process, place, left = os.getpid(), shot.place, shot.count

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event not in EVENTS or event != place.event or left == 0 or os.getpid() != process:
            return
        path = arguments[0]
        if isinstance(path, str | Path) and fnmatchcase(os.fspath(path), place.pattern):
            left -= 1
            if left == 0:
                if shot.delay is None:
                    os.kill(process, signal.SIGKILL)
                os.write(pipe, b'.')

    return hook


def _sleep_unless_ended(process: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if left > 0.05 and os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(min(left, 0.05))

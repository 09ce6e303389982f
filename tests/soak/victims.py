"""Processes to be killed: forked, so that nothing has to be imported again, or started anew.

A place in a program is named by the file that it opens or renames there, which Python tells to audit hooks: nothing in
the program is changed for it. The process kills itself at that very moment, or has itself killed some time after it.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

EVENTS = ('open', 'os.rename', 'os.remove', 'shutil.rmtree')
_LONGEST = 600.0


@dataclass(frozen=True)
class Place:
    """Where to kill.

    Attributes:
        name: for the report.
        event: what is about to be done with a file, one of `EVENTS`; '' for no place, but a time since the start.
        pattern: of the file's path, as `fnmatch` has it.
        most: of the occurrences, one of so many is taken.
        delay: the most seconds after it; None for at once, 0 for a part of the whole run.
    """

    name: str
    event: str = ''
    pattern: str = ''
    most: int = 1
    delay: float | None = None


@dataclass(frozen=True)
class Shot:
    """A place, with the occurrence there and the seconds after it as they were drawn."""

    place: Place
    count: int
    delay: float | None


def aim(place: Place, rng: random.Random, seconds: float) -> Shot:
    """Choose the moment at a place; `seconds` is about what a whole run takes."""
    longest = seconds if place.delay == 0 or not place.event else place.delay
    return Shot(place, rng.randint(1, place.most), None if longest is None else rng.uniform(0, longest))


def run_forked(work: Callable[[], object], folder: Path, log: Path, shot: Shot | None) -> int | None:
    """Run `work` in a fork of this process, in `folder`, its output going to `log`, and kill it as `shot` says.

    Returns:
        The exit status; None where it was killed.
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
            # Wakes up at the place, or when the process ends; what has no place is counted from the start.
            arrived = shot.place.event == '' or bool(
                select.select([reading], [], [], _LONGEST)[0] and os.read(reading, 1)
            )
            if arrived:
                _sleep_unless_ended(process, shot.delay)
                _kill(process)
        return _status(process)
    finally:
        os.close(reading)


def run_fresh(
    arguments: Sequence[str], folder: Path, log: Path, kill_when: Callable[[float], bool] | None, **variables: str
) -> int | None:
    """Run Python in a process of its own and kill it when `kill_when`, asked without end, says so.

    Args:
        kill_when: given the seconds since the start.

    Returns:
        The exit status; None where it was killed.
    """
    environment: Mapping[str, str] = {**os.environ, **variables}
    with log.open('ab') as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
        )
        start = time.monotonic()
        while kill_when is not None and process.poll() is None:
            if kill_when(time.monotonic() - start):
                process.kill()
                break
            time.sleep(0.0005)
        status = process.wait(_LONGEST)
    return None if status == -signal.SIGKILL else status


def _become(work: Callable[[], object], folder: Path, log: Path, shot: Shot | None, pipe: int) -> None:
    """Be the process in which `work` runs. Does not return."""
    status = 1
    try:
        os.chdir(folder)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
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


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _status(process: int) -> int | None:
    until = time.monotonic() + _LONGEST
    while time.monotonic() < until:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return None if code == -signal.SIGKILL else code
        time.sleep(0.002)
    _kill(process)
    os.waitpid(process, 0)
    raise TimeoutError(f'process {process} did not end within {_LONGEST:.0f} s')

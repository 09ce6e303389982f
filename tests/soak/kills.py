"""Kill training, conversion and deblurring many times and compare the results with runs that were not killed.

This takes minutes, so it is not part of the tests: python tests/soak/kills.py --kills 50
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import date
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')  # PyTorch reads it when it is imported

from jobs import JOBS, Job, Place

_TIMEOUT = 600  # seconds


def run_forked(work: Callable[[], object], folder: Path, log: Path, shot: Callable[[], None] | None) -> int | None:
    """Run `work` in a fork of this process, in which nothing has to be imported again.

    Args:
        work: ends with SystemExit or returns.
        folder: the process's folder.
        log: receives its output.
        shot: called before `work`, to arrange that the process is killed.

    Returns:
        The exit status; None if it was killed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return None if code in (-signal.SIGKILL, -signal.SIGALRM) else code
    status = 1
    try:
        os.chdir(folder)
        signal.alarm(_TIMEOUT)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if shot:
            shot()
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


def kill_at(place: Place, left: int, delay: float | None) -> None:
    """Arrange that this process is killed.

    Python reports files that are opened or renamed to audit hooks, so the program is not changed for this. After a
    delay, the process ends by SIGALRM, whose default action is as abrupt as SIGKILL.

    Args:
        place: where.
        left: at this occurrence.
        delay: so many seconds later.
    """
    process = os.getpid()

    def shoot() -> None:
        if delay is None:
            os.kill(process, signal.SIGKILL)
        else:
            signal.setitimer(signal.ITIMER_REAL, max(delay, 1e-6))

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event == place.event and left and os.getpid() == process:
            path = arguments[0]
            if isinstance(path, str | Path) and fnmatchcase(os.fspath(path), place.pattern):
                left -= 1
                if not left:
                    shoot()

    if place.event:
        sys.addaudithook(hook)
    else:
        shoot()


def kill(job: Job, folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Run a job in `folder` again and again, with several kills in each run, until there were `kills` of them.

    Returns:
        Numbers of kills and runs, kills by their places and by what they left, and faults.
    """
    rng = random.Random(seed)
    places: list[Place] = []
    at: Counter[str] = Counter()
    left: Counter[str] = Counter()
    faults: list[str] = []
    runs = 0
    job.prepare(folder)
    reference = folder / 'reference'
    start = time.monotonic()
    if run_forked(partial(job.work, reference), folder, folder / 'reference.log', None) != 0:
        raise RuntimeError(f'the run without kills failed: see {folder / "reference.log"}')
    seconds = time.monotonic() - start
    while at.total() < kills:
        output = folder / f'run{runs}'
        for attempt in range(job.most_kills + 1):
            shot, place = None, None
            if attempt < job.most_kills and at.total() < kills:
                places = places or rng.sample(list(job.places), len(job.places))
                place = places.pop()
                longest = seconds if place.delay == 0 or not place.event else place.delay
                delay = None if longest is None else rng.uniform(0, longest)
                shot = partial(kill_at, place, rng.randint(1, place.most), delay)
            log = folder / f'{output.name}_{attempt}.log'
            status = run_forked(partial(job.work, output), folder, log, shot)
            text = log.read_text(errors='replace')
            found = list(job.check_log(text))
            if status is None and place:
                at[place.name] += 1
                left[job.after_kill(output, rng)] += 1
            elif status != 0:
                found.append(f'status {status}: {text[-500:]}')
            faults += [f'{output.name}, start {attempt}: {fault}' for fault in found]
            if status is not None or not place:
                break
        runs += 1
        found = list(job.faults(output, reference))
        faults += [f'{output.name}: {fault}' for fault in found]
        print(f'{job.name} {output.name}: {at.total()} kills so far, {found or "equal"}', flush=True)
        if not found:
            shutil.rmtree(output)
    return {'total': at.total(), 'kills': at, 'left': left, 'runs': runs, 'faults': faults}


def main() -> int:
    """Run the jobs that the command line names. Returns 1 if there were faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=50, help='of each job (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only', choices=JOBS, nargs='+', default=JOBS)
    parser.add_argument('-o', '--output', type=Path, help='write the outcome to this JSON file')
    args = parser.parse_args()

    folder = Path(tempfile.mkdtemp(prefix='kills-'))
    report: dict[str, Any] = {
        'command': ' '.join(['python', *sys.argv]),
        'date': date.today().isoformat(),
        'machine': f'{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}',
    }
    for name in args.only:
        (folder / name).mkdir()
        start = time.monotonic()
        outcome = kill(JOBS[name](), folder / name, args.kills, args.seed)
        report[name] = {**outcome, 'seconds': round(time.monotonic() - start)}
        if args.output:
            args.output.write_text(json.dumps(report, indent=2) + '\n')
    print(json.dumps(report, indent=2))
    if any(report[name]['faults'] for name in args.only):
        print(f'There were faults; see {folder}')
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == '__main__':
    sys.exit(main())

"""Kill training, conversion and deblurring many times and compare the results with runs that were not killed.

This takes minutes, so it is not part of the tests: python tests/soak/kills.py --kills 50
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from jobs import JOBS, Job
from project import heading
from victims import Place, Shot, aim, run_forked

os.environ.setdefault('OMP_NUM_THREADS', '1')


@dataclass
class Outcome:
    """What happened to the runs of a job.

    Attributes:
        total: number of kills.
        kills: the same by the place that was aimed at.
        left: the same by what the kill left.
        runs: number of runs that were brought to their end.
        faults: what was not as expected.
    """

    total: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    faults: list[str] = field(default_factory=list)
    seconds: int = 0


def kill(job: Job, folder: Path, kills: int, seed: int, outcome: Outcome) -> None:
    """Run a job in `folder` again and again, with several kills in each run, until there were `kills` of them."""
    rng = random.Random(seed)
    places: list[Place] = []
    job.prepare(folder)
    reference = folder / 'reference'
    start = time.monotonic()
    if run_forked(partial(job.work, reference), folder, folder / 'reference.log', None) != 0:
        raise RuntimeError(f'the run without kills failed: see {folder / "reference.log"}')
    seconds = time.monotonic() - start
    while outcome.total < kills:
        output = folder / f'run{outcome.runs}'
        for attempt in range(job.most_kills + 1):
            shot: Shot | None = None
            if attempt < job.most_kills and outcome.total < kills:
                places = places or rng.sample(list(job.places), len(job.places))
                shot = aim(places.pop(), rng, seconds)
            log = folder / f'{output.name}_{attempt}.log'
            status = run_forked(partial(job.work, output), folder, log, shot)
            text = log.read_text(errors='replace')
            outcome.faults += [f'{output.name}, start {attempt}: {fault}' for fault in job.check_log(output, text)]
            if status is not None:
                if status != 0:
                    outcome.faults.append(f'{output.name}, start {attempt}: status {status}: {text[-500:]}')
                break
            assert shot is not None
            outcome.total += 1
            outcome.kills[shot.place.name] += 1
            outcome.left[job.after_kill(output, rng)] += 1
        outcome.runs += 1
        found = [f'{output.name}: {fault}' for fault in job.faults(output, reference)]
        outcome.faults += found
        print(f'{job.name} {output.name}: {outcome.total} kills so far, {found or "equal"}', flush=True)
        if not found:
            shutil.rmtree(output)


def main() -> int:
    """Run the jobs that the command line names. Returns 1 if there were faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=50, help='of each job (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only', choices=JOBS, nargs='+', default=JOBS)
    parser.add_argument('-o', '--output', type=Path, help='write the outcome to this JSON file')
    args = parser.parse_args()

    folder = Path(tempfile.mkdtemp(prefix='kills-'))
    report = heading()
    for name in args.only:
        (folder / name).mkdir()
        since, outcome = time.monotonic(), Outcome()
        kill(JOBS[name](), folder / name, args.kills, args.seed, outcome)
        outcome.seconds = round(time.monotonic() - since)
        report[name] = vars(outcome)
        if args.output:
            args.output.write_text(json.dumps(report, indent=2) + '\n')
    print(json.dumps(report, indent=2))
    faults = sum(len(report[name]['faults']) for name in args.only)
    if faults:
        print(f'{faults} faults; see {folder}')
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == '__main__':
    sys.exit(main())

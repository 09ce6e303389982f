"""The loop of all work that makes a folder and goes on with what it has left: kill, go on, and compare in the end."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from outcome import Outcome
from victims import Place, Shot, aim, run_forked

_MOST_KILLS = 8  # of one run


@dataclass(frozen=True)
class Job:
    """What is killed.

    Attributes:
        name: for the report.
        places: where to kill it.
        seconds: about what a whole run takes.
        work: of the folder to be made, what is to be run.
        left: of that folder, what a kill has left, for the report.
        faults: of that folder, what is not as it should be when it is made.
    """

    name: str
    places: Sequence[Place]
    seconds: float
    work: Callable[[Path], Callable[[], object]]
    left: Callable[[Path], str]
    faults: Callable[[Path], Iterable[str]]


def kill_job(job: Job, folder: Path, kills: int, seed: int, outcome: Outcome, say: Callable[[str], None]) -> None:
    """Do a job again and again in `folder`, each time with some kills, until there were so many."""
    rng = random.Random(seed)
    places: list[Place] = []
    while outcome.kills.total() < kills:
        output = folder / f'run{outcome.runs}'
        last = 'nothing'
        for attempt in range(_MOST_KILLS + 1):
            shot: Shot | None = None
            if attempt < _MOST_KILLS and outcome.kills.total() < kills:
                places = places or rng.sample(job.places, len(job.places))
                shot = aim(places.pop(), rng, job.seconds)
            log = folder / f'{output.name}_{attempt}.log'
            status = run_forked(job.work(output), folder, log, shot)
            if status == 0:
                break
            if status is not None or shot is None:
                tail = log.read_text()[-500:]
                outcome.faults.append(f'{output.name}: status {status} after a kill {last}: {tail}')
                break
            last = shot.place.name
            outcome.kills[last] += 1
            outcome.found[job.left(output)] += 1
        outcome.runs += 1
        found = [f'{output.name}: {text}' for text in job.faults(output)]
        outcome.faults += found
        say(f'{job.name} {output.name} has ended, {outcome.kills.total()} kills so far: {found or "equal"}')
        if not found:
            shutil.rmtree(output)

"""Kill training runs at chosen and at random moments, and see that each ends as one that nobody has killed."""

from __future__ import annotations

import random
import runpy
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from outcome import Outcome
from project import VAL_FREQ, differences, make_project, run_folder
from victims import Place, aim, run_forked, run_fresh

_WRITE_SECONDS = 0.004  # what a checkpoint of this network takes to be written

_WEIGHTS, _STATES = '*/models/.net_g_*.incomplete', '*/training_states/.*.incomplete'

PLACES = (
    Place('any time'),
    *[Place('any time in training', 'open', '*/train_tiny_*.log', delay=0)] * 3,
    Place('while weights are written', 'open', _WEIGHTS, most=5, delay=_WRITE_SECONDS),
    Place('before weights get their name', 'os.rename', _WEIGHTS, most=5),
    Place('between weights and state', 'open', _STATES, most=5),
    Place('while a state is written', 'open', _STATES, most=5, delay=_WRITE_SECONDS),
    Place('before a state gets its name', 'os.rename', _STATES, most=5),
    Place('in validation, at work', 'open', '*/data/val/blurry/*.png', most=16, delay=0.05),
    Place('in validation, pictures', 'open', '*/visualization/*.incomplete', most=16, delay=0.002),
    Place('in validation, tables', 'os.rename', '*/scores/*.incomplete', most=6),
    Place('at the start', 'open', '*train.yml', delay=0.3),
    Place('while the last weights are written', 'open', '*/.net_g_latest.pth.incomplete', delay=_WRITE_SECONDS),
)


def kill_training(folder: Path, kills: int, seed: int, outcome: Outcome, say: Callable[[str], None]) -> None:
    """Make runs, each killed about a dozen times, until there were so many kills, and compare each with a whole one."""
    import basicsr.train  # noqa: F401 - once, for all that are forked

    rng = random.Random(seed)
    whole = make_project(folder / 'whole')
    start = time.monotonic()
    if run_fresh(_arguments(rng, False), whole, folder / 'whole.log', None) != 0:
        raise RuntimeError(f'the run that nobody kills has failed: see {folder / "whole.log"}')
    seconds = time.monotonic() - start
    say(f'a run that nobody kills: {seconds:.0f} s')
    while outcome.kills.total() < kills:
        project = make_project(folder / f'run{outcome.runs}')
        _Run(project, rng, outcome, kills, seconds, say).to_the_end()
        outcome.runs += 1
        found = list(differences(run_folder(project), run_folder(whole)))
        found += [f'{path.relative_to(project)} was left' for path in run_folder(project).rglob('.*.incomplete')]
        outcome.faults += [f'{project.name}: {text}' for text in found]
        say(f'{project.name} has ended, {outcome.kills.total()} kills so far: {found or "equal"}')
        if not found:
            shutil.rmtree(project)


class _Run:
    """One run, killed and resumed until it has ended."""

    def __init__(
        self,
        project: Path,
        rng: random.Random,
        outcome: Outcome,
        kills: int,
        seconds: float,
        say: Callable[[str], None],
    ) -> None:
        self._project, self._rng, self._outcome, self._kills, self._say = project, rng, outcome, kills, say
        self._seconds = seconds  # of a whole run
        self._folder = run_folder(project)
        self._places: list[Place] = []
        self._damaged = ''

    def to_the_end(self) -> None:
        for start in range(1000):
            begun = time.time()
            had_states = bool(self._states())
            log = self._project / f'start{start}.log'
            status, place = self._start(log)
            text = log.read_text(errors='replace')
            self._check_log(text, had_states)
            if status == 0:
                return
            if status is not None:
                tail = '\n'.join(text.splitlines()[-15:])
                raise RuntimeError(f'start {start} of {self._project} has failed with status {status}:\n{tail}')
            assert place is not None
            phase = self._phase(text, begun)
            self._outcome.kills[place] += 1
            self._outcome.found[phase] += 1
            self._say(f'{self._project.name}, kill {self._outcome.kills.total()}: aimed at "{place}", met {phase}')
            self._damage()
            # Folders that were begun anew are put aside under a name that has the second in it.
            time.sleep(max(0.0, begun + 1.01 - time.time()))

    def _start(self, log: Path) -> tuple[int | None, str | None]:
        rng = self._rng
        arguments = _arguments(rng, True)
        if self._outcome.kills.total() >= self._kills:
            return run_forked(_training(arguments), self._project, log, None), None
        if rng.random() < 0.12:
            self._outcome.fresh += 1
            at = rng.uniform(0, self._seconds)
            incomplete = rng.random() < 0.5
            folders = [self._folder / 'models', self._folder / 'training_states']

            def moment(seconds: float) -> bool:
                if incomplete:
                    return any(folder.is_dir() and any(folder.glob('.*.incomplete')) for folder in folders)
                return seconds > at

            status = run_fresh(arguments, self._project, log, moment)
            if status == 0:
                self._outcome.fresh -= 1
            return status, 'an .incomplete file seen' if incomplete else 'any time'
        if not self._places:
            self._places = list(PLACES)
            rng.shuffle(self._places)
        shot = aim(self._places.pop(), rng, self._seconds / 2)
        return run_forked(_training(arguments), self._project, log, shot), shot.place.name

    def _states(self) -> list[Path]:
        found = (self._folder / 'training_states').glob('[0-9]*.state')
        return sorted(found, key=lambda path: int(path.stem))

    def _check_log(self, text: str, had_states: bool) -> None:
        if 'Start training' not in text:
            return
        resumed = 'Resuming training' in text
        if had_states and not resumed:
            self._outcome.faults.append(f'{self._project.name}: a start did not go on from the states that were there')
        self._outcome.begun_anew += not resumed
        if self._damaged:
            if 'Trying the one before.' in text and self._damaged in text:
                self._outcome.skipped += 1
            else:
                self._outcome.faults.append(f'{self._project.name}: no warning of the damaged {self._damaged}')
            self._damaged = ''

    def _damage(self) -> None:
        """Sometimes, cut the newest checkpoint short, as a power cut may; those before it stay."""
        states = self._states()
        if self._damaged or len(states) < 2 or self._rng.random() > 0.25:
            return
        path = states[-1]
        if self._rng.random() < 0.5:
            path = self._folder / 'models' / f'net_g_{path.stem}.pth'
        length = path.stat().st_size
        with path.open('r+b') as file:
            file.truncate(self._rng.randrange(length))
        self._damaged = path.name
        self._outcome.damaged += 1

    def _phase(self, text: str, begun: float) -> str:
        """What was under way, by what the process has left."""
        for folder, what in {
            'models': 'writing weights',
            'training_states': 'writing a state',
            'scores': 'validation',
            'visualization': 'validation',
        }.items():
            left = (self._folder / folder).rglob('.*.incomplete')
            if any(path.stat().st_mtime >= begun - 0.01 for path in left):
                return what
        if 'Start training' not in text:
            return 'starting'
        if 'End of training' in text:
            return 'finishing'
        last = self._states()[-1:]
        weights = {path.stem[6:] for path in (self._folder / 'models').glob('net_g_[0-9]*.pth')}
        if weights - {path.stem for path in self._states()}:
            return 'between weights and state'
        iteration = int(last[0].stem) if last else -1
        scores = self._folder / 'scores' / f'val_{iteration}_summary.json'
        return 'validation' if iteration % VAL_FREQ == 0 and not scores.exists() else 'training'


def _arguments(rng: random.Random, resume: bool) -> list[str]:
    """Of the command line. With or without processes that load: results are the same."""
    workers = f'datasets:train:num_worker_per_gpu={rng.choice((0, 0, 1))}'
    return ['-m', 'basicsr.train', '-opt', 'train.yml', *(['--auto_resume'] * resume), '--force_yml', workers]


def _training(arguments: list[str]) -> Callable[[], object]:
    def work() -> None:
        from dstnet_arch.errors import DSTNetError, message_of

        sys.argv = ['basicsr.train', *arguments[2:]]
        try:
            runpy.run_module('basicsr.train', run_name='__main__', alter_sys=True)
        except DSTNetError as error:
            print(message_of(error), file=sys.stderr)
            sys.exit(2)

    return work

"""Try the last commit on other Pythons and libraries, each in a fresh environment, and write down what came of it.

Each row goes the way of a user: the environment as in the README, sample videos, a training that is killed and goes
on, a test, a restored video, removal, all tests. A row takes a quarter of an hour and gigabytes of disk, which it gives
back. docs/compatibility.md is made from tests/compatibility/results.json: the last outcome of every row.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from tqdm import tqdm

from dstnet_arch.files import atomic_file

ROOT = Path(__file__).resolve().parents[2]
OLDEST = Path(__file__).with_name('oldest.txt')
RESULTS = Path(__file__).with_name('results.json')
PAGE = ROOT / 'docs' / 'compatibility.md'
EXAMPLES = """\
examples, with the Python of a development environment:
  python tests/compatibility/matrix.py                                      every row, one after the other
  python tests/compatibility/matrix.py --only newest-3.12                   the others stay as they are
  python tests/compatibility/matrix.py --only oldest --constraints FILE     a trial of other versions; no record
"""

SHOWN = ('torch', 'torchvision', 'numpy', 'scipy', 'opencv-python', 'lmdb', 'pydantic', 'basicsr')
"""Libraries with a column in the table."""
LIMIT = 3600.0
"""Seconds after which a command counts as hanging."""

RUN, KILLED = 'train_DSTNet_sample', 'killed'
TINY = ('network_g:num_feat=8', 'network_g:num_block=1', 'network_g:num_cwgdn=1')
TRAIN = (
    *TINY,
    'datasets:train:gt_size=32',
    'datasets:train:num_frame=3',
    'train:total_iter=60',
    'val:val_freq=60',
    'logger:save_checkpoint_freq=4',
    'logger:print_freq=4',
)
CLIP = Path('datasets', 'sample', 'raw', 'test', 'ASTRONAUT_00', 'blur_gamma')
SAME_WEIGHTS = """
import sys, torch
first, second = (torch.load(path, map_location='cpu', weights_only=True)['params'] for path in sys.argv[1:])
differ = sorted(first.keys() ^ second.keys()) or [name for name in first if not torch.equal(first[name], second[name])]
sys.exit(f'after the kill the weights are others than those of one go: {differ}' if differ else 0)
"""


@dataclass(frozen=True)
class Row:
    """A set of libraries to try."""

    name: str
    python: str
    constraints: str = ''
    """Lines of a pip constraints file; a library that is not in them is the newest that fits."""


ROWS = (
    Row('oldest', '3.10', OLDEST.read_text('utf-8')),
    *(Row(f'newest-{python}', python) for python in ('3.10', '3.11', '3.12', '3.13')),
)


class StepFailed(Exception):
    """A step has not done what it should; the text is what it said last."""


@dataclass
class Outcome:
    """What became of a row."""

    row: str
    date: str
    commit: str
    machine: str
    python: str = ''
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each step."""
    psnr: float | None = None
    """Of the test clip, restored, in dB."""
    tests: str | None = None
    """pytest's last line."""
    failure: str | None = None
    """The step where it ended, and why; None where everything was done."""


class Trial:
    """One row: a folder with a clone of the last commit, an environment and a place to work in."""

    def __init__(self, row: Row, folder: Path, outcome: Outcome) -> None:
        self.row, self.outcome = row, outcome
        self.clone, self.environment, self.work = folder / 'clone', folder / 'env', folder / 'work'
        self.constraints, self.log = folder / 'constraints.txt', folder / 'log.txt'
        self.python = self.environment / ('Scripts' if os.name == 'nt' else 'bin') / 'python'

    def run(self) -> None:
        """Go the whole way, or until a step fails; the outcome says which."""
        self.work.mkdir()
        self.constraints.write_text(self.row.constraints, 'utf-8')
        for step in tqdm(STEPS, desc=self.row.name, unit='step', disable=None):
            start = time.monotonic()
            try:
                step(self)
            except (StepFailed, OSError) as error:
                self.outcome.failure = f'{step.__name__}: {error}'
                return
            finally:
                self.outcome.seconds[step.__name__] = round(time.monotonic() - start, 1)

    def install(self) -> None:
        """Into a fresh environment, by the commands of the README, but as a wheel."""
        self._call(find_python(self.row.python), '-m', 'venv', self.environment)
        self.outcome.python = self._call(self.python, '-c', 'import platform; print(platform.python_version())').strip()
        self._pip('torch', 'torchvision', 'setuptools', 'wheel', 'numpy')
        self._pip('--no-build-isolation', 'basicsr==1.4.2', python_path=self.clone / '.ci' / 'basicsr')
        self._pip('--no-build-isolation', self.clone)
        listed = json.loads(self._call(self.python, '-m', 'pip', 'list', '--format=json'))
        self.outcome.versions = {item['name'].lower(): item['version'] for item in listed}
        self._call(self.python, '-m', 'pip', 'check')

    def sample(self) -> None:
        """Make the sample data."""
        self._call(self.python, '-m', 'data_prep', 'sample', '-o', Path('datasets', 'sample'))

    def train(self) -> None:
        """A very small network, in one go."""
        self._call(*self._train(RUN))

    def resume(self) -> None:
        """The same once more, killed on the way: it goes on, to the very same weights."""
        states = self.work / 'experiments' / KILLED / 'training_states'
        with open(self.log, 'ab') as log:
            command, variables = self._train(KILLED), self._variables()
            process = subprocess.Popen(command, cwd=self.work, env=variables, stdout=log, stderr=log)
            try:
                start = time.monotonic()
                while not list(states.glob('*.state')):
                    if process.poll() is not None or time.monotonic() - start > LIMIT:
                        raise StepFailed(f'the training has saved no state; see the end of {self.log} with --keep')
                    time.sleep(0.05)
                if process.poll() is not None:
                    raise StepFailed('the training ended before it could be killed')
            finally:
                process.kill()
                process.wait()
        said = self._call(*self._train(KILLED), '--auto_resume')
        if 'Resuming training from epoch' not in said:
            raise StepFailed('--auto_resume has begun anew')
        self._call(self.python, '-c', SAME_WEIGHTS, self._weights(RUN), self._weights(KILLED))

    def test(self) -> None:
        """Restore and score the test clip."""
        weights = f'path:pretrain_network_g={self._weights(RUN)}'
        options = self.clone / 'options' / 'test_DSTNet_sample.yml'
        self._call(self.python, '-m', 'basicsr.test', '-opt', options, '--force_yml', *TINY, weights)
        summary = self.work / 'results' / 'test_DSTNet_sample' / 'sample_summary.json'
        self.outcome.psnr = round(json.loads(summary.read_text('utf-8'))['mean_over_frames']['restored']['psnr'], 4)

    def deblur(self) -> None:
        """Restore the test clip by the command for footage of one's own."""
        command = self.python.with_name('dstnet')
        self._call(command, 'deblur', CLIP, '-o', 'restored', '--weights', self._weights(RUN))
        expected = {path.name for path in (self.work / CLIP).iterdir()}
        if {path.name for path in (self.work / 'restored').iterdir()} != expected:
            raise StepFailed('dstnet deblur has not restored every frame')

    def remove(self) -> None:
        """Uninstall; nothing of the project is left."""
        self._call(self.python, '-m', 'pip', 'uninstall', '--yes', 'dstnet-arch')
        left = [str(path) for name in ('*dstnet*', '*data_prep*') for path in self.environment.rglob(name)]
        if left:
            raise StepFailed(f'left behind: {", ".join(left)}')

    def suite(self) -> None:
        """All tests but those for GPUs, from an editable installation."""
        self._pip('--no-build-isolation', '--editable', f'{self.clone}[test]')
        options = ('-q', '-m', 'not gpu', '-p', 'no:cacheprovider')
        said = self._call(self.python, '-m', 'pytest', *options, folder=self.clone)
        self.outcome.tests = said.strip().splitlines()[-1]

    def _train(self, name: str) -> list[str]:
        options = self.clone / 'options' / 'train_DSTNet_sample.yml'
        arguments = ['-m', 'basicsr.train', '-opt', options, '--force_yml', f'name={name}', *TRAIN]
        return [str(self.python), *map(str, arguments)]

    def _weights(self, name: str) -> Path:
        return self.work / 'experiments' / name / 'models' / 'net_g_latest.pth'

    def _pip(self, *arguments: object, python_path: Path | None = None) -> None:
        install = ('-m', 'pip', 'install', '--quiet', '--constraint', self.constraints)
        self._call(self.python, *install, *arguments, python_path=python_path)

    def _call(self, *command: object, folder: Path | None = None, python_path: Path | None = None) -> str:
        """Run a command to its end. Returns what it has printed; raises StepFailed with the last lines of it."""
        arguments = [str(part) for part in command]
        try:
            done = subprocess.run(
                arguments,
                cwd=folder or self.work,
                env=self._variables(python_path),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors='replace',
                timeout=LIMIT,
            )
        except subprocess.TimeoutExpired:
            raise StepFailed(f'nothing came of it in {LIMIT:.0f} s: {shlex.join(arguments)}') from None
        with open(self.log, 'a', encoding='utf-8') as log:
            log.write(f'$ {shlex.join(arguments)}\n{done.stdout}\n')
        if done.returncode:
            lines = [line for line in done.stdout.splitlines() if line.strip()]
            raise StepFailed('\n'.join([f'status {done.returncode} of {shlex.join(arguments)}', *lines[-15:]]))
        return done.stdout

    def _variables(self, python_path: Path | None = None) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(('PYTHON', 'VIRTUAL_ENV'))}
        more = {} if python_path is None else {'PYTHONPATH': str(python_path)}
        return {**inherited, 'PIP_DISABLE_PIP_VERSION_CHECK': '1', **more}


STEPS: tuple[Callable[[Trial], None], ...] = (
    Trial.install,
    Trial.sample,
    Trial.train,
    Trial.resume,
    Trial.test,
    Trial.deblur,
    Trial.remove,
    Trial.suite,
)


def find_python(version: str) -> str:
    """An interpreter of this version: this one, `python3.x` on the PATH, or one that pyenv has installed.

    Raises:
        StepFailed: there is none.
    """
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv'))
    candidates = [sys.executable, shutil.which(f'python{version}'), *pyenv.glob(f'versions/{version}.*/bin/python')]
    for candidate in candidates:
        if candidate is not None:
            code = 'import sys; print("{}.{}".format(*sys.version_info))'
            done = subprocess.run([candidate, '-c', code], capture_output=True, text=True)
            if done.stdout.strip() == version:
                return str(candidate)
    raise StepFailed(f'there is no Python {version} here. Install it, with pyenv for instance')


def try_row(row: Row, keep: bool) -> Outcome:
    """Try one row, in a folder of its own that is removed again unless `keep`."""
    import torch

    from dstnet_arch.benchmarks.report import machine

    facts = machine(torch.device('cpu'))
    folder = Path(tempfile.mkdtemp(prefix=f'dstnet-{row.name}-'))
    try:
        subprocess.run(['git', 'clone', '--quiet', ROOT, folder / 'clone'], check=True)
        commit = subprocess.check_output(['git', '-C', folder / 'clone', 'rev-parse', 'HEAD'], text=True).strip()
        outcome = Outcome(
            row=row.name,
            date=datetime.now(timezone.utc).isoformat(timespec='seconds'),
            commit=commit,
            machine=f'{facts["cpu"]}, {facts["cores"]} cores, {facts["system"]}',
        )
        Trial(row, folder, outcome).run()
        return outcome
    finally:
        if keep:
            print(f'{row.name}: kept in {folder}')
        else:
            shutil.rmtree(folder, ignore_errors=True)


def read_results(path: Path) -> dict[str, Outcome]:
    """The last outcome of each row, by its name."""
    if not path.exists():
        return {}
    return {item['row']: Outcome(**item) for item in json.loads(path.read_text('utf-8'))}


def write_results(results: dict[str, Outcome], path: Path) -> None:
    """Write what `read_results` reads; rows that are no more are dropped."""
    ordered = [asdict(results[row.name]) for row in ROWS if row.name in results]
    with atomic_file(path) as file:
        file.write(json.dumps(ordered, indent=1, ensure_ascii=False).encode() + b'\n')


def page(results: dict[str, Outcome]) -> str:
    """The text of docs/compatibility.md."""
    shown = [results[row.name] for row in ROWS if row.name in results]
    untried = ', '.join(row.name for row in ROWS if row.name not in results)
    header = ['', 'Python', *SHOWN, 'outcome', 'restored', 'tests', 'seconds', 'commit', 'date']
    table = [header, ['---'] * len(header)]
    for outcome in shown:
        seconds = sum(outcome.seconds.values())
        table.append(
            [
                outcome.row,
                outcome.python,
                *(outcome.versions.get(name, '') for name in SHOWN),
                'works' if outcome.failure is None else f'**fails** in `{outcome.failure.partition(":")[0]}`',
                '' if outcome.psnr is None else f'{outcome.psnr:.4f} dB',
                (outcome.tests or '').partition(' in ')[0],
                f'{seconds:.0f}, of which installation {outcome.seconds.get("install", 0):.0f}',
                outcome.commit[:7],
                outcome.date[:10],
            ]
        )
    lines = '\n'.join(f'| {" | ".join(cell.replace("|", "/") for cell in cells)} |' for cells in table)
    machines = '\n'.join(sorted({f'- {outcome.machine}' for outcome in shown})) or '- none yet'
    steps = '\n'.join(
        f'{number}. `{step.__name__}`: {(step.__doc__ or "").strip()}' for number, step in enumerate(STEPS, 1)
    )
    lines += f'\n\nNot tried yet: {untried}.' if untried else ''
    return _PAGE.format(table=lines, machines=machines, steps=steps, oldest=OLDEST.read_text('utf-8').strip())


def write_page(path: Path) -> None:
    """Write the page that the results make."""
    with atomic_file(path) as file:
        file.write(page(read_results(RESULTS)).encode())


_PAGE = """\
# Compatibility

<!-- Made by tests/compatibility/matrix.py from tests/compatibility/results.json. Change those, not this. -->

What was tried, each row in a fresh environment with a clean clone of the commit. "newest" is what pip chose on that
day, "oldest" the set at the end of this page. `restored` is the score of the test clip after the short training: where
it is the same, the libraries make no difference.

{table}

Machines:

{machines}

## What a row does

{steps}

No row needs a GPU. The libraries' CUDA packages are installed with them, as pip does it.

## To run it

```bash
python tests/compatibility/matrix.py                     # all rows, one after the other
python tests/compatibility/matrix.py --only newest-3.12  # one; the others stay in the table
```

It needs Git, a development environment to start from, the Pythons (on the `PATH` or from pyenv), and 10 GB of disk
for a moment. What is tried is the last commit, so commit first. Environments are made one at a time and removed;
`--keep` leaves them, with the log of every command.

## The oldest libraries

```
{oldest}
```
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the rows that were asked for. Returns 1 if one of them fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [row.name for row in ROWS]
    parser.add_argument('--only', nargs='+', metavar='NAME', choices=names, default=names, help=', '.join(names))
    parser.add_argument('--keep', action='store_true', help='leave clone, environment and log of each row')
    parser.add_argument('--constraints', type=Path, metavar='FILE', help="in place of a row's own; leaves no record")
    parser.add_argument(
        '-o', '--output', type=Path, metavar='FILE', default=PAGE, help='the page (default: %(default)s)'
    )
    parser.add_argument('--page', action='store_true', help='try nothing, make the page from the results')
    args = parser.parse_args(arguments)
    if args.page:
        write_page(args.output)
        return 0
    failed = False
    for row in ROWS:
        if row.name not in args.only:
            continue
        if args.constraints:
            row = Row(row.name, row.python, args.constraints.read_text('utf-8'))
        outcome = try_row(row, args.keep)
        failed |= outcome.failure is not None
        print(f'{row.name}: {outcome.failure or "works"} ({sum(outcome.seconds.values()):.0f} s)', flush=True)
        if not args.constraints:
            # Read anew: somebody may have tried another row meanwhile.
            write_results({**read_results(RESULTS), row.name: outcome}, RESULTS)
            write_page(args.output)
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())

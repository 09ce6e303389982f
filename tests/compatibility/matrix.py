"""Try the last commit with other versions of Python and of the libraries, each in a fresh environment.

Each row installs as a user does, makes the sample videos, trains, kills and resumes a training, tests, deblurs a clip,
uninstalls, and runs the tests. A row takes a quarter of an hour and up to 10 GB of disk for that time. The outcomes are
recorded in results.json, from which docs/compatibility.md is made.

  python tests/compatibility/matrix.py                     all rows, one after the other
  python tests/compatibility/matrix.py --only newest-3.12  one row; the others stay in the table
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from dstnet_arch.files import atomic_file

ROOT = Path(__file__).resolve().parents[2]
OLDEST = Path(__file__).with_name('oldest.txt')
RESULTS = Path(__file__).with_name('results.json')
PAGE = ROOT / 'docs' / 'compatibility.md'

# Name -> (Python, pip constraints; a library that is not in them is the newest that fits).
ROWS = {
    'oldest': ('3.10', OLDEST.read_text('utf-8')),
    **{f'newest-{python}': (python, '') for python in ('3.10', '3.11', '3.12', '3.13')},
}
LIBRARIES = ('torch', 'torchvision', 'numpy', 'scipy', 'opencv-python', 'lmdb', 'pydantic', 'basicsr')
"""Libraries with a column in the table."""
LIMIT = 3600.0
"""Seconds after which a command is considered to hang."""

TRAIN = (
    'network_g:num_feat=8',
    'network_g:num_block=1',
    'network_g:num_cwgdn=1',
    'datasets:train:gt_size=32',
    'datasets:train:num_frame=3',
    'train:total_iter=60',
    'val:val_freq=60',
    'logger:save_checkpoint_freq=4',
    'logger:print_freq=4',
)
CLIP = 'datasets/sample/raw/test/ASTRONAUT_00/blur_gamma'
WEIGHTS = 'experiments/{}/models/net_g_latest.pth'
SAME_WEIGHTS = """
import sys, torch
first, second = (torch.load(path, map_location='cpu', weights_only=True)['params'] for path in sys.argv[1:])
sys.exit(not (first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)))
"""


class StepError(Exception):
    """A step failed; the text is the end of its output."""


@dataclass
class Outcome:
    """The outcome of a row: versions, seconds of each step, and the step that failed, if any."""

    row: str
    date: str
    commit: str
    machine: str
    python: str = ''
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    psnr: float | None = None
    tests: str | None = None
    failure: str | None = None


class Trial:
    """One row: a folder with a clone of the last commit, an environment and a folder to work in."""

    def __init__(self, row: str, folder: Path, outcome: Outcome) -> None:
        self.outcome = outcome
        self.version, constraints = ROWS[row]
        self.clone, self.environment, self.work = folder / 'clone', folder / 'env', folder / 'work'
        self.constraints, self.log = folder / 'constraints.txt', folder / 'log.txt'
        self.python = self.environment / 'bin' / 'python'
        self.dstnet = self.environment / 'bin' / 'dstnet'
        self.work.mkdir()
        self.constraints.write_text(constraints, 'utf-8')

    def install(self) -> None:
        """`pip install .`, and `dstnet setup-basicsr` where pip cannot build BasicSR (Python 3.10 and 3.13)."""
        self.call(find_python(self.version), '-m', 'venv', self.environment)
        self.outcome.python = self.call(self.python, '-c', 'import platform; print(platform.python_version())').strip()
        self.call(self.python, '-m', 'pip', 'install', '--quiet', '--constraint', self.constraints, self.clone)
        self.call(self.dstnet, 'setup-basicsr', '--', '--quiet', '--constraint', self.constraints)
        listed = json.loads(self.call(self.python, '-m', 'pip', 'list', '--format=json'))
        self.outcome.versions = {item['name'].lower(): item['version'] for item in listed}
        self.call(self.python, '-m', 'pip', 'check')

    def train(self) -> None:
        """Make the sample videos and train a very small network."""
        self.call(self.python, '-m', 'data_prep', 'sample', '-o', 'datasets/sample')
        self.call(*self.training('complete'))

    def resume(self) -> None:
        """The same training, killed and resumed: the weights are equal."""
        states = self.work / 'experiments' / 'killed' / 'training_states'
        process = subprocess.Popen(self.training('killed'), cwd=self.work, stdout=subprocess.DEVNULL)
        end = time.monotonic() + LIMIT
        while not list(states.glob('*.state')) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        process.kill()
        if process.wait() == 0:
            raise StepError('the training ended before it was killed')
        self.call(*self.training('killed'), '--auto_resume')
        self.call(self.python, '-c', SAME_WEIGHTS, WEIGHTS.format('complete'), WEIGHTS.format('killed'))

    def test(self) -> None:
        """Deblur and score the test clip."""
        forced = [*TRAIN[:3], f'path:pretrain_network_g={WEIGHTS.format("complete")}']
        self.call(self.python, '-m', 'basicsr.test', '-opt', self.options('test'), '--force_yml', *forced)
        summary = self.work / 'results' / 'test_DSTNet_sample' / 'sample_summary.json'
        self.outcome.psnr = round(json.loads(summary.read_text('utf-8'))['mean_over_frames']['restored']['psnr'], 4)

    def deblur(self) -> None:
        """Deblur the same clip with `dstnet deblur`."""
        self.call(self.dstnet, 'deblur', CLIP, '-o', 'restored', '--weights', WEIGHTS.format('complete'))
        if len(list((self.work / 'restored').iterdir())) != len(list((self.work / CLIP).iterdir())):
            raise StepError('frames are missing')

    def remove(self) -> None:
        """Uninstall: no file of the project is left."""
        self.call(self.python, '-m', 'pip', 'uninstall', '--yes', 'dstnet-arch')
        if left := [str(path) for name in ('*dstnet*', '*data_prep*') for path in self.environment.rglob(name)]:
            raise StepError(f'left behind: {", ".join(left)}')

    def suite(self) -> None:
        """Run the tests, from an editable installation."""
        pip = ('-m', 'pip', 'install', '--quiet', '--constraint', self.constraints, '--no-build-isolation')
        self.call(self.python, *pip, '--editable', f'{self.clone}[test]')
        tests = ('-m', 'pytest', '-q', '-n', '2', '-m', 'not gpu and not extended', '-p', 'no:cacheprovider')
        self.outcome.tests = self.call(self.python, *tests, folder=self.clone).strip().splitlines()[-1]

    def options(self, phase: str) -> Path:
        return self.clone / 'options' / f'{phase}_DSTNet_sample.yml'

    def training(self, name: str) -> list[str]:
        arguments = ['-m', 'basicsr.train', '-opt', self.options('train'), '--force_yml', f'name={name}', *TRAIN]
        return [str(self.python), *map(str, arguments)]

    def call(self, *command: object, folder: Path | None = None) -> str:
        """Run a command and return its output. Raises StepError with the end of it."""
        arguments = [str(part) for part in command]
        try:
            done = subprocess.run(
                arguments,
                cwd=folder or self.work,
                env={key: value for key, value in os.environ.items() if not key.startswith(('PYTHON', 'VIRTUAL_ENV'))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors='replace',
                timeout=LIMIT,
            )
        except subprocess.TimeoutExpired:
            raise StepError(f'no result in {LIMIT:.0f} s: {shlex.join(arguments)}') from None
        with open(self.log, 'a', encoding='utf-8') as log:
            log.write(f'$ {shlex.join(arguments)}\n{done.stdout}\n')
        if done.returncode:
            lines = [line for line in done.stdout.splitlines() if line.strip()]
            raise StepError('\n'.join([f'status {done.returncode} of {shlex.join(arguments)}', *lines[-15:]]))
        return done.stdout


STEPS: tuple[Callable[[Trial], None], ...] = (
    Trial.install,
    Trial.train,
    Trial.resume,
    Trial.test,
    Trial.deblur,
    Trial.remove,
    Trial.suite,
)


def find_python(version: str) -> str:
    """Return an interpreter of this version: `python3.x` on the PATH, or one that pyenv installed.

    Raises:
        StepError: there is none.
    """
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv'))
    for candidate in (
        sys.executable,
        shutil.which(f'python{version}'),
        *pyenv.glob(f'versions/{version}.*/bin/python'),
    ):
        if candidate is not None:
            code = 'import sys; print("{}.{}".format(*sys.version_info))'
            if subprocess.run([candidate, '-c', code], capture_output=True, text=True).stdout.strip() == version:
                return str(candidate)
    raise StepError(f'Python {version} is not installed here. Install it, for instance with pyenv')


def try_row(row: str, keep: bool) -> Outcome:
    """Try one row in a temporary folder, which stays if `keep`."""
    folder = Path(tempfile.mkdtemp(prefix=f'dstnet-{row}-'))
    subprocess.run(['git', 'clone', '--quiet', ROOT, folder / 'clone'], check=True)
    commit = subprocess.check_output(['git', '-C', folder / 'clone', 'rev-parse', 'HEAD'], text=True).strip()
    machine = f'{platform.machine()}, {os.cpu_count()} cores, {platform.platform()}'
    outcome = Outcome(row, datetime.now(timezone.utc).isoformat(timespec='seconds'), commit, machine)
    trial = Trial(row, folder, outcome)
    for step in STEPS:
        start = time.monotonic()
        try:
            step(trial)
        except (StepError, OSError) as error:
            outcome.failure = f'{step.__name__}: {error}'
        outcome.seconds[step.__name__] = round(time.monotonic() - start, 1)
        print(f'{row}: {step.__name__} {outcome.seconds[step.__name__]} s', flush=True)
        if outcome.failure:
            break
    if keep:
        print(f'{row}: kept in {folder}')
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def read_results(path: Path) -> dict[str, Outcome]:
    """Read the last outcome of each row, by its name."""
    if not path.exists():
        return {}
    return {item['row']: Outcome(**item) for item in json.loads(path.read_text('utf-8'))}


def write_results(results: dict[str, Outcome], path: Path) -> None:
    """Write what `read_results` reads; rows that no longer exist are dropped."""
    ordered = [asdict(results[row]) for row in ROWS if row in results]
    with atomic_file(path) as file:
        file.write(json.dumps(ordered, indent=1, ensure_ascii=False).encode() + b'\n')


def page(results: dict[str, Outcome]) -> str:
    """Return the text of docs/compatibility.md."""
    table = [['', 'Python', *LIBRARIES, 'outcome', 'PSNR', 'tests', 'commit', 'date']]
    table.append(['---'] * len(table[0]))
    for outcome in (results[row] for row in ROWS if row in results):
        table.append(
            [
                outcome.row,
                outcome.python,
                *(outcome.versions.get(name, '') for name in LIBRARIES),
                'works' if outcome.failure is None else f'**fails** in `{outcome.failure.partition(":")[0]}`',
                '' if outcome.psnr is None else f'{outcome.psnr:.4f} dB',
                (outcome.tests or '').partition(' in ')[0],
                outcome.commit[:7],
                outcome.date[:10],
            ]
        )
    lines = '\n'.join(f'| {" | ".join(cell.replace("|", "/") for cell in cells)} |' for cells in table)
    steps = '\n'.join(f'{number}. `{step.__name__}`: {step.__doc__}' for number, step in enumerate(STEPS, 1))
    return _PAGE.format(table=lines, steps=steps, oldest=OLDEST.read_text('utf-8').strip())


_PAGE = """\
# Compatibility

<!-- Made by tests/compatibility/matrix.py --page from tests/compatibility/results.json. Do not edit. -->

Each row was tried in a fresh environment with a clean clone of the commit. "newest" is what pip chose on that day,
"oldest" are the versions at the end of this page. `PSNR` is the score of the test clip after a short training: equal
scores mean that the libraries make no difference.

{table}

## What a row does

{steps}

No row needs a GPU. The CUDA packages of the libraries are installed with them, as pip does.

## Run it

```bash title="Needs Git, the versions of Python, and 10 GB of disk"
python tests/compatibility/matrix.py                     # all rows, one after the other
python tests/compatibility/matrix.py --only newest-3.12  # one; the others stay in the table
```

This needs Git, a development environment, the versions of Python (on the `PATH` or from pyenv), and 10 GB of disk
while a row runs. The last commit is tried. `--keep` keeps the environment and the log of all commands.

## The oldest libraries

```
{oldest}
```
"""


def main() -> int:
    """Try the rows that the command line names. Returns 1 if one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', metavar='ROW', choices=ROWS, default=ROWS, help=', '.join(ROWS))
    parser.add_argument('--keep', action='store_true', help='keep clone, environment and log of each row')
    parser.add_argument('--page', action='store_true', help='try nothing, write the page from the results')
    args = parser.parse_args()
    failed = False
    for row in () if args.page else args.only:
        outcome = try_row(row, args.keep)
        failed |= outcome.failure is not None
        print(f'{row}: {outcome.failure or "works"} ({sum(outcome.seconds.values()):.0f} s)', flush=True)
        write_results({**read_results(RESULTS), row: outcome}, RESULTS)
    PAGE.write_text(page(read_results(RESULTS)), 'utf-8')
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())

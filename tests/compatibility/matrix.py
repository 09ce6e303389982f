"""Try the last commit with other versions of Python and of the libraries, each in a fresh environment.

Each row installs as a user does, makes the sample videos, trains, kills and resumes a training, tests, deblurs a clip,
uninstalls, and runs the tests. A row takes a quarter of an hour and up to 10 GB of disk for that time. The outcomes are
written to the table in docs/compatibility.md.

  python tests/compatibility/matrix.py                     all rows, one after the other
  python tests/compatibility/matrix.py --only newest-3.12  one row; the others stay in the table
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OLDEST = Path(__file__).with_name('oldest.txt')
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


class Trial:
    """One row: a folder with a clone of the last commit, an environment and a folder to work in, and what came out."""

    def __init__(self, row: str, folder: Path) -> None:
        self.version, constraints = ROWS[row]
        self.clone, self.environment, self.work = folder / 'clone', folder / 'env', folder / 'work'
        self.constraints, self.log = folder / 'constraints.txt', folder / 'log.txt'
        self.python = self.environment / 'bin' / 'python'
        self.dstnet = self.environment / 'bin' / 'dstnet'
        self.work.mkdir()
        self.constraints.write_text(constraints, 'utf-8')
        self.exact_version = self.psnr = self.tests = ''
        self.versions: dict[str, str] = {}

    def install(self) -> None:
        """`pip install .`, and `dstnet setup-basicsr` where pip cannot build BasicSR (Python 3.10 and 3.13)."""
        self.call(find_python(self.version), '-m', 'venv', self.environment)
        self.exact_version = self.call(self.python, '-c', 'import platform; print(platform.python_version())').strip()
        self.call(self.python, '-m', 'pip', 'install', '--quiet', '--constraint', self.constraints, self.clone)
        self.call(self.dstnet, 'setup-basicsr', '--', '--quiet', '--constraint', self.constraints)
        listed = json.loads(self.call(self.python, '-m', 'pip', 'list', '--format=json'))
        self.versions = {item['name'].lower(): item['version'] for item in listed}
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
        psnr = json.loads(summary.read_text('utf-8'))['mean_over_frames']['restored']['psnr']
        self.psnr = f'{psnr:.4f} dB'

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
        self.tests = self.call(self.python, *tests, folder=self.clone).strip().splitlines()[-1]

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


def try_row(row: str, keep: bool) -> bool:
    """Try one row in a temporary folder, which stays if `keep`, and write it to the page. Returns True if it works."""
    folder = Path(tempfile.mkdtemp(prefix=f'dstnet-{row}-'))
    subprocess.run(['git', 'clone', '--quiet', ROOT, folder / 'clone'], check=True)
    commit = subprocess.check_output(['git', '-C', folder / 'clone', 'rev-parse', 'HEAD'], text=True).strip()
    trial = Trial(row, folder)
    outcome = 'works'
    for step in STEPS:
        print(f'{row}: {step.__name__}', flush=True)
        try:
            step(trial)
        except (StepError, OSError) as error:
            print(f'{row}: {error}', flush=True)
            outcome = f'**fails** in `{step.__name__}`'
            break
    versions = [trial.versions.get(name, '') for name in LIBRARIES]
    tests = trial.tests.partition(' in ')[0]
    cells = [row, trial.exact_version, *versions, outcome, trial.psnr, tests, commit[:7], str(date.today())]
    PAGE.write_text(with_row(PAGE.read_text('utf-8'), cells), 'utf-8')
    if keep:
        print(f'{row}: kept in {folder}')
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome == 'works'


def with_row(page: str, cells: list[str]) -> str:
    """Return the text of a page in which the row of a table that begins with the first cell is replaced."""
    line = f'| {" | ".join(cells)} |'
    replaced, count = re.subn(rf'^\| {re.escape(cells[0])} \|.*', lambda _: line, page, flags=re.MULTILINE)
    if count != 1:
        raise ValueError(f'{cells[0]} has {count} rows')
    return replaced


def main() -> int:
    """Try the rows that the command line names. Returns 1 if one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', metavar='ROW', choices=ROWS, default=ROWS, help=', '.join(ROWS))
    parser.add_argument('--keep', action='store_true', help='keep clone, environment and log of each row')
    args = parser.parse_args()
    failed = [row for row in args.only if not try_row(row, args.keep)]
    return int(bool(failed))


if __name__ == '__main__':
    sys.exit(main())

"""One process at a time on a run, and one seed for all of its ranks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import RunPython
from filelock import FileLock
from soak.project import NAME, make_project, make_videos, train_options
from test_distributed import run_ranks

from dstnet_arch.errors import DSTNetError, OptionsError
from dstnet_arch.plugin import run_lock
from dstnet_arch.plugin.run_lock import hold_run

if os.name != 'posix':
    pytest.skip('locks as POSIX has them', allow_module_level=True)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(run_lock, 'PATIENCE', 0.1)
    monkeypatch.setattr(run_lock, '_held', {})
    yield
    for lock in run_lock._held.values():
        lock.release(force=True)


def run_of(folder: Path, name: str = NAME, is_train: bool = True) -> dict[str, Any]:
    """The options that the lock reads."""
    roots = {'experiments_root': str(folder / 'experiments' / name), 'results_root': str(folder / 'results' / name)}
    return {'path': roots, 'is_train': is_train, 'rank': 0, 'dist': False}


HOLD = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print('held', flush=True)
time.sleep(600)
"""


def test_lock_of_a_run_ends_with_its_process(tmp_path: Path) -> None:
    (tmp_path / 'experiments').mkdir()
    file = tmp_path / 'experiments' / f'.{NAME}.lock'
    with subprocess.Popen([sys.executable, '-c', HOLD, file], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == b'held\n'
            with pytest.raises(DSTNetError, match=rf'working on the run {NAME} .* --force_yml name='):
                hold_run(run_of(tmp_path))
            hold_run(run_of(tmp_path, name='another'))
            hold_run(run_of(tmp_path, is_train=False))
        finally:
            other.kill()
    hold_run(run_of(tmp_path))
    hold_run(run_of(tmp_path))  # the same process may start a run again


def test_lock_that_cannot_be_created_is_explained(tmp_path: Path) -> None:
    (tmp_path / 'experiments').touch()
    with pytest.raises(DSTNetError, match=r'cannot be created: .*a folder that is writable'):
        hold_run(run_of(tmp_path))


@pytest.mark.parametrize('error', [OSError(errno.ENOLCK, 'No locks available'), NotImplementedError('no flock')])
def test_file_system_without_locks_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def acquire(self: FileLock, **_: object) -> None:
        raise error

    monkeypatch.setattr(FileLock, 'acquire', acquire)
    hold_run(run_of(tmp_path))
    assert 'without locks' in capsys.readouterr().out


@pytest.mark.slow
def test_second_process_does_not_change_the_run(tmp_path: Path, run_python: RunPython) -> None:
    make_project(tmp_path)
    (tmp_path / 'experiments' / NAME).mkdir(parents=True)
    (tmp_path / 'experiments' / NAME / 'precious').touch()
    hold_run(run_of(tmp_path))
    before = sorted(tmp_path.rglob('*'))
    code = 'from dstnet_arch.plugin import run_lock; run_lock.PATIENCE = 0.1; import runpy\n'
    code += "runpy.run_module('basicsr.train', run_name='__main__', alter_sys=True)"
    done = run_python('-c', code, '-opt', 'train.yml', cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f'error: Another process is working on the run {NAME} ')
    assert 'Traceback' not in done.stderr
    assert sorted(tmp_path.rglob('*')) == before


def test_an_options_file_within_the_run_is_refused_before_the_run_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from basicsr.utils.options import parse_options

    make_project(tmp_path)
    file = tmp_path / 'experiments' / NAME / 'train.yml'
    file.parent.mkdir(parents=True)
    (tmp_path / 'train.yml').rename(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(file)])
    monkeypatch.setattr(sys, 'excepthook', sys.__excepthook__)
    with pytest.raises(OptionsError, match='is in the folder of the run itself'):
        parse_options(str(tmp_path), is_train=True)


# Ranks


def _parse_and_hold() -> None:
    """Write a rank's seeds, and the error about a locked run."""
    from basicsr.utils.options import parse_options

    run_lock.PATIENCE = 0.1
    opt, _ = parse_options(os.getcwd(), is_train=True)
    told = {'run': opt['manual_seed'], 'data': opt['datasets']['train']['manual_seed'], 'rank': torch.initial_seed()}
    try:
        hold_run(opt | {'path': run_of(Path.cwd(), name='taken')['path']})
    except DSTNetError as error:
        told['error'] = str(error)
    Path(f'{opt["rank"]}.yml').write_text(yaml.safe_dump(told))


@pytest.mark.slow
def test_ranks_agree_on_a_drawn_seed_and_on_the_lock(tmp_path: Path) -> None:
    make_videos(tmp_path / 'data/train', num_video=1, num_frame=2)
    make_videos(tmp_path / 'data/val', num_video=1, num_frame=1)
    opt = train_options(total_iter=4, save_freq=4, val_freq=4) | {'manual_seed': None}
    (tmp_path / 'train.yml').write_text(yaml.safe_dump(opt))
    hold_run(run_of(tmp_path, name='taken'))
    run_ranks(2, tmp_path, ['train.py', '-opt', 'train.yml'], _parse_and_hold)
    first, second = (yaml.safe_load((tmp_path / f'{rank}.yml').read_text()) for rank in range(2))
    assert first['run'] == first['data'] == second['run'] == second['data']
    assert (first['rank'], second['rank']) == (first['run'], first['run'] + 1)
    assert 'Another process is working on the run taken' in first['error']
    assert second['error'] == first['error']

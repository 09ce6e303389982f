"""What a run shows: progress from the first iteration on, and one line after Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from soak.project import NAME, make_project

from dstnet_arch import progress as bar
from dstnet_arch.plugin.progress import interrupted, show_progress

if os.name != 'posix':
    pytest.skip('signals of POSIX', allow_module_level=True)


def test_lines_are_shown_until_basicsr_prints_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(bar.time, 'monotonic', lambda: next(clock))
    done: list[int] = []
    model = SimpleNamespace(optimize_parameters=done.append)
    show_progress(model, {'train': {'total_iter': 100}, 'logger': {'print_freq': 3}})
    for iteration in range(11, 19):
        model.optimize_parameters(iteration)
    assert done == list(range(11, 19))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(' iterations')[0] for line in lines] == [f'training: {i} of 100' for i in (11, 12, 13)]


def test_interrupt_names_the_newest_checkpoint(tmp_path: Path) -> None:
    opt = {'is_train': True, 'path': {'training_states': str(tmp_path)}}
    assert interrupted(opt).startswith('Interrupted before the first checkpoint.')
    for name in ('9.state', '10.state', '.11.state.incomplete', 'other.state'):
        (tmp_path / name).touch()
    assert f'The last checkpoint is {tmp_path / "10.state"}.' in interrupted(opt)
    assert '--auto_resume' in interrupted(opt)
    assert 'Run the same command again' in interrupted({'is_train': False})


def test_ctrl_c_in_a_notebook_does_not_end_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dstnet_arch.__main__ import main

    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []
    monkeypatch.setattr('basicsr.train.train_pipeline', lambda root: seen.append(signal.getsignal(signal.SIGINT)))
    assert main(['train']) == 0
    assert seen == [before] == [signal.getsignal(signal.SIGINT)]


@pytest.mark.slow
@pytest.mark.parametrize('module', ['basicsr.train', 'dstnet_arch'])
@pytest.mark.parametrize('moment', ['at the start', 'in training'])
def test_ctrl_c_ends_training_with_one_line(tmp_path: Path, module: str, moment: str) -> None:
    make_project(tmp_path, total_iter=100_000, save_freq=5)
    command = [sys.executable, '-m', module, *(['train'] if module == 'dstnet_arch' else []), '-opt', 'train.yml']
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whatever started the tests
    )
    states = tmp_path / 'experiments' / NAME / 'training_states'
    if moment == 'at the start':
        time.sleep(1)
    while moment == 'in training' and not list(states.glob('[0-9]*.state')) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 130, stderr
    assert 'Traceback' not in stderr
    assert 'KeyboardInterrupt' not in stderr
    last = stderr.splitlines()[-1]
    assert last.startswith('Interrupted')
    assert '--auto_resume' in last
    assert ('The last checkpoint is ' in last) == (moment == 'in training')

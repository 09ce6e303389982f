"""Errors that end a command: message and exit status."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import RunPython

from dstnet_arch import __main__, errors
from dstnet_arch.errors import DataError, explain


def test_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    assert explain(DataError('no file \x1b[2J')) == ('error: no file \\x1b[2J', 2)
    monkeypatch.setattr('dstnet_arch.errors._interrupted', None)  # other tests may have set a message
    assert explain(KeyboardInterrupt()) == ('Interrupted.', 130)
    assert explain(ModuleNotFoundError('...', name='basicsr.train')) == (f'error: {errors.BASICSR_MISSING}', 2)
    assert explain(ModuleNotFoundError('...', name='numpy')) is None
    assert explain(ValueError('...')) is None
    error = UnicodeEncodeError('ascii', 'données', 4, 5, '...')
    assert explain(error) is None
    monkeypatch.setattr(sys, 'getfilesystemencoding', lambda: 'ascii')
    explained = explain(error)
    assert explained is not None
    assert "cannot represent 'donn\\xe9es'. Set the environment variable PYTHONUTF8=1" in explained[0]


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [(['trian'], "unknown command 'trian'. Did you mean train?"), ([], 'no command given.')],
)
def test_unknown_command(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(arguments) == 2
    assert f'error: {expected}' in capsys.readouterr().err.splitlines()[-1]


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(['--help']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if re.match('  [a-z]', line)] == list(__main__.COMMANDS)
    assert lines[-1].startswith('Exit status: 0 success; 1 ')
    assert max(map(len, lines)) <= 100
    for name in set(__main__.COMMANDS) - {'train', 'test'}:  # BasicSR's own
        with pytest.raises(SystemExit) as ended:
            __main__.main([name, '--help'])
        assert ended.value.code == 0, name


def test_verbose_error_has_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    command = ['deblur', 'missing.mp4', '-o', 'out.mp4']
    for arguments, has_traceback in (([*command, '-v'], True), (['-v', *command], True), (['-q', *command], False)):
        assert __main__.main(arguments) == 2
        err = capsys.readouterr().err
        assert ('Traceback' in err) is has_traceback
        assert err.splitlines()[-1].startswith('error: INPUT missing.mp4 does not exist')


def test_completion_knows_commands_options_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip('shtab')
    (tmp_path / 'blurry.mp4').touch()
    assert __main__.main(['completion', 'bash']) == 0
    script = tmp_path / 'dstnet.bash'
    script.write_text(capsys.readouterr().out)
    complete = (
        f'source {script}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_dstnet; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    for typed, expected in (
        ('deb', {'deblur'}),
        ('deblur --preci', {'--precision'}),
        ('deblur --precision f', {'fp32', 'fp16'}),
        ('deblur blur', {'blurry.mp4'}),
        ('weights ver', {'verify'}),
        ('visualize crops --quie', {'--quiet'}),
        ('test --auto', {'--auto_resume'}),
    ):
        words = ['bash', '-c', complete, 'bash', 'dstnet', *typed.split()]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert set(done.stdout.split()) == expected, done.stderr


def test_command_ends_quietly_when_the_reader_of_its_output_has_ended() -> None:
    words = ['bash', '-c', '"$0" -m dstnet_arch --help | true; exit ${PIPESTATUS[0]}', sys.executable]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (141, '', '')


def test_names_that_the_terminal_cannot_encode_are_escaped(run_python: RunPython, tmp_path: Path) -> None:
    code = "from dstnet_arch.__main__ import main; main(['--version']); print('donn\\xe9es \\u4e16')"
    done = run_python('-c', code, cwd=tmp_path, PYTHONIOENCODING='ascii')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == 'donn\\xe9es \\u4e16'


@pytest.mark.skipif(os.name != 'posix', reason='signals of POSIX')
def test_ctrl_c_while_threads_are_joined_does_not_abort() -> None:
    code = """
import signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import cv2, numpy
from dstnet_arch import errors

def work():
    time.sleep(0.3)  # the main thread waits for this one by now
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    for _ in range(20):
        cv2.GaussianBlur(image, (31, 31), 5)

signal.signal(signal.SIGINT, signal.default_int_handler)
image = numpy.zeros((2000, 2000, 3), numpy.uint8)
try:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work)
except KeyboardInterrupt:
    sys.exit(130)
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, '')

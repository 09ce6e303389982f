"""Errors that end a command: message and exit status."""

from __future__ import annotations

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
    assert capsys.readouterr().err.startswith(f'error: {expected}\n\nusage: dstnet COMMAND')


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(['--help']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-len(__main__.COMMANDS) :]] == list(__main__.COMMANDS)
    assert max(map(len, lines)) <= 100
    for name in set(__main__.COMMANDS) - {'train', 'test'}:  # BasicSR's own
        with pytest.raises(SystemExit) as ended:
            __main__.main([name, '--help'])
        assert ended.value.code == 0, name


def test_names_that_the_terminal_cannot_encode_are_escaped(run_python: RunPython, tmp_path: Path) -> None:
    code = "from dstnet_arch.__main__ import main; main(['--version']); print('donn\\xe9es \\u4e16')"
    done = run_python('-c', code, cwd=tmp_path, PYTHONIOENCODING='ascii')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == 'donn\\xe9es \\u4e16'

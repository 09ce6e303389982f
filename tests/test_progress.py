"""Progress without a terminal and on one."""

from __future__ import annotations

import sys
import time

import pytest

from dstnet_arch.arguments import command_parser, take_verbosity
from dstnet_arch.progress import NORMAL, Progress, remaining, say, set_verbosity


def test_progress_writes_a_line_every_ten_seconds_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(time, 'monotonic', lambda: now)
    with Progress(100, 'frame', 'Checking x', done=20) as progress:
        for _ in range(40):
            now += 1
            progress.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == 'Checking x: 30 of 100 frames, 0:01:10 left'
    assert [line.split()[2] for line in lines] == ['30', '40', '50', '60']
    with Progress(0, 'frame', 'reading') as progress:  # the number of frames is unknown
        now += 10
        progress.update(7)
    assert capsys.readouterr().err == 'reading: 7 frames\n'


def test_progress_of_a_download_counts_megabytes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(time, 'monotonic', lambda: now)
    with Progress(30_000_000, 'byte', 'GOPRO') as progress:
        now += 10
        progress.update(12_000_000)
    assert capsys.readouterr().err == 'GOPRO: 12 of 30 MB, 0:00:15 left\n'


def test_verbosity(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr(time, 'monotonic', lambda: now)
    for option, out, err in (
        ([], 'begins\n', 'reading: 4 of 4 frames, 0:00:00 left\n'),
        (['-q'], '', ''),
        (['-v'], 'begins\n', 'reading: 4 of 4 frames, 0:00:00 left\nreading: 4 of 4 frames in 0:00:12\n'),
    ):
        set_verbosity(NORMAL)
        command_parser('x', 'y').parse_args(option)
        say('begins')
        with Progress(4, 'frame', 'reading') as progress:
            now += 12
            progress.update(4)
        assert capsys.readouterr() == (out, err)
    assert take_verbosity(['-opt', 'x.yml', '-q', '--force_yml', 'a=1', 'b=2']) == [
        '-opt', 'x.yml', '--force_yml', 'a=1', 'b=2',
    ]  # fmt: skip
    set_verbosity(NORMAL)


@pytest.mark.parametrize(('done', 'total', 'left'), [(0, 10, ''), (5, 0, ''), (3, 10, '0:07:00'), (12, 10, '0:00:00')])
def test_remaining(done: int, total: int, left: str) -> None:
    assert remaining(180, done, total) == left


def test_progress_of_short_jobs_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(3, 'frame', 'x') as progress:
        progress.update(3)
    assert capsys.readouterr() == ('', '')


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
    monkeypatch.setattr('dstnet_arch.progress._SECONDS_BEFORE_BAR', 0)
    with Progress(3, 'frame', 'Checking x') as progress:
        progress.update(1)
    assert 'Checking x' in capsys.readouterr().err

"""Progress without a terminal and on one."""

from __future__ import annotations

import sys
import time

import pytest

from dstnet_arch.progress import Progress


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

"""Paired measurement, memory, and the JSON file."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dstnet_arch.arguments import Size
from dstnet_arch.benchmarks import report
from dstnet_arch.benchmarks.harness import (
    Measurement,
    Workload,
    measure,
    peak_memory,
    ratio,
    spread,
)
from dstnet_arch.errors import DSTNetError

CPU = torch.device('cpu')


def logging_workload(
    name: str, log: list[str], fail_at: int | None = None, error: type = RuntimeError, **more: Any
) -> Workload:
    def prepare(**_: Any) -> Callable[[], None]:
        def run() -> None:
            log.append(name)
            if fail_at is not None and log.count(name) > fail_at:
                raise error('it broke')

        return run

    return Workload(name, prepare, {}, **more)


def test_measure_alternates_the_order_of_runs() -> None:
    log: list[str] = []
    found = measure([logging_workload(n, log) for n in 'ABC'], CPU, repeats=4, warmup=1, with_memory=False)
    rounds = [''.join(log[i : i + 3]) for i in range(0, 15, 3)]
    assert rounds == ['CBA', 'ABC', 'CBA', 'ABC', 'CBA']  # one warm-up round, four timed ones
    assert [len(m.seconds) for m in found.values()] == [4, 4, 4]
    assert all(s > 0 for m in found.values() for s in m.seconds)


@pytest.mark.parametrize('fail_at', [0, 3])  # in the warm-up, and among the timed runs
def test_measure_continues_after_a_failed_workload(fail_at: int) -> None:
    log: list[str] = []
    bad = logging_workload('bad', log, fail_at, optional=True)
    full = logging_workload('full', log, fail_at, MemoryError)
    found = measure([bad, logging_workload('good', log), full], CPU, repeats=3, warmup=2, with_memory=False)
    assert found['bad'] == Measurement([], None, 'RuntimeError: it broke')
    assert found['full'] == Measurement([], None, 'not enough memory')
    assert len(found['good'].seconds) == 3
    assert log.count('bad') == log.count('full') == fail_at + 1
    assert ratio(found['bad'], found['good']) is ratio(found['good'], found['bad']) is None


def test_measure_raises_errors_of_required_workloads() -> None:
    with pytest.raises(RuntimeError, match='it broke'):
        measure([logging_workload('ours', [], 0)], CPU, repeats=1, with_memory=False)


def test_failed_memory_measurement_keeps_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise DSTNetError('not here')

    monkeypatch.setattr('dstnet_arch.benchmarks.harness.peak_memory', refuse)
    found = measure([logging_workload('A', [])], CPU, repeats=2)['A']
    assert (len(found.seconds), found.peak_memory, found.failure) == (2, None, 'not here')


def test_spread_and_ratio() -> None:
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == {'median': 3.0, 'q1': 2.0, 'q3': 4.0, 'runs': 5}
    assert spread([2.0]) == {'median': 2.0, 'q1': 2.0, 'q3': 2.0, 'runs': 1}
    assert spread([]) is None
    slowing = Measurement([1.0, 2.0, 3.0])  # a machine that slows down threefold does not change paired ratios
    assert ratio(Measurement([0.5, 1.0, 1.5]), slowing) == {'median': 0.5, 'q1': 0.5, 'q3': 0.5, 'runs': 3}


SIZE = 64 * 2**20


def prepare_allocation() -> Callable[[], Any]:
    bytearray(2 * SIZE)  # an earlier, higher peak
    held = bytearray(SIZE)
    return lambda: (bytearray(SIZE), len(held))


def prepare_too_much() -> Callable[[], Any]:
    return lambda: torch.empty(2**60)


def prepare_exit() -> Callable[[], Any]:
    import os

    return lambda: os.kill(os.getpid(), 9)


@pytest.mark.slow
def test_peak_memory_on_a_cpu_counts_only_the_run() -> None:
    own = bytearray(4 * SIZE)  # this process is larger than the measuring one
    assert peak_memory(Workload('a', prepare_allocation, {}), print, CPU) == pytest.approx(SIZE, rel=0.1)
    del own
    with pytest.raises(RuntimeError, match='memory'):
        peak_memory(Workload('a', prepare_too_much, {}), print, CPU)
    with pytest.raises(MemoryError):
        peak_memory(Workload('a', prepare_exit, {}), print, CPU)


def test_write_json_records_the_machine_and_never_overwrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = argparse.Namespace(device=CPU, size=Size(4, 2), precision=['fp32'], output=tmp_path, threads=None)
    first, second = (report.write_json(tmp_path / 'new', 'forward', args, [{'a': 1}], more='x') for _ in range(2))
    assert first != second
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d{6}\.\d+Z_forward_cpu\.json', first.name)
    content = json.loads(first.read_text())
    assert content['schema'] == 3
    assert content['settings'] == {'device': 'cpu', 'precision': ['fp32'], 'size': '4x2', 'threads': None}
    assert content['results'] == [{'a': 1}]
    assert content['more'] == 'x'
    assert content['machine']['isa'].startswith(torch.backends.cpu.get_cpu_capability())
    with pytest.raises(ValueError, match='JSON'):
        report.write_json(tmp_path / 'bad', 'forward', args, [{'a': float('nan')}])
    assert list((tmp_path / 'bad').iterdir()) == []  # no half-written file
    with pytest.raises(DSTNetError, match='cannot be written'):
        report.write_json(first, 'forward', args, [])


@pytest.mark.parametrize(
    ('capability', 'flags', 'onednn', 'isa'),
    [
        ('AVX512', 'avx2 avx512bw', '', 'AVX512'),
        ('AVX2', 'avx2', 'AVX2', 'AVX2'),
        ('AVX2', 'avx2 avx512bw', 'avx2', 'AVX2 (forced on a machine with AVX-512)'),
        ('AVX2', 'avx2 avx512bw', '', 'AVX2 (forced on a machine with AVX-512; oneDNN not restricted)'),
    ],
)
def test_isa_names_a_forced_instruction_set(
    monkeypatch: pytest.MonkeyPatch, capability: str, flags: str, onednn: str, isa: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: capability)
    monkeypatch.setattr(report, '_cpu_fact', {'flags': flags}.get)
    monkeypatch.setenv('ONEDNN_MAX_CPU_ISA', onednn)
    assert report._isa() == isa


def test_commit(root: Path) -> None:
    found = report.commit()
    assert found is None if not (root / '.git').exists() else re.fullmatch(r'[0-9a-f]{40}(\+changes)?', found or '')

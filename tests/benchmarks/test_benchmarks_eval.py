"""`dstnet benchmark eval`."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
import torch
from conftest import RunPython

from dstnet_arch.benchmarks import cli, networks
from dstnet_arch.benchmarks.data import OURS, make_lmdbs
from dstnet_arch.benchmarks.eval import METRICS, RUNS, prepare_metric, prepare_run
from dstnet_arch.benchmarks.pictures import write_gopro_tree
from dstnet_arch.metrics import scorer
from dstnet_arch.models import evaluation


def test_runs_do_what_they_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gopro_tree(tmp_path / 'tree', clips=2, frames=3, size=cli.Size(32, 16))
    make_lmdbs(OURS, tmp_path / 'tree', tmp_path)
    monkeypatch.setattr(networks, 'NETWORKS', (networks.Network('DSTNet', 'ours', torch.nn.Identity),))
    done: list[str] = []

    def noted(what: str, function):
        def call(*args):
            done.append(what)
            return function(*args)

        return call

    monkeypatch.setattr(evaluation, '_save_png', noted('saved', evaluation._save_png))
    monkeypatch.setattr(scorer.Scorer, '__call__', noted('scored', scorer.Scorer.__call__))
    monkeypatch.setattr(torch.nn.Identity, 'forward', noted('restored', torch.nn.Identity.forward))
    monkeypatch.setattr(cv2, 'imdecode', noted('decoded', cv2.imdecode))
    for name, parts in RUNS.items():
        test = prepare_run('DSTNet', str(tmp_path), 3, 'cpu', 'fp32', list(parts))
        done.clear()
        test()
        assert {what: done.count(what) for what in ('restored', 'decoded', 'scored', 'saved')} == {
            'restored': 2,
            'decoded': 12 * ('reading' in parts),
            'scored': 12 * ('scores' in parts),  # the blurry frames, too
            'saved': 6 * ('saving' in parts),
        }, name
    assert not list(tmp_path.glob('saved_*'))


@pytest.mark.parametrize('metric', METRICS)
def test_metrics_are_scored_both_ways(metric: str) -> None:
    for batched in (False, True):
        prepare_metric(metric, [32, 24], 'cpu', batched)()


@pytest.mark.slow
def test_command(run_python: RunPython, tmp_path: Path) -> None:
    tiny = ['--size', '32x16', '--frames', '1', '--clips', '1', '--repeats', '2', '--warmup', '1', '--device', 'cpu']
    done = run_python(
        *('-m', 'dstnet_arch', 'benchmark', 'eval', *tiny, '--network', 'DSTNetPlus', '--store', 'raw pixels'),
        *('-o', 'out'),
        cwd=tmp_path,
        OMP_NUM_THREADS='1',
    )
    assert done.returncode == 0, done.stderr
    assert 'not available' not in done.stderr  # BasicSR's registries are whole
    (path,) = (tmp_path / 'out').iterdir()
    content = json.loads(path.read_text())
    runs = [item for item in content['results'] if item['part'] == 'run']
    assert [item['name'] for item in runs] == list(RUNS)
    assert runs[0]['share_beside_network'] == {'median': 0, 'q1': 0, 'q3': 0, 'runs': 2}
    for item in content['results']:
        assert item['failure'] is None
        assert item['name'] in done.stdout
        assert item['ratio']['runs'] == 2

"""`dstnet benchmark growth`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dstnet_arch.benchmarks import command, growth
from dstnet_arch.benchmarks.growth import AXES, KINDS, fit, prepare

TINY = ['--frames', '1', '2', '--sizes', '16x16', '32x16', '--widths', '2', '4', '--batches', '1', '2']
FEW = ['--num-block', '1', '--num-cwgdn', '1', '--repeats', '1', '--warmup', '1', '--device', 'cpu']


def curve(values: list[float], exponent: float, constant: float = 0) -> list[dict[str, Any]]:
    return [
        {
            'kind': 'train',
            'axis': 'frames',
            'value': x,
            'seconds': 3 * x**exponent + constant,
            'peak_memory_bytes': None,
        }
        for x in values
    ]


@pytest.mark.parametrize('exponent', [0.5, 1, 2])
def test_exponents_of_known_curves(exponent: float) -> None:
    fitted = fit(curve([8, 1, 2, 4], exponent), 'train', 'frames', 'seconds')
    assert fitted['exponent'] == pytest.approx(exponent)
    assert fitted['exponent_at_the_end'] == pytest.approx(exponent)
    assert fitted['expected'] == 1


def test_a_constant_share_hides_least_at_the_end() -> None:
    fitted = fit(curve([1, 2, 4, 8, 16], 2, constant=10), 'train', 'frames', 'seconds')
    assert fitted['exponent'] < fitted['exponent_at_the_end'] < 2


def test_too_few_points_have_no_exponent() -> None:
    for results in ([], curve([2], 1), curve([2, 2], 1)):
        assert fit(results, 'train', 'frames', 'seconds')['exponent'] is None
    assert fit(curve([1, 2], 1), 'train', 'frames', 'peak_memory_bytes')['exponent'] is None
    assert fit(curve([1, 2], 1), 'restore', 'frames', 'seconds')['exponent'] is None


@pytest.mark.slow
def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def peak(run: Any, prepare: Any, arguments: dict[str, Any], device: Any) -> int:
        batch, frames, _, height, width = arguments['shape']
        return batch * frames * height * width * arguments['network']['num_feat'] ** 2

    monkeypatch.setattr('dstnet_arch.benchmarks.harness.peak_memory', peak)
    command(['growth', *TINY, *FEW, '--plot', '-o', str(tmp_path)])
    shown = capsys.readouterr().out
    image, path = sorted(tmp_path.iterdir(), key=lambda path: path.suffix == '.json')
    assert image.read_bytes().startswith(b'\x89PNG')
    content = json.loads(path.read_text())
    assert [(item['kind'], item['axis'], item['value']) for item in content['results']] == [
        (kind, axis, value)
        for kind in KINDS
        for axis, values in zip(AXES, ([1, 2], [256, 512], [2, 4], [1, 2]), strict=True)
        for value in values
    ]
    # The others stay at their second values.
    assert content['results'][0]['point'] == {'frames': 1, 'pixels': [32, 16], 'width': 4, 'batch': 2}
    for item in content['exponents']:
        if item['quantity'] == 'peak_memory_bytes':
            assert item['exponent'] == pytest.approx(item['expected'])
    assert all(item['seconds'] > 0 for item in content['results'])
    assert 'what does not grow: 2 frames of 32x16, width 4, batch 2' in shown
    assert f'Written: {image}' in shown


def test_training_makes_gradients_and_restoring_does_not() -> None:
    for kind in KINDS:
        work = prepare(kind, {'num_feat': 2, 'num_block': 1, 'num_cwgdn': 1}, [1, 2, 3, 16, 16], 'cpu')
        work()
        (net,) = (
            cell.cell_contents for cell in work.__closure__ or () if isinstance(cell.cell_contents, growth.DSTNet)
        )
        assert net.training is (kind == 'train')
        assert all((p.grad is not None) is (kind == 'train') for p in net.parameters())

"""`dstnet benchmark forward`, `train` and `stream`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RunPython

from dstnet_arch.benchmarks import command
from dstnet_arch.benchmarks.compare import Case, prepare
from dstnet_arch.errors import OptionsError

RUN = ['--size', '32x16', '--frames', '2', '--repeats', '2', '--warmup', '1', '--device', 'cpu']


def results_in(folder: Path) -> dict[str, dict[str, Any]]:
    (path,) = folder.iterdir()
    return {item['name']: item for item in json.loads(path.read_text())['results']}


@pytest.mark.usefixtures('tiny')
def test_forward_compares_precisions_with_the_plain_schedule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(['forward', *RUN, '--precision', 'fp32', 'bf16', '-o', str(tmp_path)])
    assert 'Ratios to DSTNet, plain, fp32' in capsys.readouterr().out
    results = results_in(tmp_path)
    assert list(results) == ['DSTNet, plain, fp32', 'DSTNet, fp32', 'DSTNet, plain, bf16', 'DSTNet, bf16']
    assert results['DSTNet, plain, fp32']['ratio'] == {'median': 1.0, 'q1': 1.0, 'q3': 1.0, 'runs': 2}
    assert results['DSTNet, plain, fp32']['largest_difference'] is None
    assert results['DSTNet, fp32']['largest_difference'] < 1e-5  # same weights, same clip
    assert results['DSTNet, fp32']['psnr_to_fp32'] > 100
    assert 40 < results['DSTNet, bf16']['psnr_to_fp32'] < 90
    for item in results.values():
        assert len(item['runs_seconds_per_frame']) == 2
        assert item['peak_memory_bytes'] == 3 * 2**20
        assert item['failure'] is None
        assert item['path'] in ('pytorch', 'native')


@pytest.mark.usefixtures('tiny')
def test_train_measures_checkpointing_and_continues_after_a_failed_peer(tmp_path: Path) -> None:
    options = ['--networks', 'DSTNet', 'EDVR', '--schedules', 'eager', '-o', str(tmp_path)]
    command(['train', *RUN, *options])
    results = results_in(tmp_path)
    assert list(results) == [
        'DSTNet, plain, fp32', 'DSTNet, fp32', 'DSTNet, fp32, eager', 'DSTNet, fp32, checkpointing', 'EDVR, fp32',
    ]  # fmt: skip
    assert results['DSTNet, fp32, eager']['path'] == 'pytorch'
    assert results['EDVR, fp32']['failure'] == 'RuntimeError: no such'
    assert all(item['ratio'] for name, item in results.items() if name != 'EDVR, fp32')


@pytest.mark.usefixtures('tiny')
def test_stream_compares_states_and_numbers_of_frames(tmp_path: Path) -> None:
    options = ['--frames', '2', '4', '--states', 'host', 'sqrt', '--size', '40x16', '--tile', '32x32']
    command(['stream', *options, '--repeats', '2', '--device', 'cpu', '-o', str(tmp_path)])
    results = results_in(tmp_path)
    assert [(item['way'], item['frames']) for item in results.values()] == [
        ('', 2), ('host', 2), ('sqrt', 2), ('host', 4), ('sqrt', 4),
    ]  # fmt: skip
    assert all(item['seconds_per_frame']['median'] > 0 for item in results.values())


@pytest.mark.parametrize('way', ['', 'checkpointing'])
def test_training_step_computes_all_gradients(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    built = []
    forward = torch.nn.Module.train
    monkeypatch.setattr(torch.nn.Module, 'train', lambda net, mode=True: (built.append(net), forward(net, mode))[1])
    prepare(Case('train', 'DSTNet-reduced', 'fp32', 1, way), (1, 1, 3, 16, 16), 'cpu')()
    assert built[0].gradient_checkpointing == (way == 'checkpointing')
    assert all(p.grad is not None for p in built[0].parameters())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['forward', '--device', 'cuda:99'], '--device cuda:99 cannot be used'),
        (['forward', '--device', 'tpu'], 'Use cpu, cuda or cuda:N'),
        (['forward', '--device', 'cpu', '--precision', 'tf32'], 'tf32 needs an NVIDIA GPU'),
        (['forward', '--device', 'cpu', '--networks', 'DSTNet', 'UNet'], 'no network UNet. Networks: .*groups:'),
        (['stream', '--device', 'cpu', '--networks', 'EDVR'], 'Only DSTNet and DSTNetPlus can be streamed, not EDVR'),
        (['forward', '--device', 'cpu', '-o', 'file/out'], 'file is not a writable folder'),
    ],
)
def test_wrong_arguments_fail_before_the_measurement(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.chdir(tmp_path)
    Path('file').touch()
    with pytest.raises(OptionsError, match=message):
        command(arguments)
    assert [path.name for path in tmp_path.iterdir()] == ['file']


@pytest.mark.slow
def test_benchmarks_need_pytorch_alone(run_python: RunPython, tmp_path: Path) -> None:
    missing = ('basicsr', 'cv2', 'lmdb', 'mmcv', 'pydantic', 'scipy', 'skimage', 'tqdm', 'yaml')
    code = (
        f'import sys; sys.modules.update(dict.fromkeys({missing}))\n'
        'from dstnet_arch.__main__ import main\n'
        'assert main(["complexity", "--size", "64x64", "--networks", "DSTNetPlus", "EDVR"]) == 0\n'
        'assert main(["benchmark", "forward", "--size", "16x16", "--frames", "1", "--repeats", "1", "--no-memory",'
        ' "--device", "cpu"]) == 0\n'
    )
    done = run_python('-c', code, cwd=tmp_path, OMP_NUM_THREADS='1')
    assert done.returncode == 0, done.stderr
    assert 'EDVR: BasicSR cannot be imported' in done.stdout
    assert 'DSTNet, fp32' in done.stdout
    assert len(list(tmp_path.glob('results/*/*.json'))) == 2

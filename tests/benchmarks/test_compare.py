"""`dstnet benchmark forward`, `train` and `stream`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RunPython

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.benchmarks import command, compare, networks, stream
from dstnet_arch.benchmarks.networks import Network
from dstnet_arch.benchmarks.plain import PlainDSTNet
from dstnet_arch.errors import OptionsError

TINY: dict[str, Any] = {'num_feat': 4, 'num_block': 1, 'num_cwgdn': 1}
RUN = ['--size', '32x16', '--frames', '2', '--repeats', '2', '--warmup', '1', '--device', 'cpu']


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny networks under the names of the real ones."""
    table = (
        Network('DSTNet', 'ours', lambda: DSTNet(**TINY)),
        Network('PlainDSTNet', 'plain', lambda: PlainDSTNet(**TINY), 'DSTNet, plain'),
    )
    monkeypatch.setattr(networks, 'NETWORKS', table)
    monkeypatch.setattr('dstnet_arch.benchmarks.harness.peak_memory', lambda *_: 3 * 2**20)


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
def test_train_measures_gradient_checkpointing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(['train', *RUN, '-o', str(tmp_path)])
    assert 'saved MiB' in capsys.readouterr().out
    results = results_in(tmp_path)
    names = ['DSTNet, plain, fp32', 'DSTNet, fp32', 'DSTNet, fp32, checkpointing']
    assert list(results) == names
    saved = [results[name]['saved_for_backward_bytes'] for name in names]
    assert saved[0] > saved[1] > saved[2] > 0


@pytest.mark.usefixtures('tiny')
@pytest.mark.parametrize('kind', ['forward', 'train'])
def test_schedules_add_rows_for_our_networks_only(kind: str, tmp_path: Path) -> None:
    command([kind, *RUN, '--schedules', 'native', 'eager', '-o', str(tmp_path)])
    results = results_in(tmp_path)
    native = results['DSTNet, fp32, native']
    assert (native['ratio'] is None) == (native['failure'] is not None)  # without a C compiler
    assert results['DSTNet, fp32, eager']['path'] == 'pytorch'
    assert not any(name.startswith('DSTNet, plain, fp32,') for name in results)


def test_training_step_computes_all_gradients() -> None:
    case = networks.find('DSTNetPlus')
    net, clip, policy = compare._build(case.name, 'fp32', [1, 1, 3, 16, 16], 'cpu')
    compare._loss(net, clip, policy).backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--device', 'cuda'], 'finds 0 CUDA devices here'),
        (['--device', 'tpu'], 'choose cpu, cuda or cuda:N'),
        (['--device', 'cpu', '--precision', 'tf32'], 'tf32 needs an NVIDIA GPU'),
        (['--device', 'cpu', '--networks', 'DSTNet', 'UNet'], 'There is no network UNet'),
    ],
)
@pytest.mark.parametrize('kind', ['forward', 'train'])
def test_wrong_arguments_fail_before_the_measurement(
    kind: str, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(OptionsError, match=message):
        command([kind, *arguments, '-o', str(tmp_path / 'out')])
    assert not (tmp_path / 'out').exists()


def test_unwritable_output_fails_before_the_measurement(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(OptionsError, match='file is not a writable folder'):
        command(['forward', '--device', 'cpu', '-o', str(tmp_path / 'file/out')])


@pytest.mark.parametrize('arguments', [['--size', '720'], ['--size', '0x4'], ['--frames', '0'], ['--precision', 'x8']])
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command(['forward', *arguments])
    assert exit_.value.code == 2
    assert arguments[1] in capsys.readouterr().err


def test_stream_reports_growth_of_memory_with_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def peak(workload: Any, *_: Any) -> int:
        workload.prepare(**workload.arguments)()
        return 100 * workload.arguments['num_frame'] if workload.arguments['states'] == 'host' else 7000

    monkeypatch.setattr(stream, 'peak_memory', peak)
    options = ['--clip-frames', '2', '--frames', '6', '3', '--states', 'host', 'sqrt', '--size', '40x16', '--reduced']
    command(['stream', *options, '--tile', '32x32', '--device', 'cpu', '-o', str(tmp_path)])
    assert 'to the fewest frames' in capsys.readouterr().out
    results = list(results_in(tmp_path).values())
    assert [(item['states'], item['frames']) for item in results] == [
        ('whole clip', 2), ('host', 3), ('host', 6), ('sqrt', 3), ('sqrt', 6),
    ]  # fmt: skip
    assert [item['peak_ratio'] for item in results] == [1, 1, 2, 1, 1]
    assert all(item['seconds_per_frame'] > 0 for item in results)


def test_stream_records_that_memory_does_not_suffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> int:
        raise MemoryError('not enough memory')

    monkeypatch.setattr(stream, 'peak_memory', fail)
    options = ['--clip-frames', '--frames', '3', '--states', 'device', '--device', 'cpu', '-o', str(tmp_path)]
    command(['stream', *options])
    (item,) = results_in(tmp_path).values()
    assert item['failure'] == 'not enough memory'
    assert item['peak_ratio'] is item['seconds_per_frame'] is None


@pytest.mark.slow
def test_benchmarks_need_pytorch_alone(run_python: RunPython, tmp_path: Path) -> None:
    missing = ('basicsr', 'cv2', 'lmdb', 'mmcv', 'pydantic', 'scipy', 'skimage', 'tqdm', 'yaml')
    code = (
        f'import sys; sys.modules.update(dict.fromkeys({missing}))\n'
        'from dstnet_arch.__main__ import main\n'
        'assert main(["complexity", "--no-time", "--size", "64x64", "--networks", "DSTNetPlus", "EDVR"]) == 0\n'
        'assert main(["benchmark", "forward", "--size", "16x16", "--frames", "1", "--repeats", "1", "--no-memory",'
        ' "--device", "cpu"]) == 0\n'
    )
    done = run_python('-c', code, cwd=tmp_path, OMP_NUM_THREADS='1')
    assert done.returncode == 0, done.stderr
    assert 'EDVR: BasicSR cannot be imported' in done.stdout
    assert 'DSTNet, fp32' in done.stdout
    assert len(list(tmp_path.glob('results/*/*.json'))) == 2

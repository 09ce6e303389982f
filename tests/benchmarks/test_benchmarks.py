"""The measuring itself, and `dstnet benchmark`."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RunPython
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dstnet_arch import __main__ as main
from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.reference import PlainDSTNet
from dstnet_arch.benchmarks import cli, command, networks, report
from dstnet_arch.benchmarks.harness import Measurement, Spread, Workload, measure, ratio, spread, tf32
from dstnet_arch.benchmarks.memory import _answer, peak_memory, saved_for_backward
from dstnet_arch.errors import DSTNetError, OptionsError

CPU = torch.device('cpu')
TINY: dict[str, Any] = {'num_feat': 4, 'num_block': 1, 'num_cwgdn': 1}


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


def test_runs_alternate() -> None:
    log: list[str] = []
    found = measure([logging_workload(n, log) for n in 'ABC'], CPU, repeats=4, warmup=1, with_memory=False)
    rounds = [''.join(log[i : i + 3]) for i in range(0, 15, 3)]
    assert rounds == ['CBA', 'ABC', 'CBA', 'ABC', 'CBA']  # one to warm up, four that count
    assert [len(m.seconds) for m in found.values()] == [4, 4, 4]
    assert all(s > 0 for m in found.values() for s in m.seconds)


@pytest.mark.parametrize('fail_at', [0, 3])  # in the warm-up, and among the timed runs
def test_a_failure_leaves_the_others_alone(fail_at: int) -> None:
    log: list[str] = []
    bad = logging_workload('bad', log, fail_at, optional=True)
    full = logging_workload('full', log, fail_at, MemoryError)
    found = measure([bad, logging_workload('good', log), full], CPU, repeats=3, warmup=2, with_memory=False)
    assert found['bad'] == Measurement([], None, 'RuntimeError: it broke')
    assert found['full'] == Measurement([], None, 'not enough memory')
    assert len(found['good'].seconds) == 3
    assert log.count('bad') == log.count('full') == fail_at + 1
    assert ratio(found['bad'], found['good']) is ratio(found['good'], found['bad']) is None


def test_a_failure_of_our_own_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match='it broke'):
        measure([logging_workload('ours', [], 0)], CPU, repeats=1, with_memory=False)


def test_memory_that_cannot_be_measured_costs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise DSTNetError('not here')

    monkeypatch.setattr('dstnet_arch.benchmarks.harness.peak_memory', refuse)
    found = measure([logging_workload('A', [])], CPU, repeats=2)['A']
    assert (len(found.seconds), found.peak_memory, found.failure) == (2, None, 'not here')


def test_spread_and_ratio() -> None:
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert spread([2.0]) == Spread(2.0, 2.0, 2.0, 1)
    assert spread([]) is None
    # A machine that slows down threefold on the way: the rounds still say that one takes half of the other.
    slowing = Measurement([1.0, 2.0, 3.0])
    assert ratio(Measurement([0.5, 1.0, 1.5]), slowing) == Spread(0.5, 0.5, 0.5, 3)


def test_tf32_is_put_back() -> None:
    before = torch.backends.cudnn.allow_tf32
    for allowed in (True, False):
        with tf32(allowed):
            assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is allowed
    assert torch.backends.cudnn.allow_tf32 is before


def test_peak_memory_in_a_fresh_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'hungry.py').write_text(
        'def prepare(size):\n'
        '    bytearray(2 * size)  # a higher peak, before what is measured\n'
        '    held = bytearray(size)\n'
        '    def run():\n'
        '        bytearray(size), held\n'
        '    return run\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    import hungry

    size = 64 * 2**20
    own = bytearray(4 * size)  # this process is larger than that one
    assert peak_memory(lambda: None, hungry.prepare, {'size': size}, CPU) == pytest.approx(size, rel=0.1)
    del own


@pytest.mark.parametrize(
    ('status', 'answer', 'error', 'message'),
    [
        (0, 'some library says hello\nnot enough memory\n', MemoryError, 'not enough memory'),
        (-9, '', MemoryError, 'not enough memory'),
        (1, '', DSTNetError, 'the process for it failed: KeyError: 1'),
    ],
)
def test_a_fresh_process_that_fails(
    status: int, answer: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], status, answer, 'Traceback\nKeyError: 1\n')
    monkeypatch.setattr(subprocess, 'run', lambda *_, **__: done)
    with pytest.raises(error, match=message):
        peak_memory(lambda: None, logging_workload, {}, CPU)


def prepare_too_much() -> Callable[[], Any]:
    return lambda: torch.empty(2**60)


def test_a_fresh_process_tells_of_too_little_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = {'module': __name__, 'function': 'prepare_too_much', 'arguments': {}, 'threads': torch.get_num_threads()}
    monkeypatch.setattr(sys, 'stdin', io.StringIO(json.dumps(job)))
    _answer()
    assert capsys.readouterr().out.splitlines()[-1] == 'not enough memory'


def test_saved_for_backward() -> None:
    net = nn.Linear(8, 8, bias=False)
    x = torch.rand(16, 8, requires_grad=True)

    def saved(function: Callable[[Tensor], Tensor]) -> int:
        with saved_for_backward(net) as blocks:
            kept = function(x)
        del kept
        return sum(blocks.values())

    assert saved(net) == 4 * 16 * 8  # its input; the weights are there anyway
    assert saved(lambda t: t * t) == 4 * 16 * 8  # saved twice, there once
    assert saved(lambda t: net(t).sin().exp()) == 3 * 4 * 16 * 8
    made = torch.rand(16, 8)
    assert saved(lambda t: checkpoint(lambda u: (u + made).sin().exp(), 2 * t, use_reentrant=False)) == 4 * 16 * 8


def test_json_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import argparse

    args = argparse.Namespace(device=CPU, size=cli.Size(4, 2), dtype=['fp32'], output=tmp_path, threads=None)
    first, second = (report.write_json(tmp_path / 'new', 'forward', args, [{'a': 1}], more='x') for _ in range(2))
    assert first != second  # within one second, most likely
    content = json.loads(first.read_text())
    assert list(content) == ['schema', 'benchmark', 'date', 'command', 'machine', 'settings', 'more', 'results']
    assert content['settings'] == {'device': 'cpu', 'dtype': ['fp32'], 'size': '4x2', 'threads': None}
    assert set(content['machine']) == {
        *(
            'system',
            'cpu',
            'cores',
            'threads',
            'load_average',
            'device',
            'gpu',
            'gpu_memory',
            'python',
            'torch',
            'cuda',
        ),
        *('cudnn', 'dstnet_arch', 'commit'),
    }
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d{6}Z_forward_cpu\.json', first.name)
    with pytest.raises(ValueError, match='JSON'):  # no half-written file
        report.write_json(tmp_path / 'bad', 'forward', args, [{'a': float('nan')}])
    assert list((tmp_path / 'bad').iterdir()) == []
    with pytest.raises(DSTNetError, match=r'cannot be written: .*-o FOLDER'):
        report.write_json(first, 'forward', args, [])


def test_commit(root: Path) -> None:
    found = report.commit()
    assert found is None if not (root / '.git').exists() else re.fullmatch(r'[0-9a-f]{40}(\+changes)?', found or '')


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of next to no size under the names of the real ones."""
    table = (
        networks.Network('DSTNet', 'ours', lambda: DSTNet(**TINY)),
        networks.Network('PlainDSTNet', 'plain', lambda: PlainDSTNet(**TINY), 'DSTNet, plain'),
    )
    monkeypatch.setattr(networks, 'NETWORKS', table)
    monkeypatch.setattr('dstnet_arch.benchmarks.harness.peak_memory', lambda *_: 3 * 2**20)


RUN = ['--size', '32x16', '--frames', '2', '--repeats', '2', '--warmup', '1', '--device', 'cpu']


@pytest.mark.usefixtures('tiny')
def test_forward(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(['forward', *RUN, '--dtype', 'fp32', '--dtype', 'bf16', '-o', str(tmp_path)])
    shown = capsys.readouterr().out
    assert 'Ratios are to DSTNet, plain, fp32' in shown
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    assert content['reference'] == 'DSTNet, plain, fp32'
    results = {item['name']: item for item in content['results']}
    assert list(results) == ['DSTNet, plain, fp32', 'DSTNet, fp32', 'DSTNet, plain, bf16', 'DSTNet, bf16']
    assert results['DSTNet, plain, fp32']['ratio'] == {'median': 1.0, 'q1': 1.0, 'q3': 1.0, 'runs': 2}
    assert results['DSTNet, plain, fp32']['largest_difference'] is None
    assert results['DSTNet, fp32']['largest_difference'] < 1e-5  # the same weights, the same clip
    assert 1e-5 < results['DSTNet, bf16']['largest_difference'] < 1
    for item in results.values():
        assert len(item['runs_seconds_per_frame']) == 2
        assert item['peak_memory_bytes'] == 3 * 2**20
        assert item['failure'] is None


@pytest.mark.usefixtures('tiny')
def test_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(['train', *RUN, '-o', str(tmp_path)])
    assert 'saved MiB' in capsys.readouterr().out
    (path,) = tmp_path.iterdir()
    plain, ours, checkpointing = json.loads(path.read_text())['results']
    assert checkpointing['name'] == 'DSTNet, fp32, checkpointing'
    saved = [item['saved_for_backward_bytes'] for item in (plain, ours, checkpointing)]
    assert saved[0] > saved[1] > saved[2] > 0


@pytest.mark.usefixtures('tiny')
@pytest.mark.parametrize('kind', ['forward', 'train'])
def test_compiled_kernels_are_one_more_row(kind: str, tmp_path: Path) -> None:
    command([kind, *RUN, '--dtype', 'fp32', '--dtype', 'bf16', '--schedules', 'native', '-o', str(tmp_path)])
    (path,) = tmp_path.iterdir()
    results = {item['name']: item for item in json.loads(path.read_text())['results']}
    row = results['DSTNet, fp32, native kernels']
    assert row['schedule'] == 'native'
    assert (row['ratio'] is None) == (row['failure'] is not None)  # there may be no compiler here
    assert 'DSTNet, plain, fp32, native kernels' not in results
    assert 'DSTNet, bf16, native kernels' not in results


def test_a_step_makes_gradients() -> None:
    from dstnet_arch.benchmarks.train import prepare

    step = prepare('DSTNetPlus', [1, 1, 3, 16, 16], 'cpu', 'fp32')
    step()
    step()  # and again, from none
    net = step.__closure__ and next(c.cell_contents for c in step.__closure__ if isinstance(c.cell_contents, nn.Module))
    assert net
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--device', 'cuda'], 'the CUDA devices .* are: none. Take one of them, or --device cpu'),
        (['--device', 'tpu'], '--device tpu given; measured can be cpu, cuda or cuda:N'),
        (['--device', 'cpu', '--dtype', 'tf32'], 'TF32 is a mode of NVIDIA GPUs'),
        (['--device', 'cpu', '--networks', 'DSTNet', 'UNet'], 'There is no network UNet'),
    ],
)
@pytest.mark.parametrize('kind', ['forward', 'train'])
def test_errors(kind: str, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(OptionsError, match=message):
        command([kind, *arguments, '-o', str(tmp_path / 'out')])
    assert not (tmp_path / 'out').exists()


def test_a_place_that_cannot_be_written_to_is_said_before_the_measurement(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(OptionsError, match='file is no folder that can be written to'):
        command(['forward', '--device', 'cpu', '-o', str(tmp_path / 'file/out')])


@pytest.mark.parametrize('arguments', [['--size', '720'], ['--size', '0x4'], ['--frames', '0'], ['--dtype', 'int8']])
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command(['forward', *arguments])
    assert exit_.value.code == 2
    assert arguments[1] in capsys.readouterr().err


def test_commands_are_listed() -> None:
    assert {'benchmark', 'complexity'} <= main.COMMANDS.keys()


def test_pytorch_alone_suffices(run_python: RunPython, tmp_path: Path) -> None:
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

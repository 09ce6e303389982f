"""Several processes give the results of one, and all end if one of them ends."""

from __future__ import annotations

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from basicsr.utils import misc
from model_parts import Clips, batch, loader, make_model, test_options, train
from model_parts import train_options as tiny_options
from ports import free_port
from soak.project import NAME, make_videos, run_folder, train_options
from torch import Tensor, distributed

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.errors import DSTNetError, TrainingError
from dstnet_arch.models.video_recurrent_deblur_model import VideoRecurrentDeblurModel
from dstnet_arch.ops import native

pytestmark = pytest.mark.slow

if os.name != 'posix':
    pytest.skip('forks, and kills as POSIX does', allow_module_level=True)


def _rank(rank: int, world_size: int, port: int, folder: Path, arguments: list[str], work: Callable[[], None]) -> None:
    os.environ.update({'RANK': str(rank), 'WORLD_SIZE': str(world_size), 'LOCAL_RANK': str(rank)})
    os.environ.update({'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'OMP_NUM_THREADS': '1'})
    torch.set_num_threads(1)
    os.chdir(folder)
    sys.argv = [*arguments, *(['--launcher', 'pytorch'] if world_size > 1 else [])]
    work()


def _run() -> None:
    """Run the command in sys.argv, like ``python -m``."""
    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)


def run_ranks(world_size: int, folder: Path, arguments: list[str], work: Callable[[], None] = _run) -> None:
    """Start ranks as torchrun does, but forked from a process that has imported everything, which is faster."""
    context = torch.multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['test_distributed'])
    torch.multiprocessing.start_processes(
        _rank,
        (world_size, free_port(), folder, arguments, work),
        nprocs=world_size,
        start_method='forkserver',
    )


# ---- commands


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with data and options for a few training steps."""
    make_videos(tmp_path / 'data' / 'train', num_video=2, num_frame=3)
    make_videos(tmp_path / 'data' / 'val', num_video=2, num_frame=4, size=(16, 20), seed=1)
    opt = train_options(total_iter=4, save_freq=4, val_freq=4)
    opt['datasets']['val']['clip_length'] = None  # so there are as many clips as videos
    opt['train']['optim_g'] = {'type': 'SGD', 'lr': 0.1}  # Adam makes full steps of the smallest differences
    _write(tmp_path / 'train.yml', opt)
    return tmp_path


def _write(path: Path, opt: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(opt))


def _saved(project: Path, run: str, file: str) -> dict[str, Any]:
    return torch.load(project / 'experiments' / run / file, weights_only=True)


def _slow_rank_0() -> None:
    rename = misc.mkdir_and_rename

    def late(path: str) -> None:
        time.sleep(1)
        rename(path)

    misc.mkdir_and_rename = late
    _run()


def test_two_ranks_train_as_one_process_does(project: Path) -> None:
    arguments = ['basicsr.train', '-opt', 'train.yml', '--force_yml']
    run_ranks(1, project, [*arguments, 'name=one'])
    # Rank 1 waits for the folders that rank 0 makes.
    run_ranks(2, project, [*arguments, 'name=two', 'datasets:train:batch_size_per_gpu=1'], _slow_rank_0)
    one, two = (_saved(project, run, 'models/net_g_latest.pth') for run in ('one', 'two'))
    for key in ('params', 'params_ema'):
        assert one[key].keys() == two[key].keys()
        for name, value in one[key].items():
            torch.testing.assert_close(two[key][name], value, rtol=0, atol=1e-6, msg=f'{key} {name}')
    name = next(name for name, value in one['params'].items() if value.is_floating_point())
    assert not torch.equal(one['params'][name], one['params_ema'][name])  # something was learnt


def test_any_number_of_ranks_gives_the_same_results(project: Path) -> None:
    full = train_options(1, 1, 1)
    make_videos(project / 'data' / 'more', num_video=1, num_frame=5, size=(16, 20), seed=2)
    first = {**full['datasets']['val'], 'clip_length': 2}
    fewer_clips_than_ranks = {
        **{key: str(value).replace('data/val', 'data/more') for key, value in first.items()},
        'name': 'more',
        'clip_length': None,
    }
    opt = {key: full[key] for key in ('model_type', 'num_gpu', 'network_g', 'val')}
    opt |= {'datasets': {'test': first, 'test_2': fewer_clips_than_ranks}, 'path': {'pretrain_network_g': 'net.pth'}}
    del opt['val']['val_freq']
    torch.manual_seed(0)
    torch.save({'params': DSTNet(num_feat=8, num_block=1, num_cwgdn=1).state_dict()}, project / 'net.pth')
    outputs = []
    for name, ranks in {'one': 1, 'many': 3}.items():
        _write(project / 'test.yml', {**opt, 'name': name})
        run_ranks(ranks, project, ['basicsr.test', '-opt', 'test.yml'])
        folder = project / 'results' / name
        files = [path for path in folder.rglob('*') if path.suffix in ('.csv', '.json', '.png')]
        outputs.append({p.relative_to(folder): re.sub(rb'"(date|run)": .*', b'', p.read_bytes()) for p in files})
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 3 + 8 + 3 + 5


def _dies_at_2() -> None:
    step = VideoRecurrentDeblurModel.optimize_parameters

    def optimize_parameters(self: VideoRecurrentDeblurModel, current_iter: int) -> None:
        if self.opt['rank'] == 1 and current_iter == 2:
            os._exit(0)  # for this test's launcher, a good end
        step(self, current_iter)

    VideoRecurrentDeblurModel.optimize_parameters = optimize_parameters  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r'Rank 0 of 2 has lost another rank.*--auto_resume'):
        _run()


def test_remaining_ranks_report_a_lost_rank(project: Path) -> None:
    run_ranks(2, project, ['basicsr.train', '-opt', 'train.yml'], _dies_at_2)


def _rank_1_has_no_compiler() -> None:
    native.set_native(os.environ['RANK'] == '0')
    _run()
    assert not native.native_enabled()


def test_no_rank_uses_compiled_kernels_that_another_rank_lacks(project: Path) -> None:
    with native.native(True):
        if not native.available():
            pytest.skip('no C compiler')
    changes = ['train:total_iter=2', 'logger:save_checkpoint_freq=1']
    run_ranks(2, project, ['basicsr.train', '-opt', 'train.yml', '--force_yml', *changes], _rank_1_has_no_compiler)
    assert _saved(project, NAME, 'training_states/1.state')['kernels'] == 'pytorch'
    (log,) = run_folder(project).glob('train_*.log')
    assert log.read_text().count('not available on rank 1, so no rank uses them') == 1


_KILLED = """
import os, runpy, signal
import basicsr
from dstnet_arch.models.video_recurrent_deblur_model import VideoRecurrentDeblurModel
step = VideoRecurrentDeblurModel.optimize_parameters
def optimize_parameters(self, current_iter):
    if self.opt['rank'] == 1 and current_iter == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, current_iter)
VideoRecurrentDeblurModel.optimize_parameters = optimize_parameters
runpy.run_module('basicsr.train', run_name='__main__', alter_sys=True)
"""


def test_torchrun_ends_when_a_rank_is_killed(project: Path) -> None:
    (project / 'killed.py').write_text(_KILLED)
    launch = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', f'--master_port={free_port()}']
    process = subprocess.Popen(
        [*launch, 'killed.py', '-opt', 'train.yml', '--launcher', 'pytorch'],
        cwd=project,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f'the job hangs: {process.communicate()[0]}')
    assert process.returncode != 0
    assert re.search(r'rank +: 1 \(local_rank: 1\)\s+exitcode +: -9', output), output
    assert 'Signal 9 (SIGKILL)' in output
    assert not list((run_folder(project) / 'models').iterdir())


# ---- the model


def _fail(lq: Tensor) -> Tensor:
    raise TrainingError('rank 1 failed')


def _model_on_two_ranks() -> None:
    distributed.init_process_group('gloo')
    rank, root = distributed.get_rank(), Path('two').absolute()
    options = {'dist': True, 'rank': rank, 'world_size': 2}
    try:
        # Half of the batch on each rank, in two parts, equals the complete batch.
        model = make_model({**tiny_options(root, accum_iter=2), **options}, seed=rank)
        data = batch(1)
        model.feed_data({key: value[rank::2] for key, value in data.items()})
        model.optimize_parameters(1)
        log = model.get_current_log()
        if rank == 0:
            gradients = {name: p.grad for name, p in model.get_bare_model(model.net_g).named_parameters()}
            torch.save({'gradients': gradients, 'log': log}, 'gradients.pth')
        model.save(0, 1)
        distributed.barrier()  # until rank 0 has written the state
        model.resume_training(torch.load(root / 'experiments/tiny/training_states/1.state', weights_only=True))

        # A loss that is not finite on one rank stops both.
        data['gt'][1] = float('nan')
        model.feed_data({key: value[rank::2] for key, value in data.items()})
        with pytest.raises(TrainingError, match='iteration 2'):
            model.optimize_parameters(2)

        # Objects are gathered with gloo, whatever the default backend, and may take days.
        assert distributed.get_backend(model.ranks.group) == 'gloo'
        assert model.ranks.group is not distributed.group.WORLD
        assert model.ranks.gather(lambda: f'rank {rank}') == ['rank 0', 'rank 1']

        # An error on one rank is raised on both.
        model = make_model({**test_options(root), **options})
        if rank == 1:
            model.restore = _fail
        with pytest.raises(DSTNetError, match='rank 1'):
            model.validation(loader(Clips('set', {'a': 4, 'b': 3, 'c': 7})), 'tiny', None)
    finally:
        time.sleep(0.1)
        distributed.destroy_process_group()


def test_model_on_two_ranks(tmp_path: Path) -> None:
    run_ranks(2, tmp_path, ['model'], _model_on_two_ranks)
    model = make_model(tiny_options(tmp_path / 'one'))
    train(model, range(1, 2))
    two = torch.load(tmp_path / 'gradients.pth', weights_only=True)
    assert two['log'] == pytest.approx(model.get_current_log(), rel=1e-5)
    for name, parameter in model.net_g.named_parameters():
        torch.testing.assert_close(two['gradients'][name], parameter.grad, rtol=0, atol=1e-6)

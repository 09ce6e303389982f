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

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.utils import misc
from ports import free_port
from soak.project import NAME, make_videos, run_folder, train_options

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.errors import TrainingError
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


def run_ranks(world_size: int, folder: Path, arguments: list[str], work: Callable[[], None] | None = None) -> None:
    """Start ranks as torchrun does, but forked from a process that has imported everything, which is faster."""
    module = arguments[0]
    context = torch.multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['test_distributed', 'test_model_validation'])
    torch.multiprocessing.start_processes(
        _rank,
        (world_size, free_port(), folder, arguments, work or _Run(module)),
        nprocs=world_size,
        start_method='forkserver',
    )


class _Run:
    """``python -m`` of a module, as a picklable callable."""

    def __init__(self, module: str) -> None:
        self.module = module

    def __call__(self) -> None:
        runpy.run_module(self.module, run_name='__main__', alter_sys=True)


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


def _scores(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob('*') if path.suffix in ('.csv', '.json')]
    return {path.name: re.sub(r'"date": "[0-9-]*"', '', path.read_text()) for path in paths}


def _saved(project: Path, run: str, file: str) -> dict[str, Any]:
    return torch.load(project / 'experiments' / run / file, weights_only=True)


def test_two_ranks_train_as_one_process_does(project: Path) -> None:
    arguments = ['basicsr.train', '-opt', 'train.yml', '--force_yml']
    run_ranks(1, project, [*arguments, 'name=one'])
    run_ranks(2, project, [*arguments, 'name=two', 'datasets:train:batch_size_per_gpu=1'])
    one, two = (_saved(project, run, 'models/net_g_latest.pth') for run in ('one', 'two'))
    for key in ('params', 'params_ema'):
        assert one[key].keys() == two[key].keys()
        for name, value in one[key].items():
            torch.testing.assert_close(two[key][name], value, rtol=0, atol=1e-6, msg=f'{key} {name}')
    name = next(name for name, value in one['params'].items() if value.is_floating_point())
    assert not torch.equal(one['params'][name], one['params_ema'][name])  # something was learnt


def test_more_ranks_than_videos_give_the_same_scores(project: Path) -> None:
    opt = train_options(1, 1, 1)
    test = {**opt['datasets']['val'], 'clip_length': None}
    opt = {key: opt[key] for key in ('model_type', 'num_gpu', 'network_g', 'val')}
    del opt['val']['val_freq']
    torch.manual_seed(0)
    torch.save({'params': DSTNet(num_feat=8, num_block=1, num_cwgdn=1).state_dict()}, project / 'net.pth')
    for name, ranks in {'one': 1, 'many': 3}.items():
        _write(
            project / 'test.yml',
            {**opt, 'name': name, 'datasets': {'test': test}, 'path': {'pretrain_network_g': 'net.pth'}},
        )
        run_ranks(ranks, project, ['basicsr.test', '-opt', 'test.yml'])
    one, many = (project / 'results' / name for name in ('one', 'many'))
    texts = {name: text.replace('"one"', '"many"') for name, text in _scores(one).items()}
    assert texts == _scores(many)
    assert len(texts) == 3
    pictures = sorted(path.relative_to(one) for path in one.rglob('*.png'))
    assert len(pictures) == 8
    assert pictures == sorted(path.relative_to(many) for path in many.rglob('*.png'))
    assert all((one / path).read_bytes() == (many / path).read_bytes() for path in pictures)


def _slow_rank_0() -> None:
    rename = misc.mkdir_and_rename

    def late(path: str) -> None:
        time.sleep(1)
        rename(path)

    misc.mkdir_and_rename = late
    _Run('basicsr.train')()


def test_ranks_wait_for_the_folders_of_rank_0(project: Path) -> None:
    run_ranks(2, project, ['basicsr.train', '-opt', 'train.yml', '--force_yml', 'train:total_iter=1'], _slow_rank_0)
    assert (run_folder(project) / 'train.yml').is_file()


def _dies_at_2() -> None:
    step = VideoRecurrentDeblurModel.optimize_parameters

    def optimize_parameters(self: VideoRecurrentDeblurModel, current_iter: int) -> None:
        if self.opt['rank'] == 1 and current_iter == 2:
            os._exit(0)  # for this test's launcher, a good end
        step(self, current_iter)

    VideoRecurrentDeblurModel.optimize_parameters = optimize_parameters  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r'Rank 0 of 2 has lost another rank.*--auto_resume'):
        _Run('basicsr.train')()


def test_remaining_ranks_report_a_lost_rank(project: Path) -> None:
    run_ranks(2, project, ['basicsr.train', '-opt', 'train.yml'], _dies_at_2)


def _rank_1_has_no_compiler() -> None:
    native.set_native(os.environ['RANK'] == '0')
    _Run('basicsr.train')()
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


# The command itself

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


def _torchrun(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', f'--master_port={free_port()}']
    process = subprocess.Popen(
        [*launch, *arguments, '-opt', 'train.yml', '--launcher', 'pytorch'],
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
    return subprocess.CompletedProcess(process.args, process.returncode, output)


@pytest.mark.slow
def test_torchrun_ends_when_a_rank_is_killed(project: Path) -> None:
    (project / 'killed.py').write_text(_KILLED)
    done = _torchrun(project, 'killed.py')
    assert done.returncode != 0
    assert re.search(r'rank +: 1 \(local_rank: 1\)\s+exitcode +: -9', done.stdout), done.stdout
    assert 'Signal 9 (SIGKILL)' in done.stdout
    assert not list((run_folder(project) / 'models').iterdir())


@pytest.mark.slow
def test_torchrun_ends_at_a_damaged_image(project: Path) -> None:
    # The options are checked with the first pictures, so it must be one that is met later, and by one rank first.
    for path in (project / 'data/train/sharp/video1').iterdir():
        image = np.zeros((24, 24, 3), np.uint8)
        whole = cv2.imencode('.png', image)[1].tobytes()
        path.write_bytes(whole[: len(whole) // 2])
    done = _torchrun(project, '-m', 'basicsr.train')
    assert done.returncode != 0
    assert re.search(r'error: .*video1/\d+\.png is truncated', done.stdout), done.stdout
    assert re.search(r'rank +: [01] \(local_rank: [01]\)\s+exitcode +: 2', done.stdout), done.stdout

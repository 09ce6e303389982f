"""Each patch of stock BasicSR acts on its defect, and on nothing else."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from basicsr import train
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.utils import dist_util, init_tb_logger, mkdir_and_rename
from conftest import RunPython

from dstnet_arch.errors import CheckpointError, OptionsError
from dstnet_arch.plugin import patches

SITE_PACKAGES = Path(train.__file__).parents[1]
FOREIGN = """
name: theirs
model_type: SRModel
num_gpu: auto
datasets: {}
path: {pretrain_network_g: ~}
logger: {use_tb_logger: false}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, with somebody else's options file."""
    monkeypatch.chdir(tmp_path)
    Path('theirs.yml').write_text(FOREIGN)
    return tmp_path


# Outputs


@pytest.mark.parametrize('is_train', [True, False])
def test_outputs_go_to_the_current_folder(here: Path, monkeypatch: pytest.MonkeyPatch, is_train: bool) -> None:
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', 'theirs.yml'])
    for root, expected in ((SITE_PACKAGES, here), (here / 'project', here / 'project')):
        opt, args = train.parse_options(str(root), is_train=is_train)
        run = opt['path']['experiments_root' if is_train else 'results_root']
        assert run == str(expected / ('experiments' if is_train else 'results') / 'theirs')
        assert (args.opt, opt['num_gpu']) == ('theirs.yml', torch.cuda.device_count())


def test_tb_logger_goes_to_the_current_folder(here: Path) -> None:
    mkdir_and_rename(str(SITE_PACKAGES / 'tb_logger' / 'group' / 'theirs'))
    writer = init_tb_logger(log_dir=str(SITE_PACKAGES / 'tb_logger' / 'group' / 'theirs'))
    writer.close()
    assert list((here / 'tb_logger' / 'group' / 'theirs').iterdir())
    assert not (SITE_PACKAGES / 'tb_logger').exists()
    mkdir_and_rename(str(here / 'another' / 'tb_logger'))
    assert (here / 'another' / 'tb_logger').is_dir()


@pytest.mark.slow
def test_outputs_stay_out_of_site_packages_if_its_files_are_links(run_python: RunPython, here: Path) -> None:
    """As uv installs them with --link-mode symlink."""
    (here / 'site').mkdir()
    shutil.copytree(SITE_PACKAGES / 'basicsr', here / 'site' / 'basicsr', copy_function=os.symlink)
    (here / 'cwd').mkdir()
    (here / 'theirs.yml').rename(here / 'cwd' / 'theirs.yml')
    code = f"""
import sys
sys.path.insert(0, {str(here / 'site')!r})
from basicsr import train
assert train.__file__.startswith({str(here)!r})
sys.argv = ['train.py', '-opt', 'theirs.yml']
print(train.parse_options(sys.path[0])[0]['path']['experiments_root'])
"""
    done = run_python('-c', code, cwd=here / 'cwd')
    assert done.stdout.splitlines()[-1] == str(here / 'cwd' / 'experiments' / 'theirs'), done.stderr


# Files


@pytest.mark.slow
def test_log_and_options_are_written_in_utf8(run_python: RunPython, here: Path) -> None:
    (here / 'a.yml').write_text('name: données\n', encoding='utf-8')
    code = """
import logging, sys
import basicsr
from basicsr.utils import get_root_logger, options
sys.argv = ['train.py', 'donn\\xe9es']
options.copy_opt_file('a.yml', 'out')
get_root_logger(log_file='out/log').info('donn\\xe9es')
"""
    (here / 'out').mkdir()
    done = run_python('-c', code, cwd=here, PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', LC_ALL='C')
    assert (done.returncode, 'Logging error' in done.stderr) == (0, False), done.stderr
    assert 'donn' in (here / 'out' / 'log').read_text('utf-8')
    lines = (here / 'out' / 'a.yml').read_text('utf-8').splitlines()
    assert lines[0].startswith('# GENERATE TIME: ')
    assert lines[2].startswith('# train.py donn')
    assert lines[-1] == 'name: données'


# Resuming


@pytest.fixture
def run(here: Path) -> dict[str, Any]:
    """Options of a run with states 2, 9 and 10."""
    folder = here / 'experiments' / 'ours'
    for name in ('models', 'training_states'):
        (folder / name).mkdir(parents=True)
    for iteration in (2, 9, 10):
        content = {'iter': iteration, 'epoch': 0, 'rng': torch.get_rng_state()}
        torch.save(content, folder / 'training_states' / f'{iteration}.state')
        torch.save({'params': {}}, folder / 'models' / f'net_g_{iteration}.pth')
    paths = {'models': str(folder / 'models'), 'training_states': str(folder / 'training_states'), 'resume_state': None}
    return {
        'name': 'ours',
        'model_type': 'VideoRecurrentDeblurModel',
        'auto_resume': True,
        'network_g': {},
        'path': {**paths, 'pretrain_network_g': None},
    }


def state(run: dict[str, Any], iteration: int) -> Path:
    return Path(run['path']['training_states'], f'{iteration}.state')


def test_auto_resume_takes_the_newest_state(run: dict[str, Any]) -> None:
    found = train.load_resume_state(run)
    assert (found['iter'], found['rng'].device.type) == (10, 'cpu')
    assert run['path']['resume_state'] == str(state(run, 10))
    assert run['path']['pretrain_network_g'] == os.path.join(run['path']['models'], 'net_g_10.pth')
    for iteration in (2, 9, 10):
        state(run, iteration).unlink()
    assert train.load_resume_state(run) is None


def test_auto_resume_skips_damaged_states(run: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    state(run, 10).write_bytes(state(run, 10).read_bytes()[:100])
    weights = Path(run['path']['models'], 'net_g_9.pth')
    weights.write_bytes(weights.read_bytes()[:-30])
    assert train.load_resume_state(run)['iter'] == 2
    ten, nine = capsys.readouterr().err.splitlines()
    assert '10.state' in ten
    assert 'net_g_9.pth' in nine
    state(run, 2).write_bytes(b'')
    with pytest.raises(CheckpointError, match=r'None of the 3 training states .* Start without --auto_resume'):
        train.load_resume_state(run)


def test_resume_state_is_used_as_given(run: dict[str, Any]) -> None:
    run['auto_resume'] = False
    assert train.load_resume_state(run) is None
    run['path']['resume_state'] = str(state(run, 9))
    assert train.load_resume_state(run)['iter'] == 9
    state(run, 9).write_bytes(b'nothing')
    with pytest.raises(CheckpointError, match=r'9\.state cannot be read'):
        train.load_resume_state(run)


@pytest.mark.skipif(torch.cuda.is_available(), reason='with CUDA they keep the original')
def test_other_peoples_runs_resume_without_cuda(run: dict[str, Any]) -> None:
    run['model_type'] = 'SRModel'
    assert train.load_resume_state(run)['iter'] == 10
    assert run['path']['pretrain_network_g'].endswith('net_g_10.pth')


# torch.distributed


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """The environment of a launcher that has started one process."""
    for name, value in {'RANK': '0', 'WORLD_SIZE': '1', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': '0'}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.delenv('LOCAL_RANK')
    yield monkeypatch
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.skipif(torch.cuda.is_available(), reason='with CUDA the backend is nccl')
@pytest.mark.parametrize('launcher', ['pytorch', 'slurm'])
def test_distributed_without_a_gpu(one_process: pytest.MonkeyPatch, tmp_path: Path, launcher: str) -> None:
    if launcher == 'slurm':
        scontrol = tmp_path / 'scontrol'
        scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[1-2]" ] && echo 127.0.0.1 && echo node2\n')
        scontrol.chmod(0o755)
        one_process.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
        for name, value in {'PROCID': '0', 'NTASKS': '1', 'NODELIST': 'node[1-2]', 'LOCALID': '0'}.items():
            one_process.setenv(f'SLURM_{name}', value)
        for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR'):
            one_process.delenv(name)
    dist_util.init_dist(launcher, backend='nccl')
    assert dist.get_backend() == 'gloo'
    assert dist_util.get_dist_info() == (0, 1)


def test_the_gpu_is_that_of_the_local_rank(one_process: pytest.MonkeyPatch) -> None:
    chosen: list[object] = []
    one_process.setattr(torch.cuda, 'is_available', lambda: True)
    one_process.setattr(torch.cuda, 'device_count', lambda: 4)
    one_process.setattr(torch.cuda, 'set_device', chosen.append)
    one_process.setattr(dist, 'init_process_group', lambda backend: chosen.append(backend))
    one_process.setenv('RANK', '6')
    dist_util._init_dist_pytorch('nccl')
    one_process.setenv('LOCAL_RANK', '1')
    dist_util._init_dist_pytorch('nccl')
    assert chosen == [2, 'nccl', 1, 'nccl']


def test_missing_launcher_is_named_before_the_work(one_process: pytest.MonkeyPatch) -> None:
    one_process.delenv('RANK')
    with pytest.raises(OptionsError, match='torchrun --nproc_per_node'):
        dist_util._init_dist_pytorch('nccl')
    with pytest.raises(OptionsError, match=r'needs a Slurm job. Start with srun, or use torchrun'):
        dist_util._init_dist_slurm('nccl')


@pytest.mark.parametrize('argument', ['--local-rank=1', '--local_rank=1'])
def test_argument_of_torch_distributed_launch_is_accepted(
    here: Path, monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    monkeypatch.setattr(sys, 'argv', ['train.py', argument, '-opt', 'theirs.yml'])
    _, args = train.parse_options(str(here))
    assert args.local_rank == 1


# The sampler


class Pairs:
    def __init__(self, dataset: Any, num_replicas: int, rank: int, ratio: float) -> None:
        self.arguments = (dataset, num_replicas, rank, ratio)


class Theirs(list[int]):
    pass


class Ours(list[int]):
    sampler_class = Pairs


def test_a_dataset_brings_its_sampler() -> None:
    dataset = Ours(range(10))
    sampler = EnlargedSampler(dataset, 2, 1, 3)
    assert isinstance(sampler, Pairs)
    assert sampler.arguments == (dataset, 2, 1, 3)
    assert train.EnlargedSampler is EnlargedSampler


def test_other_datasets_keep_the_stock_sampler() -> None:
    sampler = EnlargedSampler(Theirs(range(10)), num_replicas=2, rank=1, ratio=3)
    assert type(sampler) is EnlargedSampler
    sampler.set_epoch(1)
    assert len(list(sampler)) == len(sampler) == 15

    class Derived(EnlargedSampler):
        pass

    assert type(Derived(Ours(range(10)), 1, 0)) is Derived


# The warning at the start


def test_only_the_one_warning_is_silenced() -> None:
    text = "{!r} found in sys.modules after import of package 'p', but prior to execution"
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        patches.no_warning_at_start()
        warnings.warn(text.format('basicsr.train'), RuntimeWarning, stacklevel=1)
        with pytest.raises(RuntimeWarning):
            warnings.warn(text.format('other.train'), RuntimeWarning, stacklevel=1)


def test_every_patch_names_its_defect() -> None:
    for patch in patches.PATCHES:
        assert 'Defect:' in (patch.__doc__ or ''), patch
        assert 'Acts:' in (patch.__doc__ or ''), patch

"""Stock BasicSR and another plugin work as before with this package installed, except for the registered names."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import basicsr
import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import RunPython

from dstnet_arch.plugin.registration import PARTS

# BasicSR without this package: -I -S skips .pth files and all of site-packages, which is added again as a plain folder.
# What BasicSR needs to be importable with today's libraries is supplied here.
FOLDERS = sorted({str(Path(module.__file__ or '').resolve().parents[1]) for module in (basicsr, torch, yaml, cv2)})
WITHOUT_US = ('-I', '-S', '-c')
PRELUDE = f"""
import sys
sys.path += {FOLDERS!r}
import setuptools  # has distutils, which Python dropped in 3.12
import torchvision.transforms.functional as successor
sys.modules.setdefault('torchvision.transforms.functional_tensor', successor)
"""
STATE = """
import json, os, random, sys, warnings
import numpy, torch
before = set(os.environ)
random.seed(0), numpy.random.seed(0), torch.manual_seed(0)
import basicsr
import basicsr.train, basicsr.test
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.utils import options, registry

def origin(thing):
    return f'{thing.__module__}.{thing.__qualname__}'

stock = ['train.py', '-opt', '../stock.yml']
sys.argv = [*stock, '--force_yml', 'train:total_iter=7', 'network_g:upscale=2']
opt, args = options.parse_options('root', is_train=True)
tested, _ = options.parse_options('root', is_train=False)
json.dump({
    'registries': {
        name: {key: origin(value) for key, value in getattr(registry, name)}
        for name in sorted(vars(registry)) if name.endswith('_REGISTRY')
    },
    'functions': {
        f'{name}.{key}': origin(value)
        for name, module in sorted(sys.modules.items()) if name.partition('.')[0] == 'basicsr'
        for key, value in sorted(vars(module).items()) if callable(value) and hasattr(value, '__qualname__')
    },
    'code': {
        f'{name}.{key}': value.__code__.co_filename
        for name, module in sorted(sys.modules.items()) if name.partition('.')[0] == 'basicsr'
        for key, value in sorted(vars(module).items()) if hasattr(value, '__code__')
    },
    'modules': sorted(sys.modules),
    'random': [random.random(), numpy.random.rand(), torch.rand(()).item()],
    'environment': sorted(set(os.environ) - before),
    'torch': [torch.get_num_threads(), str(torch.get_default_dtype()), torch.backends.cudnn.deterministic,
              torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()],
    'sampler': [list(EnlargedSampler(range(10), 2, 1, ratio)) for ratio in (1, 3)],
    'options': [opt, tested, vars(args)],
    'filters': [str(entry) for entry in warnings.filters],
}, open('state.json', 'w'), default=str)
sys.argv = stock
"""
TRAIN = {
    # As `python -m basicsr.train`, which without us would write to the folder that basicsr is in.
    'with': "import runpy; runpy.run_module('basicsr.train', run_name='__main__', alter_sys=True)",
    'without': 'basicsr.train.train_pipeline(os.getcwd())',
}
REPLACED = {
    *('parse_options', 'mkdir_and_rename', 'init_tb_logger', 'load_resume_state', 'get_root_logger', 'copy_opt_file'),
    *('build_model', '_init_dist_pytorch', '_init_dist_slurm', 'make_exp_dirs'),
}
"""Functions of BasicSR that the patches replace."""

STOCK: dict[str, Any] = yaml.safe_load("""
name: stock
model_type: SRModel
scale: 2
num_gpu: 0
manual_seed: 0
datasets:
  train: &data
    name: noise
    type: PairedImageDataset
    dataroot_gt: gt
    dataroot_lq: lq
    io_backend: {type: disk}
    gt_size: 16
    use_hflip: true
    use_rot: true
    num_worker_per_gpu: 1
    batch_size_per_gpu: 2
    dataset_enlarge_ratio: 2
  val: *data
network_g: {type: MSRResNet, num_in_ch: 3, num_out_ch: 3, num_feat: 8, num_block: 1, upscale: 2}
path: {pretrain_network_g: ~, strict_load_g: true, resume_state: ~}
train:
  ema_decay: 0.9
  optim_g: {type: Adam, lr: 0.001, weight_decay: 0, betas: [0.9, 0.99]}
  scheduler: {type: MultiStepLR, milestones: [1], gamma: 0.5}
  total_iter: 3
  warmup_iter: -1
  pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}
val:
  val_freq: 2
  save_img: true
  metrics: {psnr: {type: calculate_psnr, crop_border: 4, test_y_channel: false}}
logger: {print_freq: 1, save_checkpoint_freq: 2, use_tb_logger: false, wandb: ~}
dist_params: {backend: nccl, port: 29500}
""")


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory, run_python: RunPython) -> Path:
    """A folder in which BasicSR, `without` and `with` this package, has written its state and trained a stock model."""
    folder = tmp_path_factory.mktemp('project')
    (folder / 'stock.yml').write_text(yaml.safe_dump(STOCK, sort_keys=False))
    for name, python in {'without': (*WITHOUT_US, PRELUDE + STATE), 'with': ('-I', '-c', STATE)}.items():
        rng = np.random.default_rng(0)
        for kind, size in {'gt': 32, 'lq': 16}.items():
            (folder / name / kind).mkdir(parents=True)
            for number in range(4):
                picture = rng.integers(0, 256, (size, size, 3), np.uint8)
                assert cv2.imwrite(str(folder / name / kind / f'{number}.png'), picture)
        done = run_python(*python[:-1], python[-1] + TRAIN[name], cwd=folder / name)
        assert done.returncode == 0, done.stderr
        assert 'Warning' not in done.stderr, done.stderr
    return folder


@pytest.fixture
def states(project: Path) -> dict[str, dict[str, Any]]:
    """The state of BasicSR in a process, without and with this package."""
    found = {name: json.loads((project / name / 'state.json').read_text()) for name in ('without', 'with')}
    assert not any('dstnet_arch' in module for module in found['without']['modules'])
    assert 'dstnet_arch.plugin.patches' in found['with']['modules']
    return found


@pytest.mark.slow
def test_registries_differ_only_by_our_names(states: dict[str, dict[str, Any]]) -> None:
    expected = states['without']['registries']
    for registry, name, module in PARTS:
        assert name not in expected[registry], 'the name is taken'
        expected[registry][name] = f'{module}.{name}'
    assert states['with']['registries'] == expected


@pytest.mark.slow
def test_only_these_functions_are_replaced(states: dict[str, dict[str, Any]]) -> None:
    before, after = states['without'], states['with']
    replaced = {key for key, file in after['code'].items() if file != before['code'].get(key, file)}
    assert {key.rpartition('.')[2] for key in replaced} == REPLACED
    # Under every name: none of BasicSR's modules keeps the old function.
    assert replaced == {key for key in before['code'] if key.rpartition('.')[2] in REPLACED}
    assert after['functions'].keys() == before['functions'].keys()
    # And they keep their names and modules.
    public = {key for key in replaced if not key.rpartition('.')[2].startswith('_')}
    assert {key: after['functions'][key] for key in public} == {key: before['functions'][key] for key in public}


@pytest.mark.slow
def test_replaced_functions_return_the_same_for_others(states: dict[str, dict[str, Any]]) -> None:
    assert states['with']['options'] == states['without']['options']
    assert states['with']['options'][0]['train']['total_iter'] == 7
    assert states['with']['sampler'] == states['without']['sampler']


@pytest.mark.slow
def test_state_of_the_process_is_unchanged(states: dict[str, dict[str, Any]]) -> None:
    for key in ('random', 'environment', 'torch'):
        assert states['with'][key] == states['without'][key], key
    added = [entry for entry in states['with']['filters'] if entry not in states['without']['filters']]
    assert len(added) == 1
    assert 'basicsr' in added[0]


@pytest.mark.slow
def test_importing_basicsr_imports_no_library_that_only_we_need(states: dict[str, dict[str, Any]]) -> None:
    more = {module.partition('.')[0] for module in set(states['with']['modules']) - set(states['without']['modules'])}
    ours = {'dstnet_arch', '_dstnet_arch_hook'}
    assert ours <= more
    assert not more & {'pydantic', 'skimage', 'safetensors', 'mmcv', 'matplotlib', 'pywt', 'filelock', 'onnx', 'av'}


@pytest.mark.slow
def test_stock_model_is_trained_to_the_same_weights(project: Path) -> None:
    runs = [project / name / 'experiments' / 'stock' for name in ('with', 'without')]
    for folder in ('models', 'training_states', 'visualization'):
        assert len({tuple(sorted(path.name for path in (run / folder).rglob('*'))) for run in runs}) == 1
    for name in ('net_g_2.pth', 'net_g_latest.pth'):
        ours, theirs = (torch.load(run / 'models' / name, weights_only=True) for run in runs)
        assert ours.keys() == theirs.keys() == {'params', 'params_ema'}
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0)
    pictures = [sorted((run / 'visualization').rglob('*.png')) for run in runs]
    assert len(pictures[0]) == 8
    assert [path.read_bytes() for path in pictures[0]] == [path.read_bytes() for path in pictures[1]]


TOY = """
    import torch
    from basicsr.models.sr_model import SRModel
    from basicsr.utils.registry import DATASET_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

    @DATASET_REGISTRY.register()
    class ToyDataset(torch.utils.data.Dataset):
        def __init__(self, opt):
            self.opt = opt

        def __len__(self):
            return self.opt['clips']

        def __getitem__(self, index):
            clip = torch.full((2, 3, 16, 16), index / len(self))
            return {'lq': clip, 'gt': clip / 2, 'lq_path': f'{index}.png'}

    @METRIC_REGISTRY.register()
    def calculate_toy(clip, other):
        return (clip - other).abs().mean().item()

    @MODEL_REGISTRY.register()
    class ToyModel(SRModel):
        def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
            from basicsr.metrics import calculate_metric
            for data in dataloader:
                self.feed_data(data)
                self.test()
                clips = {'clip': self.output, 'other': self.gt}
                print('toy', tuple(self.output.shape), calculate_metric(clips, dict(self.opt['val']['metrics']['toy'])))
"""


@pytest.mark.slow
def test_another_plugin_trains_our_network_with_its_parts(tmp_path: Path, run_python: RunPython) -> None:
    """It imports BasicSR and registers its parts at interpreter start; its options do not name this package."""
    plugin = tmp_path / 'plugin'
    plugin.mkdir()
    (plugin / 'toy_plugin.py').write_text(dedent(TOY))
    (plugin / 'sitecustomize.py').write_text('import toy_plugin')
    toys = {'name': 'toys', 'type': 'ToyDataset', 'clips': 2, 'my_own_key': {'that': 'nobody', 'else': 'has'}}
    opt = {
        **STOCK,
        'model_type': 'ToyModel',
        'network_g': {'type': 'DSTNet', 'num_feat': 8, 'num_block': 1, 'num_cwgdn': 1},
        'datasets': {'train': {**toys, 'num_worker_per_gpu': 0, 'batch_size_per_gpu': 1}, 'val': toys},
        'val': {'val_freq': 3, 'save_img': False, 'metrics': {'toy': {'type': 'calculate_toy'}}},
    }
    (tmp_path / 'train.yml').write_text(yaml.safe_dump(opt))
    done = run_python('-m', 'basicsr.train', '-opt', 'train.yml', cwd=tmp_path, PYTHONPATH=str(plugin))
    assert (done.returncode, 'dstnet_arch' in done.stderr) == (0, False), done.stderr
    assert 'Network: DSTNet' in done.stderr
    assert done.stdout.count('toy (1, 2, 3, 16, 16)') == 4  # at iteration 3 and at the end
    assert (tmp_path / 'experiments' / 'stock' / 'models' / 'net_g_latest.pth').is_file()

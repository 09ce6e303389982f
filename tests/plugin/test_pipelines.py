"""BasicSR's train and test in processes of their own, from the command line to the files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from conftest import RunPython

from dstnet_arch import __main__ as cli

SITE = Path(yaml.__file__).resolve().parents[1]

TRAIN: dict[str, Any] = {
    'name': 'tiny',
    'model_type': 'VideoRecurrentDeblurModel',
    'num_gpu': 0,
    'manual_seed': 0,
    'datasets': {
        'train': {
            'name': 'stripes',
            'type': 'VideoRecurrentDeblurDataset',
            'dataroot_lq': 'data/blurry',
            'dataroot_gt': 'data/sharp',
            'num_frame': 2,
            'gt_size': 16,
            'num_worker_per_gpu': 1,
            'batch_size_per_gpu': 1,
        },
    },
    'network_g': {'type': 'DSTNet', 'num_feat': 8, 'num_block': 1},
    'path': {'pretrain_network_g': None, 'resume_state': None},
    'train': {
        'total_iter': 3,
        'optim_g': {'type': 'AdamW', 'lr': 1e-4},
        'scheduler': {'type': 'CosineAnnealingRestartLR', 'periods': [5], 'restart_weights': [1], 'eta_min': 1e-7},
        'pixel_opt': {'type': 'CharbonnierLoss'},
        'frequency_opt': {'type': 'FrequencyLoss'},
    },
    'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'use_tb_logger': True},
}
TEST: dict[str, Any] = {
    'name': 'tiny_test',
    'model_type': 'VideoRecurrentDeblurModel',
    'num_gpu': 'auto',
    'datasets': {
        'test': {
            'name': 'stripes',
            'type': 'VideoRecurrentDeblurTestDataset',
            'dataroot_lq': 'data/blurry',
            'dataroot_gt': 'data/sharp',
        },
    },
    'network_g': TRAIN['network_g'],
    'path': {'pretrain_network_g': 'experiments/tiny/models/net_g_5.pth'},
    'val': {
        'save_img': True,
        'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}, 'ssim3d': {'type': 'calculate_ssim3d'}},
    },
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with data and options."""
    rng = np.random.default_rng(0)
    for clip in ('a', 'b'):
        for frame in range(3):
            sharp = rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)
            for kind, image in {'sharp': sharp, 'blurry': cv2.blur(sharp, (3, 1))}.items():
                path = tmp_path / 'data' / kind / clip / f'{frame:03}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(path), image)
    for name, options in {'train.yml': TRAIN, 'test.yml': TEST}.items():
        (tmp_path / name).write_text(yaml.safe_dump(options))
    return tmp_path


@pytest.mark.slow
def test_train_resume_and_test(run_python: RunPython, project: Path) -> None:
    before = {path.name for path in SITE.iterdir()}
    run = project / 'experiments' / 'tiny'

    done = run_python('-m', 'basicsr.train', '-opt', 'train.yml', cwd=project)
    assert done.returncode == 0, done.stderr
    assert 'Warning' not in done.stderr, done.stderr
    assert (run / 'training_states' / '2.state').is_file()
    assert list((project / 'tb_logger' / 'tiny').iterdir())

    # The run is found in the current folder and resumed there.
    arguments = (
        '-opt',
        'train.yml',
        '--auto_resume',
        '--force_yml',
        'train:total_iter=5',
        'logger:use_tb_logger=false',
    )
    (run / 'models' / 'net_g_5.pth').unlink(missing_ok=True)
    done = run_python('-m', 'basicsr.train', *arguments, 'logger:save_checkpoint_freq=5', cwd=project)
    assert done.returncode == 0, done.stderr
    assert 'Resuming training from epoch: 0, iter: 2.' in done.stderr
    assert 'iter:       3' in done.stderr
    assert sorted(path.name for path in (project / 'experiments').iterdir()) == ['.tiny.lock', 'tiny']
    assert (run / 'models' / 'net_g_5.pth').is_file()

    # The command does not need the start-up hook.
    code = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != 'BasicSRFinder']
from dstnet_arch.__main__ import main
sys.exit(main() or main(['visualize', 'compare', '-opt', 'test.yml', '--frame', 'b/001']))
"""
    done = run_python('-c', code, 'test', '-opt', 'test.yml', cwd=project)
    assert done.returncode == 0, done.stderr
    results = project / 'results' / 'tiny_test'
    assert {path.name for path in results.glob('visualization/stripes/*/*')} == {'000.png', '001.png', '002.png'}
    assert set(json.loads((results / 'stripes_summary.json').read_text())) != set()
    sheet = cv2.imread(str(project / 'compare.png'))
    assert sheet is not None
    assert sheet.shape == (16 + 32, 3 * 20 + 2 * 8, 3)
    np.testing.assert_array_equal(sheet[32:, :20], cv2.imread(str(project / 'data' / 'blurry' / 'b' / '001.png')))
    np.testing.assert_array_equal(sheet[32:, 56:], cv2.imread(str(project / 'data' / 'sharp' / 'b' / '001.png')))

    assert {path.name for path in SITE.iterdir()} == before


@pytest.mark.slow
def test_damaged_data_end_the_run_before_anything_is_created(run_python: RunPython, project: Path) -> None:
    (project / 'data' / 'sharp' / 'b' / '001.png').unlink()
    done = run_python('-m', 'basicsr.train', '-opt', 'train.yml', '--debug', cwd=project)
    assert done.returncode == 2
    assert 'Traceback' not in done.stderr
    assert 'clip b: 1 frame without a sharp partner: 001' in done.stderr
    assert sorted(path.name for path in project.iterdir()) == ['data', 'test.yml', 'train.yml']


@pytest.mark.slow
def test_train_ignores_the_command_line_of_a_notebook_kernel(run_python: RunPython, project: Path) -> None:
    code = """
import sys
from dstnet_arch.errors import OptionsError
from dstnet_arch.plugin.pipelines import train
before = list(sys.argv)
train(['-opt', 'train.yml', '--force_yml', 'train:total_iter=1', 'logger:use_tb_logger=false'])
try:
    train(['-opt', 'train.yml', '--force_yml', 'train:total_iter=0'])
except OptionsError as error:
    print('caught', 'train:total_iter' in str(error))
print(sys.argv == before)
"""
    done = run_python('-c', code, '-f', 'kernel-1.json', cwd=project)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ['caught True', 'True']
    assert (project / 'experiments' / 'tiny' / 'models' / 'net_g_latest.pth').is_file()


@pytest.mark.parametrize('name', ['train', 'test'])
def test_pipeline_reports_a_missing_file_without_a_traceback(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['dstnet'])
    monkeypatch.setattr(sys, 'excepthook', sys.__excepthook__)
    assert cli.main([name, '-opt', 'nowhere.yml']) == 2
    assert 'nowhere.yml does not exist' in capsys.readouterr().err
    assert sys.argv == ['dstnet']
    assert not list(tmp_path.iterdir())


def test_broken_basicsr_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, 'basicsr.train', None)
    assert cli.main(['train']) == 2
    assert 'BasicSR cannot be imported' in capsys.readouterr().err

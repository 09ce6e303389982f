"""BasicSR's own train and test, from the command line to the files: the whole way, in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from conftest import RunPython

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


def test_train_resume_and_test(run_python: RunPython, project: Path) -> None:
    before = {path.name for path in SITE.iterdir()}
    run = project / 'experiments' / 'tiny'

    done = run_python('-m', 'basicsr.train', '-opt', 'train.yml', cwd=project)
    assert done.returncode == 0, done.stderr
    assert 'Warning' not in done.stderr, done.stderr
    assert (run / 'training_states' / '2.state').is_file()
    assert list((project / 'tb_logger' / 'tiny').iterdir())

    # The run is found under the current folder and goes on there, as far as it is told.
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

    # The command does without the hook.
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
    sheet = cv2.imread(str(results / 'compare_stripes.png'))
    assert sheet is not None
    assert sheet.shape == (16 + 32, 3 * 20 + 2 * 8, 3)
    np.testing.assert_array_equal(sheet[32:, :20], cv2.imread(str(project / 'data' / 'blurry' / 'b' / '001.png')))
    np.testing.assert_array_equal(sheet[32:, 56:], cv2.imread(str(project / 'data' / 'sharp' / 'b' / '001.png')))

    assert {path.name for path in SITE.iterdir()} == before


def test_an_error_in_the_data_ends_the_run_with_one_message(run_python: RunPython, project: Path) -> None:
    (project / 'data' / 'sharp' / 'b' / '001.png').unlink()
    done = run_python('-m', 'basicsr.train', '-opt', 'train.yml', '--debug', cwd=project)
    assert done.returncode == 2
    assert 'Traceback' not in done.stderr
    assert 'clip b: in lq but not in gt: 1 frame (001)' in done.stderr.rpartition('\nerror: ')[2]
    assert (project / 'experiments' / 'debug_tiny').is_dir()

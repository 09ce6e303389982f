"""A very small training run, and comparisons of what runs write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import torch
import yaml
from torch import Tensor

NAME = 'tiny'
VAL_FREQ = 15


def make_videos(root: Path, num_video: int, num_frame: int, size: tuple[int, int] = (24, 24), seed: int = 0) -> None:
    """Write random sharp videos and blurry ones: ``root/{sharp,blurry}/<video>/<frame>.png``."""
    rng = np.random.default_rng(seed)
    for video in range(num_video):
        for frame in range(num_frame):
            sharp = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            for kind, image in {'sharp': sharp, 'blurry': cv2.blur(sharp, (3, 1))}.items():
                path = root / kind / f'video{video}' / f'{frame:03}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(cv2.imencode('.png', image)[1].tobytes())


def train_options(total_iter: int, save_freq: int, val_freq: int) -> dict[str, Any]:
    """Return options of a run with all that can be resumed: averaged weights, a schedule, scores."""
    network = {'type': 'DSTNet', 'num_feat': 8, 'num_block': 1, 'num_cwgdn': 1}
    return {
        'name': NAME,
        'model_type': 'VideoRecurrentDeblurModel',
        'num_gpu': 0,
        'manual_seed': 0,
        'datasets': {
            'train': {
                'name': 'train',
                'type': 'VideoRecurrentDeblurDataset',
                'dataroot_lq': 'data/train/blurry',
                'dataroot_gt': 'data/train/sharp',
                'num_frame': 2,
                'gt_size': 16,
                'use_hflip': True,
                'use_rot': True,
                'num_worker_per_gpu': 0,
                'batch_size_per_gpu': 2,
                'dataset_enlarge_ratio': 1,
            },
            'val': {
                'name': 'val',
                'type': 'VideoRecurrentDeblurTestDataset',
                'dataroot_lq': 'data/val/blurry',
                'dataroot_gt': 'data/val/sharp',
                'clip_length': 3,
            },
        },
        'network_g': network,
        'path': {'pretrain_network_g': None, 'resume_state': None, 'strict_load_g': True},
        'train': {
            'total_iter': total_iter,
            'optim_g': {'type': 'AdamW', 'lr': 1e-3},
            'scheduler': {
                'type': 'CosineAnnealingRestartLR',
                'periods': [total_iter],
                'restart_weights': [1],
                'eta_min': 1e-7,
            },
            'pixel_opt': {'type': 'CharbonnierLoss'},
            'frequency_opt': {'type': 'FrequencyLoss'},
            'ema_decay': 0.99,
        },
        'val': {
            'val_freq': val_freq,
            'save_img': True,
            'pbar': False,
            'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}},
        },
        'logger': {'print_freq': 5, 'save_checkpoint_freq': save_freq, 'use_tb_logger': False},
    }


def make_project(folder: Path, total_iter: int = 90, save_freq: int = 5, val_freq: int = VAL_FREQ) -> Path:
    """Make a folder with data and ``train.yml``, for ``basicsr.train``. Every sixth checkpoint ends an epoch."""
    make_videos(folder / 'data' / 'train', num_video=2, num_frame=7)
    make_videos(folder / 'data' / 'val', num_video=2, num_frame=4, size=(16, 20), seed=1)
    (folder / 'train.yml').write_text(yaml.safe_dump(train_options(total_iter, save_freq, val_freq)))
    return folder


def run_folder(project: Path) -> Path:
    """Return the folder of the training run in a project."""
    return project / 'experiments' / NAME


def contents(folder: Path, *only: str) -> dict[str, Any]:
    """Return what the files in a folder contain, by path; of an LMDB its keys and values, and no dates.

    Args:
        folder: the folder.
        *only: names of its subfolders; default: all.
    """
    roots = [folder / name for name in only] or [folder]
    files = [path for root in roots for path in root.rglob('*') if path.is_file() and path.name != 'lock.mdb']
    return {path.relative_to(folder).as_posix(): _content(path) for path in files}


def _content(path: Path) -> Any:
    if path.suffix in ('.pth', '.state'):
        return _comparable(torch.load(path, map_location='cpu', weights_only=True))
    if path.suffix == '.mdb':
        with lmdb.open(str(path.parent), readonly=True, lock=False) as env, env.begin() as transaction:
            return dict(transaction.cursor())
    if path.name.endswith('_summary.json'):
        return {key: value for key, value in json.loads(path.read_text()).items() if key != 'date'}
    return path.read_bytes()


def _comparable(value: Any) -> Any:
    """Replace tensors by their bytes: NaN is then equal to itself, and 0 differs from -0."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, Mapping):
        return {key: _comparable(item) for key, item in value.items()}
    return [_comparable(item) for item in value] if isinstance(value, list | tuple) else value


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return the differences between two results of `contents`."""
    return [f'{name} differs or is missing' for name in sorted(a | b) if a.get(name) != b.get(name)]

"""Small networks, data sets and options for tests of the model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from dstnet_arch.models.video_recurrent_deblur_model import VideoRecurrentDeblurModel


class TinyVideoNet(nn.Module):
    """Two 3-D convolutions; does not support gradient checkpointing."""

    def __init__(self, num_feat: int = 4, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv3d(3, num_feat, 3, padding=1)
        self.norm = nn.BatchNorm3d(num_feat) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Conv3d(num_feat, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(self.norm(self.first(x.transpose(1, 2))).relu())
        return x + self.second(y).transpose(1, 2)


class TwiceAsLarge(nn.Module):
    """A network that changes the frame size."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x.repeat_interleave(2, dim=-1)


for net in (TinyVideoNet, TwiceAsLarge):
    if net.__name__ not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(net)


class Clips:
    """Random videos in memory, in clips of three frames like those of VideoRecurrentDeblurTestDataset.

    The last clip of a video is shifted back, and of its frames only those that are new count.
    """

    bit_depth = 8

    def __init__(self, name: str, videos: dict[str, int], has_gt: bool = True, size: int = 12) -> None:
        self.opt = {'name': name}
        self.has_gt = has_gt
        self.num_frames = sum(videos.values())
        self.videos = {video: [f'{i + 47:06d}' for i in range(length)] for video, length in videos.items()}
        self.clips: list[dict[str, Any]] = []
        rng = np.random.default_rng(len(name))
        for video, length in videos.items():
            frames = self.videos[video]
            gt = torch.from_numpy(rng.integers(0, 256, (length, 3, size, size + 2))).float() / 255
            lq = (gt + torch.from_numpy(rng.normal(0, 0.1, gt.shape)).float()).clamp(0, 1)
            for first in range(0, length, 3):
                start = max(0, min(first, length - 3))
                stop = min(start + 3, length)
                clip = {'lq': lq[start:stop], 'gt': gt[start:stop], 'video': video, 'frames': frames[start:stop]}
                self.clips.append({**clip, 'keep': (first - start, stop - start)})

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip = dict(self.clips[index])
        if not self.has_gt:
            del clip['gt']
        return clip


def loader(dataset: Any) -> Any:
    """The part of a data loader that `validation` uses."""
    return SimpleNamespace(dataset=dataset)


METRICS = {
    'psnr': {'type': 'calculate_psnr', 'crop_border': 0},
    'ssim': {'type': 'calculate_ssim', 'crop_border': 0},
}


def train_options(root: Path, **train: Any) -> dict[str, Any]:
    """Options of a training run after BasicSR's parser; `train` updates that section."""
    experiment = root / 'experiments' / 'tiny'
    return {
        'name': 'tiny',
        'model_type': 'VideoRecurrentDeblurModel',
        'num_gpu': 0,
        'dist': False,
        'rank': 0,
        'world_size': 1,
        'is_train': True,
        'network_g': {'type': 'TinyVideoNet'},
        'path': {
            'experiments_root': str(experiment),
            'models': str(experiment / 'models'),
            'training_states': str(experiment / 'training_states'),
            'visualization': str(experiment / 'visualization'),
            'pretrain_network_g': None,
            'param_key_g': 'params',
        },
        'train': {
            'total_iter': 10,
            'optim_g': {'type': 'AdamW', 'lr': 1e-2, 'weight_decay': 1e-4, 'betas': [0.9, 0.99]},
            'scheduler': {
                'type': 'CosineAnnealingRestartLR',
                'periods': [10],
                'restart_weights': [1],
                'eta_min': 1e-7,
            },
            'pixel_opt': {'type': 'CharbonnierLoss', 'loss_weight': 1.0, 'reduction': 'mean', 'eps': 1e-12},
            'frequency_opt': {'type': 'FrequencyLoss', 'loss_weight': 0.1},
            **train,
        },
        'val': {'save_img': False, 'suffix': None, 'pbar': False, 'metrics': dict(METRICS)},
    }


def test_options(root: Path, **val: Any) -> dict[str, Any]:
    """Options of a test run after BasicSR's parser; `val` updates that section."""
    opt = train_options(root)
    results = root / 'results' / 'tiny'
    opt['is_train'] = False
    opt['path'] = {'results_root': str(results), 'visualization': str(results / 'visualization')}
    opt['val'].update(val)
    return opt


test_options.__test__ = False  # type: ignore[attr-defined]


def make_model(opt: dict[str, Any], seed: int = 0) -> VideoRecurrentDeblurModel:
    """A model with seeded weights."""
    torch.manual_seed(seed)
    return VideoRecurrentDeblurModel(opt)


def batch(number: int, size: int = 4, frames: int = 3) -> dict[str, Tensor]:
    """The training batch of an iteration."""
    generator = torch.Generator().manual_seed(number)
    gt = torch.rand(size, frames, 3, 16, 16, generator=generator)
    noise = torch.randn(gt.shape, generator=generator)
    return {'lq': (gt + 0.1 * noise).clamp(0, 1), 'gt': gt}


def train(model: VideoRecurrentDeblurModel, iterations: range, **size: int) -> None:
    """Run these iterations as stock train_pipeline does."""
    for i in iterations:
        model.update_learning_rate(i, warmup_iter=-1)
        model.feed_data(batch(i, **size))
        model.optimize_parameters(i)


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@contextmanager
def logged() -> Iterator[list[str]]:
    """Collect the lines sent to BasicSR's logger."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = get_root_logger()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)

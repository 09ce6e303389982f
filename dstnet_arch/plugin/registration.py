"""Put this package's parts into BasicSR's registries."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, NamedTuple


class Part(NamedTuple):
    """An object that options files can name: its registry, its name, and the module that defines it."""

    registry: str
    name: str
    module: str


PARTS = (
    Part('ARCH_REGISTRY', 'DSTNet', 'dstnet_arch.archs.dstnet_arch'),
    Part('ARCH_REGISTRY', 'DSTNetPlus', 'dstnet_arch.archs.dstnet_plus_arch'),
    Part('ARCH_REGISTRY', 'SlidingWindow', 'dstnet_arch.archs.sliding_window_arch'),
    Part('DATASET_REGISTRY', 'VideoRecurrentDeblurDataset', 'dstnet_arch.data.video_recurrent_deblur_dataset'),
    Part('DATASET_REGISTRY', 'VideoRecurrentDeblurTestDataset', 'dstnet_arch.data.video_recurrent_deblur_dataset'),
    Part('MODEL_REGISTRY', 'VideoRecurrentDeblurModel', 'dstnet_arch.models.video_recurrent_deblur_model'),
    Part('LOSS_REGISTRY', 'FrequencyLoss', 'dstnet_arch.losses.frequency_loss'),
    Part('METRIC_REGISTRY', 'calculate_ssim3d', 'dstnet_arch.metrics.ssim'),
)


def names(registry: str) -> frozenset[str]:
    """Return the names that this package adds to one of BasicSR's registries."""
    return frozenset(part.name for part in PARTS if part.registry == registry)


def register_all() -> None:
    """Register every part that is not registered yet.

    A part that cannot be imported, or whose name another object has, is named in one line on stderr, and the others
    are registered.
    """
    registries = import_module('basicsr.utils.registry')
    for part in PARTS:
        try:
            ours = getattr(import_module(part.module), part.name)
        except Exception as error:
            _warn(f'{part.name} is not available in BasicSR: {type(error).__name__}: {error}')
            continue
        _register(getattr(registries, part.registry), part.name, ours)


def _register(registry: Any, name: str, ours: Any) -> None:
    if name not in registry:
        registry.register(ours)
    elif registry.get(name) is not ours:
        theirs = registry.get(name)
        _warn(
            f'{theirs.__module__} has registered another {name} in BasicSR, which is kept. To train or test DSTNet, '
            'rename it or do not import it in the same process.'
        )


def _warn(message: str) -> None:
    # Not the warnings module: under -W error it would turn a missing part into a failed import of BasicSR.
    print(f'dstnet_arch: {" ".join(message.split())}', file=sys.stderr)

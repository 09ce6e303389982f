"""Put this package's parts into BasicSR's registries."""

from __future__ import annotations

import sys
from importlib import import_module

PARTS = (
    ('ARCH_REGISTRY', 'DSTNet', 'dstnet_arch.archs.dstnet_arch'),
    ('ARCH_REGISTRY', 'DSTNetPlus', 'dstnet_arch.archs.dstnet_plus_arch'),
    ('ARCH_REGISTRY', 'SlidingWindow', 'dstnet_arch.archs.sliding_window_arch'),
    ('DATASET_REGISTRY', 'VideoRecurrentDeblurDataset', 'dstnet_arch.data.video_recurrent_deblur_dataset'),
    ('DATASET_REGISTRY', 'VideoRecurrentDeblurTestDataset', 'dstnet_arch.data.video_recurrent_deblur_dataset'),
    ('MODEL_REGISTRY', 'VideoRecurrentDeblurModel', 'dstnet_arch.models.video_recurrent_deblur_model'),
    ('LOSS_REGISTRY', 'FrequencyLoss', 'dstnet_arch.losses.frequency_loss'),
    ('METRIC_REGISTRY', 'calculate_ssim3d', 'dstnet_arch.metrics.ssim'),
)
"""What options files can name: the registry, the name, and the module that defines it."""


def names(registry: str) -> frozenset[str]:
    """Return the names that this package adds to one of BasicSR's registries."""
    return frozenset(name for kind, name, _ in PARTS if kind == registry)


def register_all() -> None:
    """Register every part that is not registered yet.

    A part that cannot be imported, or whose name another object has, is named in one line on stderr, and the others
    are registered. Warnings would not do: ``-W error`` would turn them into a failed import of BasicSR.
    """
    registries = import_module('basicsr.utils.registry')
    for kind, name, module in PARTS:
        registry = getattr(registries, kind)
        try:
            ours = getattr(import_module(module), name)
        except Exception as error:
            reason = ' '.join(f'{type(error).__name__}: {error}'.split())
            print(f'dstnet_arch: {name} is not available in BasicSR: {reason}', file=sys.stderr)
            continue
        if name not in registry:
            registry.register(ours)
        elif (theirs := registry.get(name)) is not ours:
            print(
                f'dstnet_arch: {theirs.__module__} has registered another {name} in BasicSR, which is kept. '
                'To train or test DSTNet, rename it or do not import it in the same process.',
                file=sys.stderr,
            )

"""Self-ensemble: the mean of eight restorations of a clip, turned and reversed in time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

RESTORATIONS = 8


@torch.inference_mode()
def self_ensemble(restore: Callable[[Tensor], Tensor], lq: Tensor) -> Tensor:
    """Return the mean of eight restorations: the clip at four quarter turns, forwards and backwards in time.

    These are the eight of the released code (its option `flip_seq`, which was off for the paper's numbers). It uses no
    mirror images. The mean is computed before clamping and rounding.

    Args:
        restore: maps (B, T, 3, H, W) to the same shape, also with H and W exchanged.
        lq: (B, T, 3, H, W).

    Returns:
        The same shape, on the device that `restore` returns.
    """
    total = torch.zeros(())
    for axes, turn in product(([], [1]), range(4)):
        restored = restore(torch.rot90(lq.flip(axes), turn, (-2, -1)))
        total = total.to(restored.device) + torch.rot90(restored, -turn, (-2, -1)).flip(axes)
    return total / RESTORATIONS

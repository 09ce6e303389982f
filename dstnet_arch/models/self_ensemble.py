"""Self-ensemble: the mean of eight restorations of a clip, turned and reversed in time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TURNS = 4
RESTORATIONS = 2 * TURNS


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
    total: Tensor | None = None
    for backwards in (False, True):
        for turn in range(TURNS):
            clip = torch.rot90(lq.flip(1) if backwards else lq, turn, (-2, -1))
            restored = torch.rot90(restore(clip), -turn, (-2, -1))
            restored = restored.flip(1) if backwards else restored
            total = torch.zeros_like(restored) if total is None else total
            total += restored
    assert total is not None
    return total.div_(RESTORATIONS)

"""Average pooling of the first half of the channels, for filters that are predicted from one half of the features.

A slice of the channels would be copied for the pooling, and its gradient would fill a tensor of all channels with
zeros.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def pool_half_reference(z: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `pool_half` by slicing."""
    return F.avg_pool2d(z[:, : z.shape[1] // 2], 2), z


def pool_half(z: Tensor) -> tuple[Tensor, Tensor]:
    """Pool the first half of the channels by 2x2.

    Args:
        z: (N, 2C, H, W), H and W at least 2.

    Returns:
        The pooled features (N, C, H // 2, W // 2), and `z` for further use: its gradient arrives here, too.
    """
    return _PoolHalf.apply(z) if z.requires_grad and torch.is_grad_enabled() else (_pool(z), z)


def _pool(z: Tensor) -> Tensor:
    _, c, h, w = z.shape
    # Channels last, also in the result.
    pixels = z.permute(0, 2, 3, 1)[:, : h // 2 * 2, : w // 2 * 2, : c // 2]
    if z.device.type == 'cpu':  # a mean over two dimensions takes ten times as long there
        top, bottom = pixels[:, ::2], pixels[:, 1::2]
        pooled = (top[:, :, ::2] + top[:, :, 1::2]).add_(bottom[:, :, ::2]).add_(bottom[:, :, 1::2]).mul_(0.25)
    else:
        blocks = pixels.unflatten(2, (w // 2, 2)).unflatten(1, (h // 2, 2))  # (N, H/2, 2, W/2, 2, C)
        pooled = blocks.mean(dim=(2, 4))
    return pooled.permute(0, 3, 1, 2)


class _PoolHalf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> tuple[Tensor, Tensor]:
        return _pool(z), z[...]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_pooled: Tensor, grad: Tensor) -> Tensor:
        # In place: `grad` was made by the only operation that uses `z` after this one.
        c, h, w = grad_pooled.shape[1:]
        blocks = grad[:, :c, : 2 * h, : 2 * w].unflatten(3, (w, 2)).unflatten(2, (h, 2))
        blocks += (grad_pooled / 4)[:, :, :, None, :, None]
        return grad

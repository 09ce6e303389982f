"""Filtering with one dynamic filter for every channel of every frame, Eq. (1), and gating with the result, Eq. (2).

::

    out[n, c, y, x] = bias[c] + sum over i, j of  filters[n, c, i, j] * features[n, c, y + i - 1, x + j - 1]

with zeros outside the frame. On GPUs, both are one kernel (channel_filter_triton.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dstnet_arch.ops import fused


def channel_filter_reference(features: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """`channel_filter` written like its equation: unfold all patches, multiply, sum."""
    n, c, h, w = features.shape
    patches = F.unfold(features, kernel_size=3, padding=1).view(n, c, 9, h, w)
    return (filters.reshape(n, c, 9, 1, 1) * patches).sum(dim=2) + bias.view(1, c, 1, 1)


def channel_filter(features: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """Filter every channel of every frame with its own 3x3 filter.

    Args:
        features: (N, C, H, W), a frame at each N.
        filters: (N, C, 3, 3).
        bias: (C,).

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: there is not one 3x3 filter for each channel of each frame.
    """
    n, c, h, w = features.shape
    if filters.shape != (n, c, 3, 3):
        raise ValueError(f'Features {tuple(features.shape)} need filters ({n}, {c}, 3, 3), got {tuple(filters.shape)}.')
    # A depthwise convolution. On GPUs one for all frames at once, whose channels become the groups; on CPUs, where that
    # would have the frames copied to another layout, one for each.
    if features.device.type == 'cpu':
        frames = zip(features.split(1), filters.reshape(n, c, 1, 3, 3), strict=True)
        return torch.cat([F.conv2d(frame, weight, bias, padding=1, groups=c) for frame, weight in frames])
    out = F.conv2d(
        features.reshape(1, n * c, h, w), filters.reshape(n * c, 1, 3, 3), bias.repeat(n), padding=1, groups=n * c
    )
    return out.view(n, c, h, w)


def gated_channel_filter_reference(z: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """`gated_channel_filter` written like its equations."""
    z1, z2 = z.chunk(2, dim=1)
    return channel_filter_reference(z1, filters, bias) * z2


def gated_channel_filter(z: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """Filter the first half of the channels, and multiply with the second.

    Args:
        z: (N, 2C, H, W), a frame at each N.
        filters: (N, C, 3, 3).
        bias: (C,).

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: there is not one 3x3 filter for each channel of each frame.
    """
    if filters.shape == (z.shape[0], z.shape[1] // 2, 3, 3):
        filters, bias = filters.to(z.dtype), bias.to(z.dtype)  # they may differ under autocast
        if fused.usable(z, filters, bias):
            return _GatedChannelFilter.apply(z, filters, bias)
    z1, z2 = z.chunk(2, dim=1)
    return channel_filter(z1, filters, bias) * z2


class _GatedChannelFilter(torch.autograd.Function):
    """The kernels of channel_filter_triton.py. They keep their inputs, and filter again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
        from dstnet_arch.ops.channel_filter_triton import gated_filter_forward

        ctx.save_for_backward(z, filters, bias)
        return gated_filter_forward(z, filters, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        from dstnet_arch.ops.channel_filter_triton import gated_filter_backward

        return gated_filter_backward(grad, *ctx.saved_tensors)

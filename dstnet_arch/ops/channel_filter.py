"""Filtering with one dynamic filter for every channel of every frame, Eq. (1), and gating with the result, Eq. (2).

::

    out[n, c, y, x] = bias[c] + sum over i, j of  filters[n, c, i, j] * features[n, c, y + i - 1, x + j - 1]

with zeros outside the frame. With the same filters for all frames, this is a depthwise convolution. On GPUs, the
filter, the bias and the gate are one kernel (channel_filter_triton.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dstnet_arch.ops import fused


def channel_filter_reference(features: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """Compute `channel_filter` as its equation is written: unfold all patches, multiply, sum."""
    n, c, h, w = features.shape
    patches = F.unfold(features, kernel_size=3, padding=1).view(n, c, 9, h, w)
    return (filters.reshape(-1, c, 9, 1, 1) * patches).sum(dim=2) + bias.view(1, c, 1, 1)


def channel_filter(features: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """Filter every channel of every frame with its own 3x3 filter.

    Args:
        features: (N, C, H, W), a frame at each N.
        filters: (N, C, 3, 3), or (1, C, 3, 3) for all frames.
        bias: (C,).

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: there is not one 3x3 filter for each channel of each frame.
    """
    n, c, h, w = features.shape
    if filters.shape not in ((n, c, 3, 3), (1, c, 3, 3)):
        raise ValueError(f'Features {tuple(features.shape)} need filters ({n}, {c}, 3, 3), got {tuple(filters.shape)}.')
    features, filters, bias = _same_dtype(features, filters, bias)
    if fused.usable(features, filters, bias):
        return _fused(features, filters, bias, gated=False)
    if len(filters) == 1:
        return F.conv2d(features, filters.reshape(c, 1, 3, 3), bias, padding=1, groups=c)
    # A depthwise convolution. On GPUs one for all frames, whose channels become the groups; on CPUs, where that would
    # copy the frames to another layout, one for each frame.
    if features.device.type == 'cpu':
        frames = zip(features.split(1), filters.reshape(n, c, 1, 3, 3), strict=True)
        return torch.cat([F.conv2d(frame, weight, bias, padding=1, groups=c) for frame, weight in frames])
    out = F.conv2d(
        features.reshape(1, n * c, h, w), filters.reshape(n * c, 1, 3, 3), bias.repeat(n), padding=1, groups=n * c
    )
    return out.view(n, c, h, w)


def gated_channel_filter_reference(z: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """Compute `gated_channel_filter` as its equations are written."""
    z1, z2 = z.chunk(2, dim=1)
    return channel_filter_reference(z1, filters, bias) * z2


def gated_channel_filter(z: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """Filter the first half of the channels and multiply with the second.

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
        z, filters, bias = _same_dtype(z, filters, bias)
        if fused.usable(z, filters, bias):
            return _fused(z, filters, bias, gated=True)
    z1, z2 = z.chunk(2, dim=1)
    return channel_filter(z1, filters, bias) * z2


def _same_dtype(features: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """All in the type of the first: they may differ under autocast."""
    return features, *(x.to(features.dtype) for x in others)


fused.register(
    'channel_filter(Tensor z, Tensor filters, Tensor bias, bool gated) -> Tensor',
    module='channel_filter_triton',
    fake=lambda z, filters, bias, gated: torch.empty_like(z[:, : filters.shape[1]], memory_format=torch.channels_last),
)
fused.register(
    'channel_filter_backward(Tensor grad, Tensor z, Tensor filters, Tensor bias, bool gated)'
    ' -> (Tensor, Tensor, Tensor)',
    module='channel_filter_triton',
    fake=lambda grad, z, filters, bias, gated: (
        torch.empty_like(z),
        torch.empty_like(filters, memory_format=torch.contiguous_format),
        torch.empty_like(bias),
    ),
)


def _fused(z: Tensor, filters: Tensor, bias: Tensor, gated: bool) -> Tensor:
    z = z.contiguous(memory_format=torch.channels_last)
    return _FusedChannelFilter.apply(z, filters.contiguous(), bias.contiguous(), gated)


class _FusedChannelFilter(torch.autograd.Function):
    """The kernels of channel_filter_triton.py. They save their inputs, and filter again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, filters: Tensor, bias: Tensor, gated: bool) -> Tensor:
        ctx.save_for_backward(z, filters, bias)
        ctx.gated = gated
        return torch.ops.dstnet.channel_filter(z, filters, bias, gated)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad.contiguous(memory_format=torch.channels_last)
        return *torch.ops.dstnet.channel_filter_backward(grad, *ctx.saved_tensors, ctx.gated), None

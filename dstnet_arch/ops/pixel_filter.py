"""Filtering with a filter of its own for every pixel and channel: Eq. (4), and the resizing of D_p's filters before it.

D_p predicts its filters at an eighth of the feature size (Figure 3), so at every feature pixel::

    out[c, y, x] = sum over i, j of  up(filters)[9c + 3i + j, y, x] * features[c, y + i - 1, x + j - 1]

with zeros outside the frame and `up` the bilinear resizing to the feature size (align_corners=False). Written so,
`up` makes 9C maps at the feature size (531 MB for one 1280x720 frame in float32, C=64). The fast path resizes one of
the nine taps at a time, and in training keeps the small filters only and resizes them again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

TAPS = 9  # s_p = 3 in the paper: 3 x 3


def pixel_filter_reference(features: Tensor, filters: Tensor) -> Tensor:
    """`pixel_filter` written like its equation: resize all filters, unfold all patches, multiply, sum."""
    n, c, h, w = features.shape
    full_size = F.interpolate(filters, size=(h, w), mode='bilinear', align_corners=False).view(n, c, TAPS, h, w)
    patches = F.unfold(features, kernel_size=3, padding=1).view(n, c, TAPS, h, w)
    return (full_size * patches).sum(dim=2)


def pixel_filter(features: Tensor, filters: Tensor) -> Tensor:
    """Filter every pixel of every channel with its own 3x3 filter.

    Args:
        features: (N, C, H, W).
        filters: (N, 9C, h, w), any h and w; channel 9c + 3i + j is tap (i, j) of channel c. Resized to (H, W) on the
            way.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: the filters are not nine for every channel, or of another batch.
    """
    if filters.shape[:2] != (features.shape[0], TAPS * features.shape[1]):
        raise ValueError(
            f'Features {tuple(features.shape)} need filters of shape '
            f'({features.shape[0]}, {TAPS * features.shape[1]}, h, w), got {tuple(filters.shape)}.'
        )
    filters = filters.to(features.dtype)  # they may differ under autocast
    if torch.is_grad_enabled() and (features.requires_grad or filters.requires_grad):
        return _PixelFilter.apply(features, filters)
    return _filter(features, _by_tap(filters))


def _by_tap(filters: Tensor) -> Tensor:
    """(N, 9C, h, w), channel-major -> (9, N, C, h, w), so that the filters of one tap are one dense block."""
    n, c9, h, w = filters.shape
    return filters.view(n, c9 // TAPS, TAPS, h, w).permute(2, 0, 1, 3, 4).contiguous()


def _taps(features: Tensor, filters: Tensor) -> Iterator[tuple[int, Tensor, tuple[Any, ...]]]:
    """For each tap: its number, its filters at full size (N, C, H, W), where its pixels lie in padded features."""
    h, w = features.shape[-2:]
    channels_last = features.is_contiguous(memory_format=torch.channels_last)
    for tap in range(TAPS):
        low = filters[tap].contiguous(memory_format=torch.channels_last) if channels_last else filters[tap]
        full = F.interpolate(low, size=(h, w), mode='bilinear', align_corners=False)
        i, j = divmod(tap, 3)
        yield tap, full, (..., slice(i, i + h), slice(j, j + w))


def _filter(features: Tensor, filters: Tensor) -> Tensor:
    padded = F.pad(features, (1, 1, 1, 1))
    out = torch.zeros_like(features)
    for _, full, window in _taps(features, filters):
        out.addcmul_(full, padded[window])
    return out


class _PixelFilter(torch.autograd.Function):
    """`_filter` with a backward pass that keeps nothing of the feature size but the features themselves."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, filters: Tensor) -> Tensor:
        ctx.save_for_backward(features, filters)
        return _filter(features, _by_tap(filters))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        features, filters = ctx.saved_tensors
        by_tap = _by_tap(filters)
        _, n, c, h, w = by_tap.shape
        padded = F.pad(features, (1, 1, 1, 1))
        grad_padded = torch.zeros_like(padded)
        grad_by_tap = torch.empty_like(by_tap)
        for tap, full, window in _taps(features, by_tap):
            grad_padded[window].addcmul_(grad, full)
            # The transpose of the bilinear resizing.
            grad_by_tap[tap] = torch.ops.aten.upsample_bilinear2d_backward(
                grad * padded[window], features.shape[-2:], [n, c, h, w], False
            )
        grad_filters = grad_by_tap.permute(1, 2, 0, 3, 4).reshape(filters.shape)
        return grad_padded[..., 1:-1, 1:-1], grad_filters

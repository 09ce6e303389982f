"""Filtering with a filter of its own for every pixel and channel: Eq. (4), and the resizing of D_p's filters before it.

D_p predicts its filters at an eighth of the feature size (Figure 3), so at every feature pixel::

    out[c, y, x] = sum over i, j of  up(filters)[9c + 3i + j, y, x] * features[c, y + i - 1, x + j - 1]

with zeros outside the frame and `up` the bilinear resizing to the feature size (align_corners=False). Filters
predicted at several sizes (DSTNet+) are the sum of the resized ones. Written so, `up` makes 9C maps at the feature
size (531 MB for one 1280x720 frame in float32, C=64). The fast path resizes one of the nine taps at a time, and in
training keeps the small filters only and resizes them again in the backward pass. On GPUs, and on CPUs with the
compiled kernels, one kernel does all of it and nothing is resized in memory (pixel_filter_triton.py, native.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dstnet_arch.ops import fused, native

TAPS = 9  # s_p = 3 in the paper: 3 x 3


def pixel_filter_reference(features: Tensor, *filters: Tensor) -> Tensor:
    """`pixel_filter` written like its equation: resize all filters, unfold all patches, multiply, sum."""
    n, c, h, w = features.shape
    resized = [F.interpolate(f, size=(h, w), mode='bilinear', align_corners=False) for f in filters]
    full_size = torch.stack(resized).sum(dim=0).view(n, c, TAPS, h, w)
    patches = F.unfold(features, kernel_size=3, padding=1).view(n, c, TAPS, h, w)
    return (full_size * patches).sum(dim=2)


def pixel_filter(features: Tensor, *filters: Tensor) -> Tensor:
    """Filter every pixel of every channel with its own 3x3 filter.

    Args:
        features: (N, C, H, W).
        filters: one or more of (N, 9C, h, w), any h and w; channel 9c + 3i + j is tap (i, j) of channel c. Resized to
            (H, W) and summed on the way.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: the filters are not nine for every channel, or of another batch.
    """
    n, c = features.shape[:2]
    wrong = [tuple(f.shape) for f in filters if f.dim() != 4 or f.shape[:2] != (n, TAPS * c)]
    if wrong or not filters:
        raise ValueError(
            f'Features {tuple(features.shape)} need filters of shape ({n}, {TAPS * c}, h, w), got {wrong or "none"}.'
        )
    filters = tuple(f.to(features.dtype) for f in filters)  # they may differ under autocast
    if torch.is_grad_enabled() and any(t.requires_grad for t in (features, *filters)):
        return _PixelFilter.apply(features, *filters)
    return _forward(features, *filters)


def _forward(features: Tensor, *filters: Tensor) -> Tensor:
    if fused.usable(features, *filters):
        from dstnet_arch.ops.pixel_filter_triton import pixel_filter_forward

        return pixel_filter_forward(features, *filters)
    if native.usable(features, features.shape[1]):
        return native.pixel_filter(features, *filters)
    return _filter(features, [_by_tap(f) for f in filters])


def _by_tap(filters: Tensor) -> Tensor:
    """(N, 9C, h, w), channel-major -> (9, N, C, h, w), so that the filters of one tap are one dense block."""
    n, c9, h, w = filters.shape
    return filters.view(n, c9 // TAPS, TAPS, h, w).permute(2, 0, 1, 3, 4).contiguous()


def _taps(features: Tensor, filters: Sequence[Tensor]) -> Iterator[tuple[int, Tensor, tuple[Any, ...]]]:
    """For each tap: its number, its filters at full size (N, C, H, W), where its pixels lie in padded features."""
    size = features.shape[-2:]
    channels_last = features.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for tap in range(TAPS):
        low = (f[tap].contiguous(memory_format=memory_format) for f in filters)
        full = (F.interpolate(f, size=size, mode='bilinear', align_corners=False) for f in low)
        i, j = divmod(tap, 3)
        yield tap, reduce(Tensor.add_, full), (..., slice(i, i + size[0]), slice(j, j + size[1]))


def _filter(features: Tensor, filters: Sequence[Tensor]) -> Tensor:
    padded = F.pad(features, (1, 1, 1, 1))
    out = torch.zeros_like(features)
    for _, full, window in _taps(features, filters):
        out.addcmul_(full, padded[window])
    return out


class _PixelFilter(torch.autograd.Function):
    """`_filter` with a backward pass that keeps nothing of the feature size but the features themselves."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, *filters: Tensor) -> Tensor:
        ctx.save_for_backward(features, *filters)
        return _forward(features, *filters)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        features, *filters = ctx.saved_tensors
        if fused.usable(grad, features, *filters):
            from dstnet_arch.ops.pixel_filter_triton import pixel_filter_backward

            return pixel_filter_backward(grad, features, *filters)
        by_tap = [_by_tap(f) for f in filters]
        padded = F.pad(features, (1, 1, 1, 1))
        grad_padded = torch.zeros_like(padded)
        grad_by_tap = [torch.empty_like(f) for f in by_tap]
        for tap, full, window in _taps(features, by_tap):
            grad_padded[window].addcmul_(grad, full)
            grad_full = grad * padded[window]
            for f, grad_f in zip(by_tap, grad_by_tap, strict=True):
                grad_f[tap] = _resize_transposed(grad_full, f[tap].shape)
        grad_filters = (g.permute(1, 2, 0, 3, 4).reshape(f.shape) for g, f in zip(grad_by_tap, filters, strict=True))
        return grad_padded[..., 1:-1, 1:-1], *grad_filters


def _resize_transposed(grad: Tensor, shape: torch.Size) -> Tensor:
    """Gradient of the bilinear resizing of a tensor of this shape."""
    return torch.ops.aten.upsample_bilinear2d_backward(grad, grad.shape[-2:], shape, False)

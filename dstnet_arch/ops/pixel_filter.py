"""Filtering with a separate 3x3 filter for every pixel and channel: Eq. (4), and the resizing of D_p's filters.

D_p predicts its filters at an eighth of the feature size (Figure 3), so at every feature pixel::

    out[c, y, x] = sum over i, j of  up(filters)[C(3i + j) + c, y, x] * features[c, y + i - 1, x + j - 1]

with zeros outside the frame; `up` is the bilinear resizing to the feature size (align_corners=False). Filters
predicted at several sizes (DSTNet+) are resized and summed. Computed literally, `up` makes 9C maps at the feature
size (531 MB for one 1280x720 frame in float32, C=64). The fast path resizes one of the nine taps at a time; in
training it saves the small filters and resizes them again in the backward pass. The kernels for GPUs
(pixel_filter_triton.py) and CPUs (native.py) interpolate the filters on the fly.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dstnet_arch.ops import fused, native
from dstnet_arch.ops.pack_filters import pack_filters

TAPS = 9  # s_p = 3 in the paper: 3 x 3


def pixel_filter_reference(features: Tensor, *filters: Tensor) -> Tensor:
    """Compute `pixel_filter` as its equation is written: resize all filters, unfold all patches, multiply, sum."""
    n, c, h, w = features.shape
    resized = [F.interpolate(f, size=(h, w), mode='bilinear', align_corners=False) for f in filters]
    full_size = torch.stack(resized).sum(dim=0).view(n, TAPS, c, h, w).transpose(1, 2)
    patches = F.unfold(features, kernel_size=3, padding=1).view(n, c, TAPS, h, w)
    return (full_size * patches).sum(dim=2)


def pixel_filter(features: Tensor, *filters: Tensor) -> Tensor:
    """Filter every pixel of every channel with its own 3x3 filter.

    Args:
        features: (N, C, H, W).
        filters: one or more of (N, 9C, h, w), any h and w; channel C(3i + j) + c is tap (i, j) of channel c (see
            `taps_first`). They are resized to (H, W) and summed.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: the filters do not have nine taps for every channel, or their batch differs.
    """
    n, c = features.shape[:2]
    wrong = [tuple(f.shape) for f in filters if f.dim() != 4 or f.shape[:2] != (n, TAPS * c)]
    if wrong or not filters:
        raise ValueError(
            f'Features {tuple(features.shape)} need filters of shape ({n}, {TAPS * c}, h, w), got {wrong or "none"}.'
        )
    filters = tuple(f.to(features.dtype) for f in filters)  # they may differ under autocast
    if fused.usable(features, *filters):
        features = features.contiguous(memory_format=torch.channels_last)
        return _FusedPixelFilter.apply(features, *map(pack_filters, filters))
    if torch.is_grad_enabled() and any(t.requires_grad for t in (features, *filters)):
        return _PixelFilter.apply(features, *filters)
    return _forward(features, *filters)


fused.register(
    'pixel_filter(Tensor features, Tensor[] packed) -> Tensor',
    module='pixel_filter_triton',
    fake=lambda features, packed: torch.empty_like(features),
)
fused.register(
    'pixel_filter_backward(Tensor grad, Tensor features, Tensor[] packed) -> Tensor[]',
    module='pixel_filter_triton',
    fake=lambda grad, features, packed: [torch.empty_like(grad), *map(torch.empty_like, packed)],
)


class _FusedPixelFilter(torch.autograd.Function):
    """The kernels of pixel_filter_triton.py. The filters are packed by differentiable operations before."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, *packed: Tensor) -> Tensor:
        ctx.save_for_backward(features, *packed)
        return torch.ops.dstnet.pixel_filter(features, packed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        features, *packed = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        return tuple(torch.ops.dstnet.pixel_filter_backward(grad, features, packed))


def _forward(features: Tensor, *filters: Tensor) -> Tensor:
    if native.usable((features, *filters), features.shape[1]):
        return torch.ops.dstnet.native_pixel_filter(features, filters)
    return _filter(features, [_by_tap(f) for f in filters])


def _by_tap(filters: Tensor) -> Tensor:
    """(N, 9C, h, w) -> (9, N, C, h, w)."""
    return filters.unflatten(1, (TAPS, -1)).transpose(0, 1)


def _tap(tap: int, features: Tensor, filters: Sequence[Tensor]) -> tuple[Tensor, tuple[Any, ...]]:
    """The filters of a tap at full size (N, C, H, W), and the slice of its pixels in padded features."""
    size = features.shape[-2:]
    channels_last = features.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    low = [f[tap].contiguous(memory_format=memory_format) for f in filters]
    full = [F.interpolate(f, size=size, mode='bilinear', align_corners=False) for f in low]
    i, j = divmod(tap, 3)
    return reduce(Tensor.add_, full), (..., slice(i, i + size[0]), slice(j, j + size[1]))


def _filter(features: Tensor, filters: Sequence[Tensor]) -> Tensor:
    padded = F.pad(features, (1, 1, 1, 1))
    out = torch.zeros_like(features)
    for tap in range(TAPS):
        full, window = _tap(tap, features, filters)
        out.addcmul_(full, padded[window])
    return out


class _PixelFilter(torch.autograd.Function):
    """`_forward` with a backward pass that saves the features and the small filters only."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, *filters: Tensor) -> Tensor:
        ctx.save_for_backward(features, *filters)
        return _forward(features, *filters)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        features, *filters = ctx.saved_tensors
        by_tap = [_by_tap(f) for f in filters]
        padded = F.pad(features, (1, 1, 1, 1))
        grad_padded = torch.zeros_like(padded)
        grad_by_tap = [f.new_empty(f.shape) for f in by_tap]
        for tap in range(TAPS):
            full, window = _tap(tap, features, by_tap)
            grad_padded[window].addcmul_(grad, full)
            grad_full = grad * padded[window]
            for f, grad_f in zip(by_tap, grad_by_tap, strict=True):
                grad_f[tap] = _resize_transposed(grad_full, f[tap].shape)
        grad_filters = [g.transpose(0, 1).reshape(f.shape) for g, f in zip(grad_by_tap, filters, strict=True)]
        return grad_padded[..., 1:-1, 1:-1], *grad_filters


def _resize_transposed(grad: Tensor, shape: torch.Size) -> Tensor:
    """Gradient of the bilinear resizing of a tensor of this shape."""
    return torch.ops.aten.upsample_bilinear2d_backward(grad, grad.shape[-2:], shape, False)

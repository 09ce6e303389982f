"""The Haar transform pair H and H^-1 of Section 3.3, in the scaling of the released weights.

For each 2x2 block [[a, b], [c, d]] of one channel::

    LL = (a + b + c + d) / 4        band1 = (a - b + c - d) / 4
    band2 = (a + b - c - d) / 4     band3 = (a - b - c + d) / 4

and its inverse, without a factor::

    a = LL + band1 + band2 + band3        b = LL - band1 + band2 - band3
    c = LL + band1 - band2 - band3        d = LL - band1 - band2 + band3

Synthesis inverts analysis exactly, but the pair is not orthonormal: LL is the mean of the block (half of what
PyWavelets' `haar` gives). Trained weights depend on these factors.

The high bands are one tensor of 3C channels: all C of band1 (differences along a row; PyWavelets' cV, the
paper's LH or HL, which it does not define), then band2 (differences along a column, cH), then band3 (cD).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dstnet_arch.ops import fused

# Rows: LL and the three bands; columns: a, b, c, d.
_SIGNS = ((1.0, 1.0, 1.0, 1.0), (1.0, -1.0, 1.0, -1.0), (1.0, 1.0, -1.0, -1.0), (1.0, -1.0, -1.0, 1.0))


def haar_filters(dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
    """The four 2x2 sign patterns, shape (4, 1, 2, 2): the convolution kernels of the transform without their factor."""
    return torch.tensor(_SIGNS, dtype=dtype, device=device).view(4, 1, 2, 2)


def haar_synthesis_reference(low: Tensor, high: Tensor) -> Tensor:
    """Compute `haar_synthesis` by the transposed convolution that defines it."""
    n, c, h, w = low.shape
    bands = torch.cat([low.unsqueeze(1), high.view(n, 3, c, h, w)], dim=1).transpose(1, 2).reshape(n * c, 4, h, w)
    return F.conv_transpose2d(bands, haar_filters(low.dtype, low.device), stride=2).view(n, c, 2 * h, 2 * w)


def haar_analysis(x: Tensor) -> tuple[Tensor, Tensor]:
    """One level of Haar analysis, by the strided convolution that defines it. The networks use haar_conv.py instead.

    Args:
        x: (N, C, H, W), H and W even.

    Returns:
        The low band (N, C, H/2, W/2) and the high bands (N, 3C, H/2, W/2), ordered as the module describes.

    Raises:
        ValueError: H or W is odd.
    """
    n, c, h, w = x.shape
    if h % 2 or w % 2:
        raise ValueError(f'Haar analysis needs an even height and width, got {tuple(x.shape)}: pad the frame first.')
    bands = F.conv2d(x.reshape(n * c, 1, h, w), haar_filters(x.dtype, x.device), stride=2) / 4
    bands = bands.view(n, c, 4, h // 2, w // 2).transpose(1, 2)  # (N, 4, C, H/2, W/2): band by band
    return bands[:, 0], bands[:, 1:].reshape(n, 3 * c, h // 2, w // 2)


def haar_synthesis(low: Tensor, high: Tensor) -> Tensor:
    """Inverse of `haar_analysis`.

    Args:
        low: (N, C, H, W).
        high: (N, 3C, H, W).

    Returns:
        (N, C, 2H, 2W).
    """
    if fused.elementwise_usable(low, high):
        bands = (t.contiguous(memory_format=torch.channels_last) for t in (low, high))
        return _FusedSynthesis.apply(*bands)
    n, c, h, w = low.shape
    band1, band2, band3 = high.chunk(3, dim=1)
    top_sum, top_difference = low + band2, band1 + band3
    bottom_sum, bottom_difference = low - band2, band1 - band3
    out = torch.empty((n, c, 2 * h, 2 * w), dtype=low.dtype, device=low.device, memory_format=_memory_format(low))
    out[..., ::2, ::2] = top_sum + top_difference
    out[..., ::2, 1::2] = top_sum - top_difference
    out[..., 1::2, ::2] = bottom_sum + bottom_difference
    out[..., 1::2, 1::2] = bottom_sum - bottom_difference
    return out


fused.register(
    'haar_synthesis(Tensor low, Tensor high) -> Tensor',
    module='haar_triton',
    fake=lambda low, high: low.new_empty((*low.shape[:2], 2 * low.shape[2], 2 * low.shape[3])).contiguous(
        memory_format=torch.channels_last
    ),
)
fused.register(
    'haar_synthesis_backward(Tensor grad) -> (Tensor, Tensor)',
    module='haar_triton',
    fake=lambda grad: (
        torch.empty_like(grad[:, :, ::2, ::2], memory_format=torch.channels_last),
        torch.empty_like(grad[:, :, ::2, ::2].repeat(1, 3, 1, 1), memory_format=torch.channels_last),
    ),
)


class _FusedSynthesis(torch.autograd.Function):
    """The kernel of haar_triton.py. The synthesis is linear: its backward pass needs no input."""

    @staticmethod
    def forward(ctx: Any, low: Tensor, high: Tensor) -> Tensor:
        return torch.ops.dstnet.haar_synthesis(low, high)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return torch.ops.dstnet.haar_synthesis_backward(grad.contiguous(memory_format=torch.channels_last))


def _memory_format(x: Tensor) -> torch.memory_format:
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format

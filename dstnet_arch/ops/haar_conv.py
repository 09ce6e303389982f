"""A convolution next to the Haar transform, merged with it: the full-size features between them are not computed.

Before the transform: a 3x3 convolution followed by one level of analysis is a 4x4 convolution of stride 2, followed
by two levels a 6x6 one of stride 4. After it: synthesis followed by a 3x3 convolution is a 3x3 convolution of the
bands at half size and a pixel shuffle. The merged weights are small linear functions of the parameters, so that
training and inference are the same code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dstnet_arch.ops.conv_bias import conv_bias
from dstnet_arch.ops.dense_gradient import dense_gradient
from dstnet_arch.ops.haar import haar_analysis, haar_synthesis


def conv_haar_reference(x: Tensor, weight: Tensor, bias: Tensor | None, level: int) -> tuple[Tensor, Tensor]:
    """Both bands step by step: convolve, then analyse the low band `level` times."""
    low, high = haar_analysis(F.conv2d(x, weight, bias, padding=1))
    return (low, high) if level == 1 else haar_analysis(low)


def conv_haar(x: Tensor, merged: Tensor, bias: Tensor, level: int, slope: float | None = None) -> Tensor:
    """One or more bands of a convolution followed by Haar analysis, by one convolution.

    Args:
        x: (N, C_in, H, W), H and W multiples of 2 ** level.
        merged: weight of the bands, from `merge_conv_haar` or `merge_conv_haar_high`, (C_out, C_in, k, k).
        bias: (C_out,): of the low band, the bias of the convolution; of the high bands, that of the 1x1 convolution
            `mix` (the bias of the convolution is constant in each block and cancels).
        level: 1 or 2, the number of analyses.
        slope: slope of a LeakyReLU behind it; None: no LeakyReLU.

    Returns:
        (N, C_out, H/2^level, W/2^level).
    """
    return conv_bias(x, merged, bias, slope, stride=2**level, padding=1)


def merge_conv_haar_high(weight: Tensor, level: int, mix: Tensor) -> Tensor:
    """Weight of the convolution that computes all high bands, in the order of `haar_analysis`, and a mix of them.

    Args:
        weight: (C, C_in, 3, 3).
        level: 1 or 2, which level's high bands.
        mix: (3C, C, 1, 1), a 1x1 convolution of the bands, each with its own C filters.

    Returns:
        (3C, C_in, 2^level + 2, 2^level + 2), for stride 2^level and padding 1.
    """
    merged = torch.cat([merge_conv_haar(weight, level, band) for band in (1, 2, 3)])
    c = weight.shape[0]
    return torch.bmm(mix.view(3, c, c), merged.reshape(3, c, -1)).view(merged.shape)


def merge_conv_haar(weight: Tensor, level: int, band: int) -> Tensor:
    """Weight of the convolution that computes one band of `weight` followed by `level` analyses.

    A band is a mean with signs over blocks of 2^level pixels: along each axis, and for each level, half the sum or
    half the difference of two results that are 2^(level - 1) pixels apart.

    Args:
        weight: (C, C_in, 3, 3).
        level: 1 or 2.
        band: 0 for the low band, 1 to 3 for the high ones.

    Returns:
        (C, C_in, 2^level + 2, 2^level + 2), for stride 2^level and padding 1.
    """
    for apart in (1, 2)[:level]:
        difference = band if apart == 2 ** (level - 1) else 0  # of the previous levels, always the low band
        weight = _combine(weight, (0, apart, 0, 0), (apart, 0, 0, 0), bool(difference & 1))
        weight = _combine(weight, (0, 0, 0, apart), (0, 0, apart, 0), bool(difference & 2))
    return weight


def _combine(weight: Tensor, first: tuple[int, ...], second: tuple[int, ...], difference: bool) -> Tensor:
    a, b = F.pad(weight, first), F.pad(weight, second)
    return (a - b if difference else a + b) / 2


def haar_conv_reference(low: Tensor, high: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`haar_conv` step by step: synthesise, then convolve."""
    return F.conv2d(haar_synthesis(low, high), weight, bias, padding=1)


def haar_conv(low: Tensor, high: Tensor, merged_low: Tensor, merged_high: Tensor, merged_bias: Tensor) -> Tensor:
    """Convolution of the Haar synthesis of the bands: one convolution of each at half size and a pixel shuffle.

    Args:
        low: (N, C, H/2, W/2).
        high: (N, 3C, H/2, W/2).
        merged_low: (4 C_out, C, 3, 3), the part for the low band of the weight from `merge_haar_conv`.
        merged_high: (4 C_out, 3C, 3, 3), the part for the high bands.
        merged_bias: (4 C_out,), the bias with each element repeated four times.

    Returns:
        (N, C_out, H, W).
    """
    from_low = F.conv2d(low, merged_low, padding=1)
    blocks = conv_bias(high, merged_high, merged_bias, residual=from_low, padding=1)
    return F.pixel_shuffle(dense_gradient(blocks), 2)


def merge_haar_conv(weight: Tensor) -> Tensor:
    """Weight of the half-size convolution that is synthesis followed by `weight`.

    The Haar patterns are products of one along each axis, so the axes are merged one after the other.

    Args:
        weight: (C_out, C, 3, 3).

    Returns:
        (4 C_out, 4C, 3, 3): outputs ordered for `pixel_shuffle`, inputs low band first, then the three high bands.
    """
    c_out, c = weight.shape[:2]
    merged = _merge_axis(_merge_axis(weight, -1), -2)  # (row, its sign, column, its sign, C_out, C, 3, 3)
    return merged.permute(4, 0, 2, 1, 3, 5, 6, 7).reshape(4 * c_out, 4 * c, 3, 3)


def _merge_axis(weight: Tensor, dim: int) -> Tensor:
    """Along one axis: three taps on pixels -> three taps on blocks of two pixels, (2, 2, *weight.shape).

    The first index is the place of the output pixel in its block. It decides which pixels the taps see: the first pixel
    sees the second one of the block before, then both of its own; the second sees both of its own, then the first one
    of the block after. The second index is the band: 0, both pixels of a block are the same; 1, the second is negative.
    """
    before, here, after = weight.unbind(dim)
    zero = torch.zeros_like(here)
    first = ([before, here + after, zero], [-before, here - after, zero])
    second = ([zero, before + here, after], [zero, before - here, after])
    return torch.stack([torch.stack([torch.stack(taps, dim) for taps in bands]) for bands in (first, second)])

"""A convolution next to the Haar transform, as one convolution that never makes the full-size features between them.

Before the transform: a 3x3 convolution followed by one level of analysis is a 4x4 convolution of stride 2, followed
by two levels a 6x6 one of stride 4. After it: synthesis followed by a 3x3 convolution is a 3x3 convolution of the
bands at half size and a pixel shuffle. The merged weights are small linear functions of the parameters, made anew in
each call, so that training and inference are the same code and nothing derived is ever stored.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dstnet_arch.ops.haar import haar_analysis, haar_synthesis


def conv_haar_reference(x: Tensor, weight: Tensor, bias: Tensor | None, level: int) -> tuple[Tensor, Tensor]:
    """Both bands step by step: convolve, then analyse `level` times, each time the low band."""
    low, high = haar_analysis(F.conv2d(x, weight, bias, padding=1))
    return (low, high) if level == 1 else haar_analysis(low)


def conv_haar_low(x: Tensor, weight: Tensor, bias: Tensor | None, level: int) -> Tensor:
    """The low band of `conv_haar_reference`, by one convolution.

    Args:
        x: (N, C_in, H, W), H and W multiples of 2 ** level.
        weight: (C, C_in, 3, 3).
        bias: (C,) or None.
        level: 1 or 2, how often the low band is analysed.

    Returns:
        (N, C, H/2^level, W/2^level).
    """
    return F.conv2d(x, merge_conv_haar(weight, level, 0), bias, stride=2**level, padding=1)


def conv_haar_high(
    x: Tensor, weight: Tensor, level: int, mix: Tensor | None = None, mix_bias: Tensor | None = None
) -> Tensor:
    """The high bands of `conv_haar_reference`, by one convolution; the bias is the same in a whole block and cancels.

    Args:
        x: (N, C_in, H, W), H and W multiples of 2 ** level.
        weight: (C, C_in, 3, 3).
        level: 1 or 2, which level's high bands.
        mix: (3C, C, 1, 1), a 1x1 convolution of the bands, each by its own C filters, which is merged, too.
        mix_bias: (3C,), its bias.

    Returns:
        (N, 3C, H/2^level, W/2^level), ordered as in `haar_analysis`.
    """
    merged = torch.cat([merge_conv_haar(weight, level, band) for band in (1, 2, 3)])
    if mix is not None:
        c = weight.shape[0]
        merged = torch.bmm(mix.view(3, c, c), merged.view(3, c, -1)).view_as(merged)
    return F.conv2d(x, merged, mix_bias, stride=2**level, padding=1)


def merge_conv_haar(weight: Tensor, level: int, band: int) -> Tensor:
    """Weight of the convolution that is `weight` followed by `level` analyses, of which it gives one band.

    A band is a mean with signs over blocks of 2^level pixels: along each axis, and for each level, half the sum or the
    difference of two results that are 2^(level - 1) pixels apart.

    Args:
        weight: (C, C_in, 3, 3).
        level: 1 or 2.
        band: 0 for the low band, 1 to 3 for the high ones.

    Returns:
        (C, C_in, 2^level + 2, 2^level + 2), for stride 2^level and padding 1.
    """
    for apart in (1, 2)[:level]:
        difference = band if apart == 2 ** (level - 1) else 0  # of the levels before, always the low band
        weight = _combine(weight, (0, apart, 0, 0), (apart, 0, 0, 0), bool(difference & 1))
        weight = _combine(weight, (0, 0, 0, apart), (0, 0, apart, 0), bool(difference & 2))
    return weight


def _combine(weight: Tensor, first: tuple[int, ...], second: tuple[int, ...], difference: bool) -> Tensor:
    a, b = F.pad(weight, first), F.pad(weight, second)
    return (a - b if difference else a + b) / 2


def haar_conv_reference(low: Tensor, high: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`haar_conv` step by step: synthesise, then convolve."""
    return F.conv2d(haar_synthesis(low, high), weight, bias, padding=1)


def haar_conv(low: Tensor, high: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution of the Haar synthesis of the bands: one convolution at half size and a pixel shuffle.

    Args:
        low: (N, C, H/2, W/2).
        high: (N, 3C, H/2, W/2).
        weight: (C_out, C, 3, 3).
        bias: (C_out,) or None.

    Returns:
        (N, C_out, H, W).
    """
    merged = merge_haar_conv(weight)
    merged_bias = None if bias is None else bias.repeat_interleave(4)
    return F.pixel_shuffle(F.conv2d(torch.cat([low, high], dim=1), merged, merged_bias, padding=1), 2)


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

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

from dstnet_arch.ops.haar import haar_analysis, haar_filters, haar_synthesis


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

    A band is a mean with signs over blocks of 2^level pixels, so the kernel is the sum of `weight` shifted to each
    pixel of the block.

    Args:
        weight: (C, C_in, 3, 3).
        level: 1 or 2.
        band: 0 for the low band, 1 to 3 for the high ones.

    Returns:
        (C, C_in, 2^level + 2, 2^level + 2), for stride 2^level and padding 1.
    """
    c, c_in = weight.shape[:2]
    signs = haar_filters(weight.dtype, weight.device)[band, 0] / 4
    if level == 2:  # each pixel of the second level's block is a mean over a block of the first's
        signs = torch.kron(signs, torch.full_like(signs, 1 / 4))
    # A transposed convolution adds shifted copies of its input.
    shifted = F.conv_transpose2d(weight.reshape(c * c_in, 1, 3, 3), signs[None, None])
    return shifted.view(c, c_in, *shifted.shape[-2:])


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

    Output pixel (p, q) of a block sees the full-size pixels (p + i - 1, q + j - 1), which lie in block offset
    (p + i - 1) // 2 at place (p + i - 1) mod 2: for each of the 4 x 9 pairs, the tap adds its Haar signs there.

    Args:
        weight: (C_out, C, 3, 3).

    Returns:
        (4 C_out, 4C, 3, 3): outputs ordered for `pixel_shuffle`, inputs low band first, then the three high bands.
    """
    c_out, c = weight.shape[:2]
    signs = haar_filters(weight.dtype, weight.device)[:, 0]  # (band, row, column)
    # place[p, i, d, r]: output row p reaches, through tap row i, row r of the block at offset d - 1.
    place = torch.zeros(2, 3, 3, 2, dtype=weight.dtype)
    for p in range(2):
        for i in range(3):
            offset, row = divmod(p + i - 1, 2)
            place[p, i, offset + 1, row] = 1
    place = place.to(weight.device)
    merged = torch.einsum('ocij,pidr,qjes,brs->opqbcde', weight, place, place, signs)
    return merged.reshape(4 * c_out, 4 * c, 3, 3)

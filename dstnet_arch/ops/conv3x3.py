"""The 3x3 convolution of C to C channels with the operation that follows it: three quarters of the network's work.

::

    out = leaky(conv(x)) + residual

The fast path on CPUs is Winograd's algorithm in compiled kernels (native.py), used by default where a C compiler is
found; on GPUs, see conv_bias.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dstnet_arch.ops import native
from dstnet_arch.ops.conv_bias import conv_bias


def conv3x3_reference(
    x: Tensor, weight: Tensor, bias: Tensor, slope: float | None = None, residual: Tensor | None = None
) -> Tensor:
    """Compute `conv3x3` one operation after the other."""
    out = F.conv2d(x, weight, bias, padding=1)
    if slope is not None:
        out = F.leaky_relu(out, slope)
    return out if residual is None else out + residual


def conv3x3(
    x: Tensor, weight: Tensor, bias: Tensor, slope: float | None = None, residual: Tensor | None = None
) -> Tensor:
    """Convolve with zero padding of one pixel; then apply a LeakyReLU or add a residual.

    Args:
        x: (N, C_in, H, W).
        weight: (C_out, C_in, 3, 3).
        bias: (C_out,).
        slope: slope of the LeakyReLU, between 0 and 1; None: no LeakyReLU.
        residual: (N, C_out, H, W) to be added, or None.

    Returns:
        (N, C_out, H, W).

    Raises:
        ValueError: both a slope and a residual are given; no block of the network has both.
    """
    if slope is not None and residual is not None:
        raise ValueError('conv3x3 takes a slope or a residual; got both.')
    c_in, c_out = x.shape[1], weight.shape[0]
    fits = weight.shape[1:] == (c_in, 3, 3) and bias.shape == (c_out,)
    if residual is not None:
        fits = fits and residual.shape == (x.shape[0], c_out, *x.shape[2:])
    if fits and native.usable((x, weight, bias, residual), c_in, c_out):
        return torch.ops.dstnet.native_conv3x3(x, weight, bias, 1.0 if slope is None else slope, residual)
    return conv_bias(x, weight, bias, slope, residual, padding=1)

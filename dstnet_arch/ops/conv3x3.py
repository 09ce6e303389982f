"""The 3x3 convolution of C channels to C channels, with what follows it: three quarters of the network's work.

::

    out = leaky(conv(x)) + residual

The fast path is Winograd's algorithm in compiled kernels (native.py), used by default where a C compiler is found.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dstnet_arch.ops import native


def conv3x3_reference(
    x: Tensor, weight: Tensor, bias: Tensor, slope: float | None = None, residual: Tensor | None = None
) -> Tensor:
    """`conv3x3`, one operation after the other."""
    out = F.conv2d(x, weight, bias, padding=1)
    if slope is not None:
        out = F.leaky_relu(out, slope)
    return out if residual is None else out + residual


def conv3x3(
    x: Tensor, weight: Tensor, bias: Tensor, slope: float | None = None, residual: Tensor | None = None
) -> Tensor:
    """Convolve with zero padding of one pixel; then a LeakyReLU or an addition.

    Args:
        x: (N, C_in, H, W).
        weight: (C_out, C_in, 3, 3).
        bias: (C_out,).
        slope: of the LeakyReLU, between 0 and 1; None: there is none.
        residual: (N, C_out, H, W) to be added, or None.

    Returns:
        (N, C_out, H, W).

    Raises:
        ValueError: both a slope and a residual are given: no block of the network has both.
    """
    if slope is not None and residual is not None:
        raise ValueError('conv3x3 takes a slope or a residual; got both.')
    if native.usable(x, weight.shape[1], weight.shape[0]):
        return native.conv3x3(x, weight, bias, 1.0 if slope is None else slope, residual)
    # In place: a convolution does not need its own result in the backward pass.
    out = F.conv2d(x, weight, bias, padding=1)
    if slope is not None:
        return F.leaky_relu(out, slope, inplace=True)
    return out if residual is None else out.add_(residual)

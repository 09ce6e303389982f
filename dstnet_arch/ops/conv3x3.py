"""The 3x3 convolution of C channels to C channels, with what follows it: three quarters of the network's work.

::

    out = leaky(conv(x)) + residual

The fast path is Winograd's algorithm in compiled kernels (native.py), where they are wanted and can be used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

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
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias, residual)):
            return _Conv3x3.apply(x, weight, bias, slope, residual)
        return native.conv3x3(x, weight, bias, 1.0 if slope is None else slope, residual)
    # In place: a convolution does not need its own result in the backward pass.
    out = F.conv2d(x, weight, bias, padding=1)
    if slope is not None:
        return F.leaky_relu(out, slope, inplace=True)
    return out if residual is None else out.add_(residual)


class _Conv3x3(torch.autograd.Function):
    """The compiled kernels. The gradient of `x` is the convolution with the flipped weights."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: float | None, residual: Tensor | None
    ) -> Tensor:
        out = native.conv3x3(x, weight, bias, 1.0 if slope is None else slope, residual)
        ctx.slope = slope
        ctx.save_for_backward(x, weight, None if slope is None else out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, out = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_residual = grad if ctx.needs_input_grad[4] else None
        if out is not None:  # positive where what came in was positive, as the slope is
            grad = torch.where(out > 0, grad, ctx.slope * grad)
        grad_x = None
        if ctx.needs_input_grad[0]:
            turned = weight.flip(2, 3).transpose(0, 1)
            grad_x = native.conv3x3(grad, turned, weight.new_zeros(weight.shape[1]), 1.0, None)
        grad_weight = native.conv3x3_weight_gradient(x, grad) if ctx.needs_input_grad[1] else None
        grad_bias = grad.sum(dim=(0, 2, 3)) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias, None, grad_residual

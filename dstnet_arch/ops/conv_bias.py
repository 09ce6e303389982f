"""A convolution with its bias, followed by a LeakyReLU or a residual addition.

::

    out = leaky(convolution + bias) + residual

cuDNN adds the bias in a pass of its own. On GPUs one kernel does that together with what follows
(elementwise_triton.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dstnet_arch.ops import fused


def conv_bias(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    slope: float | None = None,
    residual: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Convolve, add the bias, then apply a LeakyReLU or add a residual.

    Args:
        x: (N, C_in, H, W).
        weight: (C_out, C_in / groups, k, k).
        bias: (C_out,).
        slope: slope of the LeakyReLU, between 0 and 1; None: no LeakyReLU.
        residual: tensor of the result's shape to be added, or None.
        options: `stride`, `padding` and `groups` of `torch.nn.functional.conv2d`.

    Returns:
        (N, C_out, H', W').
    """
    separate = slope is not None or residual is not None or not torch.is_grad_enabled()
    if fused.bias_is_separate(x) and separate:
        return add_bias(F.conv2d(x, weight, **options), bias, slope, residual)
    # In place: a convolution does not need its own result in the backward pass.
    out = F.conv2d(x, weight, bias, **options)
    if slope is not None:
        out = F.leaky_relu(out, slope, inplace=True)
    return out if residual is None else out.add_(residual)


def add_bias_reference(x: Tensor, bias: Tensor, slope: float | None, residual: Tensor | None) -> Tensor:
    """Compute `add_bias` in PyTorch."""
    out = x + bias.to(x.dtype).view(-1, 1, 1)
    if slope is not None:
        out = F.leaky_relu(out, slope)
    return out if residual is None else (out + residual).to(x.dtype)


def add_bias(x: Tensor, bias: Tensor, slope: float | None = None, residual: Tensor | None = None) -> Tensor:
    """Return leaky(x + bias) + residual. `x`, the result of a convolution, is overwritten.

    Args:
        x: (N, C, H, W).
        bias: (C,).
        slope: slope of the LeakyReLU; None: no LeakyReLU.
        residual: (N, C, H, W), or None.
    """
    if not fused.elementwise_usable(x):
        return add_bias_reference(x, bias, slope, residual)
    x, bias = x.contiguous(memory_format=torch.channels_last), bias.contiguous()
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    slope = 1.0 if slope is None else slope
    if torch.is_grad_enabled():
        return _FusedAddBias.apply(x, bias, residual, slope)
    torch.ops.dstnet.add_bias_(x, bias, residual, slope)
    return x


fused.register(
    'add_bias_(Tensor(a!) x, Tensor bias, Tensor? residual, float slope) -> ()',
    module='elementwise_triton',
    fake=lambda x, bias, residual, slope: None,
)


class _FusedAddBias(torch.autograd.Function):
    """The kernel of elementwise_triton.py, in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, residual: Tensor | None, slope: float) -> Tensor:
        torch.ops.dstnet.add_bias_(x, bias, residual, slope)
        ctx.mark_dirty(x)
        ctx.slope = slope
        ctx.dtypes = bias.dtype, None if residual is None else residual.dtype
        ctx.save_for_backward(*([x] if slope != 1 else []))
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        bias_dtype, residual_dtype = ctx.dtypes
        grad_residual = grad.to(residual_dtype) if residual_dtype is not None else None
        if ctx.slope != 1:  # the sign of the result is that of the LeakyReLU's input
            (out,) = ctx.saved_tensors
            grad = torch.ops.aten.leaky_relu_backward(grad, out, ctx.slope, True)
        return grad, grad.sum(dim=(0, 2, 3), dtype=bias_dtype), grad_residual, None

"""Elementwise operations and layer normalisation in Triton, each in one pass over memory. Tensors are channels-last.

The number of elements is a multiple of the number of channels, so Triton compiles one kernel for all frame sizes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dstnet_arch.ops.triton_utils import ELEMENTS, element_grid, launch, program_elements


def add_bias_(x: Tensor, bias: Tensor, residual: Tensor | None, slope: float) -> None:
    """Compute leaky(x + bias) + residual, in place.

    Args:
        x: (N, C, H, W), channels-last.
        bias: (C,), contiguous, of any type.
        residual: (N, C, H, W), channels-last, of any type, or None.
        slope: slope of the LeakyReLU; 1 for none.
    """
    added = x if residual is None else residual
    arguments = (x, bias, added, x.numel(), x.shape[1], slope)
    constants = {'LEAKY': slope != 1, 'RESIDUAL': residual is not None, 'ELEMENTS': ELEMENTS}
    launch(_add_bias, element_grid(x), *arguments, **constants)


def gated_sum(x1: Tensor, y1: Tensor, bias1: Tensor, x2: Tensor, y2: Tensor, bias2: Tensor) -> Tensor:
    """The result of `dstnet_arch.ops.gated_sum.gated_sum`: (N, C, H, W), channels-last; biases (C,)."""
    out = torch.empty_like(x1)
    sizes = x1.numel(), x1.shape[1]
    launch(_gated_sum, element_grid(x1), x1, y1, bias1, x2, y2, bias2, out, *sizes, ELEMENTS=ELEMENTS)
    return out


def gated_sum_backward(
    grad: Tensor, x1: Tensor, y1: Tensor, bias1: Tensor, x2: Tensor, y2: Tensor, bias2: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x1, y1, x2 and y2 (the gradient of a bias is the sum of that of y)."""
    grads = torch.empty_like(x1), torch.empty_like(y1), torch.empty_like(x2), torch.empty_like(y2)
    tensors = (grad, x1, y1, bias1, x2, y2, bias2, *grads)
    launch(_gated_sum_backward, element_grid(x1), *tensors, x1.numel(), x1.shape[1], ELEMENTS=ELEMENTS)
    return grads


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The result of `dstnet_arch.ops.layer_norm.layer_norm`: (N, C, H, W), channels-last."""
    out = torch.empty_like(x)
    num_channel = x.shape[1]
    channels = triton.next_power_of_2(num_channel)
    pixels = max(1, 2 * ELEMENTS // channels)
    num_pixel = x.numel() // num_channel
    arguments = (x, weight, bias, out, num_pixel, num_channel, eps)
    launch(_layer_norm, (triton.cdiv(num_pixel, pixels),), *arguments, PIXELS=pixels, CHANNELS=channels)
    return out


@triton.jit
def _add_bias(
    x_ptr,
    bias_ptr,
    residual_ptr,
    numel,
    num_channel,
    slope,
    LEAKY: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ELEMENTS: tl.constexpr,
):
    offset, channel, mask = program_elements(numel, num_channel, ELEMENTS)
    x = tl.load(x_ptr + offset, mask=mask).to(tl.float32) + tl.load(bias_ptr + channel).to(tl.float32)
    if LEAKY:
        x = tl.where(x > 0, x, x * slope)
    if RESIDUAL:
        x += tl.load(residual_ptr + offset, mask=mask).to(tl.float32)
    tl.store(x_ptr + offset, x.to(x_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _gate(y_ptr, bias_ptr, offset, channel, mask):
    return tl.sigmoid(tl.load(y_ptr + offset, mask=mask).to(tl.float32) + tl.load(bias_ptr + channel).to(tl.float32))


@triton.jit
def _gated_sum(
    x1_ptr, y1_ptr, bias1_ptr, x2_ptr, y2_ptr, bias2_ptr, out_ptr, numel, num_channel, ELEMENTS: tl.constexpr
):
    offset, channel, mask = program_elements(numel, num_channel, ELEMENTS)
    total = tl.load(x1_ptr + offset, mask=mask).to(tl.float32) * _gate(y1_ptr, bias1_ptr, offset, channel, mask)
    total += tl.load(x2_ptr + offset, mask=mask).to(tl.float32) * _gate(y2_ptr, bias2_ptr, offset, channel, mask)
    tl.store(out_ptr + offset, total.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _gated_sum_backward(
    grad_ptr,
    x1_ptr,
    y1_ptr,
    bias1_ptr,
    x2_ptr,
    y2_ptr,
    bias2_ptr,
    grad_x1_ptr,
    grad_y1_ptr,
    grad_x2_ptr,
    grad_y2_ptr,
    numel,
    num_channel,
    ELEMENTS: tl.constexpr,
):
    offset, channel, mask = program_elements(numel, num_channel, ELEMENTS)
    grad = tl.load(grad_ptr + offset, mask=mask).to(tl.float32)
    for branch in tl.static_range(2):
        x_ptr, y_ptr, bias_ptr = (x1_ptr, y1_ptr, bias1_ptr) if branch == 0 else (x2_ptr, y2_ptr, bias2_ptr)
        grad_x_ptr, grad_y_ptr = (grad_x1_ptr, grad_y1_ptr) if branch == 0 else (grad_x2_ptr, grad_y2_ptr)
        gate = _gate(y_ptr, bias_ptr, offset, channel, mask)
        grad_gate = grad * tl.load(x_ptr + offset, mask=mask).to(tl.float32) * gate * (1.0 - gate)
        tl.store(grad_x_ptr + offset, (grad * gate).to(grad_x_ptr.dtype.element_ty), mask=mask)
        tl.store(grad_y_ptr + offset, grad_gate.to(grad_y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=['num_pixel'])
def _layer_norm(
    x_ptr, weight_ptr, bias_ptr, out_ptr, num_pixel, num_channel, eps, PIXELS: tl.constexpr, CHANNELS: tl.constexpr
):
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, CHANNELS)
    exists = channel < num_channel
    mask = (pixel < num_pixel)[:, None] & exists[None, :]
    offset = pixel[:, None] * num_channel + channel[None, :]
    x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    x = tl.where(exists[None, :], x - (tl.sum(x, 1) / num_channel)[:, None], 0.0)
    deviation = tl.sqrt(tl.sum(x * x, 1) / num_channel + eps)
    weight = tl.load(weight_ptr + channel, mask=exists, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=exists, other=0.0).to(tl.float32)
    out = x / deviation[:, None] * weight[None, :] + bias[None, :]
    tl.store(out_ptr + offset, out.to(out_ptr.dtype.element_ty), mask=mask)

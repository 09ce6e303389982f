"""The channel-wise dynamic filter and the gate after it in Triton: Eqs. (1) and (2), forward and backward.

The filtered features are never written: a program filters the pixels of a row and multiplies at once, and the backward
pass filters again. Everything is channels-last; sums are float32. There are no atomic additions, so results are the
same in every run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dstnet_arch.ops.triton_parts import PIXELS, channel_block, find_pixels, inside, pixel_grid

_ROWS = 16  # of the frame, that a program of the filters' gradient sums up


def gated_filter_forward(z: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """The result of `dstnet_arch.ops.channel_filter.gated_channel_filter`, of the same arguments."""
    n, c2, h, w = z.shape
    c = c2 // 2
    z = z.contiguous(memory_format=torch.channels_last)
    out = torch.empty((n, c, h, w), dtype=z.dtype, device=z.device, memory_format=torch.channels_last)
    channels = channel_block(c)
    grid = pixel_grid(n, h, w, c)
    _forward[grid](z, _by_tap(filters), bias.contiguous(), out, h, w, c, PIXELS=PIXELS, CHANNELS=channels)
    return out


def gated_filter_backward(grad: Tensor, z: Tensor, filters: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the features, the filters and the bias, given that of the result."""
    n, c, h, w = grad.shape
    grad, z = (x.contiguous(memory_format=torch.channels_last) for x in (grad, z))
    by_tap = _by_tap(filters)
    grad_z = torch.empty_like(z)
    channels = channel_block(c)
    grid = pixel_grid(n, h, w, c)
    _backward[grid](grad, z, by_tap, bias.contiguous(), grad_z, h, w, c, PIXELS=PIXELS, CHANNELS=channels)
    strips = triton.cdiv(h, _ROWS)
    sums = torch.empty((n, strips, 10, c), dtype=torch.float32, device=z.device)
    _filter_gradient[(n * strips, 10, grid[1])](
        grad, z, sums, h, w, c, ROWS=_ROWS, PIXELS=4 * PIXELS, CHANNELS=channels
    )
    sums = sums.sum(dim=1)
    grad_filters = sums[:, :9].transpose(1, 2).reshape(filters.shape)
    return grad_z, grad_filters.to(filters.dtype), sums[:, 9].sum(dim=0).to(bias.dtype)


def _by_tap(filters: Tensor) -> Tensor:
    """(N, C, 3, 3) -> (N, 9, C), dense."""
    return filters.reshape(*filters.shape[:2], 9).transpose(1, 2).contiguous()


@triton.jit
def _forward(
    z_ptr,
    filters_ptr,
    bias_ptr,
    out_ptr,
    height,
    width,
    num_channel,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """out[p] = (bias + sum over taps of filter[tap] * z1[p + tap]) * z2[p]."""
    frame, y, x, c, here = find_pixels(height, width, num_channel, PIXELS, CHANNELS)
    bias = tl.load(bias_ptr + c, mask=c < num_channel, other=0.0).to(tl.float32)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32) + bias[None, :]
    for tap in tl.static_range(9):
        y_from, x_from = y + (tap // 3 - 1), x + (tap % 3 - 1)
        near = here & inside(y_from, x_from, height, width)[:, None]
        at = ((frame * height + y_from) * width + x_from) * (2 * num_channel)
        z1 = tl.load(z_ptr + at[:, None] + c[None, :], mask=near, other=0.0).to(tl.float32)
        weight = tl.load(filters_ptr + (frame * 9 + tap) * num_channel + c, mask=c < num_channel, other=0.0)
        total += weight.to(tl.float32)[None, :] * z1
    at = (frame * height + y) * width + x
    z2 = tl.load(z_ptr + (at * (2 * num_channel) + num_channel)[:, None] + c[None, :], mask=here, other=0.0)
    target = out_ptr + (at * num_channel)[:, None] + c[None, :]
    tl.store(target, (total * z2.to(tl.float32)).to(out_ptr.dtype.element_ty), mask=here)


@triton.jit
def _backward(
    grad_ptr,
    z_ptr,
    filters_ptr,
    bias_ptr,
    grad_z_ptr,
    height,
    width,
    num_channel,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """grad_z1[p] = sum over taps of filter[tap] * (grad * z2)[p - tap], grad_z2[p] = grad[p] * filtered[p]."""
    frame, y, x, c, here = find_pixels(height, width, num_channel, PIXELS, CHANNELS)
    bias = tl.load(bias_ptr + c, mask=c < num_channel, other=0.0).to(tl.float32)
    filtered = tl.zeros((PIXELS, CHANNELS), tl.float32) + bias[None, :]
    grad_z1 = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for tap in tl.static_range(9):
        weight = tl.load(filters_ptr + (frame * 9 + tap) * num_channel + c, mask=c < num_channel, other=0.0)
        weight = weight.to(tl.float32)[None, :]
        y_from, x_from = y + (tap // 3 - 1), x + (tap % 3 - 1)
        near = here & inside(y_from, x_from, height, width)[:, None]
        at = (frame * height + y_from) * width + x_from
        z1 = tl.load(z_ptr + (at * (2 * num_channel))[:, None] + c[None, :], mask=near, other=0.0)
        filtered += weight * z1.to(tl.float32)
        y_to, x_to = y - (tap // 3 - 1), x - (tap % 3 - 1)
        near = here & inside(y_to, x_to, height, width)[:, None]
        at = (frame * height + y_to) * width + x_to
        grad = tl.load(grad_ptr + (at * num_channel)[:, None] + c[None, :], mask=near, other=0.0)
        z2 = tl.load(z_ptr + (at * (2 * num_channel) + num_channel)[:, None] + c[None, :], mask=near, other=0.0)
        grad_z1 += weight * grad.to(tl.float32) * z2.to(tl.float32)
    at = (frame * height + y) * width + x
    grad = tl.load(grad_ptr + (at * num_channel)[:, None] + c[None, :], mask=here, other=0.0).to(tl.float32)
    target = grad_z_ptr + (at * (2 * num_channel))[:, None] + c[None, :]
    tl.store(target, grad_z1.to(grad_z_ptr.dtype.element_ty), mask=here)
    tl.store(target + num_channel, (grad * filtered).to(grad_z_ptr.dtype.element_ty), mask=here)


@triton.jit
def _filter_gradient(
    grad_ptr,
    z_ptr,
    out_ptr,
    height,
    width,
    num_channel,
    ROWS: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Of some rows, one tap, a block of channels: sum of (grad * z2)[p] * z1[p + tap]; tap 9: sum of (grad * z2)[p]."""
    strips = tl.cdiv(height, ROWS)
    frame = (tl.program_id(0) // strips).to(tl.int64)
    first = (tl.program_id(0) % strips) * ROWS
    tap = tl.program_id(1)
    down, right = tap // 3 - 1, tap % 3 - 1
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    c_here = (c < num_channel)[None, :]
    total = tl.zeros((CHANNELS,), tl.float32)
    for y in range(first, tl.minimum(first + ROWS, height)):
        for start in range(0, width, PIXELS):
            x = start + tl.arange(0, PIXELS)
            here = (x < width)[:, None] & c_here
            at = (frame * height + y) * width + x
            grad = tl.load(grad_ptr + (at * num_channel)[:, None] + c[None, :], mask=here, other=0.0).to(tl.float32)
            z2 = tl.load(z_ptr + (at * (2 * num_channel) + num_channel)[:, None] + c[None, :], mask=here, other=0.0)
            gated = grad * z2.to(tl.float32)
            if tap < 9:
                near = here & inside(y + down, x + right, height, width)[:, None]
                at = ((frame * height + y + down) * width + x + right) * (2 * num_channel)
                gated *= tl.load(z_ptr + at[:, None] + c[None, :], mask=near, other=0.0).to(tl.float32)
            total += tl.sum(gated, axis=0)
    tl.store(out_ptr + (tl.program_id(0).to(tl.int64) * 10 + tap) * num_channel + c, total, mask=c < num_channel)

"""The channel-wise filter and the gate behind it in Triton: Eqs. (1) and (2), forward and backward.

The filtered features are not written to memory: a program filters the pixels of a row and multiplies at once, and the
backward pass filters again. Without the gate, and with the same filters for all frames, this is a depthwise
convolution. All tensors are channels-last; sums are float32. There are no atomic additions, so results are
deterministic.

In the kernels, z has the channels that are filtered and, if GATED, as many more that the result is multiplied with.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dstnet_arch.ops.triton_utils import PIXELS, channel_block, inside, launch, pixel_grid, program_pixels

WARPS = {
    True: 4,
    False: 8,
}  # by GATED, of `_forward` and `_backward`: with 4, some GPUs spill registers without the gate
_ROWS = 16  # rows of the frame that one program of `_filter_gradient` sums up


def channel_filter(z: Tensor, filters: Tensor, bias: Tensor, gated: bool) -> Tensor:
    """Filter each channel of each frame; multiply with the second half of the channels if `gated`.

    Args:
        z: (N, C, H, W), channels-last; (N, 2C, H, W) if `gated`.
        filters: (N, C, 3, 3); a frame's filters are contiguous. With one for all frames: (1, C, 3, 3).
        bias: (C,), contiguous.
        gated: see above.
    """
    n, _, h, w = z.shape
    c = filters.shape[1]
    out = torch.empty((n, c, h, w), dtype=z.dtype, device=z.device, memory_format=torch.channels_last)
    constants = {'GATED': gated, 'PIXELS': PIXELS, 'CHANNELS': channel_block(c), 'num_warps': WARPS[gated]}
    launch(_forward, pixel_grid(n, h, w, c), z, filters, bias, out, h, w, c, _frame_stride(filters), **constants)
    return out


def channel_filter_backward(
    grad: Tensor, z: Tensor, filters: Tensor, bias: Tensor, gated: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of z, of the filters and of the bias; `grad` is that of the result, the others see above."""
    n, c, h, w = grad.shape
    grad_z = torch.empty_like(z)
    constants = {'GATED': gated, 'CHANNELS': channel_block(c)}
    grid = pixel_grid(n, h, w, c)
    stride = _frame_stride(filters)
    warps = WARPS[gated]
    launch(
        _backward, grid, grad, z, filters, bias, grad_z, h, w, c, stride, **constants, PIXELS=PIXELS, num_warps=warps
    )
    strips = triton.cdiv(h, _ROWS)
    sums = torch.empty((n, strips, 10, c), dtype=torch.float32, device=z.device)
    launch(
        _filter_gradient, (n * strips, 10, grid[1]), grad, z, sums, h, w, c, **constants, ROWS=_ROWS, PIXELS=4 * PIXELS
    )
    sums = sums.sum(dim=1) if filters.shape[0] > 1 else sums.sum(dim=(0, 1)).unsqueeze(0)
    grad_filters = sums[:, :9].transpose(1, 2).contiguous().view(filters.shape)
    return grad_z, grad_filters.to(filters.dtype), sums[:, 9].sum(dim=0).to(bias.dtype)


def _frame_stride(filters: Tensor) -> int:
    """Distance between the filters of two frames; 0 if all frames have the same."""
    return filters.stride(0) if filters.shape[0] > 1 else 0


@triton.jit(do_not_specialize=['height', 'width', 'frame_stride'])
def _forward(
    z_ptr,
    filters_ptr,
    bias_ptr,
    out_ptr,
    height,
    width,
    num_channel,
    frame_stride,
    GATED: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """out[p] = bias + sum over taps of filter[tap] * z1[p + tap], times z2[p] if GATED."""
    frame, y, x, c, mask = program_pixels(height, width, num_channel, PIXELS, CHANNELS)
    z_channel = num_channel * 2 if GATED else num_channel
    bias = tl.load(bias_ptr + c, mask=c < num_channel, other=0.0).to(tl.float32)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32) + bias[None, :]
    for tap in tl.static_range(9):
        y_from, x_from = y + (tap // 3 - 1), x + (tap % 3 - 1)
        near = mask & inside(y_from, x_from, height, width)[:, None]
        at = ((frame * height + y_from) * width + x_from) * z_channel
        z1 = tl.load(z_ptr + at[:, None] + c[None, :], mask=near, other=0.0).to(tl.float32)
        weight = tl.load(filters_ptr + frame * frame_stride + c * 9 + tap, mask=c < num_channel, other=0.0)
        total += weight.to(tl.float32)[None, :] * z1
    at = (frame * height + y) * width + x
    if GATED:
        z2 = tl.load(z_ptr + (at * z_channel + num_channel)[:, None] + c[None, :], mask=mask, other=0.0)
        total *= z2.to(tl.float32)
    target = out_ptr + (at * num_channel)[:, None] + c[None, :]
    tl.store(target, total.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=['height', 'width', 'frame_stride'])
def _backward(
    grad_ptr,
    z_ptr,
    filters_ptr,
    bias_ptr,
    grad_z_ptr,
    height,
    width,
    num_channel,
    frame_stride,
    GATED: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """grad_z1[p] = sum over taps of filter[tap] * (grad * z2)[p - tap], grad_z2[p] = grad[p] * filtered[p]."""
    frame, y, x, c, mask = program_pixels(height, width, num_channel, PIXELS, CHANNELS)
    z_channel = num_channel * 2 if GATED else num_channel
    bias = tl.load(bias_ptr + c, mask=c < num_channel, other=0.0).to(tl.float32)
    filtered = tl.zeros((PIXELS, CHANNELS), tl.float32) + bias[None, :]
    grad_z1 = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for tap in tl.static_range(9):
        weight = tl.load(filters_ptr + frame * frame_stride + c * 9 + tap, mask=c < num_channel, other=0.0)
        weight = weight.to(tl.float32)[None, :]
        y_to, x_to = y - (tap // 3 - 1), x - (tap % 3 - 1)
        near = mask & inside(y_to, x_to, height, width)[:, None]
        at = (frame * height + y_to) * width + x_to
        grad = tl.load(grad_ptr + (at * num_channel)[:, None] + c[None, :], mask=near, other=0.0).to(tl.float32)
        if GATED:
            z2 = tl.load(z_ptr + (at * z_channel + num_channel)[:, None] + c[None, :], mask=near, other=0.0)
            grad *= z2.to(tl.float32)
            y_from, x_from = y + (tap // 3 - 1), x + (tap % 3 - 1)
            near = mask & inside(y_from, x_from, height, width)[:, None]
            at = (frame * height + y_from) * width + x_from
            z1 = tl.load(z_ptr + (at * z_channel)[:, None] + c[None, :], mask=near, other=0.0)
            filtered += weight * z1.to(tl.float32)
        grad_z1 += weight * grad
    at = (frame * height + y) * width + x
    target = grad_z_ptr + (at * z_channel)[:, None] + c[None, :]
    tl.store(target, grad_z1.to(grad_z_ptr.dtype.element_ty), mask=mask)
    if GATED:
        grad = tl.load(grad_ptr + (at * num_channel)[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
        tl.store(target + num_channel, (grad * filtered).to(grad_z_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=['height', 'width'])
def _filter_gradient(
    grad_ptr,
    z_ptr,
    out_ptr,
    height,
    width,
    num_channel,
    GATED: tl.constexpr,
    ROWS: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Sum (grad * z2)[p] * z1[p + tap] over some rows, for one tap and a block of channels.

    Tap 9 is the bias: the sum of (grad * z2)[p]. Without GATED, z2 is 1.
    """
    z_channel = num_channel * 2 if GATED else num_channel
    strips = tl.cdiv(height, ROWS)
    frame = (tl.program_id(0) // strips).to(tl.int64)
    first = (tl.program_id(0) % strips) * ROWS
    tap = tl.program_id(1)
    down, right = tap // 3 - 1, tap % 3 - 1
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    c_mask = (c < num_channel)[None, :]
    total = tl.zeros((CHANNELS,), tl.float32)
    for y in range(first, tl.minimum(first + ROWS, height)):
        for start in range(0, width, PIXELS):
            x = start + tl.arange(0, PIXELS)
            mask = (x < width)[:, None] & c_mask
            at = (frame * height + y) * width + x
            product = tl.load(grad_ptr + (at * num_channel)[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
            if GATED:
                z2 = tl.load(z_ptr + (at * z_channel + num_channel)[:, None] + c[None, :], mask=mask, other=0.0)
                product *= z2.to(tl.float32)
            if tap < 9:
                near = mask & inside(y + down, x + right, height, width)[:, None]
                at = ((frame * height + y + down) * width + x + right) * z_channel
                product *= tl.load(z_ptr + at[:, None] + c[None, :], mask=near, other=0.0).to(tl.float32)
            total += tl.sum(product, axis=0)
    tl.store(out_ptr + (tl.program_id(0).to(tl.int64) * 10 + tap) * num_channel + c, total, mask=c < num_channel)

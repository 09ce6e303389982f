"""The pixel filter in Triton: filters of low resolution are resized inside the kernels, forward and backward.

Everything is channels-last: a program works on pixels of one row and on a block of channels, and what it loads is
contiguous. Sums are float32 whatever the type of the features. There are no atomic additions, so results are the same
in every run.

The bilinear resizing (align_corners=False), along one axis: pixel y lies at (y + 1/2) * low / high - 1/2 of the low
resolution, not below 0, between the cells y0 and y1 = min(y0 + 1, low - 1).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dstnet_arch.ops.filter_cells import from_cells, to_cells
from dstnet_arch.ops.triton_parts import PIXELS, channel_block, find_pixels, inside, pixel_grid


def pixel_filter_forward(features: Tensor, *filters: Tensor) -> Tensor:
    """The result of `dstnet_arch.ops.pixel_filter.pixel_filter`: (N, C, H, W), (N, 9C, h, w)… -> (N, C, H, W)."""
    features = features.contiguous(memory_format=torch.channels_last)
    return _apply(features, [to_cells(low) for low in filters], transposed=False)


def pixel_filter_backward(grad: Tensor, features: Tensor, *filters: Tensor) -> tuple[Tensor, ...]:
    """The gradients of the features and of each of the filters, given that of the result."""
    grad = grad.contiguous(memory_format=torch.channels_last)
    features = features.contiguous(memory_format=torch.channels_last)
    all_cells = [to_cells(low) for low in filters]
    n, c, h, w = features.shape
    channels = channel_block(c)
    grads = []
    for cells in all_cells:
        low_h, low_w = cells.shape[1:3]
        grad_cells = torch.empty_like(cells)
        grid = (n * low_h * low_w, 9, triton.cdiv(c, channels))
        rows, columns = triton.cdiv(2 * h, low_h), triton.next_power_of_2(triton.cdiv(2 * w, low_w))
        _filter_gradient[grid](
            grad, features, grad_cells, h, w, c, low_h, low_w, rows, COLUMNS=columns, CHANNELS=channels
        )
        grads.append(from_cells(grad_cells))
    return _apply(grad, all_cells, transposed=True), *grads


def _apply(x: Tensor, filters: list[Tensor], transposed: bool) -> Tensor:
    n, c, h, w = x.shape
    out = torch.empty_like(x)
    for k, cells in enumerate(filters):
        _filter[pixel_grid(n, h, w, c)](
            x,
            cells,
            out,
            h,
            w,
            c,
            cells.shape[1],
            cells.shape[2],
            ADD=k > 0,
            TRANSPOSED=transposed,
            PIXELS=PIXELS,
            CHANNELS=channel_block(c),
        )
    return out


@triton.jit
def _cells(position, low, high):
    """The two cells that a pixel lies between, and how far towards the second."""
    place = tl.maximum((position + 0.5) * (low / high) - 0.5, 0.0)
    first = tl.minimum(place.to(tl.int32), low - 1)
    return first, tl.minimum(first + 1, low - 1), place - first


@triton.jit
def _weight(position, cell, low, high):
    """What share of a pixel's filter comes from a cell."""
    first, second, share = _cells(position, low, high)
    return tl.where(first == cell, 1.0 - share, 0.0) + tl.where(second == cell, share, 0.0)


@triton.jit
def _filter(
    x_ptr,
    filters_ptr,
    out_ptr,
    height,
    width,
    num_channel,
    low_height,
    low_width,
    ADD: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """out[p] (+)= sum over taps of filter[p, tap] * x[p + tap]; TRANSPOSED: filter[p - tap, tap] * x[p - tap]."""
    frame, y, x, c, here = find_pixels(height, width, num_channel, PIXELS, CHANNELS)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for tap in tl.static_range(9):
        if TRANSPOSED:
            y_from, x_from = y - (tap // 3 - 1), x - (tap % 3 - 1)
            y_filter, x_filter = y_from, x_from
        else:
            y_from, x_from = y + (tap // 3 - 1), x + (tap % 3 - 1)
            y_filter, x_filter = y, x
        near = here & inside(y_from, x_from, height, width)[:, None]
        y0, y1, y_share = _cells(y_filter, low_height, height)
        x0, x1, x_share = _cells(x_filter, low_width, width)
        corner = filters_ptr + tap * num_channel + c[None, :]
        upper, lower = (frame * low_height + y0) * low_width, (frame * low_height + y1) * low_width
        stride = 9 * num_channel
        f00 = tl.load(corner + ((upper + x0) * stride)[:, None], mask=near, other=0.0).to(tl.float32)
        f01 = tl.load(corner + ((upper + x1) * stride)[:, None], mask=near, other=0.0).to(tl.float32)
        f10 = tl.load(corner + ((lower + x0) * stride)[:, None], mask=near, other=0.0).to(tl.float32)
        f11 = tl.load(corner + ((lower + x1) * stride)[:, None], mask=near, other=0.0).to(tl.float32)
        share = x_share[:, None]
        f0, f1 = f00 + share * (f01 - f00), f10 + share * (f11 - f10)
        source = ((frame * height + y_from) * width + x_from) * num_channel
        value = tl.load(x_ptr + source[:, None] + c[None, :], mask=near, other=0.0).to(tl.float32)
        total += (f0 + y_share * (f1 - f0)) * value
    target = out_ptr + (((frame * height + y) * width + x) * num_channel)[:, None] + c[None, :]
    if ADD:
        total += tl.load(target, mask=here, other=0.0).to(tl.float32)
    tl.store(target, total.to(out_ptr.dtype.element_ty), mask=here)


@triton.jit
def _filter_gradient(
    grad_ptr,
    x_ptr,
    out_ptr,
    height,
    width,
    num_channel,
    low_height,
    low_width,
    num_row,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Of one cell, one tap and a block of channels: sum over the pixels that the cell reaches of grad[p] * x[p + tap],
    weighted with the cell's share in them.
    """
    cell_x = tl.program_id(0) % low_width
    cell_y = tl.program_id(0) // low_width % low_height
    frame = (tl.program_id(0) // (low_width * low_height)).to(tl.int64)
    tap = tl.program_id(1)
    down, right = tap // 3 - 1, tap % 3 - 1
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    # The first pixel that lies beyond the centre of the cell before; none does for cell 0.
    above, left = (2 * cell_y - 1) * height - low_height, (2 * cell_x - 1) * width - low_width
    y_start = tl.where(above < 0, 0, above // (2 * low_height) + 1)
    x = tl.where(left < 0, 0, left // (2 * low_width) + 1) + tl.arange(0, COLUMNS)
    x_weight = _weight(x, cell_x, low_width, width)
    in_row = (x < width)[:, None] & (c < num_channel)[None, :]
    total = tl.zeros((CHANNELS,), tl.float32)
    for y in range(y_start, tl.minimum(y_start + num_row, height)):
        weight = x_weight * _weight(y, cell_y, low_height, height)
        y_from, x_from = y + down, x + right
        near = in_row & inside(y_from, x_from, height, width)[:, None]
        at = ((frame * height + y) * width + x) * num_channel
        source = ((frame * height + y_from) * width + x_from) * num_channel
        grad = tl.load(grad_ptr + at[:, None] + c[None, :], mask=near, other=0.0).to(tl.float32)
        value = tl.load(x_ptr + source[:, None] + c[None, :], mask=near, other=0.0).to(tl.float32)
        total += tl.sum(weight[:, None] * grad * value, axis=0)
    target = out_ptr + (tl.program_id(0).to(tl.int64) * 9 + tap) * num_channel + c
    tl.store(target, total.to(out_ptr.dtype.element_ty), mask=c < num_channel)

"""The pixel filter in Triton: low-resolution filters are resized inside the kernels, forward and backward.

All tensors are channels-last: a program works on pixels of one row and on a block of channels, and its loads are
contiguous. Sums are float32 for every type of the features. There are no atomic additions, so results are
deterministic.

The bilinear resizing (align_corners=False), along one axis: pixel y is at (y + 1/2) * low / high - 1/2 of the low
resolution, clamped to 0, between the positions y0 and y1 = min(y0 + 1, low - 1).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dstnet_arch.ops.triton_utils import PIXELS, channel_block, inside, launch, pixel_grid, program_pixels

WARPS = 8  # of `_filter`: with 4, registers are spilled to memory
_SIZES = ['height', 'width', 'low_height', 'low_width', 'num_row']  # not compiled in: videos have many sizes


def pixel_filter(features: Tensor, packed: list[Tensor]) -> Tensor:
    """The result of `dstnet_arch.ops.pixel_filter.pixel_filter`.

    Args:
        features: (N, C, H, W), channels-last.
        packed: one or more filters as `pack_filters` returns them.
    """
    return _apply(features, packed, transposed=False)


def pixel_filter_backward(grad: Tensor, features: Tensor, packed: list[Tensor]) -> list[Tensor]:
    """The gradients of the features and of each of the filters (packed), given the gradient of the result.

    Args:
        grad: (N, C, H, W), channels-last.
        features: (N, C, H, W), channels-last.
        packed: as for `pixel_filter`.
    """
    n, c, h, w = features.shape
    channels = channel_block(c)
    grads = [_apply(grad, packed, transposed=True)]
    for filters in packed:
        low_h, low_w = filters.shape[1:3]
        grad_filters = torch.empty_like(filters)
        grid = (n * low_h * low_w, 9, triton.cdiv(c, channels))
        rows, columns = triton.cdiv(2 * h, low_h), triton.next_power_of_2(triton.cdiv(2 * w, low_w))
        sizes = (h, w, c, low_h, low_w, rows)
        launch(_filter_gradient, grid, grad, features, grad_filters, *sizes, COLUMNS=columns, CHANNELS=channels)
        grads.append(grad_filters)
    return grads


def _apply(x: Tensor, packed: list[Tensor], transposed: bool) -> Tensor:
    n, c, h, w = x.shape
    out = torch.empty_like(x)
    for k, filters in enumerate(packed):
        sizes = (h, w, c, *filters.shape[1:3])
        constants = {'ADD': k > 0, 'TRANSPOSED': transposed, 'PIXELS': PIXELS, 'CHANNELS': channel_block(c)}
        launch(_filter, pixel_grid(n, h, w, c), x, filters, out, *sizes, **constants, num_warps=WARPS)
    return out


@triton.jit
def _neighbours(position, low, high):
    """The two low-resolution positions around a pixel, and the weight of the second."""
    place = tl.maximum((position + 0.5) * (low / high) - 0.5, 0.0)
    first = tl.minimum(place.to(tl.int32), low - 1)
    return first, tl.minimum(first + 1, low - 1), place - first


@triton.jit
def _weight(position, cell, low, high):
    """The weight of a low-resolution position in the filter of a pixel."""
    first, second, share = _neighbours(position, low, high)
    return tl.where(first == cell, 1.0 - share, 0.0) + tl.where(second == cell, share, 0.0)


@triton.jit(do_not_specialize=_SIZES[:4])
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
    frame, y, x, c, mask = program_pixels(height, width, num_channel, PIXELS, CHANNELS)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for tap in tl.static_range(9):
        if TRANSPOSED:
            y_from, x_from = y - (tap // 3 - 1), x - (tap % 3 - 1)
            y_filter, x_filter = y_from, x_from
        else:
            y_from, x_from = y + (tap // 3 - 1), x + (tap % 3 - 1)
            y_filter, x_filter = y, x
        near = mask & inside(y_from, x_from, height, width)[:, None]
        y0, y1, y_share = _neighbours(y_filter, low_height, height)
        x0, x1, x_share = _neighbours(x_filter, low_width, width)
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
        total += tl.load(target, mask=mask, other=0.0).to(tl.float32)
    tl.store(target, total.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_SIZES)
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
    """Sum grad[p] * x[p + tap], weighted, over the pixels p whose filters depend on one low-resolution position.

    For one tap and a block of channels.
    """
    cell_x = tl.program_id(0) % low_width
    cell_y = tl.program_id(0) // low_width % low_height
    frame = (tl.program_id(0) // (low_width * low_height)).to(tl.int64)
    tap = tl.program_id(1)
    down, right = tap // 3 - 1, tap % 3 - 1
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    # The first pixel beyond the centre of the position before; the first one of the frame for position 0.
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

"""The Haar synthesis and its gradient in Triton, each in one pass over memory. All tensors are channels-last."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dstnet_arch.ops.triton_utils import PIXELS, channel_block, launch, pixel_grid, program_pixels


def haar_synthesis(low: Tensor, high: Tensor) -> Tensor:
    """(N, C, H, W), (N, 3C, H, W) -> (N, C, 2H, 2W), as in `dstnet_arch.ops.haar`."""
    n, c, h, w = low.shape
    out = torch.empty((n, c, 2 * h, 2 * w), dtype=low.dtype, device=low.device, memory_format=torch.channels_last)
    grid = pixel_grid(n, h, w, c)
    launch(_haar, grid, low, high, out, h, w, c, BACKWARD=False, PIXELS=PIXELS, CHANNELS=channel_block(c))
    return out


def haar_synthesis_backward(grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the bands, given that of the result: (N, C, 2H, 2W) -> (N, C, H, W), (N, 3C, H, W)."""
    n, c, h, w = grad.shape[0], grad.shape[1], grad.shape[2] // 2, grad.shape[3] // 2
    low, high = (
        torch.empty((n, k, h, w), dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)
        for k in (c, 3 * c)
    )
    grid = pixel_grid(n, h, w, c)
    launch(_haar, grid, low, high, grad, h, w, c, BACKWARD=True, PIXELS=PIXELS, CHANNELS=channel_block(c))
    return low, high


@triton.jit(do_not_specialize=['height', 'width'])
def _haar(
    low_ptr,
    high_ptr,
    full_ptr,
    height,
    width,
    num_channel,
    BACKWARD: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """From the bands to the four pixels of each block. The matrix is symmetric: BACKWARD is the other direction."""
    frame, y, x, c, mask = program_pixels(height, width, num_channel, PIXELS, CHANNELS)
    at = (frame * height + y) * width + x
    low = low_ptr + (at * num_channel)[:, None] + c[None, :]
    high = high_ptr + (at * (3 * num_channel))[:, None] + c[None, :]
    top = full_ptr + (((frame * height + y) * 4 * width + 2 * x) * num_channel)[:, None] + c[None, :]
    bottom = top + 2 * width * num_channel
    if BACKWARD:
        v0 = tl.load(top, mask=mask).to(tl.float32)
        v1 = tl.load(top + num_channel, mask=mask).to(tl.float32)
        v2 = tl.load(bottom, mask=mask).to(tl.float32)
        v3 = tl.load(bottom + num_channel, mask=mask).to(tl.float32)
    else:
        v0 = tl.load(low, mask=mask).to(tl.float32)
        v1 = tl.load(high, mask=mask).to(tl.float32)
        v2 = tl.load(high + num_channel, mask=mask).to(tl.float32)
        v3 = tl.load(high + 2 * num_channel, mask=mask).to(tl.float32)
    r0 = (v0 + v2 + (v1 + v3)).to(low_ptr.dtype.element_ty)
    r1 = (v0 + v2 - (v1 + v3)).to(low_ptr.dtype.element_ty)
    r2 = (v0 - v2 + (v1 - v3)).to(low_ptr.dtype.element_ty)
    r3 = (v0 - v2 - (v1 - v3)).to(low_ptr.dtype.element_ty)
    if BACKWARD:
        tl.store(low, r0, mask=mask)
        tl.store(high, r1, mask=mask)
        tl.store(high + num_channel, r2, mask=mask)
        tl.store(high + 2 * num_channel, r3, mask=mask)
    else:
        tl.store(top, r0, mask=mask)
        tl.store(top + num_channel, r1, mask=mask)
        tl.store(bottom, r2, mask=mask)
        tl.store(bottom + num_channel, r3, mask=mask)

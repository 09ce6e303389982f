"""Helpers of the Triton kernels: launching, grids, and the pixels and channels of a program."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS = 16  # pixels of a row in a program
_MAX_CHANNELS = 64  # channels in a program
ELEMENTS = 1024  # elements in a program of an elementwise kernel


def launch(kernel: Any, grid: tuple[int, ...], first: Tensor, /, *args: Any, **constants: Any) -> None:
    """Launch a kernel on the device of its first argument; Triton itself launches on the current device."""
    with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
        kernel[grid](first, *args, **constants)


def channel_block(num_channel: int) -> int:
    """Number of channels in one program."""
    return min(triton.next_power_of_2(num_channel), _MAX_CHANNELS)


def pixel_grid(num_frame: int, height: int, width: int, num_channel: int) -> tuple[int, int]:
    """The grid of a kernel that begins with `program_pixels`."""
    return num_frame * height * triton.cdiv(width, PIXELS), triton.cdiv(num_channel, channel_block(num_channel))


def element_grid(x: Tensor) -> tuple[int]:
    """The grid of a kernel that begins with `program_elements`."""
    return (triton.cdiv(x.numel(), ELEMENTS),)


@triton.jit
def program_pixels(height, width, num_channel, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Frame and row (scalars), columns and channels (blocks) of a program, and the mask of those that exist."""
    blocks = tl.cdiv(width, PIXELS)
    row = tl.program_id(0) // blocks
    x = (tl.program_id(0) % blocks) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    mask = (x < width)[:, None] & (c < num_channel)[None, :]
    return (row // height).to(tl.int64), row % height, x, c, mask


@triton.jit
def inside(y, x, height, width):
    """Mask of the pixels inside the frame: scalar y, block x."""
    # Triton's interpreter needs masks of one shape.
    y += tl.zeros_like(x)
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)


@triton.jit
def program_elements(numel, num_channel, ELEMENTS: tl.constexpr):
    """Offsets and channels of a program's elements in a channels-last tensor, and the mask of those that exist."""
    start = tl.program_id(0).to(tl.int64) * ELEMENTS
    channel = ((start % num_channel).to(tl.int32) + tl.arange(0, ELEMENTS)) % num_channel
    offset = start + tl.arange(0, ELEMENTS)
    return offset, channel, offset < numel

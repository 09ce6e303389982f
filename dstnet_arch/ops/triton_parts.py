"""What the Triton kernels share: how frames are cut into programs, and which pixels lie inside of them."""

from __future__ import annotations

import triton
import triton.language as tl

PIXELS = 16  # of a row, in a program
_CHANNELS = 64  # at most, in a program


def channel_block(num_channel: int) -> int:
    """How many channels one program works on."""
    return min(triton.next_power_of_2(num_channel), _CHANNELS)


def pixel_grid(num_frame: int, height: int, width: int, num_channel: int) -> tuple[int, int]:
    """The grid of a kernel that begins with `find_pixels`."""
    return num_frame * height * triton.cdiv(width, PIXELS), triton.cdiv(num_channel, channel_block(num_channel))


@triton.jit
def find_pixels(height, width, num_channel, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """A program's frame and row (scalars), columns and channels (blocks), and which of them there are."""
    across = tl.cdiv(width, PIXELS)
    row = tl.program_id(0) // across
    x = (tl.program_id(0) % across) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    here = (x < width)[:, None] & (c < num_channel)[None, :]
    return (row // height).to(tl.int64), row % height, x, c, here


@triton.jit
def inside(y, x, height, width):
    """Which pixels of a row are in the frame: scalar y, block x. (Triton's interpreter wants masks of one shape.)"""
    y += tl.zeros_like(x)
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)

"""The order in which the kernels of the pixel filter, in C and in Triton, take its filters: a pixel's lie together.

A cell is what the filters of low resolution have at one place: nine taps for each channel.
"""

from __future__ import annotations

from torch import Tensor


def to_cells(filters: Tensor) -> Tensor:
    """(N, 9C, h, w), channel 9c + t being tap t of channel c -> (N, h, w, 9, C), dense."""
    n, c9, h, w = filters.shape
    return filters.reshape(n, c9 // 9, 9, h, w).permute(0, 3, 4, 2, 1).contiguous()


def from_cells(cells: Tensor) -> Tensor:
    """The inverse of `to_cells`: (N, h, w, 9, C) -> (N, 9C, h, w)."""
    return cells.permute(0, 4, 3, 1, 2).flatten(1, 2)

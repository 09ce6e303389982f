"""Padding of frames at the right and the bottom by reflection, from any size to any size."""

from __future__ import annotations

import torch
from torch import Tensor


def reflect_pad(x: Tensor, height: int, width: int) -> Tensor:
    """Extend frames to `height` x `width` by reflecting their content at the right and bottom edge.

    The same as `torch.nn.functional.pad(mode='reflect')` where that is defined. If more pixels are needed than one
    reflection has, the reflection continues back and forth; a side of one pixel is repeated.

    Args:
        x: (..., H, W), H <= height, W <= width.
        height: height of the result.
        width: width of the result.

    Returns:
        (..., height, width); `x` itself if it has this size.
    """
    for dim, size in ((-2, height), (-1, width)):
        if x.shape[dim] != size:
            x = x.index_select(dim, _reflected_indices(x.shape[dim], size, x.device))
    return x


def _reflected_indices(size: int, count: int, device: torch.device) -> Tensor:
    """The first `count` of 0, 1, …, size-1, size-2, …, 1, 0, 1, …."""
    period = max(2 * size - 2, 1)
    position = torch.arange(count, device=device) % period
    return torch.where(position < size, position, period - position)

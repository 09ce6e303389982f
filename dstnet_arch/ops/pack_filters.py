"""The order of the pixel filter's weights, and their layout in the kernels, in C and in Triton."""

from __future__ import annotations

from torch import Tensor


def taps_first(x: Tensor) -> Tensor:
    """Reorder the first dimension from 9c + t (the released weights: tap t of channel c) to C·t + c.

    Filters are computed in this order, so that the kernels can use them without a copy.
    """
    return x.unflatten(0, (-1, 9)).transpose(0, 1).flatten(0, 1)


def pack_filters(filters: Tensor) -> Tensor:
    """(N, 9C, h, w), channel C·t + c is tap t of channel c -> (N, h, w, 9, C), contiguous."""
    return filters.permute(0, 2, 3, 1).unflatten(3, (9, -1)).contiguous()

"""Filtering with one dynamic filter for every channel of every frame: Eq. (1).

::

    out[n, c, y, x] = bias[c] + sum over i, j of  filters[n, c, i, j] * features[n, c, y + i - 1, x + j - 1]

with zeros outside the frame.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def channel_filter_reference(features: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """`channel_filter` written like its equation: unfold all patches, multiply, sum."""
    n, c, h, w = features.shape
    patches = F.unfold(features, kernel_size=3, padding=1).view(n, c, 9, h, w)
    return (filters.reshape(n, c, 9, 1, 1) * patches).sum(dim=2) + bias.view(1, c, 1, 1)


def channel_filter(features: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """Filter every channel of every frame with its own 3x3 filter.

    Args:
        features: (N, C, H, W), a frame at each N.
        filters: (N, C, 3, 3).
        bias: (C,).

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: there is not one 3x3 filter for each channel of each frame.
    """
    n, c, h, w = features.shape
    if filters.shape != (n, c, 3, 3):
        raise ValueError(f'Features {tuple(features.shape)} need filters ({n}, {c}, 3, 3), got {tuple(filters.shape)}.')
    # One depthwise convolution over all frames at once: the frames' channels become the groups.
    out = F.conv2d(
        features.reshape(1, n * c, h, w), filters.reshape(n * c, 1, 3, 3), bias.repeat(n), padding=1, groups=n * c
    )
    return out.view(n, c, h, w)

"""Peak signal-to-noise ratio."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def psnr(a: NDArray[Any], b: NDArray[Any]) -> float:
    """PSNR of two 8-bit images in dB, as in the paper's tables: `10 log10(255^2 / MSE)`, MSE over all elements.

    Args:
        a: uint8 in 0..255, any shape, e.g. (H, W, 3).
        b: the same shape.

    Returns:
        dB, computed in float64; infinity for identical images.

    Raises:
        TypeError: an image is not uint8.
        ValueError: shapes that differ, or that have no pixels.
    """
    for image in (a, b):
        if image.dtype != np.uint8:
            raise TypeError(
                f'psnr: expected uint8 images, got {image.dtype}; '
                'for floats in [0, 1]: (image.clip(0, 1) * 255).round().astype(numpy.uint8)'
            )
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f'psnr: expected two images of one size, got shapes {a.shape} and {b.shape}')
    difference = np.subtract(a, b, dtype=np.int32)
    mse = float(np.mean(np.square(difference), dtype=np.float64))
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def batch_psnr(a: Tensor, b: Tensor) -> Tensor:
    """`psnr` of batches of 8-bit images: (N, 3, H, W) uint8, on one device -> (N,) float64, on that device.

    Raises:
        TypeError: an image is not uint8.
        ValueError: shapes that differ, or that have no pixels.
    """
    if a.dtype != torch.uint8 or b.dtype != torch.uint8:
        raise TypeError(f'batch_psnr: expected uint8 images, got {a.dtype} and {b.dtype}')
    if a.shape != b.shape or a[0:1].numel() == 0:
        raise ValueError(f'batch_psnr: expected two batches of one size, got {tuple(a.shape)} and {tuple(b.shape)}')
    # All are whole numbers, and so small that none is rounded.
    squares = (a.float() - b).square_().flatten(1)
    mse = squares.sum(1, dtype=torch.float64) / squares.shape[1]
    return 10 * torch.log10(255**2 / mse)  # of identical images: infinity

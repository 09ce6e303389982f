"""Peak signal-to-noise ratio."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def psnr(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the PSNR of two images in dB: `10 log10(peak^2 / MSE)` with the MSE over all elements, in float64.

    Args:
        a: uint8 (peak 255) or uint16 (peak 65535), any shape, e.g. (H, W, 3).
        b: same shape and type.

    Returns:
        dB; infinity for identical images.
    """
    mse = float(np.mean(np.square(np.subtract(a, b, dtype=np.float64))))
    return math.inf if mse == 0 else 10 * math.log10(np.iinfo(a.dtype).max ** 2 / mse)


def batch_psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the PSNR of each pair of images in two batches: (N, 3, H, W) -> (N,) float64, on the same device.

    Args:
        a: uint8, or float64 in 0..255 for images with more levels.
        b: same shape and type.
    """
    # float32 represents all squared differences of uint8 values exactly.
    difference = a.float() - b if a.dtype == torch.uint8 else a - b
    squares = difference.square_().flatten(1)
    mse = squares.sum(1, dtype=torch.float64) / squares.shape[1]
    return 10 * torch.log10(255**2 / mse)  # infinity for identical images

"""Peak signal-to-noise ratio."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


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

"""Metrics computed by their definitions in float64, as references for tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

Image = NDArray[Any]
"""(H, W, 3), 0..255."""

C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def naive_psnr(a: Image, b: Image) -> float:
    return 20 * math.log10(255 / math.sqrt(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)))


def naive_ssim2d(a: Image, b: Image) -> float:
    """2-D SSIM of each channel, at all positions where the 11x11 window is within the image."""
    window = _gaussian(2)
    maps = [_ssim_map(a[..., c], b[..., c], window)[5:-5, 5:-5] for c in range(3)]
    return float(np.mean(maps))


def naive_ssim3d(a: Image, b: Image) -> float:
    """SSIM with a dense 11x11x11 window on the volume and replicated edges."""
    return float(_ssim_map(a, b, _gaussian(3)).mean())


def _gaussian(dimensions: int) -> Image:
    axes = np.meshgrid(*[np.arange(11) - 5] * dimensions, indexing='ij')
    window = np.exp(-sum(axis**2 for axis in axes) / (2 * 1.5**2))
    return window / window.sum()


def _ssim_map(a: Image, b: Image, window: Image) -> Image:
    a, b = a.astype(np.float64), b.astype(np.float64)

    def blur(volume: Image) -> Image:
        return scipy.ndimage.correlate(volume, window, mode='nearest')

    mu_a, mu_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2, blur(a * b) - mu_a * mu_b
    numerator = (2 * mu_a * mu_b + C1) * (2 * cov + C2)
    return numerator / ((mu_a**2 + mu_b**2 + C1) * (var_a + var_b + C2))

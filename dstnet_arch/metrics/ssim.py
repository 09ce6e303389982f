"""SSIM as stock BasicSR computes it, for batches on any device, and the parts that SSIM-3D shares with it."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS = 5
SIGMA = 1.5
C1 = (0.01 * 255) ** 2
C2 = (0.03 * 255) ** 2

CPU_STRIP_ROWS = 64
"""On the CPU, frames are processed in strips of this many rows, which fit into the cache."""


TAPS = np.exp(-(np.arange(-RADIUS, RADIUS + 1) ** 2) / (2 * SIGMA**2))
TAPS /= TAPS.sum()


@torch.no_grad()
def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the 2-D SSIM of image pairs, averaged over the channels: BasicSR's `calculate_ssim` to within 1e-10.

    The window is 11x11, Gaussian with sigma 1.5. Positions where it exceeds the image are left out.

    Args:
        a: (N, 3, H, W) in 0..255, uint8 or floating point, on any device.
        b: same shape, on the same device.

    Returns:
        (N,) float64 on the inputs' device, without gradients; NaN if a side is shorter than 11 pixels, as in BasicSR.
    """
    height, width = (side - 2 * RADIUS for side in a.shape[-2:])
    if min(height, width) < 1:
        return torch.full((len(a),), math.nan, dtype=torch.float64, device=a.device)
    sums = [ssim_sum(x.double(), y.double(), blur) for x, y in zip(a, b, strict=True)]
    return torch.stack(sums) / (3 * height * width)


def ssim_sum(a: Tensor, b: Tensor, blur: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the sum of the SSIM map of two float64 (3, h + 10, w + 10) images as a scalar tensor.

    Args:
        a: first image.
        b: second image.
        blur: computes the means under the window: (Q, 3, h + 10, w + 10) -> (Q, 3, h, w).
    """
    height = a.shape[-2] - 2 * RADIUS
    strip = CPU_STRIP_ROWS if a.device.type == 'cpu' else height
    total = torch.zeros((), dtype=a.dtype, device=a.device)
    for top in range(0, height, strip):
        rows = slice(top, min(top + strip, height) + 2 * RADIUS)
        total += _ssim_map(a[:, rows], b[:, rows], blur).sum()
    return total


def _ssim_map(a: Tensor, b: Tensor, blur: Callable[[Tensor], Tensor]) -> Tensor:
    """SSIM at each element: (3, h + 10, w + 10) -> (3, h, w).

    With the sum s = a + b and the difference d = a - b, the two factors of the definition equal
    1 - mu_d^2 / (mu_a^2 + mu_b^2 + C1) and 1 - var_d / (var_a + var_b + C2): these lose fewer digits.
    """
    s, d = a + b, a - b
    mean_s, mean_d, mean_ss, mean_dd = blur(torch.stack([s, d, s * s, d * d]))
    square_s, square_d = mean_s * mean_s, mean_d * mean_d
    var_s, var_d = mean_ss - square_s, mean_dd - square_d
    # a = (s + d) / 2 and b = (s - d) / 2, so mu_a^2 + mu_b^2 = (mu_s^2 + mu_d^2) / 2, and the variances likewise.
    luminance = 1 - square_d / ((square_s + square_d) / 2 + C1)
    structure = 1 - var_d / ((var_s + var_d) / 2 + C2)
    return luminance * structure


def blur(x: Tensor) -> Tensor:
    """Apply the window along rows and columns: (Q, 3, h + 10, w + 10) float64 -> (Q, 3, h, w)."""
    return blur_with_opencv(x) if x.device.type == 'cpu' else blur_with_convolutions(x)


def blur_with_opencv(x: Tensor) -> Tensor:
    """Compute `blur` with OpenCV, the fastest way on a CPU."""
    blurred = x.new_empty(*x.shape[:2], *(side - 2 * RADIUS for side in x.shape[2:]))
    for plane, result in zip(x.flatten(0, 1).numpy(), blurred.flatten(0, 1).numpy(), strict=True):
        result[:] = cv2.sepFilter2D(plane, -1, TAPS, TAPS)[RADIUS:-RADIUS, RADIUS:-RADIUS]
    return blurred


def blur_with_convolutions(x: Tensor) -> Tensor:
    """Compute `blur` with one depthwise convolution along each axis, on any device."""
    planes = x.flatten(0, 1)[None]
    taps = torch.from_numpy(TAPS).to(x).expand(planes.shape[1], 1, 1, -1).contiguous()
    with torch.autocast(x.device.type, enabled=False):
        rows = F.conv2d(planes, taps.transpose(-1, -2).contiguous(), groups=len(taps))
        return F.conv2d(rows, taps, groups=len(taps))[0].unflatten(0, x.shape[:2])

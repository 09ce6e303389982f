"""SSIM as stock BasicSR computes it, for batches on any device, and what it shares with SSIM-3D."""

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

# On a CPU a frame is worked through in strips of this many rows, so that what is read several times stays in cache.
CPU_STRIP_ROWS = 64


def _gaussian_taps() -> list[float]:
    taps = [math.exp(-(offset**2) / (2 * SIGMA**2)) for offset in range(-RADIUS, RADIUS + 1)]
    return [tap / math.fsum(taps) for tap in taps]


TAPS = _gaussian_taps()


@torch.no_grad()
def ssim(a: Tensor, b: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """SSIM of image pairs, in two dimensions, mean over the channels: BasicSR's `calculate_ssim`, to 1e-10.

    The window is 11x11, Gaussian with sigma 1.5, and counts where it lies within the image.

    Args:
        a: (N, 3, H, W), 0..255: uint8 or floating point, on any device.
        b: the same shape, on the same device.
        dtype: what to compute in, torch.float64 or torch.float32.

    Returns:
        (N,), of `dtype`, on the inputs' device; not a number where a side is less than 11, as in BasicSR. No gradients.

    Raises:
        ValueError: shapes that differ or are not (N, 3, H, W), or another `dtype`.
        TypeError: inputs that are neither uint8 nor floating point.
    """
    check_batches('ssim', a, b, dtype)
    height, width = (side - 2 * RADIUS for side in a.shape[-2:])
    if min(height, width) < 1:
        return torch.full((len(a),), math.nan, dtype=dtype, device=a.device)
    sums = [ssim_sum(x.to(dtype), y.to(dtype), blur) for x, y in zip(a, b, strict=True)]
    return torch.stack(sums) / (3 * height * width)


def check_batches(name: str, a: Tensor, b: Tensor, dtype: torch.dtype) -> None:
    """Refuse what `ssim` and `ssim3d` do not take.

    Raises:
        ValueError, TypeError: see there.
    """
    if a.shape != b.shape or a.dim() != 4 or a.shape[1] != 3 or a[0:1].numel() == 0:
        raise ValueError(
            f'{name}: expected two batches of one shape (N, 3, H, W), got {tuple(a.shape)} and {tuple(b.shape)}'
        )
    for images in (a, b):
        if not (images.is_floating_point() or images.dtype == torch.uint8):
            raise TypeError(f'{name}: expected uint8 or floating point values in 0..255, got {images.dtype}')
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f'{name}: dtype is {dtype}, but must be torch.float32 or torch.float64')


def ssim_sum(a: Tensor, b: Tensor, blur: Callable[[Tensor], Tensor]) -> Tensor:
    """The sum of the SSIM map of two (3, h + 10, w + 10) images -> scalar.

    `blur` takes the means under the window: (Q, 3, h + 10, w + 10) -> (Q, 3, h, w).
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

    Variances are small differences of large numbers, and the definition's quotient shows what float32 loses there.
    With the sum s = a + b and the difference d = a - b its two factors are the same as
    1 - mu_d^2 / (mu_a^2 + mu_b^2 + C1) and 1 - var_d / (var_a + var_b + C2), which lose ten times less.
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
    """The window along rows and columns: (Q, 3, h + 10, w + 10) -> (Q, 3, h, w)."""
    if x.dtype == torch.float64:
        return filter_planes(x) if x.device.type == 'cpu' else convolve_axis(convolve_axis(x, -2), -1)
    # In float32 convolutions would be rounded to TF32 or half precision wherever the caller allows that to the network,
    # and OpenCV's sums are less exact.
    return add_shifted_planes(add_shifted_planes(x, -2), -1)


def filter_planes(x: Tensor) -> Tensor:
    """`blur` by OpenCV, the quickest on a CPU."""
    taps = np.array(TAPS)
    blurred = x.new_empty(*x.shape[:2], *(side - 2 * RADIUS for side in x.shape[2:]))
    for plane, result in zip(x.flatten(0, 1).numpy(), blurred.flatten(0, 1).numpy(), strict=True):
        result[:] = cv2.sepFilter2D(plane, -1, taps, taps)[RADIUS:-RADIUS, RADIUS:-RADIUS]
    return blurred


def add_shifted_planes(x: Tensor, dim: int) -> Tensor:
    """The window along rows (`dim` -2) or columns (-1), as a weighted sum of views: (Q, 3, H, W) -> 10 less there."""
    size = x.shape[dim] - 2 * RADIUS
    blurred = x.narrow(dim, RADIUS, size) * TAPS[RADIUS]
    # The window is symmetric: taps come in pairs.
    for near in range(RADIUS):
        far = 2 * RADIUS - near
        blurred.add_(x.narrow(dim, near, size) + x.narrow(dim, far, size), alpha=TAPS[near])
    return blurred


def convolve_axis(x: Tensor, dim: int) -> Tensor:
    """The same in one pass over memory: a convolution of each plane by itself."""
    planes = x.flatten(0, 1)
    taps = x.new_tensor(TAPS).view((11, 1) if dim == -2 else (1, 11)).expand(len(planes), 1, -1, -1)
    with torch.autocast(x.device.type, enabled=False):
        return F.conv2d(planes[None], taps.contiguous(), groups=len(planes))[0].unflatten(0, x.shape[:2])

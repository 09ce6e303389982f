"""SSIM of stock BasicSR, and SSIM-3D, the SSIM of the paper's tables; for batches on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

RADIUS = 5
TAPS = np.exp(-(np.arange(-RADIUS, RADIUS + 1) ** 2) / (2 * 1.5**2))
TAPS /= TAPS.sum()
C1 = (0.01 * 255) ** 2
C2 = (0.03 * 255) ** 2

CPU_STRIP_ROWS = 64
"""On the CPU, frames are processed in strips of this many rows, which fit into the cache."""


def _channel_matrix() -> Tensor:
    """Window of SSIM-3D along the channels as a 3x3 matrix: row i holds the weights for output channel i.

    With replicate padding, taps outside the three channels read the nearest channel.
    """
    matrix = np.zeros((3, 3))
    for channel in range(3):
        np.add.at(matrix[channel], np.clip(channel + np.arange(-RADIUS, RADIUS + 1), 0, 2), TAPS)
    return torch.from_numpy(matrix)


CHANNEL_MATRIX = _channel_matrix()


@torch.no_grad()
def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the 2-D SSIM of image pairs, averaged over the channels: BasicSR's `calculate_ssim` to within 1e-10.

    The window is 11x11, Gaussian with sigma 1.5. Positions where it exceeds the image are left out.

    Args:
        a: (N, 3, H, W) in 0..255, uint8 or floating point, on any device; H and W are at least 11.
        b: same shape, on the same device.

    Returns:
        (N,) float64 on the inputs' device, without gradients.
    """
    return torch.stack([_mean_ssim(x.double(), y.double(), blur) for x, y in zip(a, b, strict=True)])


@torch.no_grad()
def ssim3d(a: Tensor, b: Tensor) -> Tensor:
    r"""Return the SSIM of image pairs with one three-dimensional window, as in the released scoring code.

    An image is a volume of 3 x H x W. With w the 11x11x11 Gaussian window of sigma 1.5 on each axis, normalised to
    sum 1 and applied after replicate padding of 5 on all six sides:

    .. math:: \mu_a = w * a, \quad \sigma_a^2 = w * a^2 - \mu_a^2, \quad \sigma_{ab} = w * ab - \mu_a \mu_b
    .. math:: SSIM = mean \frac{(2 \mu_a \mu_b + C_1)(2 \sigma_{ab} + C_2)}
                               {(\mu_a^2 + \mu_b^2 + C_1)(\sigma_a^2 + \sigma_b^2 + C_2)}

    with C1 = (0.01 * 255)^2, C2 = (0.03 * 255)^2 and the mean over the volume, borders included. This differs from the
    usual 2-D SSIM of each channel (BasicSR's `calculate_ssim`) by 0.01 to 0.16 on noisy images. The released code
    computes in float32, with errors up to 1e-5.

    Args:
        a: (N, 3, H, W) with any H and W, in 0..255: uint8 or floating point, on any device.
        b: same shape, on the same device.

    Returns:
        (N,) float64 on the inputs' device, without gradients; exactly 1 for identical images.
    """
    return torch.stack([_mean_ssim(_padded(x), _padded(y), _blur_volumes) for x, y in zip(a, b, strict=True)])


def _padded(image: Tensor) -> Tensor:
    return F.pad(image.double()[None], [RADIUS] * 4, mode='replicate')[0]


def calculate_ssim3d(
    img: NDArray[Any], img2: NDArray[Any], crop_border: int = 0, test_y_channel: Literal[False] = False, **kwargs: Any
) -> float:
    """`ssim3d` with the signature of BasicSR's metrics.

    RGB and BGR give the same score, because window and padding are symmetric along the channels.

    Args:
        img: (H, W, 3), uint8 or floating point, 0..255.
        img2: same shape.
        crop_border: pixels to leave out at each edge; 0 in the paper.
        test_y_channel: must be false; BasicSR's other metrics have this argument.
        **kwargs: ignored; BasicSR passes all keys of the options file, e.g. `better`.

    Raises:
        ValueError: the shapes differ or are not those of colour images, or `test_y_channel=True`.
    """
    if test_y_channel:
        raise ValueError('calculate_ssim3d: test_y_channel must be false: SSIM-3D is defined on all three channels')
    if img.shape != img2.shape or img.ndim != 3 or img.shape[2] != 3:
        raise ValueError(
            f'calculate_ssim3d: expected two colour images (H, W, 3) of one shape, got {img.shape} and {img2.shape}'
        )
    height, width, _ = img.shape
    inner = slice(crop_border, height - crop_border), slice(crop_border, width - crop_border)
    # Copied, because torch supports neither negative strides nor, without a warning, read-only arrays.
    return float(ssim3d(*(torch.from_numpy(x[inner].transpose(2, 0, 1).copy())[None] for x in (img, img2))))


def _mean_ssim(a: Tensor, b: Tensor, blur: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean of the SSIM map of two float64 (3, h + 10, w + 10) images; `blur` applies the window."""
    height, width = (side - 2 * RADIUS for side in a.shape[-2:])
    strip = CPU_STRIP_ROWS if a.device.type == 'cpu' else height
    total = torch.zeros((), dtype=a.dtype, device=a.device)
    for top in range(0, height, strip):
        rows = slice(top, min(top + strip, height) + 2 * RADIUS)
        total += _ssim_map(a[:, rows], b[:, rows], blur).sum()
    return total / (3 * height * width)


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


def _blur_volumes(volumes: Tensor) -> Tensor:
    """Apply the window along all three axes: (Q, 3, h + 10, w + 10) -> (Q, 3, h, w)."""
    return torch.einsum('ij,qjhw->qihw', CHANNEL_MATRIX.to(volumes), blur(volumes))

"""SSIM-3D: the SSIM of the paper's tables, whose window reaches over rows, columns and colour channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dstnet_arch.metrics.ssim import RADIUS, TAPS, blur, check_batches, ssim_sum


def _channel_matrix() -> list[list[float]]:
    """The window along the channels, as a 3x3 matrix: row i weighs the channels that make up output channel i.

    The window's eleven taps meet three channels; every tap that falls outside reads the nearest channel (replicate
    padding), so all taps but one or two add up on the outer channels.
    """
    matrix = [[0.0] * 3 for _ in range(3)]
    for channel in range(3):
        for offset, tap in zip(range(-RADIUS, RADIUS + 1), TAPS, strict=True):
            matrix[channel][min(max(channel + offset, 0), 2)] += tap
    return matrix


CHANNEL_MATRIX = _channel_matrix()


@torch.no_grad()
def ssim3d(a: Tensor, b: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    r"""SSIM of image pairs with one three-dimensional window, as the paper's numbers were made (released code).

    An image is a volume of 3 x H x W. With w the 11x11x11 Gaussian window of sigma 1.5 on each axis, summing to 1,
    applied after replicate padding of 5 on all six sides:

    .. math:: \mu_a = w * a, \quad \sigma_a^2 = w * a^2 - \mu_a^2, \quad \sigma_{ab} = w * ab - \mu_a \mu_b
    .. math:: SSIM = mean \frac{(2 \mu_a \mu_b + C_1)(2 \sigma_{ab} + C_2)}
                               {(\mu_a^2 + \mu_b^2 + C_1)(\sigma_a^2 + \sigma_b^2 + C_2)}

    with C1 = (0.01 * 255)^2, C2 = (0.03 * 255)^2 and the mean over the volume, borders included. It is not the usual
    2-D SSIM of each channel (BasicSR's `calculate_ssim`): on noisy images the two differ by 0.01 to 0.16.

    Args:
        a: (N, 3, H, W), any H and W from 1, 0..255: uint8 or floating point, on any device.
        b: the same shape, on the same device.
        dtype: what to compute in. The released code's float32 is up to 1e-5 off, depending on the machine; float64
            is exact to every digit that anyone prints, and still over 20 times quicker than its dense convolution.
            float32 is there for devices that lack float64 or are slow at it: half the time or less, off by 1e-8 on most
            images and by 1e-5 on flat ones that differ in brightness.

    Returns:
        (N,) float64 (`dtype` float32: float32) on the inputs' device; exactly 1 for identical images. No gradients.

    Raises:
        ValueError: shapes that differ or are not (N, 3, H, W), or another `dtype`.
        TypeError: inputs that are neither uint8 nor floating point.
    """
    check_batches('ssim3d', a, b, dtype)
    return torch.stack([_ssim3d_of_pair(x.to(dtype), y.to(dtype)) for x, y in zip(a, b, strict=True)])


def _ssim3d_of_pair(a: Tensor, b: Tensor) -> Tensor:
    """`ssim3d` of two (3, H, W) images -> scalar."""
    _, height, width = a.shape
    a, b = (F.pad(image[None], [RADIUS] * 4, mode='replicate')[0] for image in (a, b))
    return ssim_sum(a, b, _blur) / (3 * height * width)


def _blur(volumes: Tensor) -> Tensor:
    """The window, one axis after the other: (Q, 3, h + 10, w + 10) -> (Q, 3, h, w)."""
    planes = blur(volumes)
    # No matrix product: it would be rounded to TF32 wherever the caller allows that to the network.
    matrix = torch.tensor(CHANNEL_MATRIX, dtype=planes.dtype, device=planes.device)[..., None, None]
    mixed = matrix[:, 0] * planes[:, 0:1]
    return mixed.addcmul_(matrix[:, 1], planes[:, 1:2]).addcmul_(matrix[:, 2], planes[:, 2:3])


def calculate_ssim3d(
    img: NDArray[Any],
    img2: NDArray[Any],
    crop_border: int = 0,
    input_order: str = 'HWC',
    test_y_channel: bool = False,
    **kwargs: Any,
) -> float:
    """`ssim3d` in the form of BasicSR's metrics.

    RGB and BGR give the same score: window and padding are symmetric along the channels, so reversing their order
    reverses the volume and leaves the mean as it is. (Any other order of the channels would change it.)

    Args:
        img: (H, W, 3), or (3, H, W) with `input_order='CHW'`; uint8 or floating point, 0..255.
        img2: the same shape.
        crop_border: pixels to leave out along each edge; 0 in the paper.
        input_order: 'HWC' or 'CHW'.
        test_y_channel: must be false; here since BasicSR's metrics take it.
        **kwargs: not used; BasicSR passes the whole entry of the options file, e.g. `better`.

    Raises:
        ValueError: shapes that differ or are not those of colour images, a border that leaves no pixel, another
            `input_order`, or `test_y_channel=True`.
        TypeError: images that are neither uint8 nor floating point.
    """
    if test_y_channel:
        raise ValueError('calculate_ssim3d: test_y_channel must be false: SSIM-3D is defined on all three channels')
    if input_order not in ('HWC', 'CHW'):
        raise ValueError(f"calculate_ssim3d: input_order is {input_order!r}, but must be 'HWC' or 'CHW'")
    shape = f'({"H, W, 3" if input_order == "HWC" else "3, H, W"})'
    channels = input_order.index('C')
    if img.shape != img2.shape or img.ndim != 3 or img.shape[channels] != 3:
        raise ValueError(
            f'calculate_ssim3d: expected two images of one shape {shape}, got {img.shape} and {img2.shape}'
        )
    height, width = (side for axis, side in enumerate(img.shape) if axis != channels)
    if crop_border < 0 or min(height, width) <= 2 * crop_border:
        raise ValueError(
            f'calculate_ssim3d: crop_border is {crop_border}, but must be at least 0 '
            f'and leave something of {height}x{width} pixels'
        )
    return float(ssim3d(_to_batch(img, input_order, crop_border), _to_batch(img2, input_order, crop_border)))


def _to_batch(image: NDArray[Any], input_order: str, crop_border: int) -> Tensor:
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f'calculate_ssim3d: expected uint8 or floating point values in 0..255, got {image.dtype}')
    planes = image.transpose(2, 0, 1) if input_order == 'HWC' else image
    _, height, width = planes.shape
    planes = planes[:, crop_border : height - crop_border, crop_border : width - crop_border]
    # A copy: torch takes neither negative strides (an image flipped by a view) nor read-only arrays without a warning.
    return torch.from_numpy(np.array(planes, order='C'))[None]

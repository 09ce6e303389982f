"""SSIM-3D, the SSIM of the paper's tables: its window extends over rows, columns and colour channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dstnet_arch.metrics.ssim import RADIUS, TAPS, blur, ssim_sum


def _channel_matrix() -> Tensor:
    """Window along the channels as a 3x3 matrix: row i holds the weights for output channel i.

    With replicate padding, taps outside the three channels read the nearest channel.
    """
    matrix = np.zeros((3, 3))
    for channel in range(3):
        np.add.at(matrix[channel], np.clip(channel + np.arange(-RADIUS, RADIUS + 1), 0, 2), TAPS)
    return torch.from_numpy(matrix)


CHANNEL_MATRIX = _channel_matrix()


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
    return torch.stack([_ssim3d_of_pair(x.double(), y.double()) for x, y in zip(a, b, strict=True)])


def _ssim3d_of_pair(a: Tensor, b: Tensor) -> Tensor:
    _, height, width = a.shape
    a, b = (F.pad(image[None], [RADIUS] * 4, mode='replicate')[0] for image in (a, b))
    return ssim_sum(a, b, _blur) / (3 * height * width)


def _blur(volumes: Tensor) -> Tensor:
    """Apply the window along all three axes: (Q, 3, h + 10, w + 10) -> (Q, 3, h, w)."""
    return torch.einsum('ij,qjhw->qihw', CHANNEL_MATRIX.to(volumes), blur(volumes))


def calculate_ssim3d(
    img: NDArray[Any],
    img2: NDArray[Any],
    crop_border: int = 0,
    input_order: str = 'HWC',
    test_y_channel: bool = False,
    **kwargs: Any,
) -> float:
    """`ssim3d` with the signature of BasicSR's metrics.

    RGB and BGR give the same score, because window and padding are symmetric along the channels.

    Args:
        img: (H, W, 3), or (3, H, W) with `input_order='CHW'`; uint8 or floating point, 0..255.
        img2: same shape.
        crop_border: pixels to leave out at each edge; 0 in the paper.
        input_order: 'HWC' or 'CHW'.
        test_y_channel: must be false; BasicSR's other metrics have this argument.
        **kwargs: ignored; BasicSR passes all keys of the options file, e.g. `better`.

    Raises:
        ValueError: the shapes differ or are not those of colour images, or `test_y_channel=True`.
    """
    if test_y_channel:
        raise ValueError('calculate_ssim3d: test_y_channel must be false: SSIM-3D is defined on all three channels')
    planes = [image.transpose(2, 0, 1) if input_order == 'HWC' else image for image in (img, img2) if image.ndim == 3]
    if img.shape != img2.shape or not planes or len(planes[0]) != 3:
        raise ValueError(
            f'calculate_ssim3d: expected two colour images of one shape ({input_order}), got {img.shape} and '
            f'{img2.shape}'
        )
    _, height, width = planes[0].shape
    inner = (..., slice(crop_border, height - crop_border), slice(crop_border, width - crop_border))
    # Copied, because torch supports neither negative strides nor, without a warning, read-only arrays.
    return float(ssim3d(*(torch.from_numpy(np.array(image[inner], order='C'))[None] for image in planes)))

"""Camera blur as the mean of many short exposures in linear light, and interpolation between exposures.

The mean of consecutive frames is the blurry frame, the middle frame is its sharp partner (Nah et al., "Deep Multi-scale
Convolutional Neural Network for Dynamic Scene Deblurring", CVPR 2017, Section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dstnet_arch.errors import DataError

Image = NDArray[Any]
"""uint8 stored values, usually (height, width, 3)."""
Light = NDArray[Any]
"""float32 or float64 in [0, 1], proportional to the light; 1 is the light of the stored value 255."""
Flow = NDArray[np.float32]
"""(height, width, 2): x and y in pixels, from each pixel of one frame to its position in the other."""

MIN_FLOW_SIZE = 32
"""Smallest height and width for optical flow, in pixels."""


@dataclass(frozen=True)
class Response:
    """Camera response.

    Args:
        name: name for records.
        to_light: strictly increasing mapping from stored values in [0, 1] to light in [0, 1].
    """

    name: str
    to_light: Callable[[NDArray[np.float64]], NDArray[np.float64]]

    def light(self, image: Image, dtype: type = np.float64) -> Light:
        """Convert stored values (uint8, any shape) to light of the same shape."""
        table: Light = self._levels.astype(dtype, copy=False)
        return np.asarray(cv2.LUT(image.reshape(-1, 1), table)).reshape(image.shape)  # much faster than indexing

    def image(self, light: Light) -> Image:
        """Convert light to the nearest stored values, uint8."""
        return np.searchsorted(self._rounding_limits, light).astype(np.uint8)

    @cached_property
    def _levels(self) -> NDArray[np.float64]:
        return self.to_light(np.arange(256) / 255)

    @cached_property
    def _rounding_limits(self) -> NDArray[np.float64]:
        return self.to_light((np.arange(255) + 0.5) / 255)


LINEAR = Response('linear', lambda stored: stored)
GAMMA_22 = Response('gamma2.2', lambda stored: stored**2.2)  # Nah et al. for a camera with an unknown curve
SRGB = Response(  # IEC 61966-2-1
    'srgb', lambda stored: np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)
)
RESPONSES = {response.name: response for response in (SRGB, GAMMA_22, LINEAR)}


def load_response(name: str) -> Response:
    """Return a response by its name, or a measured one from a text file, linear between the given points.

    Args:
        name: one of `RESPONSES`, or a file of 256 numbers: the light of each stored value from 0 to 255, in any unit,
            strictly increasing. The first number stands for no light.

    Raises:
        DataError: no such name or file, or the file is not a curve.
    """
    if name in RESPONSES:
        return RESPONSES[name]
    try:
        table = np.array([float(word) for word in Path(name).read_text(encoding='utf-8').replace(',', ' ').split()])
        if table.shape != (256,) or not np.isfinite(table).all() or not (np.diff(table) > 0).all():
            raise ValueError('expected 256 finite, increasing numbers')
    except (OSError, ValueError) as error:
        raise DataError(
            f'--response {name}: {error}. Use {", ".join(RESPONSES)}, or a text file with the light of each stored '
            'value from 0 to 255'
        ) from None
    table = (table - table[0]) / (table[-1] - table[0])
    return Response('file', lambda stored: np.interp(stored, np.arange(256) / 255, table))


def mean_light(lights: Iterable[Light], weights: Iterable[float]) -> NDArray[np.float64]:
    """Return the weighted mean in float64 of arrays of the same shape, which are consumed one at a time."""
    total: Any = 0.0
    weight_sum = 0.0
    for light, weight in zip(lights, weights, strict=True):
        total = total + np.multiply(light, weight, dtype=np.float64)
        weight_sum += weight
    return np.asarray(total / weight_sum)


def flow_to(first: Image, second: Image) -> Flow:
    """Estimate the optical flow between two frames (height, width, 3), BGR, uint8, of at least `MIN_FLOW_SIZE`.

    Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016, in OpenCV.
    """
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    gray = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in (first, second)]
    return np.asarray(dis.calc(*gray, None))


def light_between(first: Light, second: Light, forward: Flow, backward: Flow, time: float) -> Light:
    """Interpolate the light between two frames: (height, width, 3), float32, in [0, 1].

    The frames are warped to t = `time` by the flow of Jiang et al., "Super SloMo", CVPR 2018, Eq. 4, and blended with
    the weights 1 - t and t. Where one end lies outside the frame, only the other one is used.

    Args:
        first: (height, width, 3), float32.
        second: next frame, same shape.
        forward: flow from the first frame to the second.
        backward: flow from the second frame to the first.
        time: position in (0, 1).
    """
    height, width = first.shape[:2]
    to_first = -(1 - time) * time * forward + time**2 * backward
    to_second = (1 - time) ** 2 * forward - time * (1 - time) * backward
    total = np.zeros_like(first)
    weight_sum = np.zeros((height, width), np.float32)
    for light, flow, weight in ((first, to_first, 1 - time), (second, to_second, time)):
        x = np.arange(width, dtype=np.float32) + flow[..., 0]
        y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
        warped = cv2.remap(light, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
        # Not exactly 0: where both ends are outside, the border pixel is the best guess.
        weights = np.where(inside, np.float32(weight), np.float32(1e-6 * weight))
        total += weights[..., None] * warped
        weight_sum += weights
    return np.clip(total / weight_sum[..., None], 0, 1)

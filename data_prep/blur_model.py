"""Camera blur as the mean of many short exposures in linear light.

The mean of consecutive frames is the blurry frame, the middle frame is its sharp partner (Nah et al., "Deep Multi-scale
Convolutional Neural Network for Dynamic Scene Deblurring", CVPR 2017, Section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]
"""uint8 stored values, usually (height, width, 3)."""
Light = NDArray[Any]
"""float32 or float64 in [0, 1], proportional to the light; 1 is the light of the stored value 255."""


@dataclass(frozen=True)
class Response:
    """Camera response: the mapping between stored values and light, both in [0, 1].

    Args:
        name: Name for records.
        to_light: Strictly increasing mapping from stored values to light.
    """

    name: str
    to_light: Callable[[NDArray[np.float64]], NDArray[np.float64]]

    def light(self, image: Image, dtype: type = np.float64) -> Light:
        """Convert stored values (uint8, any shape) to light of the same shape."""
        import cv2

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


@lru_cache(maxsize=8)
def power_law(gamma: float) -> Response:
    """Response `light = stored ** gamma`, for a positive gamma."""
    return Response(f'gamma{gamma:g}', lambda stored: stored**gamma)


def response_from_values(name: str, values: Sequence[float]) -> Response:
    """Response from a measured curve, linear between the given points.

    Args:
        name: Name for records.
        values: Light of each stored value from 0 to 255, in any unit. The value 0 stands for no light.

    Raises:
        ValueError: `values` are not 256 finite, strictly increasing numbers.
    """
    table = np.asarray(values, np.float64)
    if table.shape != (256,) or not np.isfinite(table).all() or not (np.diff(table) > 0).all():
        raise ValueError('expected 256 finite, increasing numbers')
    table = (table - table[0]) / (table[-1] - table[0])
    return Response(name, lambda stored: np.interp(stored, np.arange(256) / 255, table))


def _srgb_to_light(stored: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)


GAMMA_22 = power_law(2.2)
"""Approximation by Nah et al. for a camera whose curve is unknown."""
LINEAR = Response('linear', lambda stored: stored)
SRGB = Response('srgb', _srgb_to_light)  # IEC 61966-2-1
RESPONSES = {response.name: response for response in (SRGB, GAMMA_22, LINEAR)}


def mean_light(lights: Iterable[Light], weights: Iterable[float]) -> NDArray[np.float64]:
    """Return the weighted mean in float64 of arrays of the same shape, which are consumed one at a time."""
    total: Any = 0.0
    weight_sum = 0.0
    for light, weight in zip(lights, weights, strict=True):
        total = total + np.multiply(light, weight, dtype=np.float64)
        weight_sum += weight
    return np.asarray(total / weight_sum)


def blurry_and_sharp(frames: Iterable[Image], window: int, response: Response) -> Iterator[tuple[Image, Image]]:
    """Average consecutive runs of frames.

    Args:
        frames: Frames in temporal order, uint8; consumed lazily, `window` of them are held.
        window: Number of frames per average; odd, so that there is a middle one.
        response: Camera response.

    Yields:
        (blurry, sharp). Remaining frames that do not fill a window are dropped.
    """
    iterator = iter(frames)
    while len(group := list(islice(iterator, window))) == window:
        yield response.image(mean_light(map(response.light, group), [1] * window)), group[window // 2]

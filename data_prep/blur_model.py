"""Camera blur as the mean of many short exposures in linear light.

The mean of consecutive frames is the blurry frame, the middle frame is its sharp partner (Nah et al., "Deep Multi-scale
Convolutional Neural Network for Dynamic Scene Deblurring", CVPR 2017, Section 3).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]
"""uint8 stored values, usually (height, width, 3)."""
Light = NDArray[Any]
"""float32 or float64 in [0, 1], proportional to the light; 1 is the light of the stored value 255."""


@dataclass(frozen=True)
class Response:
    """Camera response: the mapping between stored values and light, both in [0, 1]."""

    name: str
    to_light: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    to_stored: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    values: tuple[float, ...] = ()
    """Light of the 256 stored values if the curve was measured."""

    def light(self, image: Image, dtype: type = np.float64) -> Light:
        """Convert stored values (uint8, any shape) to light of the same shape."""
        import cv2

        table: Light = _table(self).astype(dtype, copy=False)
        return np.asarray(cv2.LUT(image.reshape(-1, 1), table)).reshape(image.shape)  # much faster than indexing

    def image(self, light: Light) -> Image:
        """Convert light to uint8 stored values, rounded and clipped."""
        stored = self.to_stored(np.clip(light, 0, 1, dtype=np.float64))
        return np.asarray(np.rint(255 * stored).astype(np.uint8))


@lru_cache(maxsize=8)
def _table(response: Response) -> NDArray[np.float64]:
    return response.to_light(np.arange(256) / 255)


@lru_cache(maxsize=8)
def power_law(gamma: float) -> Response:
    """Response `light = stored ** gamma`.

    Raises:
        ValueError: `gamma` is not positive.
    """
    if not gamma > 0:
        raise ValueError(f'gamma is {gamma}, it must be positive')
    return Response(f'gamma{gamma:g}', lambda stored: stored**gamma, lambda light: light ** (1 / gamma))


def response_from_values(name: str, values: Sequence[float]) -> Response:
    """Response from a measured curve, linear between the given points.

    Args:
        name: Name for records.
        values: Light of each stored value from 0 to 255, in any unit. The value 0 stands for no light.

    Raises:
        ValueError: `values` are not 256 finite, strictly increasing numbers.
    """
    table = np.asarray(values, np.float64)
    if table.shape != (256,):
        raise ValueError(f'{table.size} numbers given; a response curve has 256, the light of each stored value')
    if not np.isfinite(table).all():
        raise ValueError('the numbers must be finite')
    if not (np.diff(table) > 0).all():
        position = int(np.flatnonzero(np.diff(table) <= 0)[0])
        raise ValueError(
            f'the numbers must increase, but number {position + 2} ({table[position + 1]:g}) is not above '
            f'the one before ({table[position]:g})'
        )
    table = (table - table[0]) / (table[-1] - table[0])
    stored = np.arange(256) / 255
    return Response(
        name,
        lambda asked: np.interp(asked, stored, table),
        lambda light: np.interp(light, table, stored),
        tuple(table.tolist()),
    )


def _srgb_to_light(stored: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)


def _srgb_to_stored(light: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


GAMMA_22 = power_law(2.2)
"""Approximation by Nah et al. for a camera whose curve is unknown."""
LINEAR = Response('linear', lambda stored: stored, lambda light: light)
SRGB = Response('srgb', _srgb_to_light, _srgb_to_stored)  # IEC 61966-2-1
RESPONSES = {response.name: response for response in (SRGB, GAMMA_22, LINEAR)}


def mean_light(lights: Iterable[Light], weights: Iterable[float] | None = None) -> NDArray[np.float64]:
    """Weighted mean in float64.

    Args:
        lights: At least one array; all of the same shape. They are consumed one at a time and not changed.
        weights: One weight per array; equal weights if None.

    Raises:
        ValueError: `lights` is empty, or the counts differ.
    """
    total: Any = 0.0
    weight_sum = 0.0
    pairs = ((light, 1.0) for light in lights) if weights is None else zip(lights, weights, strict=True)
    for light, weight in pairs:
        total = total + np.multiply(light, weight, dtype=np.float64)
        weight_sum += weight
    if not weight_sum:
        raise ValueError('no frames to average')
    return np.asarray(total / weight_sum)


def blurry_and_sharp(frames: Iterable[Image], window: int, response: Response) -> Iterator[tuple[Image, Image]]:
    """Average consecutive runs of frames.

    Args:
        frames: Frames in temporal order, uint8; consumed lazily, `window` of them are held.
        window: Number of frames per average; odd, so that there is a middle one.
        response: Camera response.

    Yields:
        (blurry, sharp). Remaining frames that do not fill a window are dropped.

    Raises:
        ValueError: `window` is not odd and positive.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f'window is {window}, it must be odd and positive')
    held: deque[Image] = deque()
    for frame in frames:
        held.append(frame)
        if len(held) == window:
            yield response.image(mean_light(map(response.light, held))), held[window // 2]
            held.clear()

"""How a camera blurs: it adds up the light that falls in while the shutter is open.

Many short exposures stand for one long one: their mean in linear light is the blurry frame, the one in the middle its
sharp partner (Nah et al., "Deep Multi-scale Convolutional Neural Network for Dynamic Scene Deblurring", CVPR 2017,
Section 3, who filmed at 240 frames a second for it).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]
"""uint8 or uint16, as stored, of any shape; (height, width, 3) mostly."""
Light = NDArray[Any]
"""float32 or float64, in proportion to the light; 0 is none, 1 what the largest stored value stands for."""


@dataclass(frozen=True)
class Response:
    """How a camera stores light: its response curve, both ways, on values in [0, 1]."""

    name: str
    to_light: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    to_stored: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    values: tuple[float, ...] = ()
    """The light of each of the 256 stored values, where the curve is known at these alone."""

    def light(self, picture: Image, dtype: type = np.float64) -> Light:
        """The light of stored values, of the same shape.

        Raises:
            ValueError: `picture` is not uint8 or uint16; or not uint8, for a curve that is known at 256 values.
        """
        import cv2

        if picture.dtype not in (np.uint8, np.uint16):
            raise ValueError(f'frames must be uint8 or uint16, not {picture.dtype}')
        if self.values and picture.dtype != np.uint8:
            raise ValueError(f'the response {self.name} is known for uint8 alone, not {picture.dtype}')
        table: Light = _table(self, picture.dtype.str).astype(dtype, copy=False)
        if picture.dtype != np.uint8:
            return np.asarray(table[picture])
        return np.asarray(cv2.LUT(picture.reshape(-1, 1), table)).reshape(picture.shape)  # much faster than indexing

    def picture(self, light: Light, dtype: type = np.uint8) -> Image:
        """Light as stored values, rounded to whole ones; more light than fits is clipped."""
        peak = np.iinfo(dtype).max
        stored = self.to_stored(np.clip(light, 0, 1, dtype=np.float64))
        return np.asarray(np.rint(peak * stored).astype(dtype))


@lru_cache(maxsize=8)
def power_law(gamma: float) -> Response:
    """`light = stored ** gamma`; 1 takes the stored values themselves for light.

    Raises:
        ValueError: `gamma` is not positive.
    """
    if not gamma > 0:
        raise ValueError(f'gamma is {gamma}, it must be positive')
    return Response(f'gamma{gamma:g}', lambda stored: stored**gamma, lambda light: light ** (1 / gamma))


def response_from_values(name: str, values: Sequence[float]) -> Response:
    """A measured curve.

    Args:
        name: For records.
        values: The light that each stored value from 0 to 255 stands for, in any unit. In between, the curve is
            taken as straight. No light is what the value 0 stands for.

    Raises:
        ValueError: not 256 finite numbers, each larger than the one before.
    """
    table = np.asarray(values, np.float64)
    if table.shape != (256,):
        raise ValueError(f'{table.size} numbers; a response curve has 256, the light of each stored value')
    if not np.isfinite(table).all():
        raise ValueError('the numbers must be finite')
    if not (np.diff(table) > 0).all():
        position = int(np.flatnonzero(np.diff(table) <= 0)[0])
        raise ValueError(
            f'more light must give a larger value, but number {position + 2} ({table[position + 1]:g}) is not above '
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
"""What Nah et al. take for a camera whose curve is not known."""
LINEAR = Response('linear', lambda stored: stored, lambda light: light)
SRGB = Response('srgb', _srgb_to_light, _srgb_to_stored)  # IEC 61966-2-1
RESPONSES = {response.name: response for response in (SRGB, GAMMA_22, LINEAR)}


def exposure_weights(length: float) -> NDArray[np.float64]:
    """For how much of each frame's time the shutter is open.

    A frame stands for the time from half an interval before it to half an interval after it. The shutter is open for
    `length` intervals, as long before the middle frame as after it.

    Returns:
        An odd number of weights in (0, 1] with the sum `length`. All are 1 where `length` is odd; else the first and
        the last are smaller.

    Raises:
        ValueError: `length` is not positive.
    """
    if not length > 0:
        raise ValueError(f'the shutter is open for {length} frames, it must be more than 0')
    half = max(0, math.ceil((length - 1) / 2 - 1e-9))
    weights = np.ones(2 * half + 1)
    weights[[0, -1]] = (length - (2 * half - 1)) / 2 if half else length
    return weights


def mean_light(lights: Iterable[Light], weights: Iterable[float] | None = None) -> NDArray[np.float64]:
    """The weighted mean, in float64.

    Args:
        lights: Of one shape, at least one. Taken one at a time, and left as they are.
        weights: As many; equal if None.

    Raises:
        ValueError: nothing to average, differing shapes or counts.
    """
    total: NDArray[np.float64] | None = None
    weight_sum = 0.0
    pairs = ((light, 1.0) for light in lights) if weights is None else zip(lights, weights, strict=True)
    for light, weight in pairs:
        if total is None:
            total = np.multiply(light, weight, dtype=np.float64)
        elif light.shape != total.shape:
            raise ValueError(f'frames differ: {total.shape} and {light.shape}')
        else:
            total += light if weight == 1 else weight * light
        weight_sum += weight
    if total is None:
        raise ValueError('no frames to average')
    total /= weight_sum
    return total


def average_in_linear_light(
    frames: Iterable[Image], response: Response = GAMMA_22, weights: Iterable[float] | None = None
) -> Image:
    """Mean of frames as light adds up: decoded by the response, averaged, encoded again, rounded.

    Args:
        frames: At least one frame; uint8 or uint16, of the same type and shape. Taken one at a time.
        response: Of the camera.
        weights: Of the frames; equal if None.

    Returns:
        An array like a frame.

    Raises:
        ValueError: no frames, differing ones, or a type that is not uint8 or uint16.
    """
    dtypes: list[Any] = []

    def lights() -> Iterator[Light]:
        for frame in frames:
            dtypes.append(frame.dtype)
            if frame.dtype != dtypes[0]:
                raise ValueError(f'frames differ: {dtypes[0]} and {frame.dtype}')
            yield response.light(frame)

    mean = mean_light(lights(), weights)
    return response.picture(mean, dtypes[0])


def blurry_and_sharp(
    frames: Iterable[Image], window: int, step: int | None = None, response: Response = GAMMA_22
) -> Iterator[tuple[Image, Image]]:
    """Turn frames of a high rate into pairs of a blurry and a sharp frame at a lower rate.

    Args:
        frames: In their order in time; taken as they are needed, `window` of them are held.
        window: Frames that are averaged: how long the shutter is open. Odd, so that there is a middle one.
        step: Frames from one pair to the next; `window` if None: the shutter opens again as soon as it has closed.
        response: See `average_in_linear_light`.

    Yields:
        (blurry, sharp). Frames at the end that do not fill a window are left out.

    Raises:
        ValueError: `window` is not odd and positive, or `step` is below 1.
    """
    step = window if step is None else step
    if window < 1 or window % 2 == 0:
        raise ValueError(f'window is {window}, it must be odd and positive')
    if step < 1:
        raise ValueError(f'step is {step}, it must be at least 1')
    held: deque[Image] = deque(maxlen=window)
    for position, frame in enumerate(frames):
        held.append(frame)
        start = position - window + 1
        if start >= 0 and start % step == 0:
            yield average_in_linear_light(held, response), held[window // 2]


@lru_cache(maxsize=8)
def _table(response: Response, dtype: str) -> NDArray[np.float64]:
    """Light for each value that a pixel can have."""
    peak = np.iinfo(np.dtype(dtype)).max
    return response.to_light(np.arange(peak + 1) / peak)

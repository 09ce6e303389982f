"""How a camera blurs: it adds up the light that falls in while the shutter is open.

Many short exposures stand for one long one: their mean in linear light is the blurry frame, the one in the middle its
sharp partner (Nah et al., "Deep Multi-scale Convolutional Neural Network for Dynamic Scene Deblurring", CVPR 2017,
Section 3, who filmed at 240 frames a second for it).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]
"""uint8 or uint16, gamma-encoded, of any shape; (height, width, 3) mostly."""


def average_in_linear_light(frames: Iterable[Image], gamma: float = 2.2) -> Image:
    """Mean of gamma-encoded frames as light adds up: decoded by `x ** gamma`, averaged, encoded again, rounded.

    Args:
        frames: At least one frame; uint8 or uint16, of the same type and shape. Taken one at a time.
        gamma: Of the camera response; 1 averages the stored values themselves.

    Returns:
        An array like a frame.

    Raises:
        ValueError: no frames, differing ones, a type that is not uint8 or uint16, or a gamma that is not positive.
    """
    if not gamma > 0:
        raise ValueError(f'gamma is {gamma}, it must be positive')
    total: NDArray[np.float64] | None = None
    count = 0
    for frame in frames:
        if frame.dtype not in (np.uint8, np.uint16):
            raise ValueError(f'frames must be uint8 or uint16, not {frame.dtype}')
        linear = _linear_values(frame.dtype.str, gamma)[frame]
        if total is None:
            total, first = linear, frame
        elif frame.shape != first.shape or frame.dtype != first.dtype:
            raise ValueError(f'frames differ: {first.shape} {first.dtype} and {frame.shape} {frame.dtype}')
        else:
            total += linear
        count += 1
    if total is None:
        raise ValueError('no frames to average')
    peak = np.iinfo(first.dtype).max
    return np.rint(peak * (total / count) ** (1 / gamma)).astype(first.dtype)


def blurry_and_sharp(
    frames: Iterable[Image], window: int, step: int | None = None, gamma: float = 2.2
) -> Iterator[tuple[Image, Image]]:
    """Turn frames of a high rate into pairs of a blurry and a sharp frame at a lower rate.

    Args:
        frames: In their order in time; taken as they are needed, `window` of them are held.
        window: Frames that are averaged: how long the shutter is open. Odd, so that there is a middle one.
        step: Frames from one pair to the next; `window` if None: the shutter opens again as soon as it has closed.
        gamma: See `average_in_linear_light`.

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
            yield average_in_linear_light(held, gamma), held[window // 2]


@lru_cache(maxsize=8)
def _linear_values(dtype: str, gamma: float) -> NDArray[np.float64]:
    """Light in [0, 1] for each value that a pixel can have."""
    peak = np.iinfo(np.dtype(dtype)).max
    return (np.arange(peak + 1) / peak) ** gamma

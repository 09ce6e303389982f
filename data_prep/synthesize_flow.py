"""Frame interpolation by optical flow in linear light.

Flow is estimated in both directions by OpenCV (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV
2016). The flow from time t to frames 0 and 1 is (Jiang et al., "Super SloMo", CVPR 2018, Eq. 4)

    F(t→0) = -(1 - t) t F(0→1) + t² F(1→0)
    F(t→1) = (1 - t)² F(0→1) - t (1 - t) F(1→0)

Both frames are warped to t and blended with the weights 1 - t and t. Where one end lies outside the frame, only the
other one is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.blur_model import Image, Light, Response

Flow = NDArray[np.float32]
"""(height, width, 2): x and y in pixels, from each pixel of one frame to its position in the other."""

MIN_SIZE = 32
"""Smallest height and width for optical flow, in pixels."""


class FlowFrame:
    """A frame with the optical flow to its successor, computed on first use.

    Args:
        number: Number of the frame in the footage.
        image: (height, width, 3), BGR, uint8.
        response: Camera response.
    """

    def __init__(self, number: int, image: Image, response: Response) -> None:
        self.number = number
        self.image = image
        self.next: FlowFrame | None = None
        self._response = response
        self._flows: tuple[Flow, Flow] | None = None

    def light(self, time: float = 0.0) -> Light:
        """Return the light (height, width, 3) at `time` in [0, 1): 0 is this frame, 1 the next one."""
        if time == 0:
            return self._response.light(self.image)
        assert self.next is not None
        if self._flows is None:  # two threads may both compute it, with the same result
            self._flows = (flow_to(self.image, self.next.image), flow_to(self.next.image, self.image))
        first, second = (self._response.light(frame.image, np.float32) for frame in (self, self.next))
        return light_between(first, second, *self._flows, time)


def flow_to(first: Image, second: Image) -> Flow:
    """Estimate the optical flow from one frame to another.

    Args:
        first: (height, width, 3), BGR, uint8; at least `MIN_SIZE` high and wide.
        second: Frame of the same size.
    """
    import cv2

    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    gray = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in (first, second)]
    return np.asarray(dis.calc(*gray, None))


def light_between(first: Light, second: Light, forward: Flow, backward: Flow, time: float) -> Light:
    """Interpolate the light between two frames.

    Args:
        first: (height, width, 3), float32.
        second: Next frame, same shape.
        forward: Flow from the first frame to the second.
        backward: Flow from the second frame to the first.
        time: Position in (0, 1).

    Returns:
        (height, width, 3), float32, in [0, 1].
    """
    to_first = -(1 - time) * time * forward + time**2 * backward
    to_second = (1 - time) ** 2 * forward - time * (1 - time) * backward
    total = np.zeros_like(first)
    weight_sum = np.zeros(first.shape[:2], np.float32)
    for light, flow, weight in ((first, to_first, 1 - time), (second, to_second, time)):
        warped, inside = _warp(light, flow)
        # Not exactly 0: where both ends are outside, the border pixel is the best guess.
        weights = np.where(inside, np.float32(weight), np.float32(1e-6 * weight))
        total += weights[..., None] * warped
        weight_sum += weights
    return np.clip(total / weight_sum[..., None], 0, 1)


def _warp(light: Light, flow: Flow) -> tuple[Light, NDArray[np.bool_]]:
    import cv2

    height, width = light.shape[:2]
    x = np.arange(width, dtype=np.float32) + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    warped = cv2.remap(light, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return warped, (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)

"""Frames in between, by optical flow: what a camera of a higher rate would have seen.

The flow between two frames is estimated in both directions (Kroeger et al., "Fast Optical Flow using Dense Inverse
Search", ECCV 2016; OpenCV's implementation). Seen from the time t between them, a point came from frame 0 and goes on
to frame 1 by (Jiang et al., "Super SloMo", CVPR 2018, Eq. 4)

    F(t→0) = -(1 - t) t F(0→1) + t² F(1→0)
    F(t→1) = (1 - t)² F(0→1) - t (1 - t) F(1→0)

and its light is the mean of the light at both ends, weighted by 1 - t and t; by one end alone where the other lies
outside the picture.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.blur_model import Image, Light, Response

Flow = NDArray[np.float32]
"""(height, width, 2): x and y in pixels, from each pixel of one frame to where it is in the other."""

MIN_SIZE = 32
"""Least height and width for the flow, pixels."""


class Moment:
    """A frame of the footage, and the way from it to the next one.

    Args:
        frame: (height, width, 3), BGR, uint8.
        response: Of its camera.
    """

    def __init__(self, frame: Image, response: Response) -> None:
        self.frame = frame
        self.next: Moment | None = None
        self._response = response
        self._flows: tuple[Flow, Flow] | None = None
        self._lock = Lock()

    def light(self, time: float = 0.0) -> Light:
        """Light at `time` from this frame, 0, to the next, 1, exclusive: (height, width, 3).

        Raises:
            ValueError: `time` is not 0 and there is no next frame.
        """
        if time == 0:
            return self._response.light(self.frame)
        if self.next is None:
            raise ValueError('there is no next frame')
        ends = (self._response.light(self.frame, np.float32), self._response.light(self.next.frame, np.float32))
        return light_between(*ends, *self._flows_to_next(), time)

    def _flows_to_next(self) -> tuple[Flow, Flow]:
        assert self.next is not None
        with self._lock:  # neighbouring windows need the same flow, in different threads
            if self._flows is None:
                self._flows = both_flows(self.frame, self.next.frame)
            return self._flows


def both_flows(first: Image, second: Image) -> tuple[Flow, Flow]:
    """The flow from the first frame to the second, and back. Frames are (height, width, 3), BGR, uint8."""
    return flow_to(first, second), flow_to(second, first)


def flow_to(first: Image, second: Image, fast: bool = False) -> Flow:
    """The flow from the first frame to the second.

    Args:
        first: (height, width, 3), BGR, uint8; at least `MIN_SIZE` high and wide.
        second: Likewise, of the same size.
        fast: Several times as fast, and good enough to know the speed.
    """
    import cv2

    preset = cv2.DISOPTICAL_FLOW_PRESET_FAST if fast else cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
    dis: Any = cv2.DISOpticalFlow.create(preset)
    gray = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in (first, second)]
    return np.asarray(dis.calc(*gray, None))


def light_between(first: Light, second: Light, forward: Flow, backward: Flow, time: float) -> Light:
    """The light at a time between two frames.

    Args:
        first: (height, width, 3), float32.
        second: Likewise.
        forward: From the first frame to the second.
        backward: From the second to the first.
        time: In (0, 1).

    Returns:
        (height, width, 3), float32, in [0, 1].
    """
    to_first = -(1 - time) * time * forward + time**2 * backward
    to_second = (1 - time) ** 2 * forward - time * (1 - time) * backward
    total = np.zeros_like(first)
    weight_sum = np.zeros(first.shape[:2], np.float32)
    for light, flow, weight in ((first, to_first, 1 - time), (second, to_second, time)):
        seen, inside = _look(light, flow)
        # Not quite 0: where both ends are outside, the border is the best guess.
        weights = np.where(inside, np.float32(weight), np.float32(1e-6 * weight))
        total += weights[..., None] * seen
        weight_sum += weights
    return np.clip(total / weight_sum[..., None], 0, 1)


def _look(light: Light, flow: Flow) -> tuple[Light, NDArray[np.bool_]]:
    """What each pixel sees at the end of its flow, and whether that is within the picture."""
    import cv2

    height, width = light.shape[:2]
    x = np.arange(width, dtype=np.float32) + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    seen = cv2.remap(light, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return seen, (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)

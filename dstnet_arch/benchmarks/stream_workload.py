"""A stream to measure: made frames of any number, restored and forgotten, so that all memory is the stream's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.streaming.streamer import Streamer


class MadeFrames:
    """Frames that are computed when they are read: noise that moves by one pixel a frame.

    Args:
        num_frame: T.
        height: in pixels.
        width: in pixels.
    """

    def __init__(self, num_frame: int, height: int, width: int) -> None:
        self._num_frame = num_frame
        self._picture = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return self._num_frame

    def __getitem__(self, position: int) -> Tensor:
        if not 0 <= position < self._num_frame:
            raise IndexError(position)
        return self._picture.roll(position, dims=-1)


def prepare_stream(
    num_frame: int, height: int, width: int, network: dict[str, Any], device: str = 'cpu', **settings: Any
) -> Callable[[], int]:
    """Make a stream, ready to run; with plain arguments, so that another process can make it as well.

    Args:
        num_frame: T.
        height: of the frames.
        width: of the frames.
        network: arguments of `DSTNet`; its weights are random.
        device: where it runs.
        **settings: of the `Streamer`.

    Returns:
        A function that restores all frames, keeps none, and returns their number.
    """
    torch.manual_seed(0)
    streamer = Streamer(DSTNet(**network).to(device), **settings)
    frames = MadeFrames(num_frame, height, width)
    return lambda: sum(1 for _ in streamer(frames))

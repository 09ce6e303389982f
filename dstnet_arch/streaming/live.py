"""Low latency: frames restored while the video goes on, each from the frames before it and a few after it.

The network's backward propagation begins at the last frame of a video. Here it begins a few frames ahead, as if the
video ended there, and is repeated for every window of frames; the forward propagation goes on through all of them. So
a restored frame comes after a bounded delay and in bounded memory, and differs a little from the whole clip's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.streaming.streamer import Streamer


class LiveStreamer:
    """Restores videos as they come.

    A window is restored when `lookahead` frames after it have come: a delay of `lookahead` frames for its last frame,
    and of `window - 1` more for its first. The backward propagation, about half of the work, is done for
    `(window + lookahead) / window` frames for every frame given.

    Args:
        net: a DSTNet or DSTNetPlus.
        window: frames that are restored together.
        lookahead: frames after them that are looked at. With as many as the video has, the result is the whole clip's.
        autocast: as for `Streamer`.

    Raises:
        TypeError: `net` is another network.
        ValueError: `window` is less than 1 or `lookahead` less than 0.
    """

    def __init__(
        self, net: VideoNet, window: int = 1, lookahead: int = 4, *, autocast: torch.dtype | None = None
    ) -> None:
        if window < 1 or lookahead < 0:
            raise ValueError(
                f'A window has at least 1 frame, a lookahead at least 0; got window={window}, lookahead={lookahead}.'
            )
        self.window, self.lookahead = window, lookahead
        self._streamer = Streamer(net, autocast=autocast, store='device')

    @property
    def net(self) -> VideoNet:
        """The network."""
        return self._streamer.net

    def __call__(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """Restore a video.

        Args:
            frames: tensors as in `Frames`, each taken when it is needed.

        Yields:
            The restored frames in order, as `Streamer` gives them.

        Raises:
            ValueError: what comes are no frames, or not all of one shape.
        """
        recent = _Recent()
        start, state = 0, None
        for frame in frames:
            recent.append(frame)
            if len(recent) < start + self.window + self.lookahead:
                continue
            stream = self._streamer(recent, start=start, state=state)
            for _ in range(self.window):
                yield next(stream)
            start, state = stream.position, stream.state
            stream.close()
            recent.forget_before(start - self._streamer.stages.reach)
        if len(recent) > start:
            yield from self._streamer(recent, start=start, state=state)


class _Recent:
    """The frames that have come, of which only the latest are kept."""

    def __init__(self) -> None:
        self._first = 0
        self._frames: deque[Tensor] = deque()

    def append(self, frame: Tensor) -> None:
        self._frames.append(frame)

    def forget_before(self, position: int) -> None:
        while self._first < position:
            self._frames.popleft()
            self._first += 1

    def __len__(self) -> int:
        return self._first + len(self._frames)

    def __getitem__(self, position: int) -> Tensor:
        return self._frames[position - self._first]

"""Low latency: restore frames while the video is still arriving, each from earlier frames and a few later ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.streaming.streamer import Stream, Streamer, check_frame


class LiveStreamer:
    """Restore videos as their frames arrive.

    The network's backward propagation starts at the last frame of a video. Here it starts a few frames ahead, as if the
    video ended there, and is repeated for every window of frames. The forward propagation runs through all frames.
    Latency and memory are bounded; the result differs slightly from that of the complete video.

    A window is restored when `lookahead` frames after it have arrived: the latency is `lookahead` frames for its last
    frame and `window - 1` more for its first. The backward propagation, about half of the work, processes
    `(window + lookahead) / window` frames for each input frame.

    Args:
        net: a DSTNet or DSTNetPlus.
        window: number of frames that are restored together, 1 or more.
        lookahead: number of frames after them that are used, 0 or more. If it reaches the end of the video, the result
            equals that of the complete video.
        autocast: as for `Streamer`.

    Raises:
        TypeError: The network is of another type.
        ValueError: `window` or `lookahead` is out of range.
    """

    def __init__(
        self, net: VideoNet, window: int = 1, lookahead: int = 4, *, autocast: torch.dtype | None = None
    ) -> None:
        if window < 1 or lookahead < 0:
            raise ValueError(
                f'window must be at least 1 and lookahead at least 0; got window={window}, lookahead={lookahead}.'
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
            frames: tensors as described in `Frames`; each is requested when it is needed, and copied.

        Yields:
            The restored frames in order, as `Streamer` yields them.

        Raises:
            ValueError: A frame has an unsupported type or shape, or frames differ in shape.
        """
        recent, cache = _RecentFrames(), self._streamer.make_cache()
        start, state = 0, None
        for t, frame in enumerate(frames):
            recent.append(check_frame(frame, t).clone())  # cameras often reuse their memory
            if len(recent) < start + self.window + self.lookahead:
                continue
            stream = Stream(self._streamer, recent, start, state, None, cache)
            for _ in range(self.window):
                yield next(stream)
            start, state = stream.position, stream.state
            stream.close()
            recent.forget_before(start - self._streamer.stages.reach)
        if len(recent) > start:
            yield from Stream(self._streamer, recent, start, state, None, cache)


class _RecentFrames:
    """Frames by their position in the video, of which only the latest are kept."""

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

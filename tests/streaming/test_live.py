"""LiveStreamer: bounded latency and memory, each frame from earlier frames and a few later ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from stream_utils import assert_exact, restore_clip, small_net, small_plus, video
from torch import Tensor

from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.streaming.live import LiveStreamer
from dstnet_arch.streaming.streamer import Streamer


@pytest.mark.parametrize('make_net', [small_net, partial(small_net, boundary='paper'), small_plus])
def test_live_streamer_with_full_lookahead_equals_complete_clip(make_net: Callable[[], VideoNet]) -> None:
    net, frames = make_net(), video(6)
    expected = restore_clip(net, frames)
    for window, lookahead in ((1, 5), (1, 9), (2, 4), (6, 0), (10, 0), (4, 2)):
        assert_exact(LiveStreamer(net, window, lookahead)(iter(frames)), expected)


@pytest.mark.parametrize(('window', 'lookahead'), [(1, 0), (1, 2), (3, 1), (2, 4)])
def test_live_streamer_uses_lookahead_only(window: int, lookahead: int) -> None:
    net, frames = small_net(), video(13)
    expected: list[Tensor] = []
    state = None
    for start in range(0, 13, window):
        # As if the video ended after the lookahead.
        stream = Streamer(net)(frames[: start + window + lookahead], start=start, state=state)
        expected += [next(stream) for _ in range(min(window, 13 - start))]
        state = stream.state
        stream.close()
    restored = list(LiveStreamer(net, window, lookahead)(frames))
    assert len(restored) == 13
    for a, b in zip(restored, expected, strict=True):
        assert (a - b).abs().max() < 1e-10


def test_live_streamer_requests_frames_as_needed_and_keeps_copies() -> None:
    requested: list[int] = []

    def camera() -> Iterator[Tensor]:
        memory = torch.empty(3, 16, 16, dtype=torch.float64)
        for t, frame in enumerate(video(12)):
            requested.append(t)
            yield memory.copy_(frame)

    streamer = LiveStreamer(small_net(num_cwgdn=1), window=2, lookahead=3)
    arrived, restored = zip(*((len(requested), frame) for frame in streamer(camera())), strict=True)
    assert arrived == (5, 5, 7, 7, 9, 9, 11, 11, 12, 12, 12, 12)
    assert all(map(torch.equal, restored, streamer(video(12))))


@pytest.mark.parametrize(('window', 'lookahead'), [(0, 1), (1, -1)])
def test_live_streamer_rejects_wrong_windows(window: int, lookahead: int) -> None:
    with pytest.raises(ValueError, match=f'window={window}, lookahead={lookahead}'):
        LiveStreamer(small_net(), window, lookahead)


def test_live_streamer_without_frames() -> None:
    assert list(LiveStreamer(small_net())([])) == []

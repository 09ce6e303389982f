"""Streamer: the result of the complete clip, frame by frame, in memory that does not grow with the clip."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from stream_utils import GPU_TYPES, NETS, assert_exact, restore_clip, small_net, small_plus, video
from torch import Tensor, nn

from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.errors import DataError
from dstnet_arch.precision import tf32
from dstnet_arch.streaming import streamer as streamer_module
from dstnet_arch.streaming.state_store import StateStore
from dstnet_arch.streaming.streamer import Streamer


@pytest.mark.parametrize('name', NETS)
@pytest.mark.parametrize('num_frame', [1, 2, 3, 11])
def test_streamer_equals_complete_clip(name: str, num_frame: int) -> None:
    net, frames = NETS[name](), video(num_frame, 21, 35)
    assert_exact(Streamer(net)(frames), restore_clip(net, frames))


@pytest.mark.parametrize('make_net', [small_net, small_plus], ids=['base', 'plus'])
@pytest.mark.parametrize(
    ('store', 'interval'),
    [
        *(('host', interval) for interval in (1, 2, 3, 10, 11, 40, 'sqrt')),
        ('disk', None), ('disk', 3), ('device', None), ('device', 'sqrt'),
    ],
)  # fmt: skip
def test_streamer_equals_complete_clip_for_any_store(
    make_net: Callable[[], VideoNet], store: Any, interval: Any
) -> None:
    net, frames = make_net(), video(11)
    assert_exact(Streamer(net, store=store, interval=interval)(frames), restore_clip(net, frames))


@pytest.mark.parametrize('size', [(1, 1), (2, 7), (16, 33), (48, 20)])
def test_streamer_restores_any_size(size: tuple[int, int]) -> None:
    for net in (small_net(), small_plus()):
        frames = video(3, *size)
        assert_exact(Streamer(net)(frames), restore_clip(net, frames))


def test_last_frame_affects_first_result() -> None:
    # Otherwise the tests above would say little about the backward propagation.
    net, frames = small_net(), video(13)
    changed = frames.clone()
    changed[-1] += 0.5
    assert (restore_clip(net, changed)[0] - restore_clip(net, frames)[0]).abs().max() > 1e-6


@pytest.mark.parametrize('tile', [None, (32, 32)])
def test_streamer_restores_float32_batches(tile: Any) -> None:
    net = small_net(num_feat=8).float()
    clips = torch.stack([video(5, 40, 50), video(5, 40, 50, seed=1)]).float()
    with torch.no_grad():
        expected = net(clips)
    restored = list(Streamer(net, interval=3, tile=tile)(clips.unbind(1)))
    assert all(frame.dtype == torch.float32 and frame.is_contiguous() for frame in restored)
    torch.testing.assert_close(torch.stack(restored, dim=1), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('tile', [None, (32, 32)])
def test_streamer_with_autocast_rounds_like_the_network(tile: Any) -> None:
    net, frames = small_net(num_feat=8).float(), video(5, 64, 64).float()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        expected = net(frames[None])[0]
    stream = Streamer(net, autocast=torch.bfloat16, store='disk', interval=2, tile=tile)(frames)
    restored = torch.stack(list(stream))
    assert stream.state is not None
    assert stream.state.dtype == torch.bfloat16
    rounding = (restore_clip(net, frames) - expected).abs().mean()
    assert (restored - expected).abs().mean() < 0.5 * rounding  # another order of sums rounds differently


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
@pytest.mark.parametrize('dtype', GPU_TYPES)
@pytest.mark.parametrize('store', ['device', 'host', 'disk'])
def test_streamer_equals_complete_clip_on_gpu(store: Any, dtype: torch.dtype) -> None:
    net, frames = small_net(num_feat=8).to('cuda', dtype), video(9, 37, 51).to(dtype)
    with tf32(False):
        for interval in (None, 4):
            restored = Streamer(net, store=store, interval=interval)(frames)
            assert_exact(restored, restore_clip(net, frames.cuda()), GPU_TYPES[dtype])


# Frames


def test_streamer_spools_iterators(tmp_path: Path) -> None:
    net, frames = small_net(), video(4)
    restored = list(Streamer(net, temp_dir=tmp_path)(frame for frame in frames))
    assert all(torch.equal(a, b) for a, b in zip(restored, Streamer(net)(frames), strict=True))
    assert list(tmp_path.iterdir()) == []


def test_streamer_accepts_uint8_frames() -> None:
    net, levels = small_net(), (video(3) * 255).round()
    restored = torch.stack(list(Streamer(net)(list(levels.to(torch.uint8)))))
    torch.testing.assert_close(restored, torch.stack(list(Streamer(net)(levels / 255))), rtol=0, atol=1e-12)


def test_streamer_reads_each_frame_twice() -> None:
    class CountedFrames(list[Tensor]):
        def __getitem__(self, position: Any) -> Any:
            read.append(position)
            return super().__getitem__(position)

    read: list[int] = []
    list(Streamer(small_net())(CountedFrames(video(7))))
    assert read == [6, 5, 4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ('frames', 'message'),
    [
        ([], 'no frames'),
        (video(4)[None], 'clip.unbind(1)'),
        ([torch.zeros(16, 16)], 'frame 0 is (16, 16) of torch.float32'),
        ([torch.zeros(4, 16, 16)], 'frame 0 is (4, 16, 16)'),
        ([torch.zeros(3, 16, 16, dtype=torch.int16)], 'of torch.int16'),
        ([torch.zeros(3, 0, 16)], 'frame 0 is (3, 0, 16)'),
        (iter([video(1)[0].numpy()]), 'frame 0 is (3, 16, 16) of ndarray'),
        (['000.png'], 'of str'),
        ([torch.zeros(3, 16, 16), torch.zeros(3, 16, 20)], 'Frame 0 is (3, 16, 16), others are (3, 16, 20)'),
    ],
    ids=['none', 'clips', 'gray', 'alpha', 'integers', 'empty', 'arrays', 'names', 'sizes'],
)
def test_streamer_rejects_wrong_frames(frames: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        next(Streamer(small_net())(frames))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        *(({'interval': interval}, f'got {interval!r}') for interval in (0, -1, 1.5, 'root')),
        *(({'tile': tile}, f'got {tile!r}') for tile in ('512', 512, (32,), (0, 32), (32, -1))),
        ({'store': 'ram'}, "device, host, disk; got 'ram'"),
        ({'tile': (64, 64), 'maps': 'disk'}, "device, host; got 'disk'"),
    ],
    ids=str,
)
def test_streamer_rejects_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Streamer(small_net(), **settings)


def test_streamer_rejects_other_networks_and_folders(tmp_path: Path) -> None:
    net: Any = nn.Conv2d(3, 3, 1)
    with pytest.raises(TypeError, match='DSTNet and DSTNetPlus; got Conv2d'):
        Streamer(net)
    with pytest.raises(DataError, match='no-such-folder'):
        Streamer(small_net(), store='disk', temp_dir=tmp_path / 'no-such-folder')


# Interruption


@pytest.mark.parametrize('settings', [{}, {'interval': 2}, {'tile': (32, 32)}], ids=str)
@pytest.mark.parametrize('make_net', [partial(small_net, boundary='paper'), small_plus])
def test_stream_continues_from_state(make_net: Callable[[], VideoNet], settings: Any) -> None:
    streamer, frames = Streamer(make_net(), **settings), video(7, 16, 40)
    steps: list[tuple[int, int]] = []
    stream = streamer(frames, progress=lambda *step: steps.append(step))
    assert (stream.position, stream.state) == (0, None)
    expected, states = [], []
    for number, frame in enumerate(stream, start=1):
        assert stream.position == number
        expected.append(frame)
        states.append(stream.state)
    total = 14 + 5 * ('interval' in settings)
    assert steps == [(done, total) for done in range(1, total + 1)]
    for start in (1, 3, 6):
        rest = list(streamer(frames, start=start, state=states[start - 1]))
        assert all(torch.equal(a, b) for a, b in zip(rest, expected[start:], strict=True))


@pytest.mark.parametrize(('start', 'with_state'), [(2, False), (0, True), (4, True), (-1, True)])
def test_stream_needs_start_and_state_together(start: int, with_state: bool) -> None:
    with pytest.raises(ValueError, match=f'start={start}'):
        Streamer(small_net())(video(4), start=start, state=torch.zeros(1, 2, 8, 8) if with_state else None)


# Resources


@pytest.mark.parametrize(('interval', 'most'), [(None, 36), (1, 35), (5, 11), ('sqrt', 10), (9, 11)])
def test_num_states_is_the_largest_number_of_stored_states(
    monkeypatch: pytest.MonkeyPatch, interval: Any, most: int
) -> None:
    stores: list[StateStore] = []
    peak = 0

    class CountedStore(StateStore):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            stores.append(self)

        def put(self, number: int, tensor: Tensor) -> None:
            nonlocal peak
            super().put(number, tensor)
            assert tensor.nbytes == streamer.state_bytes(16, 16)
            peak = max(peak, sum(map(len, stores)))

    streamer = Streamer(small_plus(), interval=interval)
    monkeypatch.setattr(streamer_module, 'StateStore', CountedStore)
    list(streamer(video(36)))
    assert peak == streamer.num_states(36) == most
    assert sum(map(len, stores)) == 0

    stream = streamer(video(6))
    next(stream)
    assert sum(map(len, stores)) > 0
    stream.close()
    assert sum(map(len, stores)) == 0
    assert list(stream) == []


def test_stream_leaves_no_context_behind() -> None:
    net = small_net().float().requires_grad_()
    for frame in Streamer(net, autocast=torch.bfloat16)(video(3).float()):
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled('cpu')
        assert not frame.requires_grad
        assert not frame.is_inference()
    stream = Streamer(net, interval=2)(video(5).float())
    for inference in (True, False, True, False, True):
        with torch.inference_mode(inference):
            assert not next(stream).is_inference()

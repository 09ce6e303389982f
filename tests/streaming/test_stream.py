"""Streaming: the result of the whole clip, frame by frame, in memory that does not grow with the clip."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.errors import DataError
from dstnet_arch.streaming import streamer as stream_module
from dstnet_arch.streaming.live import LiveStreamer
from dstnet_arch.streaming.state_store import DeviceStore, Store, TensorFile, make_store, spool
from dstnet_arch.streaming.streamer import Streamer


def steady(net: VideoNet) -> VideoNet:
    """Weights under which results stay bounded over any number of frames, and every parameter counts."""
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        noise = 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = parameter.data.double() + noise
    return net.eval()


def small_net(**kwargs: Any) -> VideoNet:
    torch.manual_seed(0)
    return steady(DSTNet(**{'num_feat': 2, 'num_block': 1, 'num_cwgdn': 2, **kwargs}))


def small_plus(**kwargs: Any) -> VideoNet:
    torch.manual_seed(0)
    return steady(DSTNetPlus(num_feat=2, num_kernel_block=1, num_block=1, **kwargs))


def video(num_frame: int, height: int = 16, width: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_frame, 3, height, width, generator=generator, dtype=torch.float64)


def whole(net: nn.Module, frames: Tensor) -> Tensor:
    with torch.no_grad():
        return net(frames[None])[0]


NETS: dict[str, Callable[[], VideoNet]] = {
    'base': small_net,
    'large, paper': partial(small_net, num_cwgdn=1, prop_feat=3, boundary='paper'),
    'plus': small_plus,
    'w/ gMLP': partial(small_net, num_cwgdn=1, spatial='gmlp'),
    'w/o CWGDN': partial(small_net, spatial='none'),
    'w/o propagation': partial(small_net, propagation='none'),
    'bilinear': partial(small_net, num_cwgdn=1, propagation='bilinear'),
}


# The result of the whole clip


@pytest.mark.parametrize('name', NETS)
@pytest.mark.parametrize('num_frame', [1, 2, 3, 11])
def test_a_stream_gives_the_whole_clips_result(name: str, num_frame: int) -> None:
    net, frames = NETS[name](), video(num_frame, 21, 35)
    torch.testing.assert_close(torch.stack(list(Streamer(net)(frames))), whole(net, frames), rtol=0, atol=1e-10)


@pytest.mark.parametrize('make_net', [small_net, small_plus], ids=['base', 'plus'])
@pytest.mark.parametrize(
    ('store', 'interval'),
    [
        ('host', 1), ('host', 2), ('host', 3), ('host', 10), ('host', 11), ('host', 40), ('host', 'sqrt'),
        ('disk', None), ('disk', 3), ('device', None), ('device', 'sqrt'),
    ],
)  # fmt: skip
def test_so_do_streams_with_checkpoints(make_net: Callable[[], VideoNet], store: Any, interval: Any) -> None:
    net, frames = make_net(), video(11)
    restored = torch.stack(list(Streamer(net, store=store, interval=interval)(frames)))
    torch.testing.assert_close(restored, whole(net, frames), rtol=0, atol=1e-10)


@pytest.mark.parametrize('size', [(1, 1), (2, 7), (16, 33), (48, 20)])
def test_any_size(size: tuple[int, int]) -> None:
    for net in (small_net(), small_plus()):
        frames = video(3, *size)
        torch.testing.assert_close(torch.stack(list(Streamer(net)(frames))), whole(net, frames), rtol=0, atol=1e-10)


def test_the_last_frame_reaches_the_first_result() -> None:
    # Were it not so, the tests above would say little about the backward propagation.
    net, frames = small_net(), video(13)
    changed = frames.clone()
    changed[-1] += 0.5
    assert (whole(net, changed)[0] - whole(net, frames)[0]).abs().max() > 1e-6


def test_single_precision_and_a_batch() -> None:
    net, clips = small_net(num_feat=8).float(), torch.stack([video(7, 24, 40), video(7, 24, 40, seed=1)]).float()
    with torch.no_grad():
        expected = net(clips)
    restored = list(Streamer(net, interval=3)(clips.unbind(1)))
    assert all(frame.dtype == torch.float32 and frame.is_contiguous() for frame in restored)
    torch.testing.assert_close(torch.stack(restored, dim=1), expected, rtol=0, atol=1e-5)


def test_reduced_precision() -> None:
    net, frames = small_net(num_feat=8).float(), video(5, 32, 32).float()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        expected = net(frames[None])[0]
    stream = Streamer(net, autocast=torch.bfloat16, store='disk', interval=2)(frames)
    restored = torch.stack(list(stream))
    assert stream.state is not None
    assert stream.state.dtype == torch.bfloat16
    error = (whole(net, frames) - expected).abs().mean()
    assert (restored - expected).abs().mean() < 0.5 * error  # sums in another order round otherwise here and there


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
@pytest.mark.parametrize('store', ['device', 'host', 'disk'])
def test_a_stream_on_a_gpu(store: Any) -> None:
    net, frames = small_net(num_feat=8).cuda(), video(9, 37, 51)
    expected = whole(net, frames.cuda())
    for interval in (None, 4):
        restored = torch.stack(list(Streamer(net, store=store, interval=interval)(frames)))
        torch.testing.assert_close(restored, expected, rtol=0, atol=1e-10)


# What frames can be


def test_frames_that_come_once_are_kept_on_disk(tmp_path: Path) -> None:
    net, frames = small_net(), video(4)
    expected = list(Streamer(net)(frames))
    restored = list(Streamer(net, temp_dir=tmp_path)(frame for frame in frames))
    assert all(torch.equal(a, b) for a, b in zip(restored, expected, strict=True))
    assert list(tmp_path.iterdir()) == []


def test_eight_bits() -> None:
    net, levels = small_net(), (video(3) * 255).round()
    expected = list(Streamer(net)(levels / 255))
    restored = list(Streamer(net)(list(levels.to(torch.uint8))))
    for a, b in zip(restored, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


class CountedFrames:
    """Frames that write down which were read."""

    def __init__(self, frames: Tensor) -> None:
        self.frames, self.read = frames, list[int]()

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, position: int) -> Tensor:
        self.read.append(position)
        return self.frames[position]


def test_every_frame_is_read_twice() -> None:
    frames = CountedFrames(video(7))
    list(Streamer(small_net())(frames))
    assert frames.read == [6, 5, 4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ('frames', 'message'),
    [
        ([], 'no frames'),
        (video(4)[None], 'clip.unbind(1)'),
        ([torch.zeros(16, 16)], 'frame 0 is (16, 16) of torch.float32'),
        ([torch.zeros(4, 16, 16)], 'frame 0 is (4, 16, 16)'),
        ([torch.zeros(3, 16, 16, dtype=torch.int16)], 'of torch.int16'),
        (['000.png'], 'of str'),
        ([torch.zeros(3, 16, 16), torch.zeros(3, 16, 20)], 'Frame 0 is (3, 16, 16), others are (3, 16, 20)'),
    ],
    ids=['none', 'clips', 'gray', 'alpha', 'integers', 'names', 'sizes'],
)
def test_wrong_frames_are_named(frames: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        next(Streamer(small_net())(frames))


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    net: Any = nn.Conv2d(3, 3, 1)
    with pytest.raises(TypeError, match='DSTNet and DSTNetPlus; got Conv2d'):
        Streamer(net)
    for interval in (0, -1, 1.5, 'root'):
        with pytest.raises(ValueError, match=re.escape(f'got {interval!r}')):
            Streamer(small_net(), interval=interval)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="device, host, disk; got 'ram'"):
        Streamer(small_net(), store='ram')  # type: ignore[arg-type]
    with pytest.raises(DataError, match='no-such-folder'):
        Streamer(small_net(), store='disk', temp_dir=tmp_path / 'no-such-folder')


# Going on where a stream was interrupted


@pytest.mark.parametrize('interval', [None, 2])
@pytest.mark.parametrize('make_net', [small_net, partial(small_net, boundary='paper'), small_plus])
def test_an_interrupted_stream_goes_on(make_net: Callable[[], VideoNet], interval: int | None) -> None:
    streamer, frames = Streamer(make_net(), interval=interval), video(7)
    stream = streamer(frames)
    assert (stream.position, stream.state) == (0, None)
    expected, states = [], []
    for number, frame in enumerate(stream, start=1):
        assert stream.position == number
        expected.append(frame)
        states.append(stream.state)
    for start in (1, 3, 6):
        rest = list(streamer(frames, start=start, state=states[start - 1]))
        assert all(torch.equal(a, b) for a, b in zip(rest, expected[start:], strict=True))


@pytest.mark.parametrize(('start', 'with_state'), [(2, False), (0, True), (4, True), (-1, True)])
def test_a_start_and_a_state_belong_together(start: int, with_state: bool) -> None:
    with pytest.raises(ValueError, match=f'start={start}'):
        Streamer(small_net())(video(4), start=start, state=torch.zeros(1, 2, 8, 8) if with_state else None)


# What is held


def live_bytes() -> int:
    """Bytes of the tensors made since `gc.freeze`, each memory once."""
    tensors = [item for item in gc.get_objects() if issubclass(type(item), Tensor) and item.device.type == 'cpu']
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def peak_bytes(num_frame: int, **settings: Any) -> int:
    """The most that a stream holds at the end of a step."""
    frames = [torch.zeros(3, 16, 16, dtype=torch.float64)] * num_frame
    streamer = Streamer(small_net(num_cwgdn=1), **settings)
    peaks = []
    gc.collect()
    gc.freeze()
    try:
        for _ in streamer(frames, progress=lambda done, total: peaks.append(live_bytes())):
            pass
    finally:
        gc.unfreeze()
    return max(peaks)


def test_memory_does_not_grow_with_the_number_of_frames() -> None:
    state = 8 * 2 * 8 * 8
    short, long = (peak_bytes(num_frame, store='disk') for num_frame in (8, 24))
    assert long == short
    assert short < 40 * state
    # The measure sees what grows: a state a frame.
    assert peak_bytes(24, store='device') - peak_bytes(8, store='device') == 16 * state


@pytest.mark.parametrize(('interval', 'most'), [(None, 36), (1, 35), (5, 11), ('sqrt', 10), (9, 11)])
def test_checkpoints_are_few(monkeypatch: pytest.MonkeyPatch, interval: Any, most: int) -> None:
    stores: list[Store] = []
    peak = 0

    class Counted(DeviceStore):
        def put(self, number: int, tensor: Tensor) -> None:
            nonlocal peak
            super().put(number, tensor)
            assert tensor.nbytes == streamer.state_bytes(16, 16)
            peak = max(peak, sum(map(len, stores)))

    def make(*_: Any) -> Store:
        stores.append(Counted())
        return stores[-1]

    streamer = Streamer(small_plus(), interval=interval)
    monkeypatch.setattr(stream_module, 'make_store', make)
    list(streamer(video(36)))
    assert peak == streamer.num_states(36) == most
    assert sum(map(len, stores)) == 0


def test_a_closed_stream_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stores: list[Store] = []
    make = stream_module.make_store
    monkeypatch.setattr(stream_module, 'make_store', lambda *args: stores.append(make(*args)) or stores[-1])
    stream = Streamer(small_net())(video(6))
    next(stream)
    assert sum(map(len, stores)) == 5
    stream.close()
    assert sum(map(len, stores)) == 0
    assert list(stream) == []


# Manners


def test_nothing_leaks_into_the_users_code() -> None:
    net = small_net().float().requires_grad_()
    for frame in Streamer(net, autocast=torch.bfloat16)(video(3).float()):
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled('cpu')
        assert not frame.requires_grad
        assert not frame.is_inference()
    with torch.inference_mode():
        assert len(list(Streamer(net)(video(3).float()))) == 3


@pytest.mark.parametrize(('interval', 'total'), [(None, 14), (3, 18)])
def test_progress(interval: int | None, total: int) -> None:
    steps: list[tuple[int, int]] = []
    list(Streamer(small_net(), interval=interval)(video(7), progress=lambda *step: steps.append(step)))
    assert steps == [(done, total) for done in range(1, total + 1)]


# Stores


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize('kind', ['device', 'host', 'disk'])
def test_a_store_gives_back_what_it_got(kind: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    plain = video(4, 5, 6).to(dtype)
    kept = {1: plain, 2: plain.contiguous(memory_format=torch.channels_last), 5: plain[:, :, ::2], 7: plain[:1]}
    store = make_store(kind, tmp_path)
    for _ in range(2):
        for number, tensor in kept.items():
            store.put(number, tensor)
        for number in (5, 1, 7, 2):
            taken = store.take(number)
            assert torch.equal(taken, kept[number])
            assert taken.dtype == dtype
            assert taken.is_contiguous(memory_format=torch.channels_last) == (number == 2)
        assert len(store) == 0
    with pytest.raises(KeyError):
        store.take(1)
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_spooled_frames_are_read_in_any_order(tmp_path: Path) -> None:
    frames = [(video(1)[0] * 255).to(torch.uint8), video(1, 3, 5)[0]]
    file = spool(iter(frames), tmp_path)
    assert len(file) == 2
    for number in (1, 0, 1, -1):
        assert torch.equal(file[number], frames[number])
    file.close()


def test_a_source_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def failing() -> Iterator[Tensor]:
        yield video(1)[0]
        raise RuntimeError('the camera is gone')

    with pytest.raises(RuntimeError, match='the camera is gone'):
        Streamer(small_net(), temp_dir=tmp_path)(failing())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    resource = pytest.importorskip('resource')  # POSIX has it
    file = TensorFile(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(DataError, match=f'{re.escape(str(tmp_path))} cannot be written: .*more room'):
            file.append(video(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(file) == 0
    file.close()


# Low latency


@pytest.mark.parametrize('make_net', [small_net, partial(small_net, boundary='paper'), small_plus])
def test_looking_at_all_frames_gives_the_whole_clips_result(make_net: Callable[[], VideoNet]) -> None:
    net, frames = make_net(), video(6)
    expected = whole(net, frames)
    for window, lookahead in ((1, 5), (1, 9), (2, 4), (6, 0), (10, 0), (4, 2)):
        restored = torch.stack(list(LiveStreamer(net, window, lookahead)(iter(frames))))
        torch.testing.assert_close(restored, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(('window', 'lookahead'), [(1, 0), (1, 2), (3, 1), (2, 4)])
def test_a_live_stream_sees_its_lookahead_and_no_more(window: int, lookahead: int) -> None:
    net, frames = small_net(), video(13)
    restored = list(LiveStreamer(net, window, lookahead)(frames))
    assert len(restored) == 13
    state = None
    for start in range(0, 13, window):
        # As if the video ended after the lookahead; what came before stands in the state.
        stream = Streamer(net)(frames[: start + window + lookahead], start=start, state=state)
        for frame in restored[start : start + window]:
            torch.testing.assert_close(frame, next(stream), rtol=0, atol=1e-10)
        state = stream.state
        stream.close()


def test_a_live_stream_takes_frames_as_it_needs_them() -> None:
    taken: list[int] = []

    def camera() -> Iterator[Tensor]:
        for t, frame in enumerate(video(12)):
            taken.append(t)
            yield frame

    stream = LiveStreamer(small_net(num_cwgdn=1), window=2, lookahead=3)(camera())
    counts = []
    for _ in stream:
        counts.append(len(taken))
    assert counts == [5, 5, 7, 7, 9, 9, 11, 11, 12, 12, 12, 12]


def test_a_live_stream_holds_few_frames() -> None:
    held = []
    for number in (8, 24):
        frames = (torch.zeros(3, 16, 16, dtype=torch.float64) for _ in range(number))
        streamer = LiveStreamer(small_net(num_cwgdn=1), window=1, lookahead=2)
        gc.collect()
        gc.freeze()
        try:
            held.append(max(live_bytes() for _ in streamer(frames)))
        finally:
            gc.unfreeze()
    assert held[0] == held[1]


@pytest.mark.parametrize(('window', 'lookahead'), [(0, 1), (1, -1)])
def test_wrong_windows_are_named(window: int, lookahead: int) -> None:
    with pytest.raises(ValueError, match=f'window={window}, lookahead={lookahead}'):
        LiveStreamer(small_net(), window, lookahead)


def test_a_live_stream_of_nothing() -> None:
    assert list(LiveStreamer(small_net())([])) == []

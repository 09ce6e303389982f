"""Tiles: the result of the whole frame, in the memory of a part of it."""

from __future__ import annotations

import re
import tempfile
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from test_stream import NETS, small_net, small_plus, video, whole
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dstnet_arch.archs.cwgdn import ChannelFilterNet
from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.archs.dtff import GatedFusion
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.arguments import Size
from dstnet_arch.streaming import streamer as stream_module
from dstnet_arch.streaming import tiles as tiles_module
from dstnet_arch.streaming.memory import needed_bytes, tile_plans
from dstnet_arch.streaming.streamer import Streamer
from dstnet_arch.streaming.tiles import Plan, tiles

TILED_NETS: dict[str, Callable[[], VideoNet]] = {
    **NETS,
    'long refinement': partial(small_net, num_cwgdn=0, num_block=6),
    'w/ fusion of [27]': partial(small_net, num_cwgdn=0, fusion='blend'),
    'w/o (3), w/o (4)': partial(small_net, num_cwgdn=0, fusion='none', pixel_filter=False),
}


def tiled(net: VideoNet, frames: Tensor, tile: tuple[int, int], **settings: Any) -> Tensor:
    return torch.stack(list(Streamer(net, tile=tile, **settings)(frames)))


# The result of the whole frame


@pytest.mark.parametrize('name', TILED_NETS)
def test_tiles_give_the_whole_frames_result(name: str) -> None:
    net, frames = TILED_NETS[name](), video(3, 70, 102)
    torch.testing.assert_close(tiled(net, frames, (32, 40)), whole(net, frames), rtol=0, atol=1e-10)


@pytest.mark.parametrize('make_net', [partial(small_net, num_cwgdn=1), small_plus], ids=['base', 'plus'])
@pytest.mark.parametrize(
    ('size', 'tile'),
    [
        ((1, 1), (32, 32)),
        ((21, 35), (1, 1)),  # no tile is smaller than 32
        ((48, 80), (1000, 1000)),  # larger than the frame
        ((150, 33), (64, 64)),  # one column, a second one of a pixel
        ((33, 130), (1000, 32)),  # one column of two rows
        ((64, 64), (32, 64)),
    ],
)
def test_any_size(make_net: Callable[[], VideoNet], size: tuple[int, int], tile: tuple[int, int]) -> None:
    net, frames = make_net(), video(2, *size)
    torch.testing.assert_close(tiled(net, frames, tile), whole(net, frames), rtol=0, atol=1e-10)


@pytest.mark.parametrize('edge', ['_EDGE', '_STATISTICS_EDGE', '_BLOCK_EDGE'])
def test_what_is_seen_around_a_tile_is_needed(edge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Were it not so, the tests above would prove little, and tiles would be larger than they need to be.
    net, frames = small_net(num_cwgdn=1), video(2, 64, 230)
    step = 16 if edge == '_STATISTICS_EDGE' else 4  # the coarsest map's
    monkeypatch.setattr(tiles_module, edge, getattr(tiles_module, edge) - step)
    assert (tiled(net, frames, (96, 64)) - whole(net, frames)).abs().max() > 1e-10


def test_single_precision_and_a_batch() -> None:
    net = small_net(num_feat=8, num_cwgdn=1).float()
    clips = torch.stack([video(3, 50, 70), video(3, 50, 70, seed=1)]).float()
    with torch.no_grad():
        expected = net(clips)
    restored = list(Streamer(net, tile=(32, 32))(clips.unbind(1)))
    assert all(frame.dtype == torch.float32 and frame.is_contiguous() for frame in restored)
    torch.testing.assert_close(torch.stack(restored, dim=1), expected, rtol=0, atol=1e-5)


def test_reduced_precision() -> None:
    net, frames = small_net(num_feat=8, num_cwgdn=1).float(), video(3, 64, 64).float()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        expected = net(frames[None])[0]
    restored = tiled(net, frames, (32, 32), autocast=torch.bfloat16)
    error = (whole(net, frames) - expected).abs().mean()
    assert (restored - expected).abs().mean() < 0.5 * error


def test_the_channel_filters_are_the_whole_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tensor] = []
    make_filters = ChannelFilterNet.make_filters

    def noted(self: ChannelFilterNet, mean: Tensor) -> Tensor:
        made.append(mean)
        return make_filters(self, mean)

    monkeypatch.setattr(ChannelFilterNet, 'make_filters', noted)
    net, frames = small_net(num_cwgdn=2), video(3, 70, 102)
    list(Streamer(net)(frames))
    expected, made[:] = list(made), []
    tiled(net, frames, (32, 32))
    assert len(made) == len(expected) == 3 * 2
    for mean, whole_mean in zip(made, expected, strict=True):
        torch.testing.assert_close(mean, whole_mean, rtol=0, atol=1e-12)
    assert max(mean.abs().max() for mean in made) > 0.01


# Together with what else a stream does


@pytest.mark.parametrize('settings', [{'interval': 2}, {'store': 'disk'}, {'maps': 'host'}], ids=str)
def test_with_other_settings(settings: dict[str, Any]) -> None:
    net, frames = small_net(num_cwgdn=1), video(5, 40, 40)
    torch.testing.assert_close(tiled(net, frames, (32, 32), **settings), whole(net, frames), rtol=0, atol=1e-10)


def test_an_interrupted_stream_goes_on() -> None:
    streamer, frames = Streamer(small_net(num_cwgdn=1), tile=(32, 32)), video(4, 40, 40)
    stream = streamer(frames)
    expected = [next(stream), next(stream)]
    state = stream.state
    expected += list(stream)
    rest = list(streamer(frames, start=2, state=state))
    assert all(torch.equal(a, b) for a, b in zip(rest, expected[2:], strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
@pytest.mark.parametrize('maps', ['device', 'host'])
def test_tiles_on_a_gpu(maps: Any) -> None:
    for make_net in (small_net, small_plus):
        net, frames = make_net().cuda(), video(3, 70, 102)
        restored = tiled(net, frames, (32, 40), maps=maps)
        assert restored.is_cuda
        torch.testing.assert_close(restored, whole(net, frames.cuda()), rtol=0, atol=1e-10)


# The tiles themselves


@pytest.mark.parametrize(('height', 'width'), [(32, 32), (70, 102), (100, 34), (135, 240)])
@pytest.mark.parametrize('tile', [Size(32, 32), Size(100, 50), Size(4000, 1)])
def test_tiles_cover_the_frame_once(height: int, width: int, tile: Size) -> None:
    covered = torch.zeros(height, width)
    for part in tiles(height, width, tile, edge=8):
        part.place(covered, 1).add_(1)
        assert len(part.rows) <= -(-tile.height // 32) * 32
        assert len(part.columns) <= -(-tile.width // 32) * 32
        seen = torch.zeros(height, width)
        seen[part.outer_rows.start : part.outer_rows.stop, part.outer_columns.start : part.outer_columns.stop] = 1
        assert part.inner(part.cut(seen[None, None], 1, seen.device), 1).numel() == part.place(covered, 1).numel()
        assert (part.rows.start - part.outer_rows.start) in (0, 8)
        assert (part.outer_columns.stop - part.columns.stop) in (0, 2, 6, 8)
    assert torch.equal(covered, torch.ones(height, width))


# Which size


def test_where_memory_is_short_the_next_plan_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in for a GPU: a fusion of more than so many pixels does not fit.
    net, frames = small_net(num_cwgdn=1), video(2, 70, 102)
    expected, most = whole(net, frames), 36 * 36
    fuse = GatedFusion.forward

    def limited(self: GatedFusion, current: Tensor, propagated: Tensor) -> Tensor:
        if current[0, 0].numel() > most:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory.')
        return fuse(self, current, propagated)

    monkeypatch.setattr(GatedFusion, 'forward', limited)
    plans = [Plan(), Plan(Size(64, 64)), Plan(Size(32, 32))]
    streamer = Streamer(net, tile='auto')
    monkeypatch.setattr(stream_module, 'tile_plans', lambda *_: list(plans))
    assert streamer.plan(70, 102) == plans[0]
    restored = torch.stack(list(streamer(frames)))
    torch.testing.assert_close(restored, expected, rtol=0, atol=1e-10)
    assert streamer.plan(70, 102) == plans[1]
    monkeypatch.setattr(stream_module, 'tile_plans', lambda *_: plans[:1])
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(Streamer(net, tile='auto')(frames))


class Counted(TorchDispatchMode):
    """Notes how many bytes of tensors exist at most. `kept` are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in tree_leaves(result):
            if isinstance(item, Tensor) and item.untyped_storage()._cdata not in self.live:
                storage = item.untyped_storage()
                self.live[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.forget, storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
        return result

    def forget(self, number: int) -> None:
        self.now -= self.live.pop(number)


@pytest.mark.parametrize('plan', [Plan(), Plan(Size(64, 64))], ids=str)
@pytest.mark.parametrize(
    'make_net', [partial(small_net, num_cwgdn=2), partial(small_net, num_cwgdn=0, prop_feat=12), small_plus]
)
def test_the_memory_needed_is_estimated(make_net: Callable[..., VideoNet], plan: Plan) -> None:
    net = make_net(num_feat=8) if make_net is not small_plus else DSTNetPlus(8, 1, 1).double()
    frames = [torch.rand(3, 192, 192, dtype=torch.float64)] * 7
    with tempfile.TemporaryDirectory() as folder, Counted() as counted:
        for _ in Streamer(net, tile=plan.tile, store='disk', temp_dir=folder)(frames):
            pass
    needed = needed_bytes(net, (1, 192, 192), plan)
    assert counted.peak <= needed <= 3 * counted.peak


def test_tiles_are_taken_where_memory_is_short() -> None:
    net = DSTNet()
    frames = 1, 2160, 3840
    assert tile_plans(net, frames, 24 << 30)[0] == Plan()
    assert tile_plans(net, frames, 8 << 30)[0] == Plan(Size(1024, 1024))
    assert tile_plans(net, frames, 4 << 30)[0].maps == 'host'
    assert tile_plans(net, frames, 4 << 30, 'cpu')[0] == tile_plans(net, frames, 0, 'cpu')[0] == Plan(Size(256, 256))
    for free in (0, 2 << 30, 4 << 30, 8 << 30, 64 << 30):
        plans = tile_plans(net, frames, free)
        assert plans[-1] == Plan(Size(256, 256), 'host')
        assert len(plans) == len(set(plans))


@pytest.mark.parametrize('tile', ['512', 'automatic', (0, 32), (32, -1)])
def test_wrong_tiles_are_named(tile: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f'got {tile!r}')):
        Streamer(small_net(), tile=tile)


def test_wrong_maps_are_named() -> None:
    with pytest.raises(ValueError, match="device, host; got 'disk'"):
        Streamer(small_net(), tile=(64, 64), maps='disk')  # type: ignore[arg-type]

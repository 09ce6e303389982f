"""Tiles: the result of the whole frame in less memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from stream_utils import GPU_TYPES, NETS, assert_exact, restore_clip, small_net, small_plus, video
from torch import Tensor

from dstnet_arch.archs.dtff import GatedFusion
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.arguments import Size
from dstnet_arch.precision import tf32
from dstnet_arch.streaming import streamer as streamer_module
from dstnet_arch.streaming import tiles as tiles_module
from dstnet_arch.streaming.streamer import Streamer
from dstnet_arch.streaming.tiles import Plan, tiles

TILED_NETS: dict[str, Callable[[], VideoNet]] = {
    **NETS,
    'long refinement': partial(small_net, num_cwgdn=0, num_block=6),
    'w/ fusion of [27]': partial(small_net, num_cwgdn=0, fusion='blend'),
    'w/o (3), w/o (4)': partial(small_net, num_cwgdn=0, fusion='none', pixel_filter=False),
}


@pytest.mark.parametrize('name', TILED_NETS)
def test_tiles_equal_whole_frames(name: str) -> None:
    net, frames = TILED_NETS[name](), video(3, 70, 102)
    assert_exact(Streamer(net, tile=(32, 40))(frames), restore_clip(net, frames))


@pytest.mark.parametrize('make_net', [partial(small_net, num_cwgdn=1), small_plus], ids=['base', 'plus'])
@pytest.mark.parametrize(
    ('size', 'tile'),
    [
        ((1, 1), (32, 32)),
        ((21, 35), (1, 1)),  # no tile is smaller than 32
        ((48, 80), (1000, 1000)),  # larger than the frame
        ((150, 33), (64, 64)),  # two columns, the second one pixel wide
        ((33, 130), (1000, 32)),  # two rows
        ((64, 64), (32, 64)),
    ],
)
def test_tiles_equal_whole_frames_of_any_size(make_net: Any, size: tuple[int, int], tile: tuple[int, int]) -> None:
    net, frames = make_net(), video(2, *size)
    assert_exact(Streamer(net, tile=tile)(frames), restore_clip(net, frames))


@pytest.mark.parametrize('settings', [{'interval': 2}, {'store': 'disk'}, {'maps': 'host'}], ids=str)
def test_tiles_equal_whole_frames_with_other_settings(settings: dict[str, Any]) -> None:
    net, frames = small_net(num_cwgdn=1), video(5, 40, 40)
    assert_exact(Streamer(net, tile=(32, 32), **settings)(frames), restore_clip(net, frames))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
@pytest.mark.parametrize('dtype', GPU_TYPES)
@pytest.mark.parametrize('maps', ['device', 'host'])
def test_tiles_equal_whole_frames_on_gpu(maps: Any, dtype: torch.dtype) -> None:
    for make_net in (small_net, small_plus):
        net, frames = make_net().to('cuda', dtype), video(3, 70, 102).to(dtype)
        with tf32(False):
            restored = Streamer(net, tile=(32, 40), maps=maps)(frames)
            assert_exact(restored, restore_clip(net, frames.cuda()), GPU_TYPES[dtype])


@pytest.mark.parametrize('margin', ['_MARGIN', '_STATISTICS_MARGIN', '_BLOCK_MARGIN'])
def test_margins_are_as_small_as_possible(margin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise the tests above would prove little, and tiles would be larger than necessary.
    net, frames = small_net(num_cwgdn=1), video(2, 64, 230)
    step = 16 if margin == '_STATISTICS_MARGIN' else 4  # that of the coarsest map
    monkeypatch.setattr(tiles_module, margin, getattr(tiles_module, margin) - step)
    restored = torch.stack(list(Streamer(net, tile=(96, 64))(frames)))
    assert (restored - restore_clip(net, frames)).abs().max() > 1e-10


@pytest.mark.parametrize(('height', 'width'), [(32, 32), (70, 102), (100, 34), (135, 240)])
@pytest.mark.parametrize('tile', [Size(32, 32), Size(100, 50), Size(4000, 1)])
def test_tiles_cover_the_frame_once(height: int, width: int, tile: Size) -> None:
    covered = torch.zeros(height, width)
    frame = torch.zeros(1, 1, height, width)
    for part in tiles(height, width, tile, margin=8):
        part.place(covered, 1).add_(1)
        assert len(part.rows) <= -(-tile.height // 32) * 32
        assert len(part.columns) <= -(-tile.width // 32) * 32
        assert part.inner(part.cut(frame, 1, frame.device), 1).numel() == part.place(covered, 1).numel()
        assert (part.rows.start - part.outer_rows.start) in (0, 8)
        assert (part.outer_columns.stop - part.columns.stop) in (0, 2, 6, 8)
    assert torch.equal(covered, torch.ones(height, width))


def test_next_plan_is_used_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    net, frames = small_net(num_cwgdn=1), video(2, 70, 102)
    expected = restore_clip(net, frames)
    fuse = GatedFusion.forward

    def limited(self: GatedFusion, current: Tensor, propagated: Tensor) -> Tensor:
        if current[0, 0].numel() > 36 * 36:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory.')
        return fuse(self, current, propagated)

    monkeypatch.setattr(GatedFusion, 'forward', limited)
    plans = [Plan(), Plan(Size(64, 64)), Plan(Size(32, 32))]
    streamer = Streamer(net, tile='auto')
    monkeypatch.setattr(streamer_module, 'tile_plans', lambda *_: list(plans))
    assert streamer.plan(70, 102) == plans[0]
    assert_exact(streamer(frames), expected)
    assert streamer.plan(70, 102) == plans[1]
    monkeypatch.setattr(streamer_module, 'tile_plans', lambda *_: plans[:1])
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(Streamer(net, tile='auto')(frames))

"""Memory of streams: bounded, estimated from above; free memory within limits of control groups."""

from __future__ import annotations

import sys
import tempfile
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from stream_utils import small_net, small_plus
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.arguments import Size
from dstnet_arch.streaming import memory
from dstnet_arch.streaming.live import LiveStreamer
from dstnet_arch.streaming.memory import free_memory, needed_bytes, peak_memory, place_states, tile_plans
from dstnet_arch.streaming.streamer import Streamer
from dstnet_arch.streaming.tiles import Plan


class PeakCounter(TorchDispatchMode):
    """Counts the bytes of tensors that exist at the same time."""

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
    'make_net',
    [
        partial(small_net, num_feat=8, num_cwgdn=2),
        partial(small_net, num_feat=8, num_cwgdn=0, prop_feat=12),
        partial(small_plus, num_feat=8),
    ],
    ids=['base', 'large', 'plus'],
)
def test_needed_bytes_is_an_upper_bound(make_net: Callable[[], VideoNet], plan: Plan) -> None:
    net = make_net()
    frames = [torch.rand(3, 192, 192, dtype=torch.float64)] * 5
    with tempfile.TemporaryDirectory() as folder, PeakCounter() as counter:
        for _ in Streamer(net, tile=plan.tile, store='disk', temp_dir=folder)(frames):
            pass
    needed = needed_bytes(net, (1, 192, 192), plan, 'cpu')
    assert counter.peak <= needed <= 3 * counter.peak


def peak_bytes(streamer: Streamer | LiveStreamer, num_frame: int) -> int:
    frame = torch.zeros(3, 16, 16, dtype=torch.float64)
    frames = [frame] * num_frame
    with PeakCounter() as counter:
        for _ in streamer(frames if isinstance(streamer, Streamer) else iter(frames)):
            pass
    return counter.peak


def test_memory_of_streams_does_not_grow_with_the_video() -> None:
    net = small_net(num_cwgdn=1)
    state = 8 * 2 * 8 * 8
    on_disk, on_device = Streamer(net, store='disk'), Streamer(net, store='device')
    assert peak_bytes(on_disk, 12) == peak_bytes(on_disk, 6)
    # The measurement detects growth: one state per frame.
    assert peak_bytes(on_device, 12) - peak_bytes(on_device, 6) == 6 * state
    live = LiveStreamer(net, window=1, lookahead=2)
    assert peak_bytes(live, 12) == peak_bytes(live, 6)


def test_tile_plans_depend_on_free_memory() -> None:
    net = DSTNet()
    frames = 1, 2160, 3840
    assert tile_plans(net, frames, 24 << 30)[0] == Plan()
    assert tile_plans(net, frames, 11 << 30)[0] == Plan(Size(1024, 1024))
    assert tile_plans(net, frames, 5 << 30)[0].maps == 'host'
    assert tile_plans(net, frames, 4 << 30, 'cpu')[0] == tile_plans(net, frames, 0, 'cpu')[0] == Plan(Size(256, 256))
    for free in (0, 2 << 30, 4 << 30, 8 << 30, 64 << 30):
        plans = tile_plans(net, frames, free)
        assert plans[-1] == Plan(Size(256, 256), 'host')
        assert len(plans) == len(set(plans))


def test_place_states_uses_half_of_free_memory() -> None:
    assert place_states(10, 100, 2000) == ('host', None)
    assert place_states(10, 101, 2000) == ('host', 'sqrt')


def test_free_and_peak_memory_are_plausible(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < free_memory() < 1 << 50
    if sys.platform == 'linux':
        assert peak_memory(torch.device('cpu')) > 10_000_000
    monkeypatch.setitem(sys.modules, 'psutil', None)  # not installed
    assert 0 < free_memory() < 1 << 50


def test_free_memory_is_that_of_psutil_where_no_proc_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, '_OWN_CGROUPS', tmp_path / 'none')
    monkeypatch.setattr(memory, 'proc_value', lambda path, name: 0)  # as on Windows and macOS
    psutil = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=48 << 30))
    monkeypatch.setitem(sys.modules, 'psutil', psutil)
    assert free_memory() == 48 << 30
    state_bytes = Streamer(DSTNet()).state_bytes(720, 1280)
    assert place_states(state_bytes, 300, free_memory()) == ('host', None)  # no work is repeated


@pytest.mark.parametrize(
    ('groups', 'files', 'expected'),
    [
        # Version 2: the limit of a parent applies; cached files can be dropped.
        (
            '0::/user/job',
            {
                'user/job/memory.max': 'max', 'user/job/memory.current': '700',
                'user/memory.max': '1000', 'user/memory.current': '900',
                'user/memory.stat': 'anon 500\ninactive_file 300\n',
            },
            400,
        ),
        # Version 1, within a container that does not see its outer path.
        (
            '5:cpu:/\n4:memory:/docker/0a1b',
            {'memory/memory.limit_in_bytes': '1000', 'memory/memory.usage_in_bytes': '400'},
            600,
        ),
        ('0::/', {'memory.max': '1000', 'memory.current': '1001'}, 0),
        ('0::/', {}, memory._UNLIMITED),
        ('1:cpu:/', {'memory.max': '1000', 'memory.current': '1'}, memory._UNLIMITED),
    ],
    ids=['version 2', 'version 1', 'exceeded', 'no limit', 'no memory group'],
)  # fmt: skip
def test_free_memory_respects_control_groups(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    (tmp_path / 'self').write_text(groups)
    for name, text in files.items():
        (tmp_path / 'cgroup' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'cgroup' / name).write_text(text)
    monkeypatch.setattr(memory, '_CGROUPS', tmp_path / 'cgroup')
    monkeypatch.setattr(memory, '_OWN_CGROUPS', tmp_path / 'self')
    assert memory._cgroup_memory() == expected
    monkeypatch.setattr(memory, '_system_memory', lambda: 500)
    assert free_memory() == min(expected, 500)

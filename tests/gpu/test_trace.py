"""Layout, kernels and memory on a GPU, counted on fake CUDA tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpu_trace import Trace, make, per_frame, trace_clip, trace_stream

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.arguments import Size
from dstnet_arch.streaming.memory import needed_bytes
from dstnet_arch.streaming.tiles import Plan

pytestmark = pytest.mark.usefixtures('fake_gpu')

SMALL: dict[str, Any] = {'num_feat': 16, 'num_block': 1, 'num_cwgdn': 2}
# Not bfloat16: without a GPU, PyTorch takes its convolutions to have no cuDNN, and so another layout.
AUTOCAST = pytest.mark.parametrize('autocast', [None, torch.float16], ids=str)


def assert_channels_last(trace: Trace) -> None:
    assert trace.not_channels_last == []
    assert trace.relayouts == []


@pytest.mark.parametrize(('num_frame', 'autocast'), [(1, None), (3, None), (5, None), (3, torch.float16)], ids=str)
def test_inference_keeps_channels_last(num_frame: int, autocast: torch.dtype | None) -> None:
    net = make(DSTNet, **SMALL).eval()
    for trace in (
        trace_clip(net, (2, num_frame, 3, 64, 96), autocast=autocast),
        trace_stream(net, (64, 96), num_frame, autocast),
    ):
        assert_channels_last(trace)
        assert trace.weight_relayouts == 0


def test_journal_version_keeps_channels_last() -> None:
    assert_channels_last(trace_clip(make(DSTNetPlus, num_feat=16, num_block=1).eval(), (1, 3, 3, 64, 96)))


@AUTOCAST
def test_training_keeps_channels_last(autocast: torch.dtype | None) -> None:
    trace = trace_clip(make(DSTNet, **SMALL).train(), (2, 3, 3, 64, 96), train=True, autocast=autocast)
    assert_channels_last(trace)
    assert trace.weight_relayouts == 0
    assert trace.operators['dstnet::pixel_filter_backward'] == 6
    assert trace.channel_slices == []


def test_kernels_per_streamed_frame() -> None:
    figures = per_frame(make(DSTNet).eval(), (720, 1280))
    assert figures['kernels'] <= 300
    assert figures['gb'] <= 22.5


def test_derived_weights_are_computed_once_for_a_stream() -> None:
    net = make(DSTNet, **SMALL).eval()
    few, more = (trace_stream(net, (64, 96), n, torch.float16).operators for n in (3, 4))
    assert few['aten::stack'] == more['aten::stack'] > 0  # merged weights
    casts, convolutions = (more[name] - few[name] for name in ('aten::_to_copy', 'aten::convolution'))
    assert casts < convolutions / 4  # of frames and for LayerNorm; not of weights


EXTENDED = (pytest.mark.slow, pytest.mark.extended)


@pytest.mark.parametrize(
    ('size', 'tile'),
    [
        ((720, 1280), None),
        ((1080, 1920), None),
        ((2160, 3840), None),
        pytest.param((720, 1280), 512, marks=EXTENDED),
        pytest.param((1080, 1920), 1024, marks=EXTENDED),
        pytest.param((2160, 3840), 1024, marks=EXTENDED),
    ],
    ids=str,
)
def test_memory_estimate_is_at_least_the_peak(size: tuple[int, int], tile: int | None) -> None:
    net = make(DSTNet).eval()
    settings = {} if tile is None else {'tile': (tile, tile)}
    peak = trace_stream(net, size, 2, **settings).peak_bytes
    plan = Plan() if tile is None else Plan(Size(tile, tile))
    height, width = (net.padded_side(side) for side in size)
    # Without the states, which are in the device's memory here, and the input frames.
    extra = 2 * (64 * height * width // 4 + 3 * height * width) * 4
    assert peak - extra <= needed_bytes(net, (1, height, width), plan, 'cpu')  # the trace has no CUDA graphs

"""CUDA graphs of streams and of training steps: with a stub on the CPU, and the real ones on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from stream_utils import restore_clip, small_net, small_plus, video
from torch import Tensor, nn

from dstnet_arch.ops import cuda_graph
from dstnet_arch.ops.cuda_graph import WARM_UP, CudaGraph, GraphedBackward
from dstnet_arch.streaming import graphs, streamer
from dstnet_arch.streaming.live import LiveStreamer
from dstnet_arch.streaming.streamer import Streamer

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')


class StubGraph:
    """Runs the function on its own memory at each replay, and keeps its outputs at one place, as a graph does."""

    made: int = 0
    error: BaseException | None = None

    def __init__(
        self, function: Callable[..., Any], tensors: Sequence[Tensor | None], pool: Any = None, inputs: Any = None
    ) -> None:
        if StubGraph.error:
            raise StubGraph.error
        StubGraph.made += 1
        self.inputs = inputs or [None if t is None else t.clone() for t in tensors]
        self.function = function
        self.outputs = function(*self.inputs)

    def replay(self, tensors: Sequence[Tensor | None]) -> Any:
        for to, tensor in zip(self.inputs, tensors, strict=True):
            if to is not None and tensor is not None:
                to.copy_(tensor)
        outputs = self.function(*self.inputs)
        if isinstance(outputs, Tensor):
            return self.outputs.copy_(outputs)  # what earlier results would see if they were not copied
        return outputs


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[StubGraph]]:
    StubGraph.made, StubGraph.error = 0, None
    monkeypatch.setattr(graphs, 'CudaGraph', StubGraph)
    monkeypatch.setattr(cuda_graph, 'CudaGraph', StubGraph)
    monkeypatch.setattr(torch.cuda, 'graph_pool_handle', lambda: (0, 1))
    monkeypatch.setattr(streamer, 'uses_graphs', lambda device: True)
    yield StubGraph
    StubGraph.error = None


@pytest.mark.parametrize('make_net', [small_net, small_plus])
@pytest.mark.parametrize('settings', [{}, {'interval': 3}, {'tile': (64, 64)}], ids=str)
def test_streams_with_graphs_equal_the_clip(
    make_net: Callable[[], Any], settings: dict[str, Any], stub: type[StubGraph]
) -> None:
    net, frames = make_net(), video(9, 37, 51)
    restored = torch.stack(list(Streamer(net, **settings)(frames)))
    torch.testing.assert_close(restored, restore_clip(net, frames), rtol=0, atol=1e-12)
    assert bool(stub.made) == ('tile' not in settings)


def test_live_stream_captures_once(stub: type[StubGraph]) -> None:
    live, frames = LiveStreamer(small_net(), window=2, lookahead=2), video(20, 32, 32)
    made = []
    for _ in live(frames):
        made.append(stub.made)
    assert made[-1] == made[len(made) // 2] > 0


def test_a_failed_capture_falls_back(stub: type[StubGraph]) -> None:
    net, frames = small_net(), video(6, 32, 32)
    stub.error = RuntimeError('operation not permitted when stream is capturing')
    with pytest.warns(UserWarning, match='CUDA graphs cannot be used here: .*not permitted'):
        restored = torch.stack(list(Streamer(net)(frames)))
    torch.testing.assert_close(restored, restore_clip(net, frames), rtol=0, atol=1e-12)


def test_without_memory_for_graphs_streams_run_without(stub: type[StubGraph], recwarn: pytest.WarningsRecorder) -> None:
    stub.error = torch.OutOfMemoryError('CUDA out of memory.')
    list(Streamer(small_net(), tile='auto')(video(6, 32, 32)))
    assert not recwarn.list


def linear_step(weight: nn.Parameter) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    place = torch.empty_like(weight)  # a replay writes gradients where the capture did

    def backward(lq: Tensor, gt: Tensor) -> dict[str, Tensor]:
        loss = (weight * lq - gt).square().mean()
        weight.grad = place.copy_(torch.autograd.grad(loss, weight)[0])
        return {'l_pix': loss.detach()}

    return backward


def test_training_step_is_captured_for_one_shape(stub: type[StubGraph]) -> None:
    weight = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    backward, plain = GraphedBackward(linear_step(weight), [weight]), linear_step(weight)
    for step, size in enumerate([4] * 5 + [6] * 2):
        lq, gt = torch.randn(size, dtype=torch.float64), torch.randn(size, dtype=torch.float64)
        expected, gradient = plain(lq, gt), weight.grad
        weight.grad = None
        assert backward(lq, gt) == expected
        assert torch.equal(weight.grad, gradient)
        assert stub.made == (step >= WARM_UP)
    backward.release()
    for _ in range(WARM_UP + 1):
        assert stub.made == 1
        backward(lq, gt)
    assert stub.made == 2


@pytest.mark.parametrize('error', [RuntimeError('not permitted'), torch.OutOfMemoryError('CUDA out of memory.')])
def test_training_continues_without_a_graph(error: Exception, stub: type[StubGraph]) -> None:
    stub.error = error
    weight = nn.Parameter(torch.tensor(2.0))
    backward = GraphedBackward(linear_step(weight), [weight])
    for _ in range(5):
        assert backward(torch.ones(3), torch.zeros(3))['l_pix'] == 4
    assert weight.grad == 4


@pytest.mark.gpu
@NEEDS_GPU
def test_graph_of_a_function_that_passes_inputs_on() -> None:
    x, y = torch.arange(3.0, device='cuda'), torch.ones(3, device='cuda')
    graph = CudaGraph(lambda a, b, c: (a + b, b, c), [x, y, None])
    for scale in (1.0, 2.0):
        total, passed, missing = graph.replay([scale * x, y, None])
        assert torch.equal(total, scale * x + y)
        assert passed is graph.inputs[1]
        assert missing is None


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize('autocast', [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize('make_net', [small_net, small_plus])
def test_graphs_equal_single_launches(make_net: Callable[[], Any], autocast: torch.dtype | None) -> None:
    net, frames = make_net().float().to('cuda'), video(9, 37, 51).float()
    results = [list(Streamer(net, autocast=autocast, cuda_graphs=graphs)(frames)) for graphs in (False, True)]
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.gpu
@NEEDS_GPU
def test_unusable_graphs_on_a_gpu() -> None:
    with pytest.raises(RuntimeError):
        CudaGraph(lambda x: x.sum().item(), [torch.ones(3, device='cuda')])
    assert torch.ones(3, device='cuda').sum().item() == 3  # the device works as before

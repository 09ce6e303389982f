"""One step of the propagation as a CUDA graph: about a hundred kernels, launched at once.

For inference on GPUs, where launching a step's kernels one by one takes longer than running them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]

_WARM_UP = 3  # runs before the capture, in which libraries choose their algorithms and take their working memory


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    current: Tensor
    propagated: Tensor
    result: Tensor


class GraphedStep:
    """A step (features of this frame, result of the frame before) -> result, captured at its first call for each shape
    and precision and replayed from then on.

    Weights may change in place between calls, but not move: after loading others in another place or precision, make a
    new one.

    Args:
        step: the step; without gradients, on a GPU, and without any communication with the host.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._captured: dict[Any, _Captured] = {}

    def __call__(self, current: Tensor, propagated: Tensor) -> Tensor:
        """Two (B, C, H, W) on a GPU -> (B, C, H, W)."""
        autocast = torch.get_autocast_dtype('cuda') if torch.is_autocast_enabled('cuda') else None
        key = (current.shape, current.dtype, propagated.dtype, current.device, autocast)
        if key not in self._captured:
            self._captured[key] = self._capture(current, propagated)
        captured = self._captured[key]
        captured.current.copy_(current)
        captured.propagated.copy_(propagated)
        captured.graph.replay()
        return captured.result.clone()  # the next replay writes over it

    def _capture(self, current: Tensor, propagated: Tensor) -> _Captured:
        current, propagated = (x.clone(memory_format=torch.channels_last) for x in (current, propagated))
        enabled = torch.is_autocast_enabled('cuda')
        dtype = torch.get_autocast_dtype('cuda')
        # Without autocast's cache: what it holds would be made in the graph's memory and be used outside of it.
        with torch.cuda.device(current.device), torch.autocast('cuda', dtype, enabled=enabled, cache_enabled=False):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    self._step(current, propagated)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                result = self._step(current, propagated)
        return _Captured(graph, current, propagated, result)

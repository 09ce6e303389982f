"""CUDA graphs: the kernels of a function, recorded once and launched all together.

A step of the networks is hundreds of small kernels, and a CPU needs longer to launch them one by one than a fast GPU to
run them.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dstnet_arch.errors import first_line

_LOG = logging.getLogger('basicsr')

WARM_UP = 2  # calls before a capture: in them, libraries are initialised, and kernels compiled and checked


class CudaGraph:
    """A captured function of tensors on one CUDA device.

    Everything else that the function uses, such as weights, must stay at its place in memory.

    Args:
        function: takes the tensors; called once. It must not wait for the device.
        tensors: arguments of the shapes, types and layouts that `replay` will get; None stays None.
        pool: memory that graphs share which run one after the other, from `torch.cuda.graph_pool_handle`. The outputs
            of one graph are then valid until the next one runs.
        inputs: memory for the arguments, which other graphs may use as well; None: its own.

    Attributes:
        outputs: what the function returned; a replay writes new values into the same tensors.
        inputs: memory of the arguments.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        tensors: Sequence[Tensor | None],
        pool: Any = None,
        inputs: Sequence[Tensor | None] | None = None,
    ) -> None:
        device = next(t.device for t in tensors if t is not None)
        with torch.cuda.device(device):
            self.inputs = [None if t is None else torch.empty_like(t) for t in tensors] if inputs is None else inputs
            self._fill(tensors)
            self._graph = torch.cuda.CUDAGraph()
            current, stream = torch.cuda.current_stream(), torch.cuda.Stream()
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                # Other threads, such as those that load data, may use CUDA meanwhile.
                self._graph.capture_begin(pool=pool, capture_error_mode='thread_local')
                try:
                    self.outputs = function(*self.inputs)
                finally:
                    self._graph.capture_end()
            current.wait_stream(stream)

    def _fill(self, tensors: Sequence[Tensor | None]) -> None:
        pairs = [(to, t) for to, t in zip(self.inputs, tensors, strict=True) if to is not None and t is not None]
        torch._foreach_copy_([to for to, _ in pairs], [t for _, t in pairs])

    def replay(self, tensors: Sequence[Tensor | None]) -> Any:
        """Run the function on other tensors; return `outputs`."""
        self._fill(tensors)
        self._graph.replay()
        return self.outputs


def describe(tensors: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """Return what tensors must have in common to be arguments of the same graph; hashable."""
    return tuple(None if t is None else (t.shape, t.stride(), t.dtype) for t in tensors)


Backward = Callable[[Tensor, Tensor], 'dict[str, Tensor]']


class GraphedBackward:
    """Replays the passes of a step, captured after `WARM_UP` steps with batches of one shape.

    If the capture fails, for example because a loss waits for the device, steps run without a graph from then on.

    Args:
        backward: computes the losses of a batch (blurry and sharp clips) and adds their gradients to the parameters'.
        parameters: the parameters, whose gradients are None before each step.
    """

    def __init__(self, backward: Backward, parameters: Iterable[nn.Parameter]) -> None:
        self._backward, self._parameters = backward, list(parameters)
        self._graph: CudaGraph | None = None
        self._shapes: Any = None
        self._calls = 0
        self._failed = False
        self._gradients: list[Tensor | None] = []

    def __call__(self, lq: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """Compute losses and gradients; the losses are valid until the next call."""
        if self._failed:
            return self._backward(lq, gt)
        if describe([lq, gt]) != self._shapes:
            self.release()
            self._shapes = describe([lq, gt])
        self._calls += 1
        if self._graph is None and self._calls > WARM_UP:
            self._capture(lq, gt)
        if self._graph is None:
            return self._backward(lq, gt)
        losses: dict[str, Tensor] = self._graph.replay([lq, gt])
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return losses

    def release(self) -> None:
        """Free the memory of the graph, for other work such as a validation; the next steps capture it again."""
        self._calls, self._graph, self._gradients = 0, None, []

    def _capture(self, lq: Tensor, gt: Tensor) -> None:
        gc.collect()  # what is left of earlier steps: the graph needs memory of its own
        torch.cuda.empty_cache()
        try:
            self._graph = CudaGraph(self._backward, [lq, gt])
            self._gradients = [parameter.grad for parameter in self._parameters]
            _LOG.info('Training steps run as a CUDA graph.')
        except Exception as error:
            self.release()
            self._failed = True
            _LOG.warning(
                f'Training steps run without a CUDA graph: {type(error).__name__}: {first_line(error)}. With '
                'train:cuda_graph=false it is not tried.'
            )
        if self._failed:
            for parameter in self._parameters:
                parameter.grad = None
            torch.cuda.empty_cache()

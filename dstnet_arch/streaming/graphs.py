"""Stages of a network replayed as CUDA graphs; see `dstnet_arch.ops.cuda_graph`."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from dstnet_arch.errors import first_line
from dstnet_arch.memory_errors import out_of_memory
from dstnet_arch.ops.cuda_graph import WARM_UP, CudaGraph, describe
from dstnet_arch.streaming.stages import Stages


def uses_graphs(device: torch.device) -> bool:
    """Return whether stages on a device can be captured."""
    return device.type == 'cuda'


class GraphedStages:
    """Replays stages of whole frames, each captured after `WARM_UP` calls with tensors of the same shapes.

    The weights and the settings of PyTorch, such as TF32 and autocast, must not change while it is in use. If a capture
    fails, the stages run without graphs from then on.

    Args:
        eager: the stages to call before a capture and without one.
        whole: the same stages of whole frames, to be captured.
        whole_frames: returns whether frames are processed as a whole now, not in tiles.

    Attributes:
        stages: the stages to use.
    """

    def __init__(self, eager: Stages, whole: Stages, whole_frames: Callable[[], bool]) -> None:
        self._whole_frames = whole_frames
        self._pool: Any = None
        self._calls: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, CudaGraph] = {}
        self._memory: dict[Hashable, Tensor] = {}  # inputs of all graphs: one of them runs at a time
        self._failed = False

        def graphed(name: str) -> Callable[..., Any]:
            return partial(self._call, name, getattr(eager, name), getattr(whole, name))

        self.stages = eager._replace(
            encode=graphed('encode'),
            prepare=graphed('prepare'),
            backward=graphed('backward'),
            forward=graphed('forward'),
            finish=graphed('finish'),
            step_block=lambda block, *args: self._call(
                block, partial(eager.step_block, block), partial(whole.step_block, block), *args
            ),
        )

    def _call(self, name: Hashable, eager: Callable[..., Any], whole: Callable[..., Any], *args: Any) -> Any:
        tensors, structure = tree_flatten(args)
        key = name, describe(tensors)
        if key not in self._graphs:
            self._calls[key] += 1
            if self._failed or self._calls[key] <= WARM_UP or not self._whole_frames():
                result = eager(*args)
                if any(result is tensor for tensor in tensors):  # no kernel to capture
                    self._calls[key] = -1
                return result
            self._capture(key, lambda *flat: whole(*tree_unflatten(flat, structure)), tensors)
            if self._failed:
                torch.cuda.empty_cache()
                return eager(*args)
        graph = self._graphs[key]
        outputs = graph.replay(tensors)
        passed_on = {id(memory): t for memory, t in zip(graph.inputs, tensors, strict=True) if memory is not None}
        # The next graph may overwrite the outputs. Those that are inputs, passed on, are the caller's already.
        return tree_map(lambda out: _own(out, passed_on), outputs)

    def _capture(self, key: Hashable, function: Callable[..., Any], tensors: Sequence[Tensor | None]) -> None:
        try:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            self._graphs[key] = CudaGraph(function, tensors, self._pool, self._inputs(tensors))
        except Exception as error:
            self._failed = True
            self._graphs.clear()
            self._memory.clear()
            if not out_of_memory(error):
                warnings.warn(
                    f'CUDA graphs cannot be used here: {type(error).__name__}: {first_line(error)}. Kernels are '
                    'launched one by one, which can be slower.',
                    stacklevel=2,
                )

    def _inputs(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        kinds = [(number, describe([tensor])) for number, tensor in enumerate(tensors)]
        for kind, tensor in zip(kinds, tensors, strict=True):
            if tensor is not None and kind not in self._memory:
                self._memory[kind] = torch.empty_like(tensor)
        return [self._memory.get(kind) for kind in kinds]


def _own(output: Tensor | None, passed_on: dict[int, Tensor | None]) -> Tensor | None:
    if output is None:
        return None
    return passed_on[id(output)] if id(output) in passed_on else output.clone()

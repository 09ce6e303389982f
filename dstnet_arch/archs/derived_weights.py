"""Tensors derived from parameters, such as merged or cast weights, computed once for a run of the network.

They are kept while a `DerivedWeights` context is in use, and never longer: BasicSR's moving average changes parameters
through `.data`, which leaves no trace.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_current = threading.local()


class DerivedWeights:
    """A context that keeps derived tensors. It can be entered again; inside another one, the outer one stays in use."""

    def __init__(self) -> None:
        self._kept: dict[Any, Tensor] = {}
        self._outer: list[DerivedWeights | None] = []

    def __enter__(self) -> DerivedWeights:
        outer = getattr(_current, 'derived', None)
        self._outer.append(outer)
        _current.derived = outer or self
        return self

    def __exit__(self, *error: object) -> None:
        _current.derived = self._outer.pop()

    def get(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """Return the tensor of this key; make it at the first call."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def derive(owner: nn.Module, name: str, make: Callable[[], Tensor], x: Tensor) -> Tensor:
    """Return `make()` as a weight for convolutions of `x`; in a `DerivedWeights` context, it is computed once.

    Args:
        owner: the module whose parameters `make` uses.
        name: name of the tensor, unique in `owner`.
        make: makes the tensor.
        x: input of the convolution, for the type and the layout.
    """
    dtype = _compute_dtype(x)

    def convert() -> Tensor:
        made = make()
        channels_last = made.dim() == 4 and x.is_cuda  # on CPUs, oneDNN has its own layout of weights
        return made.to(dtype, memory_format=torch.channels_last if channels_last else torch.preserve_format)

    current = getattr(_current, 'derived', None)
    if current is None or torch.compiler.is_compiling():
        return convert()
    return current.get((owner, name, dtype, torch.is_grad_enabled()), convert)


def conv_weights(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution of `x`, cast to autocast's type and to cuDNN's layout once for all calls."""
    weight, bias = conv.weight, conv.bias
    assert bias is not None
    if _compute_dtype(x) == weight.dtype:
        return (derive(conv, 'weight', lambda: weight, x) if x.is_cuda else weight), bias
    return derive(conv, 'weight', lambda: weight, x), derive(conv, 'bias', lambda: bias, x)


def _compute_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    if kind == 'meta':  # counting work: autocast does not know this device
        return x.dtype
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype

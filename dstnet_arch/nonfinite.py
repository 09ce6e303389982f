"""Find where the first non-finite value arises: in the frames, the weights or the output of a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class NonFiniteWatch:
    """Check the inputs and outputs of every layer while the context is open.

    Operations between layers are covered too: if a layer's output is finite but the input of the next layer is not,
    the value arose between them. Each check waits for the device.

    Attributes:
        finding: description of the first non-finite tensor, such as 'the output of refine.0.conv1 (Conv2d), 3 of 64
            values in float16'; None while everything is finite.

    Args:
        net: the network, without a wrapper for several devices.
    """

    def __init__(self, net: nn.Module) -> None:
        self.finding: str | None = None
        self._net = net
        self._hooks = ExitStack()

    def __enter__(self) -> NonFiniteWatch:
        for name, module in self._net.named_modules():
            before, after = 'the frames', 'the output of the network'
            if name:
                before = f'the input of {name} ({type(module).__name__})'
                after = f'the output of {name} ({type(module).__name__})'
            self._hooks.callback(module.register_forward_pre_hook(partial(self._before, before)).remove)
            self._hooks.callback(module.register_forward_hook(partial(self._after, after)).remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def check(self, name: str, values: object) -> None:
        """Check tensors in nested containers and report them under `name`."""
        if self.finding is None:
            self.finding = next((text for tensor in _tensors(values) if (text := _describe(name, tensor))), None)

    def check_weights(self) -> None:
        """Check the parameters of the network."""
        for name, parameter in self._net.named_parameters():
            self.check(f'the weights {name}', parameter)

    def check_gradients(self) -> None:
        """Check the gradients, roughly in the order in which the backward pass computes them."""
        for name, parameter in reversed(list(self._net.named_parameters())):
            self.check(f'the gradient of {name}', parameter.grad)

    def _before(self, name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.check(name, inputs)

    def _after(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.check(name, output)


def first_nonfinite(net: nn.Module, run: Callable[[], object]) -> str | None:
    """Describe the first non-finite tensor among the weights and the values computed by `run`; None if all are finite.

    Args:
        net: the network.
        run: a function that calls the network.
    """
    watch = NonFiniteWatch(net)
    watch.check_weights()
    if watch.finding is None:
        with watch:
            run()
    return watch.finding


def _tensors(values: object) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, Iterable) and not isinstance(values, (str, bytes)):
        for value in values:
            yield from _tensors(value)


def _describe(name: str, tensor: Tensor) -> str | None:
    finite = torch.isfinite(tensor)
    if bool(finite.all()):
        return None
    count = tensor.numel() - int(finite.sum())
    return f'{name}, {count} of {tensor.numel()} values in {str(tensor.dtype).removeprefix("torch.")}'

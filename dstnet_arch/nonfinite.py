"""Where the first number came about that is not finite: in the frames, in the weights, or in which layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class NonFiniteWatch:
    """Looks at what every layer of a network takes and gives, while the context is open.

    Work between layers is found as well: what a layer makes of finite numbers is finite when it leaves the layer, so
    numbers that are not, but reach the next layer, were made on the way there. Each look waits for the device.

    Attributes:
        finding: what was not finite first: 'the output of refine.0.conv1 (Conv2d), 3 of 64 values in float16'; None as
            long as all is.

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
                before = f'what reaches {name} ({type(module).__name__})'
                after = f'the output of {name} ({type(module).__name__})'
            self._hooks.callback(module.register_forward_pre_hook(partial(self._before, before)).remove)
            self._hooks.callback(module.register_forward_hook(partial(self._after, after)).remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def look(self, what: str, values: object) -> None:
        """Look at tensors, in whatever containers, that are called `what`."""
        if self.finding is None:
            self.finding = next((text for tensor in _tensors(values) if (text := _describe(what, tensor))), None)

    def _before(self, what: str, module: nn.Module, given: tuple[Any, ...]) -> None:
        self.look(what, given)

    def _after(self, what: str, module: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        self.look(what, made)


def first_nonfinite(net: nn.Module, run: Callable[[], object]) -> str | None:
    """What was not finite first, see `NonFiniteWatch.finding`: weights, or what `run` sends through the network."""
    watch = NonFiniteWatch(net)
    look_at_weights(watch, net)
    if watch.finding is None:
        with watch:
            run()
    return watch.finding


def look_at_weights(watch: NonFiniteWatch, net: nn.Module) -> None:
    """Look at the parameters."""
    for name, parameter in net.named_parameters():
        watch.look(f'the weights {name}', parameter)


def look_at_gradients(watch: NonFiniteWatch, net: nn.Module) -> None:
    """Look at the parameters' gradients, about in the order in which the backward pass has made them."""
    for name, parameter in reversed(list(net.named_parameters())):
        watch.look(f'the gradient of {name}', parameter.grad)


def _tensors(values: object) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, Iterable) and not isinstance(values, (str, bytes)):
        for value in values:
            yield from _tensors(value)


def _describe(what: str, tensor: Tensor) -> str | None:
    finite = torch.isfinite(tensor)
    if bool(finite.all()):
        return None
    count = tensor.numel() - int(finite.sum())
    return f'{what}, {count} of {tensor.numel()} values in {str(tensor.dtype).removeprefix("torch.")}'

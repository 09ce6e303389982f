"""Find where the first non-finite value arises: in the frames, the weights or the output of a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


class NonFiniteWatch:
    """Checks tensors in the order in which they are computed.

    Attributes:
        finding: description of the first non-finite tensor, such as 'the output of refine.0.conv1 (Conv2d), 3 of 64
            values in float16'; None while everything is finite.
    """

    def __init__(self) -> None:
        self.finding: str | None = None

    def check(self, name: str, values: object) -> None:
        """Check tensors in nested containers and report them under `name`. Waits for the device."""
        for tensor in _tensors(values):
            if self.finding is None and (count := int((~torch.isfinite(tensor)).sum())):
                dtype = str(tensor.dtype).removeprefix('torch.')
                self.finding = f'{name}, {count} of {tensor.numel()} values in {dtype}'

    @contextmanager
    def network(self, net: nn.Module) -> Iterator[None]:
        """Check the weights, and the inputs and outputs of every layer while the context is open.

        Operations between layers are covered, too: if the output of a layer is finite but the input of the next one is
        not, the value arose between them.
        """
        for name, parameter in net.named_parameters():
            self.check(f'the weights {name}', parameter)
        with ExitStack() as hooks:
            for name, module in net.named_modules():
                of = f'{name} ({type(module).__name__})'
                before, after = (f'the input of {of}', f'the output of {of}') if name else ('the frames', 'the output')
                check_input = module.register_forward_pre_hook(lambda _, x, label=before: self.check(label, x))
                check_output = module.register_forward_hook(lambda _, x, y, label=after: self.check(label, y))
                hooks.callback(check_input.remove)
                hooks.callback(check_output.remove)
            yield


def first_nonfinite(net: nn.Module, run: Callable[[], object]) -> str | None:
    """Describe the first non-finite tensor among the weights and the values computed by `run`; None if all are finite.

    Args:
        net: the network, without a wrapper for several devices.
        run: a function that calls the network.
    """
    watch = NonFiniteWatch()
    with watch.network(net):
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

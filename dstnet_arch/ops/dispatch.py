"""What the choice between fast paths and references needs to know about tracing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

F = TypeVar('F', bound=Callable[..., object])


def constant_when_compiled(function: F) -> F:
    """Have `torch.compile` call a function while it traces, and use its result as a constant.

    Same as `torch.compiler.assume_constant_result`, which imports the compiler: seconds, for everybody who imports the
    network.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def is_exporting() -> bool:
    """True while `torch.export` traces: exported files must not need kernels of this package."""
    if hasattr(torch.compiler, 'is_exporting'):  # since PyTorch 2.7
        return _is_exporting()
    return torch.compiler.is_compiling()


@constant_when_compiled
def _is_exporting() -> bool:
    return torch.compiler.is_exporting()  # traced by torch.compile of PyTorch 2.11, it is always True

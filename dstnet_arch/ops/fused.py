"""Whether the fused GPU kernels, which are written in Triton, can do an operation's work."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module

import torch
from torch import Tensor

_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def usable(*tensors: Tensor) -> bool:
    """Whether all tensors are on a GPU that Triton knows, and of one type that the kernels take.

    Not while a network is exported: other runtimes have no Triton.
    """
    first = tensors[0]
    if first.device.type != 'cuda' or first.dtype not in _TYPES or any(t.dtype != first.dtype for t in tensors):
        return False
    if not all(t.numel() for t in tensors) or torch.jit.is_tracing() or _exporting():  # type: ignore[attr-defined]
        return False
    return _available()


def _exporting() -> bool:
    return getattr(torch.compiler, 'is_exporting', lambda: False)()


@cache
def _available() -> bool:
    try:
        import_module('triton')
    except ImportError as error:
        warnings.warn(
            f"Triton, of which the fused GPU kernels are made, cannot be imported: {error}. PyTorch's operations do "
            'their work, slower and in more memory. pip install triton helps on Linux.',
            stacklevel=2,
        )
        return False
    return True

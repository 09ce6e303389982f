"""The fused GPU kernels, written in Triton: registration, self-check, and the choice between them and PyTorch.

At the first use on a device and in a type, every fused operation and its gradient are computed on a small tensor and
compared with the reference in float64. If anything fails (no Triton, no C compiler for its launcher, a cache folder
that cannot be written, a GPU that it does not support, wrong results), a warning gives the reason and PyTorch's
operations are used on that device. ``DSTNET_FUSED=0`` switches the kernels off.

The operations are registered as ``torch.ops.dstnet.…``, so that `torch.compile` captures them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from dstnet_arch.errors import first_line
from dstnet_arch.memory_errors import out_of_memory
from dstnet_arch.ops.dispatch import constant_when_compiled, is_exporting

VARIABLE = 'DSTNET_FUSED'
LIBRARY = torch.library.Library('dstnet', 'FRAGMENT')

_TYPES = (torch.float32, torch.float16, torch.bfloat16)
# Relative to the largest value. In float32 the sums are the same up to their order.
_TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_checked: dict[tuple[int, torch.dtype], bool] = {}


class FusedWarning(UserWarning):
    """The fused GPU kernels are not available."""


def register(schema: str, module: str, fake: Callable[..., Any]) -> None:
    """Register an operation ``torch.ops.dstnet.NAME``.

    Args:
        schema: `NAME(arguments) -> results` in PyTorch's notation.
        module: module in this package with a function NAME that launches the kernels. It is imported at the first
            call: Triton is optional.
        fake: the same function for tensors without data.
    """
    name = schema.split('(')[0]

    def run(*args: Any) -> Any:
        return getattr(import_module(f'dstnet_arch.ops.{module}'), name)(*args)

    LIBRARY.define(schema)
    LIBRARY.impl(name, run, 'CompositeExplicitAutograd')
    torch.library.register_fake(f'dstnet::{name}', fake, lib=LIBRARY)


def usable(*tensors: Tensor) -> bool:
    """True if the fused kernels support these tensors.

    All must be on one CUDA device, in one type that the kernels support. Exported networks use PyTorch's operations,
    since other runtimes have neither Triton nor this package.
    """
    first = tensors[0]
    if not first.is_cuda or first.dtype not in _TYPES:
        return False
    if any(t.dtype != first.dtype or t.device != first.device or not t.numel() for t in tensors):
        return False
    if _is_tracing():
        return False
    return _available(first.device.index, first.dtype)


def elementwise_usable(*tensors: Tensor) -> bool:
    """`usable` for operations that `torch.compile` fuses as well by itself: false while it traces."""
    return not torch.compiler.is_compiling() and usable(*tensors)


def bias_is_separate(x: Tensor) -> bool:
    """True if a convolution of `x` adds its bias in a pass of its own, which a following operation can do instead.

    cuDNN does; `torch.compile` fuses the addition by itself, and exported networks keep the bias in the convolution.
    """
    return x.is_cuda and not torch.compiler.is_compiling() and not _is_tracing()


def enabled() -> bool:
    """Return False if the environment switches the kernels off."""
    return os.environ.get(VARIABLE, '1') not in ('', '0')


def _is_tracing() -> bool:
    return torch.jit.is_tracing() or is_exporting()  # type: ignore[attr-defined]


@constant_when_compiled
def _available(index: int, dtype: torch.dtype) -> bool:
    known = _checked.get((index, dtype))
    if known is not None:
        return known
    if not enabled():
        return False
    if torch.cuda.is_current_stream_capturing() or torch._C._len_torch_dispatch_stack():
        return False  # nothing can be computed now: ask again later
    return check(torch.device('cuda', index), dtype)


def check(device: torch.device, dtype: torch.dtype) -> bool:
    """Compare the fused operations with their references; warn if they cannot be used.

    Raises:
        RuntimeError: the device is out of memory.
    """
    key = device.index or 0, dtype
    _checked[key] = True
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            reason = next(filter(None, (_difference(*case, device, dtype) for case in _cases())), None)
    except Exception as error:
        if out_of_memory(error):
            del _checked[key]
            raise
        reason = f'{type(error).__name__}: {first_line(error)}'
    if reason is not None:
        _checked[key] = False
        warnings.warn(
            f"The fused GPU kernels cannot be used on {device} in {dtype}: {reason}. PyTorch's operations are used "
            'instead; they are slower and need more memory. The kernels need Triton (pip install triton) and a C '
            f'compiler; {VARIABLE}=0 switches them off.',
            FusedWarning,
            stacklevel=2,
        )
    return _checked[key]


Case = tuple[Callable[..., Tensor], Callable[..., Tensor], list[tuple[int, ...]]]


def _cases() -> list[Case]:
    """Fused operations, their references, and shapes of their arguments. 64 channels, as the networks have."""
    from dstnet_arch.ops import channel_filter, conv_bias, gated_sum, haar, layer_norm, pixel_filter

    frame, channels, filters = (2, 64, 3, 17), (64,), (2, 64, 3, 3)
    doubled, low_filters = (2, 128, 3, 17), [(2, 576, 1, 2), (2, 576, 2, 1)]
    return [
        (pixel_filter.pixel_filter, pixel_filter.pixel_filter_reference, [frame, *low_filters]),
        (channel_filter.channel_filter, channel_filter.channel_filter_reference, [frame, filters, channels]),
        (
            channel_filter.gated_channel_filter,
            channel_filter.gated_channel_filter_reference,
            [doubled, filters, channels],
        ),
        (_leaky(conv_bias.add_bias), _leaky(conv_bias.add_bias_reference), [frame, channels]),
        (_residual(conv_bias.add_bias), _residual(conv_bias.add_bias_reference), [frame, channels, frame]),
        (gated_sum.gated_sum, gated_sum.gated_sum_reference, [frame, frame, channels] * 2),
        (haar.haar_synthesis, haar.haar_synthesis_reference, [frame, (2, 192, 3, 17)]),
        (
            _forward_only(layer_norm.layer_norm),
            _forward_only(layer_norm.layer_norm_reference),
            [frame, channels, channels],
        ),
    ]


def _forward_only(layer_norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(layer_norm)
    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with torch.no_grad():
            normed = layer_norm(x, weight, bias, 1e-5)
        return normed + x * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)  # with gradients, as those of the others

    return run


def _leaky(add_bias: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return wraps(add_bias)(lambda x, bias: add_bias(x.clone(), bias, 0.1, None))


def _residual(add_bias: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return wraps(add_bias)(lambda x, bias, residual: add_bias(x.clone(), bias, None, residual))


def _difference(
    function: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    shapes: list[tuple[int, ...]],
    device: torch.device,
    dtype: torch.dtype,
) -> str | None:
    """What is wrong with the result or a gradient of an operation; None if nothing is."""
    inputs = [_values(shape, i).to(dtype) for i, shape in enumerate(shapes)]
    results = []
    for run, place, precision in ((function, device, dtype), (reference, torch.device('cpu'), torch.float64)):
        leaves = [x.to(place, precision, copy=True).requires_grad_() for x in inputs]
        out = run(*leaves)
        grad = _values(tuple(out.shape), len(inputs)).to(dtype)
        results.append([out, *torch.autograd.grad(out, leaves, grad.to(place, precision))])
    for got, expected in zip(*results, strict=True):
        error = (got.detach().cpu().double() - expected.detach()).abs().max() / expected.detach().abs().max()
        if not error <= _TOLERANCES[dtype]:
            return f'{function.__name__} differs from its reference by {error:.1e}'
    return None


def _values(shape: tuple[int, ...], seed: int) -> Tensor:
    """Values in [-1, 1] that do not depend on PyTorch's random numbers, and leave them untouched."""
    count = torch.Size(shape).numel()
    return torch.sin(torch.arange(count, dtype=torch.float64) * (1 + seed) + seed).view(shape)

"""Compiled CPU kernels (native.c): the 3x3 convolution by Winograd's algorithm, the gated sum and the pixel filter.

They are compiled with the system's C compiler (GCC or Clang, about two seconds) before their first use, cached by
source, compiler and CPU, and compared with PyTorch's operations each time they are loaded. They are used by default
where a C compiler is found; ``DSTNET_NATIVE=0`` or `set_native` turns them off. If they fail to compile or to agree, a
warning gives the reason and PyTorch's operations are used. Results differ from PyTorch's convolutions in rounding only,
do not depend on the number of threads, and are the same in every run.

The kernels are operators of `torch.library` (``torch.ops.dstnet.native_*``) with fake implementations and backward
operators, so `torch.compile` captures them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from dstnet_arch.ops.dispatch import constant_when_compiled, is_exporting
from dstnet_arch.ops.native_build import NoCompilerError, compiled_library
from dstnet_arch.ops.pack_filters import pack_filters

VARIABLE = 'DSTNET_NATIVE'
CHANNEL_MULTIPLE = 16
_enabled = os.environ.get(VARIABLE, '1') not in ('', '0')
_loading = threading.Lock()


class NativeWarning(UserWarning):
    """The compiled kernels failed and PyTorch's operations are used."""


def set_native(enabled: bool) -> None:
    """Enable or disable the compiled kernels in this process."""
    global _enabled
    _enabled = enabled


def native_enabled() -> bool:
    """True if the compiled kernels are used where `usable` allows."""
    return _enabled


@contextmanager
def native(enabled: bool) -> Iterator[None]:
    """Enable or disable the compiled kernels within a block."""
    before = _enabled
    set_native(enabled)
    try:
        yield
    finally:
        set_native(before)


def available() -> bool:
    """True if the compiled kernels are enabled and work here. Compiles and checks them on the first call."""
    return _enabled and _is_loaded()


def usable(tensors: Iterable[Tensor | None], *channels: int) -> bool:
    """True if the compiled kernels are available and accept these tensors (those that are not None) and channels.

    They take float32 on a CPU outside autocast, export and forward-mode differentiation; channels are multiples of 16.
    """
    if not _enabled or any(c % CHANNEL_MULTIPLE for c in channels) or not all(map(_is_supported, tensors)):
        return False
    if torch.is_autocast_enabled('cpu') or is_exporting() or forward_ad._current_level >= 0:
        return False
    return _is_loaded()


def _is_supported(x: Tensor | None) -> bool:
    if x is None:
        return True
    plain = type(x) in (Tensor, torch.nn.Parameter)
    return plain and x.device.type == 'cpu' and x.dtype == torch.float32 and x.numel() > 0


@constant_when_compiled
def _is_loaded() -> bool:
    with _loading:
        return _library() is not None


# Kernels. Tensors are as in the functions of the same names in this folder; a slope of 1 is no LeakyReLU.


def _conv3x3(
    library: ctypes.CDLL,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: float,
    residual: Tensor | None,
    flipped: bool = False,
) -> Tensor:
    """The convolution; `flipped`: the transposed one, for gradients."""
    n, _, h, w = x.shape
    c_out, c_in = weight.shape[:2] if not flipped else weight.shape[1::-1]
    x, weight = x.contiguous(memory_format=torch.channels_last), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    residual = None if residual is None else residual.contiguous(memory_format=torch.channels_last)
    out = torch.empty((n, c_out, h, w), dtype=x.dtype, memory_format=torch.channels_last)
    arrays = (x, weight, _transform(), bias, residual, out)
    numbers = (n, h, w, c_in, c_out)
    options = (ctypes.c_int(flipped), ctypes.c_float(slope))
    _call(library.conv3x3, *map(_address, arrays), *map(ctypes.c_long, numbers), *options)
    return out


def _conv3x3_backward(
    library: ctypes.CDLL, grad: Tensor, x: Tensor, weight: Tensor, out: Tensor | None, slope: float, needed: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; empty tensors where not needed."""
    grad = grad.contiguous(memory_format=torch.channels_last)
    empty = grad.new_empty(0)
    if out is not None:  # the output has the sign of the LeakyReLU's input
        grad = torch.ops.aten.leaky_relu_backward(grad, out, slope, True)
    grad_x = _conv3x3(library, grad, weight, None, 1.0, None, flipped=True) if needed[0] else empty
    grad_weight = _conv3x3_weight_gradient(library, x, grad) if needed[1] else empty
    return grad_x, grad_weight, grad.sum(dim=(0, 2, 3)) if needed[2] else empty


def _conv3x3_weight_gradient(library: ctypes.CDLL, x: Tensor, grad: Tensor) -> Tensor:
    (n, c_in, h, w), c_out = x.shape, grad.shape[1]
    x, grad = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad))
    grad_weight = x.new_empty(c_out, c_in, 3, 3)
    arrays = (x, grad, _transform(), grad_weight)
    _call(library.conv3x3_weight_gradient, *map(_address, arrays), *map(ctypes.c_long, (n, h, w, c_in, c_out)))
    return grad_weight


def _gated_sum(library: ctypes.CDLL, *inputs: Tensor) -> Tensor:
    inputs = tuple(x.contiguous(memory_format=torch.channels_last) for x in inputs)
    out = torch.empty_like(inputs[0])
    _call(library.gated_sum, *map(_address, (*inputs, out)), ctypes.c_long(out.numel()))
    return out


def _gated_sum_backward(library: ctypes.CDLL, *inputs: Tensor) -> tuple[Tensor, ...]:
    grad, *terms = (x.contiguous(memory_format=torch.channels_last) for x in inputs)
    grads = tuple(map(torch.empty_like, terms))
    for k in (0, 2):
        arrays = (grad, *terms[k : k + 2], *grads[k : k + 2])
        _call(library.gate_backward, *map(_address, arrays), ctypes.c_long(grad.numel()))
    return grads


def _pixel_filter(library: ctypes.CDLL, features: Tensor, filters: list[Tensor]) -> Tensor:
    n, c, h, w = features.shape
    features = features.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(features)
    for k, low in enumerate(filters):
        cells = pack_filters(low)
        numbers = (n, h, w, c, *low.shape[-2:])
        _call(
            library.pixel_filter,
            *map(_address, (features, cells, out)),
            *map(ctypes.c_long, numbers),
            ctypes.c_int(k > 0),
        )
    return out


@cache
def _transform() -> Tensor:
    """G of Winograd's F(4, 3) for the points 0, ±5/8, ±3/2 and infinity, as in native.c: (6, 3)."""
    points = (0.0, 0.625, -0.625, 1.5, -1.5)
    rows = []
    for p in points:
        scale = torch.tensor([p - q for q in points if q != p], dtype=torch.float64).prod()
        rows.append(torch.tensor([1.0, p, p * p], dtype=torch.float64) / scale)
    return torch.stack([*rows, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)]).float()


def _address(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def _call(function: Any, *arguments: ctypes._SimpleCData) -> None:
    if function(*arguments, ctypes.c_int(torch.get_num_threads())):
        raise MemoryError('not enough memory for the working space of a compiled CPU kernel')


# Registration


def _setup_conv3x3(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, ctx.slope, _ = inputs
    ctx.save_for_backward(x, weight, None if ctx.slope == 1.0 else output)


def _autograd_conv3x3(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, out = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[:3])
    found = torch.ops.dstnet.native_conv3x3_backward(grad, x, weight, out, ctx.slope, needed)
    grads = [g if need else None for g, need in zip(found, needed, strict=True)]
    return *grads, None, grad if ctx.needs_input_grad[4] else None


def _fake_conv3x3(x: Tensor, weight: Tensor, bias: Tensor, slope: float, residual: Tensor | None) -> Tensor:
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _fake_conv3x3_backward(
    grad: Tensor, x: Tensor, weight: Tensor, out: Tensor | None, slope: float, needed: list[bool]
) -> tuple[Tensor, ...]:
    def like(shape: Any, need: bool, **memory_format: Any) -> Tensor:
        return x.new_empty(shape).contiguous(**memory_format) if need else x.new_empty(0)

    channels_last = {'memory_format': torch.channels_last}
    return (
        like(x.shape, needed[0], **channels_last),
        like(weight.shape, needed[1]),
        like(weight.shape[:1], needed[2]),
    )


def _setup_gated_sum(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _autograd_gated_sum(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.ops.dstnet.native_gated_sum_backward(grad, *ctx.saved_tensors))


def _fake_gated_sum(x1: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(x1, memory_format=torch.channels_last)


def _fake_gated_sum_backward(grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(map(_fake_gated_sum, inputs))


def _fake_pixel_filter(features: Tensor, filters: list[Tensor]) -> Tensor:
    return torch.empty_like(features, memory_format=torch.channels_last)


def _with_library(kernel: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: kernel(_library(), *arguments)


_LIBRARY = torch.library.Library('dstnet', 'FRAGMENT')
for _schema, _kernel, _fake in (
    ('native_conv3x3(Tensor x, Tensor weight, Tensor bias, float slope, Tensor? residual) -> Tensor', _conv3x3,
     _fake_conv3x3),
    ('native_conv3x3_backward(Tensor grad, Tensor x, Tensor weight, Tensor? out, float slope, bool[3] needed) '
     '-> (Tensor, Tensor, Tensor)', _conv3x3_backward, _fake_conv3x3_backward),
    ('native_gated_sum(Tensor x1, Tensor y1, Tensor x2, Tensor y2) -> Tensor', _gated_sum, _fake_gated_sum),
    ('native_gated_sum_backward(Tensor grad, Tensor x1, Tensor y1, Tensor x2, Tensor y2) '
     '-> (Tensor, Tensor, Tensor, Tensor)', _gated_sum_backward, _fake_gated_sum_backward),
    ('native_pixel_filter(Tensor features, Tensor[] filters) -> Tensor', _pixel_filter, _fake_pixel_filter),
):  # fmt: skip
    _LIBRARY.define(_schema)
    _name = _schema.partition('(')[0]
    _LIBRARY.impl(_name, _with_library(_kernel), 'CPU')
    torch.library.register_fake(f'dstnet::{_name}', _fake, lib=_LIBRARY)
torch.library.register_autograd('dstnet::native_conv3x3', _autograd_conv3x3, setup_context=_setup_conv3x3, lib=_LIBRARY)
torch.library.register_autograd(
    'dstnet::native_gated_sum', _autograd_gated_sum, setup_context=_setup_gated_sum, lib=_LIBRARY
)


# Compilation and self-check


@cache
def _library() -> ctypes.CDLL | None:
    try:
        if platform.machine() in ('x86_64', 'AMD64') and torch.backends.cpu.get_cpu_capability() == 'DEFAULT':
            return None  # without AVX2 PyTorch's convolutions are as fast
        library = ctypes.CDLL(str(compiled_library()))
        with torch.device('cpu'):  # not the user's default device
            _check(library)
    except NoCompilerError:
        return None
    except (OSError, subprocess.SubprocessError, ArithmeticError) as error:
        output = getattr(error, 'stderr', None) or str(error)
        lines = output.strip().splitlines() or [type(error).__name__]
        reason = next((line for line in lines if 'error:' in line), lines[-1])
        warnings.warn(
            f"The compiled CPU kernels are not available: {reason}. PyTorch's operations are used, which are slower. "
            f'They need a C compiler (gcc or clang) and a cache folder of your own (XDG_CACHE_HOME). {VARIABLE}=0 '
            'turns them off.',
            NativeWarning,
            stacklevel=2,
        )
        return None
    return library


def _check(library: ctypes.CDLL) -> None:
    """Compare the kernels with PyTorch in float64: results and gradients, at sizes that no tile divides.

    Raises:
        ArithmeticError: they differ by more than rounding.
    """
    c_in, c_out = CHANNEL_MULTIPLE, 3 * CHANNEL_MULTIPLE
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float32) - 0.5

    x, weight, bias = random(2, c_in, 7, 13), random(c_out, c_in, 3, 3), random(c_out)
    residual, filters = random(2, c_out, 7, 13), random(2, 9 * c_in, 2, 3)
    wide = [t.double() for t in (x, weight, bias, residual)]
    with torch.no_grad():
        out = F.conv2d(wide[0], wide[1], wide[2], padding=1)
        grads = torch.ops.aten.convolution_backward(
            wide[3], wide[0], wide[1], [len(bias)], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, True]
        )
        full = F.interpolate(filters.double(), (7, 13), mode='bilinear').view(2, 9, c_in, 7, 13).transpose(1, 2)
        gate = wide[3].sigmoid()
        patches = F.unfold(wide[0], 3, padding=1).view(2, c_in, 9, 7, 13)
        pairs = [
            (_conv3x3(library, x, weight, bias, 0.1, None), F.leaky_relu(out, 0.1)),
            (_conv3x3(library, x, weight, bias, 1.0, residual), out + wide[3]),
            *zip(_conv3x3_backward(library, residual, x, weight, None, 1.0, [True] * 3), grads, strict=True),
            (_gated_sum(library, *[residual] * 4), 2 * gate * wide[3]),
            (_gated_sum_backward(library, *[residual] * 5)[3], wide[3] ** 2 * gate * (1 - gate)),
            (_pixel_filter(library, x, [filters]), (full * patches).sum(2)),
        ]
    for got, expected in pairs:
        if not (got - expected).abs().max() <= 1e-5 * expected.abs().max():
            raise ArithmeticError('their results are wrong on this machine')

"""The fused GPU kernels against their references: on a GPU, or else run by Triton's interpreter on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dstnet_arch.ops import fused
from dstnet_arch.ops.channel_filter import (
    channel_filter,
    channel_filter_reference,
    gated_channel_filter,
    gated_channel_filter_reference,
)
from dstnet_arch.ops.conv_bias import add_bias, add_bias_reference
from dstnet_arch.ops.gated_sum import gated_sum, gated_sum_reference
from dstnet_arch.ops.haar import haar_synthesis, haar_synthesis_reference
from dstnet_arch.ops.layer_norm import layer_norm, layer_norm_reference
from dstnet_arch.ops.pixel_filter import pixel_filter, pixel_filter_reference
from dstnet_arch.ops.pool_half import pool_half

pytest.importorskip('triton', reason='Triton is not installed: it comes with PyTorch on Linux')

GPU = torch.cuda.is_available()
# Relative to the largest value: rounding of the result, or for gradients of the inputs' products.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize('dtype', list(TOLERANCE), ids=str)

FRAME = (1, 3, 2, 17)
CASES = {
    'pixel_filter': (pixel_filter, pixel_filter_reference, [FRAME, (1, 27, 1, 2)]),
    'pixel_filter of two sizes': (
        pixel_filter,
        pixel_filter_reference,
        [(2, 2, 2, 5), (2, 18, 1, 2), (2, 18, 1, 1)],
    ),
    'pixel_filter at full size': (pixel_filter, pixel_filter_reference, [(1, 2, 2, 3), (1, 18, 2, 3)]),
    'channel_filter': (channel_filter, channel_filter_reference, [(2, 3, 2, 17), (2, 3, 3, 3), (3,)]),
    'depthwise convolution': (channel_filter, channel_filter_reference, [(2, 3, 2, 17), (1, 3, 3, 3), (3,)]),
    'gated_channel_filter': (
        gated_channel_filter,
        gated_channel_filter_reference,
        [(2, 6, 2, 17), (2, 3, 3, 3), (3,)],
    ),
    'bias and LeakyReLU': (
        lambda x, bias: add_bias(x.clone(), bias, slope=0.1),
        lambda x, bias: add_bias_reference(x, bias, 0.1, None),
        [(2, 5, 3, 101), (5,)],
    ),
    'bias and residual': (
        lambda x, bias, residual: add_bias(x.clone(), bias, residual=residual),
        lambda x, bias, residual: add_bias_reference(x, bias, None, residual),
        [(2, 5, 3, 101), (5,), (2, 5, 3, 101)],
    ),
    'gated_sum': (gated_sum, gated_sum_reference, [(2, 5, 3, 101), (2, 5, 3, 101), (5,)] * 2),
    'layer_norm': (
        fused._forward_only(layer_norm),
        fused._forward_only(layer_norm_reference),
        [(2, 5, 3, 101), (5,), (5,)],
    ),
    'haar_synthesis': (haar_synthesis, haar_synthesis_reference, [(2, 3, 2, 17), (2, 9, 2, 17)]),
}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Use the kernels on the CPU, too; return the names of the operations that were used."""
    used: list[str] = []

    def usable(*tensors: Tensor) -> bool:
        used.append('kernel')
        return True

    if not GPU:
        monkeypatch.setattr(fused, 'usable', usable)
        monkeypatch.setattr(fused, 'elementwise_usable', usable)
    return used


def rand(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype=dtype, device='cuda' if GPU else 'cpu')


def results(function: Callable[..., Tensor], inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Result and gradients."""
    leaves = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
    out = function(*leaves)
    grad = rand(*out.shape, dtype=inputs[0].dtype, seed=99).to(dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


@DTYPES
@pytest.mark.parametrize('name', CASES)
def test_kernel_equals_its_reference(name: str, dtype: torch.dtype, interpreted: list[str]) -> None:
    function, reference, shapes = CASES[name]
    inputs = [rand(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes)]
    got, expected = results(function, inputs, dtype), results(reference, inputs, torch.float64)
    assert GPU or interpreted
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype
        assert a.shape == b.shape
        assert (a.double() - b).abs().max() <= TOLERANCE[dtype] * b.abs().max()


@pytest.mark.parametrize('name', CASES)
def test_kernel_reads_strided_inputs(name: str) -> None:
    function, reference, shapes = CASES[name]
    inputs = [rand(*shape, dtype=torch.float32, seed=i) for i, shape in enumerate(shapes)]
    strided = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in inputs]
    with torch.no_grad():
        got, expected = function(*strided), reference(*(x.double() for x in inputs))
    assert (got.double() - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_frames_larger_than_one_program() -> None:
    inputs = [rand(*shape, dtype=torch.float32) for shape in ((1, 2, 17, 1), (1, 2, 3, 3), (2,))]
    got = results(channel_filter, inputs, torch.float32)  # its gradient is summed over strips of rows
    for a, b in zip(got, results(channel_filter_reference, inputs, torch.float64), strict=True):
        assert (a.double() - b).abs().max() <= 2e-6 * b.abs().max()


def channels_last(*shape: int) -> Tensor:
    return rand(*shape, dtype=torch.float32).contiguous(memory_format=torch.channels_last)


X, BIAS, FILTERS = (1, 3, 2, 5), rand(3, dtype=torch.float32), rand(1, 3, 3, 3, dtype=torch.float32)
PACKED = [rand(1, 1, 1, 9, 3, dtype=torch.float32)]


@pytest.mark.parametrize(
    ('name', 'arguments'),
    [
        ('pixel_filter', (channels_last(*X), PACKED)),
        ('pixel_filter_backward', (channels_last(*X), channels_last(*X), PACKED)),
        ('channel_filter', (channels_last(1, 6, 2, 5), FILTERS, BIAS, True)),
        ('channel_filter', (channels_last(*X), FILTERS, BIAS, False)),
        ('channel_filter_backward', (channels_last(*X), channels_last(1, 6, 2, 5), FILTERS, BIAS, True)),
        ('add_bias_', (channels_last(*X), BIAS, None, 0.1)),
        ('gated_sum', (channels_last(*X), channels_last(*X), BIAS) * 2),
        ('gated_sum_backward', (channels_last(*X), *(channels_last(*X), channels_last(*X), BIAS) * 2)),
        ('layer_norm', (channels_last(*X), BIAS, BIAS, 1e-5)),
        ('haar_synthesis', (channels_last(*X), channels_last(1, 9, 2, 5))),
        ('haar_synthesis_backward', (channels_last(1, 3, 4, 6),)),
    ],
)
def test_registration(name: str, arguments: tuple[Any, ...]) -> None:
    operator = getattr(torch.ops.dstnet, name).default
    torch.library.opcheck(operator, arguments, test_utils=('test_schema', 'test_faketensor'))


@pytest.mark.slow
def test_compiled_operations_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, 'usable', lambda *tensors: True)

    def run(x: Tensor, low: Tensor, z: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
        pooled, z = pool_half(z)
        gated = gated_channel_filter(z, filters, bias)
        return pixel_filter(x, low).sum() + gated.square().sum() + pooled.square().sum()

    shapes = (X, (1, 27, 1, 1), (1, 6, 2, 5), (1, 3, 3, 3), (3,))
    inputs = [rand(*shape, dtype=torch.float32, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend='aot_eager')
    for a, b in zip(*(torch.autograd.grad(f(*inputs), inputs) for f in (run, compiled)), strict=True):
        torch.testing.assert_close(a, b)

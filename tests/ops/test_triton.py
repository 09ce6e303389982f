"""The fused GPU kernels: on a GPU, or else run by Triton's interpreter on the CPU; and compiled for GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dstnet_arch.ops.channel_filter import gated_channel_filter, gated_channel_filter_reference
from dstnet_arch.ops.pixel_filter import pixel_filter, pixel_filter_reference

triton = pytest.importorskip('triton', reason='Triton is not there: it comes with PyTorch on Linux')

GPU = torch.cuda.is_available()
# Relative to the largest value: what rounding the result, or for gradients the inputs' products, may cost.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize('dtype', list(TOLERANCE), ids=str)


@pytest.fixture(scope='module')
def kernels() -> dict[str, Any]:
    """The modules with the kernels; where there is no GPU, for the interpreter (see conftest.py)."""
    from dstnet_arch.ops import channel_filter_triton, pixel_filter_triton

    return {'pixel': pixel_filter_triton, 'channel': channel_filter_triton}


def rand(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype=dtype, device='cuda' if GPU else 'cpu')


def assert_close(got: tuple[Tensor, ...], reference: Callable[..., Tensor], grad: Tensor, *inputs: Tensor) -> None:
    """Result and gradients, against the reference in float64."""
    leaves = [x.double().requires_grad_() for x in inputs]
    out = reference(*leaves)
    expected = [out, *torch.autograd.grad(out, leaves, grad.double())]
    for a, b, like in zip(got, expected, [grad, *inputs], strict=True):
        assert a.dtype == like.dtype
        assert (a.double() - b).abs().max() <= TOLERANCE[like.dtype] * b.abs().max()


@DTYPES
def test_pixel_filter(kernels: dict[str, Any], dtype: torch.dtype) -> None:
    x, filters = rand(1, 3, 3, 17, dtype=dtype), rand(1, 27, 1, 2, dtype=dtype, seed=1)
    grad = rand(1, 3, 3, 17, dtype=dtype, seed=2)
    module = kernels['pixel']
    got = (module.pixel_filter_forward(x, filters), *module.pixel_filter_backward(grad, x, filters))
    assert_close(got, pixel_filter_reference, grad, x, filters)


@pytest.mark.parametrize('sizes', [[(1, 2), (1, 1)], [(3, 2)]], ids=str)
def test_pixel_filter_of_any_sizes(kernels: dict[str, Any], sizes: list[tuple[int, int]]) -> None:
    x = rand(2, 2, 5, 2, dtype=torch.float32).transpose(2, 3)  # (2, 2, 2, 5), strided
    filters = [rand(2, 18, *size, dtype=torch.float32, seed=size[0]) for size in sizes]
    grad = rand(2, 2, 2, 5, dtype=torch.float32, seed=9)
    module = kernels['pixel']
    got = (module.pixel_filter_forward(x, *filters), *module.pixel_filter_backward(grad, x, *filters))
    assert_close(got, pixel_filter_reference, grad, x, *filters)


@DTYPES
def test_gated_channel_filter(kernels: dict[str, Any], dtype: torch.dtype) -> None:
    z, filters, bias = (rand(*s, dtype=dtype) for s in ((2, 6, 3, 17), (2, 3, 3, 3), (3,)))
    grad = rand(2, 3, 3, 17, dtype=dtype, seed=2)
    module = kernels['channel']
    got = (module.gated_filter_forward(z, filters, bias), *module.gated_filter_backward(grad, z, filters, bias))
    assert_close(got, gated_channel_filter_reference, grad, z, filters, bias)


@pytest.mark.slow
@pytest.mark.skipif(GPU, reason='run instead of only compiled, by the other tests')
def test_kernels_compile_for_gpus(run_python: Callable[..., Any], tmp_path: Any) -> None:
    """Triton's compiler needs no GPU: each kernel is taken down to machine code."""
    program = """
from inspect import signature
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from dstnet_arch.ops import channel_filter_triton as channel, pixel_filter_triton as pixel

KERNELS = [
    (pixel._filter, dict(ADD=False, TRANSPOSED=False, PIXELS=16, CHANNELS=64)),
    (pixel._filter_gradient, dict(COLUMNS=16, CHANNELS=64)),
    (channel._forward, dict(PIXELS=16, CHANNELS=64)),
    (channel._backward, dict(PIXELS=16, CHANNELS=64)),
    (channel._filter_gradient, dict(ROWS=16, PIXELS=64, CHANNELS=64)),
]
for kernel, constants in KERNELS:
    types = {n: '*bf16' if n.endswith('_ptr') else 'i32' for n in kernel.arg_names}
    if kernel is channel._filter_gradient:
        types['out_ptr'] = '*fp32'
    if 'constexprs' in signature(ASTSource).parameters:
        kinds = {n: 'constexpr' if n in constants else types[n] for n in kernel.arg_names}
        positions = {(kernel.arg_names.index(n),): value for n, value in constants.items()}
        source = ASTSource(fn=kernel, signature=kinds, constexprs=positions)
    else:  # Triton before 3.3
        kinds = {n: types[n] for n in kernel.arg_names if n not in constants}
        source = ASTSource(fn=kernel, signature=kinds, constants=constants)
    print(kernel.__name__, len(compile(source, target=GPUTarget('cuda', 90, 32)).asm['cubin']))
"""
    variables = {'TRITON_CACHE_DIR': str(tmp_path), 'TRITON_INTERPRET': '0'}
    found = run_python('-W', 'ignore', '-c', program, cwd=tmp_path, **variables)
    assert found.returncode == 0, found.stderr
    assert len(found.stdout.splitlines()) == 5


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason='needs a CUDA GPU')
@DTYPES
def test_operations_use_the_kernels_on_a_gpu(
    kernels: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    for module, name in ((kernels['pixel'], 'pixel_filter_forward'), (kernels['channel'], 'gated_filter_forward')):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, f=function, n=name: (called.append(n), f(*args))[1])
    x, filters = rand(2, 64, 45, 80, dtype=dtype), rand(2, 576, 6, 10, dtype=dtype, seed=1)
    z, kernel, bias = rand(2, 128, 45, 80, dtype=dtype), rand(2, 64, 3, 3, dtype=dtype), rand(64, dtype=dtype)
    for function, reference, inputs in (
        (pixel_filter, pixel_filter_reference, (x, filters)),
        (gated_channel_filter, gated_channel_filter_reference, (z, kernel, bias)),
    ):
        leaves = [t.clone().requires_grad_() for t in inputs]
        out = function(*leaves)
        grad = rand(*out.shape, dtype=dtype, seed=5)
        assert_close((out.detach(), *torch.autograd.grad(out, leaves, grad)), reference, grad, *inputs)
    assert called == ['pixel_filter_forward', 'gated_filter_forward']

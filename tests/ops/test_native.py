"""Compiled CPU kernels: compared with PyTorch in float64, under torch.compile, and where they do not work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.benchmarks.plain import PlainDSTNet
from dstnet_arch.ops import native, native_build
from dstnet_arch.ops.conv3x3 import conv3x3, conv3x3_reference
from dstnet_arch.ops.gated_sum import gated_sum, gated_sum_reference
from dstnet_arch.ops.pixel_filter import pixel_filter, pixel_filter_reference

CHANNELS = 32


@pytest.fixture
def compiled() -> Iterator[None]:
    with native.native(True):
        if not native.usable([torch.zeros(1)], CHANNELS):  # a warning, if they fail, is an error here
            pytest.skip('no C compiler')
        yield


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """Result and gradients."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    factors = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * factors).sum(), leaves)]


def assert_close(
    function: Callable[..., Tensor], reference: Callable[..., Tensor], *inputs: Tensor, tolerance: float = 2e-6
) -> None:
    expected = run(reference, *(x.double() for x in inputs))
    for got, want in zip(run(function, *inputs), expected, strict=True):
        assert (got - want).abs().max() <= tolerance * want.abs().max().clamp(min=1)
    with torch.no_grad():
        assert (function(*inputs) - expected[0]).abs().max() <= 2e-6 * expected[0].abs().max().clamp(min=1)


SIZES = pytest.mark.parametrize('size', [(1, 8, 8), (2, 7, 13), (1, 1, 1), (3, 2, 5), (1, 4, 33)], ids=str)


@SIZES
@pytest.mark.parametrize(('c_in', 'c_out'), [(16, 16), (16, 48), (64, 32)])
@pytest.mark.parametrize(('slope', 'has_residual'), [(None, False), (0.1, False), (None, True)])
def test_conv3x3(
    compiled: None, size: tuple[int, int, int], c_in: int, c_out: int, slope: float | None, has_residual: bool
) -> None:
    n, h, w = size
    inputs = [rand(n, c_in, h, w), rand(c_out, c_in, 3, 3, seed=1) / 17, rand(c_out, seed=2)]
    inputs += [rand(n, c_out, h, w, seed=3)] * has_residual
    assert native.usable(inputs, c_in, c_out)
    assert_close(
        lambda *t: conv3x3(*t[:3], slope, *t[3:]),
        lambda *t: conv3x3_reference(*t[:3], slope, *t[3:]),
        *inputs,
        tolerance=5e-6,
    )


@SIZES
@pytest.mark.parametrize('scales', [[8], [2, 4, 8], [1], [3]], ids=str)
def test_pixel_filter(compiled: None, size: tuple[int, int, int], scales: list[int]) -> None:
    n, h, w = size
    filters = [rand(n, 9 * CHANNELS, -(-h // s), -(-w // s), seed=s) for s in scales]
    assert_close(pixel_filter, pixel_filter_reference, rand(n, CHANNELS, h, w), *filters)


@SIZES
def test_gated_sum(compiled: None, size: tuple[int, int, int]) -> None:
    n, h, w = size
    zero = torch.zeros(CHANNELS)
    assert_close(
        lambda *t: gated_sum(t[0], t[1], None, t[2], t[3], None),
        lambda *t: gated_sum_reference(t[0], t[1], zero, t[2], t[3], zero),
        *(4 * rand(n, CHANNELS, h, w, seed=seed) for seed in range(4)),
    )


def test_gated_sum_of_extreme_gates(compiled: None) -> None:
    y = torch.tensor([0.0, -0.0, 1e-30, 5.0, -5.0, 80.0, -80.0, 100.0, -100.0, 1e30, -1e30, torch.inf, -torch.inf])
    y = torch.cat([y, torch.full((3,), torch.nan)]).view(1, 16, 1, 1)
    one = torch.ones_like(y)
    got = gated_sum(one, y, None, one, y, None)
    assert not got[0, 13:].isfinite().any()
    torch.testing.assert_close(got[:, :13], 2 * y[:, :13].sigmoid(), rtol=3e-7, atol=1e-37)


def test_conv3x3_reads_strided_input(compiled: None) -> None:
    weight, bias = rand(CHANNELS, CHANNELS, 3, 3, seed=1) / 17, rand(CHANNELS, seed=2)
    x = rand(2, 3 * CHANNELS, 9, 14).contiguous(memory_format=torch.channels_last)[:, CHANNELS : 2 * CHANNELS, ::2]
    assert not x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(conv3x3(x, weight, bias), conv3x3_reference(x, weight, bias), rtol=0, atol=1e-5)


def test_network_agrees_with_plain_schedule(compiled: None) -> None:
    torch.manual_seed(0)
    net, plain = DSTNet(num_feat=CHANNELS, num_block=2, num_cwgdn=1), PlainDSTNet(CHANNELS, 2, num_cwgdn=1).double()
    plain.load_state_dict(net.state_dict())
    clip = torch.rand(2, 3, 3, 48, 32)
    factors = rand(*clip.shape, seed=5)
    (net(clip) * factors).sum().backward()
    (plain(clip.double()) * factors).sum().backward()
    # All together: where a LeakyReLU's input is next to zero, rounding decides its slope, in single weights.
    got, want = (torch.cat([p.grad.flatten() for p in n.parameters() if p.grad is not None]) for n in (net, plain))
    assert (got - want).norm() <= 2e-5 * want.norm()
    with torch.no_grad():
        assert (net(clip) - plain(clip.double())).abs().max() < 2e-6
        assert torch.equal(net(clip), net(clip))


@pytest.mark.parametrize('size', [(2, 37, 21), (1, 5, 6)], ids=['parallel', 'one thread'])
def test_results_do_not_depend_on_number_of_threads(compiled: None, size: tuple[int, int, int]) -> None:
    n, h, w = size
    weight, bias = rand(2 * CHANNELS, CHANNELS, 3, 3, seed=1), rand(2 * CHANNELS, seed=2)
    x, filters = rand(n, CHANNELS, h, w), rand(n, 9 * CHANNELS, 5, 3)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append([*run(lambda *t: conv3x3(*t, slope=0.1), x, weight, bias), pixel_filter(x, filters)])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(map(torch.equal, results[0], result))


def test_usable_only_for_float32_on_a_cpu_outside_autocast(compiled: None) -> None:
    x = torch.zeros(1, CHANNELS, 4, 4)
    assert native.usable([x], CHANNELS)
    assert native.usable([x], 16, 48)
    assert not native.usable([x], 8)
    assert not native.usable([x], CHANNELS + 1)
    assert not native.usable([x.double()], CHANNELS)
    assert not native.usable([x.to('meta')], CHANNELS)
    with torch.autocast('cpu', torch.bfloat16):
        assert not native.usable([x], CHANNELS)
    with native.native(False):
        assert not native.usable([x], CHANNELS)
    with forward_ad.dual_level():
        assert not native.usable([x], CHANNELS)


def test_tensors_that_do_not_fit_are_left_to_pytorch(compiled: None) -> None:
    x, weight, bias = rand(2, 16, 5, 5), rand(16, 16, 3, 3), rand(16)
    for wrong in ((x, weight.double(), bias), (x, rand(16, 32, 3, 3), bias), (x, weight, rand(1))):
        with pytest.raises(RuntimeError, match=r'expected|same'):
            conv3x3(*wrong)
    for residual in (x[:1], x.double()):
        expected = conv3x3_reference(x, weight, bias, residual=residual).float()
        torch.testing.assert_close(conv3x3(x, weight, bias, residual=residual), expected)
    expected = x * x[:1].sigmoid() + x * x.sigmoid()
    torch.testing.assert_close(gated_sum(x, x[:1], None, x, x, None), expected)


def test_defaults_of_pytorch_do_not_matter(compiled: None, fresh: Path) -> None:
    x, weight, bias = rand(1, 16, 5, 5), rand(16, 16, 3, 3), rand(16)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device('meta'):
            assert native.available()
        results = run(conv3x3, x, weight, bias), run(conv3x3_reference, x, weight, bias)
    finally:
        torch.set_default_dtype(torch.float32)
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(('slope', 'with_residual'), [(1.0, True), (0.1, False)])
def test_operators_are_registered_correctly(compiled: None, slope: float, with_residual: bool) -> None:
    x, residual = rand(1, CHANNELS, 5, 6).requires_grad_(), rand(1, CHANNELS, 5, 6, seed=3).requires_grad_()
    weight, bias = rand(CHANNELS, CHANNELS, 3, 3, seed=1).requires_grad_(), rand(CHANNELS, seed=2).requires_grad_()
    checks = ('test_schema', 'test_autograd_registration', 'test_faketensor')
    arguments = (x, weight, bias, slope, residual if with_residual else None)
    torch.library.opcheck(torch.ops.dstnet.native_conv3x3.default, arguments, test_utils=checks)
    gates = [rand(1, CHANNELS, 5, 6, seed=seed).requires_grad_() for seed in range(4)]
    torch.library.opcheck(torch.ops.dstnet.native_gated_sum.default, gates, test_utils=checks)
    filters = [rand(1, 9 * CHANNELS, 2, 3)]
    torch.library.opcheck(
        torch.ops.dstnet.native_pixel_filter.default,
        (x.detach(), filters),
        test_utils=('test_schema', 'test_faketensor'),
    )


@pytest.mark.slow
def test_kernels_work_under_torch_compile(compiled: None) -> None:
    weight, bias, x = rand(CHANNELS, CHANNELS, 3, 3, seed=1) / 17, rand(CHANNELS, seed=2), rand(1, CHANNELS, 9, 10)
    filters = rand(1, 9 * CHANNELS, 2, 2, seed=3)

    def block(x: Tensor, weight: Tensor, bias: Tensor, filters: Tensor) -> Tensor:
        return pixel_filter(conv3x3(conv3x3(x, weight, bias, slope=0.1), weight, bias, residual=x), filters)

    used = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        used.extend(str(node.target) for node in graph.graph.nodes if node.op == 'call_function')
        return graph

    compiled_block = torch.compile(block, fullgraph=True, backend=backend)
    inputs = x, weight, bias, filters
    for got, want in zip(run(compiled_block, *inputs), run(block, *inputs), strict=True):
        torch.testing.assert_close(got, want)
    assert sum('native_conv3x3' in name for name in used) == 2


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_kernels_work_in_forked_loader_processes(compiled: None) -> None:
    code = (
        'import os, torch\n'
        'from dstnet_arch.ops.conv3x3 import conv3x3\n'
        'torch.set_num_threads(2)\n'
        f'c = {CHANNELS}\n'
        'x, w, b = torch.rand(2, c, 37, 21), torch.rand(c, c, 3, 3), torch.rand(c)\n'
        'expected = conv3x3(x, w, b, 0.1)\n'
        'pid = os.fork()\n'
        'if not pid:\n'
        '    torch.set_num_threads(1)  # as DataLoader does in its workers\n'
        '    os._exit(0 if torch.equal(conv3x3(x, w, b, 0.1), expected) else 1)\n'
        'raise SystemExit(os.waitpid(pid, 0)[1])\n'
    )
    done = subprocess.run([sys.executable, '-c', code], timeout=120)
    assert done.returncode == 0


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder and no loaded library."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    native._library.cache_clear()
    with native.native(True):
        yield tmp_path / 'dstnet_arch'
    native._library.cache_clear()


def test_without_a_compiler_pytorch_is_used_silently(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', str(fresh))
    monkeypatch.delenv('CC', raising=False)
    x, weight, bias = rand(1, CHANNELS, 4, 4), rand(CHANNELS, CHANNELS, 3, 3), rand(CHANNELS)
    assert not native.available()  # a warning would be an error here
    assert torch.equal(conv3x3(x, weight, bias), conv3x3_reference(x, weight, bias))


def test_failing_compiler_is_quoted_once(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / 'cc'
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] || { echo "no such option" >&2; exit 1; }\n')
    compiler.chmod(0o755)
    monkeypatch.setenv('CC', str(compiler))
    with pytest.warns(native.NativeWarning, match="no such option. PyTorch's operations are used"):
        assert not native.usable([torch.zeros(1)], CHANNELS)
    assert not native.available()  # a second warning would be an error here
    assert list(fresh.iterdir()) == []


def test_wrong_results_disable_the_kernels(compiled: None, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = native._pixel_filter
    monkeypatch.setattr(native, '_pixel_filter', lambda *arguments: right(*arguments) + 1e-3)
    with pytest.warns(native.NativeWarning, match='results are wrong on this machine'):
        assert not native.available()


@pytest.mark.skipif(os.name != 'posix', reason='permissions are those of POSIX')
def test_cache_folder_writable_by_others_is_refused(fresh: Path) -> None:
    fresh.mkdir()
    fresh.chmod(0o777)
    with pytest.warns(native.NativeWarning, match='can be written to by others'):
        assert not native.usable([torch.zeros(1)], CHANNELS)


def test_compiled_library_is_cached_with_one_notice(
    compiled: None, fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for notices in (1, 0):
        with ThreadPoolExecutor(3) as threads:
            assert all(threads.map(lambda _: native.available(), range(3)))
        assert len(list(fresh.iterdir())) == 1
        assert capsys.readouterr().err.count('compiling the CPU kernels') == notices
        native._library.cache_clear()


def test_library_of_another_cpu_is_not_loaded(compiled: None, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.available()
    monkeypatch.setattr(native_build, '_processor', lambda: 'another CPU')
    native._library.cache_clear()
    assert native.available()
    assert len(list(fresh.iterdir())) == 2


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ('AVX2', 'AVX512'), reason='x86 processors with AVX2 only'
)
def test_kernels_are_compiled_for_the_instruction_set_that_pytorch_uses(compiled: None) -> None:
    code = (
        'import torch\n'
        'from dstnet_arch.ops import native, native_build\n'
        'from dstnet_arch.ops.conv3x3 import conv3x3\n'
        'assert native.available()\n'
        'generator = torch.Generator().manual_seed(0)\n'
        'x, w = (torch.rand(s, generator=generator) for s in ((2, 32, 9, 14), (48, 32, 3, 3)))\n'
        'out = conv3x3(x, w, torch.zeros(48), 0.1)\n'
        'want = torch.nn.functional.conv2d(x.double(), w.double(), padding=1)\n'
        'assert (out - want).abs().max() < 1e-5 * want.abs().max()\n'
        'print(native_build.compiled_library())\n'
    )
    paths = set()
    for environment in ({}, {'ATEN_CPU_CAPABILITY': 'avx2'}):
        done = subprocess.run(
            [sys.executable, '-c', code], env=os.environ | environment, capture_output=True, text=True, check=True
        )
        paths.add(done.stdout.strip())
    forced = torch.backends.cpu.get_cpu_capability() == 'AVX512'
    assert len(paths) == 1 + forced
    if forced and shutil.which('objdump'):
        uses_avx512 = [
            'zmm' in subprocess.run(['objdump', '-d', path], capture_output=True, text=True, check=True).stdout
            for path in paths
        ]
        assert sorted(uses_avx512) == [False, True]


@pytest.mark.parametrize(('value', 'enabled'), [('0', False), ('', False), ('1', True), (None, True)])
def test_environment_variable(value: str | None, enabled: bool) -> None:
    environment = {k: v for k, v in os.environ.items() if k != native.VARIABLE}
    environment |= {} if value is None else {native.VARIABLE: value}
    code = 'from dstnet_arch.ops import native; print(native.native_enabled())'
    done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(enabled)

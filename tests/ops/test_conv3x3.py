"""The 3x3 convolution and the compiled kernels: against PyTorch in float64, at all edges, and without a compiler."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.benchmarks.plain import PlainDSTNet
from dstnet_arch.ops import native
from dstnet_arch.ops.conv3x3 import conv3x3, conv3x3_reference
from dstnet_arch.ops.pixel_filter import pixel_filter, pixel_filter_reference

CHANNELS = 32


@pytest.fixture
def compiled() -> Iterator[None]:
    with native.native(True):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', native.NativeWarning)
            if not native.usable(torch.zeros(1), CHANNELS):
                pytest.skip('the compiled kernels cannot be had here: no C compiler')
        yield


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """Result and gradients."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    factors = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * factors).sum(), leaves)]


def assert_close(function: Callable[..., Tensor], reference: Callable[..., Tensor], *inputs: Tensor) -> None:
    expected = run(reference, *(x.double() for x in inputs))
    for got, want in zip(run(function, *inputs), expected, strict=True):
        assert (got - want).abs().max() <= 2e-6 * want.abs().max().clamp(min=1)
    with torch.no_grad():
        assert (function(*inputs) - expected[0]).abs().max() <= 2e-6 * expected[0].abs().max().clamp(min=1)


SIZES = pytest.mark.parametrize('size', [(1, 8, 8), (2, 7, 13), (1, 1, 1), (3, 2, 5), (1, 4, 33)], ids=str)


@SIZES
@pytest.mark.parametrize('slope', [None, 0.1])
def test_convolution(compiled: None, size: tuple[int, int, int], slope: float | None) -> None:
    n, h, w = size
    weight, bias = rand(2 * CHANNELS, CHANNELS, 3, 3, seed=1) / 17, rand(2 * CHANNELS, seed=2)
    assert_close(
        lambda *t: conv3x3(*t, slope=slope),
        lambda *t: conv3x3_reference(*t, slope=slope),
        rand(n, CHANNELS, h, w),
        weight,
        bias,
    )


@SIZES
def test_convolution_with_a_residual(compiled: None, size: tuple[int, int, int]) -> None:
    n, h, w = size
    weight, bias = rand(CHANNELS, CHANNELS, 3, 3, seed=1) / 17, rand(CHANNELS, seed=2)
    x, residual = rand(n, CHANNELS, h, w), rand(n, CHANNELS, h, w, seed=3)
    assert_close(
        lambda x, w, b, r: conv3x3(x, w, b, residual=r),
        lambda x, w, b, r: conv3x3_reference(x, w, b, residual=r),
        x,
        weight,
        bias,
        residual,
    )


@SIZES
@pytest.mark.parametrize('scales', [[8], [2, 4, 8], [1], [3]], ids=str)
def test_pixel_filter(compiled: None, size: tuple[int, int, int], scales: list[int]) -> None:
    n, h, w = size
    filters = [rand(n, 9 * CHANNELS, -(-h // s), -(-w // s), seed=s) for s in scales]
    assert_close(pixel_filter, pixel_filter_reference, rand(n, CHANNELS, h, w), *filters)


def test_a_strided_input_is_read_right(compiled: None) -> None:
    weight, bias = rand(CHANNELS, CHANNELS, 3, 3, seed=1) / 17, rand(CHANNELS, seed=2)
    x = rand(2, 3 * CHANNELS, 9, 14).contiguous(memory_format=torch.channels_last)[:, CHANNELS : 2 * CHANNELS, ::2]
    assert not x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(conv3x3(x, weight, bias), conv3x3_reference(x, weight, bias), rtol=0, atol=1e-5)


def test_the_whole_network(compiled: None) -> None:
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


def test_results_do_not_depend_on_the_number_of_threads(compiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = rand(2, CHANNELS, 37, 21), rand(CHANNELS, CHANNELS, 3, 3, seed=1), rand(CHANNELS, seed=2)
    filters = rand(2, 9 * CHANNELS, 5, 3)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, 'get_num_threads', lambda threads=threads: threads)
        results.append((conv3x3(x, weight, bias), pixel_filter(x, filters)))
    assert all(map(torch.equal, *results))


def test_the_kernels_are_used_only_where_they_can_be(compiled: None) -> None:
    x = torch.zeros(1, CHANNELS, 4, 4)
    assert native.usable(x, CHANNELS)
    assert not native.usable(x, CHANNELS + 1)
    assert not native.usable(x.double(), CHANNELS)
    assert not native.usable(x.to('meta'), CHANNELS)
    with torch.autocast('cpu', torch.bfloat16):
        assert not native.usable(x, CHANNELS)
    with native.native(False):
        assert not native.usable(x, CHANNELS)


def test_a_slope_and_a_residual_are_refused() -> None:
    x = rand(1, 2, 4, 4)
    with pytest.raises(ValueError, match='got both'):
        conv3x3(x, rand(2, 2, 3, 3), rand(2), slope=0.1, residual=x)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder, and nothing loaded."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    native._library.cache_clear()
    with native.native(True):
        yield tmp_path / 'dstnet_arch'
    native._library.cache_clear()


def test_without_a_compiler_pytorch_does_the_work(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', str(fresh))
    monkeypatch.delenv('CC', raising=False)
    x, weight, bias = rand(1, CHANNELS, 4, 4), rand(CHANNELS, CHANNELS, 3, 3), rand(CHANNELS)
    with pytest.warns(native.NativeWarning, match=r'no C compiler was found.*PyTorch does their work'):
        out = conv3x3(x, weight, bias)
    assert torch.equal(out, conv3x3_reference(x, weight, bias))
    conv3x3(x, weight, bias)  # said once: a warning would be an error here


def test_a_compiler_that_fails_is_quoted(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / 'cc'
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] || { echo "no such option" >&2; exit 1; }\n')
    compiler.chmod(0o755)
    monkeypatch.setenv('CC', str(compiler))
    with pytest.warns(native.NativeWarning, match='no such option'):
        assert not native.usable(torch.zeros(1), CHANNELS)
    assert list(fresh.iterdir()) == []


@pytest.mark.skipif(os.name != 'posix', reason='permissions are those of POSIX')
def test_a_folder_that_others_can_write_to_is_refused(fresh: Path) -> None:
    fresh.mkdir()
    fresh.chmod(0o777)
    with pytest.warns(native.NativeWarning, match='can be written to by others'):
        assert not native.usable(torch.zeros(1), CHANNELS)


def test_what_is_compiled_is_kept(compiled: None, fresh: Path) -> None:
    assert native.usable(torch.zeros(1), CHANNELS)
    (library,) = fresh.iterdir()
    before = library.stat().st_mtime_ns
    native._library.cache_clear()
    assert native.usable(torch.zeros(1), CHANNELS)
    assert [library] == list(fresh.iterdir())
    assert library.stat().st_mtime_ns == before

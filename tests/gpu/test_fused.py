"""The self-check of the fused kernels, its fallbacks, and launches on the right device."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from dstnet_arch.ops import fused
from dstnet_arch.ops.haar import haar_synthesis, haar_synthesis_reference

DEVICE = torch.device('cuda', 0) if torch.cuda.is_available() else torch.device('cpu')


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No result of the self-check is known; it covers one fast operation, by the interpreter on the CPU."""
    monkeypatch.setattr(fused, '_checked', {})
    monkeypatch.setattr(fused, 'elementwise_usable', lambda *tensors: True)
    case = (haar_synthesis, haar_synthesis_reference, [(1, 2, 1, 3), (1, 6, 1, 3)])
    monkeypatch.setattr(fused, '_cases', lambda: [case])


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_self_check_passes(dtype: torch.dtype) -> None:
    pytest.importorskip('triton')
    state = torch.random.get_rng_state()
    with torch.inference_mode(), torch.autocast(DEVICE.type, torch.bfloat16):
        assert fused.check(DEVICE, dtype)
    assert fused._checked == {(0, dtype): True}
    assert torch.equal(state, torch.random.get_rng_state())


FAILURES: dict[str, BaseException] = {
    'Failed to find C compiler': RuntimeError('Failed to find C compiler. Please specify via CC environment variable.'),
    'gcc': subprocess.CalledProcessError(1, ['gcc', 'main.c']),  # no Python.h
    'Read-only': PermissionError(30, 'Read-only file system', '/home/user/.triton'),
    'no kernel image': RuntimeError('CUDA error: no kernel image is available for execution on the device'),
    'sm_999': RuntimeError('Value sm_999 is not defined for option gpu-name'),
}


@pytest.mark.parametrize('text', FAILURES)
def test_kernels_that_cannot_be_launched_are_not_used(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    haar_triton = pytest.importorskip('dstnet_arch.ops.haar_triton')

    def launch(*args: Any, **kwargs: Any) -> None:
        raise FAILURES[text]

    monkeypatch.setattr(haar_triton, 'launch', launch)
    with pytest.warns(fused.FusedWarning, match=f"{text}.*PyTorch's operations are used"):
        assert not fused.check(DEVICE, torch.float32)
    assert fused._checked == {(0, torch.float32): False}


def test_without_triton_pytorch_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith('dstnet_arch.ops') and n.endswith(('_triton', 'triton_utils'))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'triton', None)  # Windows: `import triton` fails
    with pytest.warns(fused.FusedWarning, match=r'ModuleNotFoundError.*pip install triton'):
        assert not fused.check(DEVICE, torch.float32)


def test_wrong_results_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    haar_triton = pytest.importorskip('dstnet_arch.ops.haar_triton')
    right = haar_triton.haar_synthesis_backward
    monkeypatch.setattr(haar_triton, 'haar_synthesis_backward', lambda grad: tuple(1.001 * g for g in right(grad)))
    with pytest.warns(fused.FusedWarning, match='haar_synthesis differs from its reference by 1'):
        assert not fused.check(DEVICE, torch.float32)


def test_out_of_memory_is_not_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    haar_triton = pytest.importorskip('dstnet_arch.ops.haar_triton')

    def launch(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 MiB')

    monkeypatch.setattr(haar_triton, 'launch', launch)
    with pytest.raises(torch.OutOfMemoryError):
        fused.check(DEVICE, torch.float32)
    assert fused._checked == {}


@pytest.fixture
def check_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.device, torch.dtype]]:
    calls: list[tuple[torch.device, torch.dtype]] = []

    def check(device: torch.device, dtype: torch.dtype) -> bool:
        calls.append((device, dtype))
        return fused._checked.setdefault((device.index, dtype), device.index == 0)

    monkeypatch.setattr(fused, 'check', check)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    return calls


def test_each_device_and_type_is_checked_once(check_calls: list[Any]) -> None:
    for _ in range(2):
        assert fused._available(0, torch.float32)
        assert fused._available(0, torch.bfloat16)
        assert not fused._available(1, torch.float32)
    assert check_calls == [
        (torch.device('cuda', 0), torch.float32),
        (torch.device('cuda', 0), torch.bfloat16),
        (torch.device('cuda', 1), torch.float32),
    ]


def test_variable_switches_the_kernels_off(check_calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fused.VARIABLE, '0')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert not fused._available(0, torch.float32)
    assert check_calls == []


def test_nothing_is_checked_during_tracing_or_capture(check_calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode():
        assert not fused._available(0, torch.float32)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    assert not fused._available(0, torch.float32)
    assert check_calls == []
    assert fused._checked == {}  # asked again later


class Kernel:
    """Records the current device of each launch."""

    def __init__(self, launches: list[Any], current: list[Any]) -> None:
        self.launches, self.current = launches, current

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **kwargs: self.launches.append(self.current[-1])


@pytest.mark.skipif(torch.cuda.device_count() == 1, reason='fake tensors on a second GPU need one, or none at all')
def test_kernels_are_launched_on_the_device_of_their_tensors(
    fake_gpu: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('triton')
    from dstnet_arch.ops import channel_filter_triton, elementwise_triton, haar_triton, pixel_filter_triton

    launches: list[Any] = []
    current: list[Any] = [torch.device('cuda', 0)]

    @contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        current.append(chosen)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, 'device', device)
    modules = (channel_filter_triton, elementwise_triton, haar_triton, pixel_filter_triton)
    for module in modules:
        for name in [n for n in vars(module) if hasattr(getattr(module, n), 'arg_names')]:
            if name.startswith('_'):
                monkeypatch.setattr(module, name, Kernel(launches, current))

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device='cuda:1')

    x, z, high, bias = empty(2, 4, 6, 8), empty(2, 8, 6, 8), empty(2, 12, 6, 8), empty(4)
    packed, filters = [empty(2, 1, 1, 9, 4)] * 2, empty(2, 4, 3, 3)
    pixel_filter_triton.pixel_filter(x, packed)
    pixel_filter_triton.pixel_filter_backward(x, x, packed)
    channel_filter_triton.channel_filter(z, filters, bias, True)
    channel_filter_triton.channel_filter_backward(x, z, filters, bias, True)
    elementwise_triton.add_bias_(x, bias, None, 0.1)
    elementwise_triton.gated_sum(x, x, bias, x, x, bias)
    elementwise_triton.gated_sum_backward(x, x, x, bias, x, x, bias)
    haar_triton.haar_synthesis(x, high)
    haar_triton.haar_synthesis_backward(x)
    assert len(launches) == 2 + 4 + 1 + 2 + 1 + 1 + 1 + 1 + 1
    assert set(launches) == {torch.device('cuda', 1)}

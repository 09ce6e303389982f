"""Frames on their way to a GPU: pinned memory, a stream of their own, the same bits as on a CPU."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dstnet_arch.streaming.upload import Uploader, to_floating_point
from dstnet_arch.video.images import to_frame

GPU = torch.device('cuda')


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is requested of CUDA, in order, with pinned memory that is none."""
    found: list[str] = []
    empty_like, to = torch.empty_like, Tensor.to

    def allocate(tensor: Tensor, pin_memory: bool = False) -> Tensor:
        found.append('pin' if pin_memory else 'allocate')
        return empty_like(tensor)

    def copy(tensor: Tensor, *args: Any, non_blocking: bool = False, **kwargs: Any) -> Tensor:
        found.append('copy without waiting' if non_blocking else 'copy')
        return to(tensor, 'cpu')

    current = SimpleNamespace(wait_stream=lambda stream: found.append(f'current waits for {stream}'))
    monkeypatch.setattr(torch, 'empty_like', allocate)
    monkeypatch.setattr(Tensor, 'to', copy)
    monkeypatch.setattr(Tensor, 'record_stream', lambda _, stream: found.append(f'keep for {stream is current}'))
    monkeypatch.setattr(torch.cuda, 'Stream', lambda device: found.append('new stream') or 'side stream')
    monkeypatch.setattr(torch.cuda, 'stream', lambda stream: found.append(f'enter {stream}') or nullcontext())
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: current)
    return found


def test_frames_are_copied_without_waiting(calls: list[str]) -> None:
    upload, frame = Uploader(GPU), torch.arange(24, dtype=torch.uint8).view(2, 4, 3).permute(2, 0, 1)
    expected = frame.clone()
    once = ['enter side stream', 'pin', 'copy without waiting', 'current waits for side stream', 'keep for True']
    copied = upload(frame)
    frame.zero_()  # a reader may use its buffer again
    assert torch.equal(copied, expected)
    assert copied.stride() == frame.stride()
    upload(frame)
    assert calls == ['new stream', *once, *once]


def test_frames_are_copied_from_pageable_memory_if_none_is_pinned(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError('CUDA error: out of memory')

    monkeypatch.setattr(torch, 'empty_like', fail)
    frame = torch.rand(3, 4, 5)
    assert torch.equal(Uploader(GPU)(frame), frame)
    assert 'copy without waiting' in calls


def test_frames_on_a_cpu_are_not_copied() -> None:
    frame = torch.rand(3, 4, 5)
    assert Uploader(torch.device('cpu'))(frame) is frame


def test_levels_become_the_same_numbers_as_images() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(16, 16, 1).expand(16, 16, 3)
    expected, frame = to_frame(levels.numpy()), levels.permute(2, 0, 1)
    assert torch.equal(to_floating_point(frame, torch.float32), expected)
    assert torch.equal(to_floating_point(frame, torch.float16), expected.half())
    assert torch.equal(to_floating_point(frame, torch.float64), frame.double() / 255)
    assert torch.equal(to_floating_point(expected, torch.float32), expected)


def test_levels_are_divided_on_the_gpu_by_a_tensor(fake_gpu: FakeTensorMode) -> None:
    class Divisors(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if 'div' in str(func):
                found.append(args[1].device.type)
            return func(*args, **(kwargs or {}))

    found: list[str] = []
    with Divisors():
        to_floating_point(torch.empty(3, 4, 5, dtype=torch.uint8, device='cuda'), torch.float32)
    assert found == ['cuda']  # CUDA multiplies by the reciprocal of a number, or of a tensor on the CPU

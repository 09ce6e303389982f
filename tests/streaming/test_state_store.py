"""StateStore and TensorFile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from stream_utils import video
from torch import Tensor

from dstnet_arch.errors import DataError
from dstnet_arch.streaming.state_store import StateStore, TensorFile, _Layout


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize('kind', ['device', 'host', 'disk'])
def test_store_returns_what_was_put(kind: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    plain = video(4, 5, 6).to(dtype)
    kept = {1: plain, 2: plain.contiguous(memory_format=torch.channels_last), 5: plain[:, :, ::2], 7: plain[:1]}
    store = StateStore(kind, tmp_path)
    for _ in range(2):
        for number, tensor in kept.items():
            store.put(number, tensor)
        for number in (5, 1, 7, 2):
            taken = store.take(number)
            assert torch.equal(taken, kept[number])
            assert taken.dtype == dtype
            assert taken.is_contiguous(memory_format=torch.channels_last) == (number == 2)
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_pinned_allocation_falls_back_to_pageable(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty

    def refuse(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
        if pin_memory:
            raise RuntimeError('CUDA error: out of memory')
        return empty(*args, **kwargs)

    monkeypatch.setattr(torch, 'empty', refuse)
    layout = _Layout(torch.Size((1, 2, 3, 4)), torch.float32, torch.channels_last)
    assert layout.empty(5, pinned=True).shape == (5, 2, 3, 4)


def test_tensor_file_is_read_in_any_order(tmp_path: Path) -> None:
    frames = [(video(1)[0] * 255).to(torch.uint8), video(1, 3, 5)[0]]
    file = TensorFile(tmp_path)
    assert [file.append(frame) for frame in frames] == [0, 1]
    for number in (1, 0, 1, -1):
        assert torch.equal(file[number], frames[number])
    file.close()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_an_error(tmp_path: Path) -> None:
    resource = pytest.importorskip('resource')  # POSIX only
    file = TensorFile(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(DataError, match=f'file in {re.escape(str(tmp_path))}: .*Free some space'):
            file.append(video(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    file.close()

"""GPU behaviour without a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from gpu_trace import fake_cuda
from torch._subclasses import FakeTensorMode


@pytest.fixture
def fake_gpu() -> Iterator[FakeTensorMode]:
    """Fake CUDA tensors, and fused kernels that are taken to work."""
    with fake_cuda() as mode:
        try:
            torch.empty(1, 4, 4, 4, device='cuda').contiguous(memory_format=torch.channels_last)
        except (RuntimeError, AssertionError) as error:
            pytest.skip(f'fake CUDA tensors of this PyTorch need a CUDA build: {str(error).splitlines()[0]}')
        yield mode

"""Errors about memory that is short, and the one that is made of them."""

from __future__ import annotations

import pytest
import torch

from dstnet_arch.errors import DSTNetError, TrainingError
from dstnet_arch.memory_errors import out_of_memory, translate_oom


def test_what_a_system_says() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert out_of_memory(caught.value)


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 3 GiB'), True),
        (RuntimeError('CUDA error: out of memory'), True),
        (RuntimeError('DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.'), True),
        (RuntimeError('mat1 and mat2 shapes cannot be multiplied'), False),
        (ValueError('out of memory'), False),
    ],
)
def test_which_errors_are_about_memory(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected
    with pytest.raises(TrainingError if expected else type(error)) as caught, translate_oom('Rest.', TrainingError):
        raise error
    assert (caught.value is error) is not expected


def test_the_first_line_is_told() -> None:
    with pytest.raises(DSTNetError) as caught, translate_oom('Try less.'):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory.\nPages of advice')
    assert str(caught.value) == 'Not enough memory. Try less. [CUDA out of memory.]'
    with pytest.raises(DSTNetError, match=r'\[MemoryError\]$'), translate_oom('Try less.'):
        raise MemoryError

"""Out-of-memory errors are recognised and translated."""

from __future__ import annotations

import pytest
import torch

from dstnet_arch.errors import TrainingError
from dstnet_arch.memory_errors import out_of_memory, translate_oom


def test_out_of_memory_recognises_the_system_error() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert out_of_memory(caught.value)


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 3 GiB'), True),
        (RuntimeError('CUDA error: out of memory'), True),
        (RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'), True),
        (RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`'), True),
        (RuntimeError('GET was unable to find an engine to execute this computation'), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError('DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.'), True),
        (RuntimeError('mat1 and mat2 shapes cannot be multiplied'), False),
        (ValueError('out of memory'), False),
    ],
)
def test_translate_oom(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected
    with pytest.raises(TrainingError if expected else type(error)) as caught, translate_oom('Rest.', TrainingError):
        raise error
    assert (caught.value is error) is not expected


@pytest.mark.parametrize('text', ['CUDA out of memory.\nPages of advice', ''])
def test_translate_oom_names_the_first_line(text: str) -> None:
    with pytest.raises(TrainingError) as caught, translate_oom('Try less.', TrainingError):
        raise torch.cuda.OutOfMemoryError(text)
    assert str(caught.value) == f'Not enough memory. Try less. [{text.splitlines()[0] if text else "OutOfMemoryError"}]'

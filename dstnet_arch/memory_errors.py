"""Recognise out-of-memory errors of PyTorch, CUDA libraries and the system, and translate them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dstnet_arch.errors import DSTNetError, first_line

_TEXTS = (
    'out of memory',
    "can't allocate memory",
    'not enough memory',
    'unable to find an engine',  # cuDNN, when its workspace cannot be allocated
    'cudnn_status_alloc_failed',
    'cublas_status_alloc_failed',
    'cusolver_status_alloc_failed',
    'cufft_alloc_failed',
)


def out_of_memory(error: BaseException) -> bool:
    """Return True if an error reports that the GPU or the machine ran out of memory."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _TEXTS)
    )


@contextmanager
def translate_oom(advice: str, kind: type[DSTNetError] = DSTNetError) -> Iterator[None]:
    """Translate out-of-memory errors into one short error.

    Args:
        advice: what needs less memory, as a sentence.
        kind: class of the short error.

    Raises:
        DSTNetError: the memory is not sufficient; of class `kind`.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise kind(f'Not enough memory. {advice} [{first_line(error)}]') from error

"""Errors about memory that is short: PyTorch has several, and says them in pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dstnet_arch.errors import DSTNetError, first_line

_TEXTS = ('out of memory', "can't allocate memory", 'not enough memory')


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, of a GPU or of the machine."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)
    )


@contextmanager
def memory_explained(advice: str, kind: type[DSTNetError] = DSTNetError) -> Iterator[None]:
    """Turn errors about memory into one clear error.

    Args:
        advice: what takes less, as a sentence.
        kind: of the clear error.

    Raises:
        DSTNetError: of this kind, where memory is short.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise kind(f'There is not enough memory. {advice} [{first_line(error)}]') from error

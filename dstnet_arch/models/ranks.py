"""What to tell a user when the ranks of a distributed run fall apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed as dist

from dstnet_arch.errors import TrainingError

_LOST = ('connection', 'socket', 'broken pipe', 'timed out', 'timeout', 'remote process exited', 'aborted')


@contextmanager
def contact_explained() -> Iterator[None]:
    """Turn the errors of gloo and NCCL about another rank that is gone into one clear error.

    Raises:
        TrainingError: contact was lost.
    """
    try:
        yield
    except RuntimeError as error:
        if not (dist.is_available() and dist.is_initialized()):
            raise
        text = str(error)
        if not isinstance(error, dist.DistError) and not ('gloo' in text or 'NCCL' in text):
            raise
        if not any(sign in text.lower() for sign in _LOST):
            raise
        raise TrainingError(
            f'Rank {dist.get_rank()} of {dist.get_world_size()} has lost another rank, which has ended or does not '
            'answer. Why is in that one\'s own message; torchrun names it as "Root Cause" at the end. The checkpoints '
            f'made so far are good: go on with --auto_resume. [{text.splitlines()[0][:200]}]'
        ) from error

"""Work that all ranks of a distributed run do together, and what to tell a user when they fall apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import distributed as dist

from dstnet_arch.errors import DSTNetError, TrainingError, first_line

_LOST = ('connection', 'socket', 'broken pipe', 'timed out', 'timeout', 'remote process exited', 'aborted')


T = TypeVar('T')


def on_all_ranks(work: Callable[[], T], world_size: int | None) -> list[T]:
    """Run `work` on every rank and give all results to every rank.

    Args:
        work: what each rank does.
        world_size: number of ranks; None where the run is not distributed.

    Raises:
        DSTNetError: `work` has raised it on one rank; all raise it, and none waits for a result that never comes.
        TrainingError: contact was lost.
    """
    if world_size is None:
        return [work()]
    mine: T | DSTNetError
    try:
        mine = work()
    except DSTNetError as error:
        mine = error
    results: list[Any] = [None] * world_size
    with contact_explained():
        dist.all_gather_object(results, mine)
    for result in results:
        if isinstance(result, DSTNetError):
            raise result
    return results


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
            f'made so far are good: go on with --auto_resume. [{first_line(error)}]'
        ) from error

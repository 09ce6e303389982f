"""Sharing work out to the processes that a launcher such as torchrun has started, each of which knows its rank."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

_LAUNCH = 'Start the processes with torchrun --nproc_per_node=N -m ..., or unset RANK and WORLD_SIZE.'
_MEET = timedelta(minutes=5)
_WORK = timedelta(days=30)
_LET_GO = 0.1
"""Seconds before a group is ended. PyTorch before 2.8 holds the interpreter's lock while it waits for the group's
threads, of which one may need the lock to let go of its last message: they would wait for each other for ever."""

T = TypeVar('T')
Gather = Callable[[T], 'list[T]']
"""Gives what each rank hands over to all of them, in the order of ranks, and so waits for all."""


class Ranks(NamedTuple):
    """Which of how many processes this one is.

    Attributes:
        rank: from 0, over all machines.
        world_size: number of processes.
        local_rank: from 0, on this machine.
        local_size: number of processes on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1


ALONE = Ranks()
"""The only process there is."""


def ranks_here(environment: Mapping[str, str] = os.environ) -> Ranks:
    """What a launcher has set in the environment; without one, this process is the only one.

    Raises:
        ValueError: the variables make no sense; the text says what to do.
    """
    if not environment.get('RANK') and not environment.get('WORLD_SIZE'):
        return ALONE
    values = []
    for name, default in {'RANK': '', 'WORLD_SIZE': '', 'LOCAL_RANK': '0', 'LOCAL_WORLD_SIZE': '1'}.items():
        text = environment.get(name) or default
        if not (text.isascii() and text.isdigit()):
            raise ValueError(f'the environment says {name}={text!r}; it must be a whole number. {_LAUNCH}')
        values.append(int(text))
    ranks = Ranks(*values)
    if ranks.rank >= ranks.world_size or ranks.local_rank >= max(ranks.local_size, 1):
        raise ValueError(
            f'the environment says RANK={ranks.rank} and WORLD_SIZE={ranks.world_size}; ranks count from 0. {_LAUNCH}'
        )
    if ranks.world_size > 1 and not (environment.get('MASTER_ADDR') and environment.get('MASTER_PORT')):
        raise ValueError(
            f'the environment says WORLD_SIZE={ranks.world_size}, but not where the processes meet (MASTER_ADDR, '
            f'MASTER_PORT). {_LAUNCH}'
        )
    return ranks


def share(sizes: Sequence[float], rank: int, world_size: int) -> list[int]:
    """Which items a rank takes, so that all have about as much to do.

    The largest items go first, each to the rank that has least so far: every rank comes to the same result by itself.

    Args:
        sizes: about how much work each item is; 0 or more.
        rank: of this process, from 0.
        world_size: number of processes.

    Returns:
        Positions in `sizes`, ascending. All ranks together have each of them once.
    """
    loads: list[tuple[float, int]] = [(0.0, 0)] * world_size  # how much, how many
    mine = []
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        taker = min(range(world_size), key=loads.__getitem__)
        loads[taker] = (loads[taker][0] + sizes[item], loads[taker][1] + 1)
        if taker == rank:
            mine.append(item)
    return sorted(mine)


@contextmanager
def in_contact(ranks: Ranks) -> Iterator[Gather[Any]]:
    """Meet the other ranks, and stay in contact until all have come to the end.

    A rank that fails must say so through the function that this gives, and not by ending: a launcher takes down all
    when one fails. A rank that dies takes the others down.

    Raises:
        ConnectionError: the others have not come within five minutes, or one of them has died.
    """
    if ranks.world_size == 1:
        yield lambda value: [value]
        return
    from torch import distributed  # seconds, which a single process does without

    try:
        distributed.init_process_group('gloo', timeout=_MEET, rank=ranks.rank, world_size=ranks.world_size)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConnectionError(
            f'rank {ranks.rank} of {ranks.world_size} does not meet the others: {reason}. {_LAUNCH}'
        ) from None

    def gather(value: T) -> list[T]:
        values: list[Any] = [None] * ranks.world_size
        try:
            distributed.all_gather_object(values, value, group=group)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ConnectionError(f'rank {ranks.rank} has lost another rank, which must have died: {reason}') from None
        return values

    try:
        group: Any = distributed.new_group(timeout=_WORK, backend='gloo')
        yield gather
    finally:
        time.sleep(_LET_GO)
        distributed.destroy_process_group()

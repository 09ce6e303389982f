"""Work that all ranks of a distributed run do together."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from basicsr.utils import get_root_logger
from torch import distributed as dist

from dstnet_arch.errors import DSTNetError, TrainingError, first_line
from dstnet_arch.ops import native

_LONGEST_WAIT = timedelta(days=7)
_CONTACT_LOST = re.compile('connection|socket|broken pipe|timed out|timeout|remote process exited|aborted', re.I)

T = TypeVar('T')


class Ranks:
    """The ranks of a run, to gather results from.

    Results are gathered in a gloo group: in an NCCL group, waiting for a rank that validates for more than ten minutes
    would end the run, and objects would be copied to the GPU first.

    Args:
        rank: number of this process.
        world_size: number of processes.
        distributed: True if `torch.distributed` is in use; then all ranks must create this object together.
    """

    def __init__(self, rank: int, world_size: int, distributed: bool) -> None:
        self.rank = rank
        self.world_size = world_size
        self.distributed = distributed
        self.group: Any = dist.new_group(backend='gloo', timeout=_LONGEST_WAIT) if distributed else None

    def gather(self, work: Callable[[], T]) -> list[T]:
        """Run `work` on every rank and return all results on every rank.

        Raises:
            DSTNetError: `work` has raised it on one rank. All ranks raise it, so none waits for a missing result.
            TrainingError: another rank has ended.
        """
        if not self.distributed:
            return [work()]
        own: T | DSTNetError
        try:
            own = work()
        except DSTNetError as error:
            own = error
        results: list[Any] = [None] * self.world_size
        with translate_dist_errors():
            dist.all_gather_object(results, own, group=self.group)
        for result in results:
            if isinstance(result, DSTNetError):
                raise result
        return results


@contextmanager
def translate_dist_errors() -> Iterator[None]:
    """Translate errors of gloo and NCCL about a rank that has ended into one clear error.

    Raises:
        TrainingError: another rank has ended or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        communicates = dist.is_available() and (isinstance(error, dist.DistError) or 'gloo' in text or 'NCCL' in text)
        if not communicates or not _CONTACT_LOST.search(text):
            raise
        raise TrainingError(
            f'Rank {dist.get_rank()} of {dist.get_world_size()} has lost another rank, which has ended or does not '
            'answer. See the message of that rank; torchrun names it under "Root Cause" at the end. Continue from the '
            f'last checkpoint with --auto_resume. [{first_line(error)}]'
        ) from error


def choose_kernels(ranks: Ranks, device: torch.device, before: object = None) -> str | None:
    """Choose between the compiled CPU kernels (ops/native.py) and PyTorch's operations, and log what changes.

    Their results differ in rounding. So all ranks use the same ones, and a resumed run continues with those it began
    with, if they are available and the environment does not decide otherwise.

    Args:
        ranks: all processes of the run, which call this function together.
        device: the device of the network.
        before: result of this function in the run that is resumed; anything else for a new run.

    Returns:
        'native' or 'pytorch'; None if the device is not a CPU.
    """
    if device.type != 'cpu':
        return None
    log = get_root_logger()
    if before == 'pytorch' and native.native_enabled() and native.VARIABLE not in os.environ:
        native.set_native(False)
        log.info(f"The run continues with PyTorch's operations. {native.VARIABLE}=1 selects the compiled CPU kernels.")
    available = ranks.gather(native.available)
    kernels = 'native' if all(available) else 'pytorch'
    if any(available) and kernels == 'pytorch':
        missing = ', '.join(str(rank) for rank, found in enumerate(available) if not found)
        log.warning(f'The compiled CPU kernels are not available on rank {missing}, so no rank uses them.')
        native.set_native(False)
    if before in ('native', 'pytorch') and before != kernels:
        reason = f'{native.VARIABLE} is set' if native.VARIABLE in os.environ else 'they are not available here'
        log.warning(
            f'The run does not continue with the CPU kernels it began with ({before}), because {reason}: results '
            'differ in rounding from those of an uninterrupted run.'
        )
    return kernels

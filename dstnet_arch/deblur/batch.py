"""Restore several videos, also shared among the processes that torchrun has started."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dstnet_arch.data.frame_source import IMAGE_EXTENSIONS
from dstnet_arch.deblur.config import DeblurConfig
from dstnet_arch.deblur.run import StoppedError
from dstnet_arch.errors import DSTNetError, OptionsError, first_line, printable
from dstnet_arch.video.encoding import CONTAINERS
from dstnet_arch.video.sources import VIDEO_EXTENSIONS

_TIMEOUT = timedelta(days=30)  # a rank may wait for another one's videos
_SECONDS_BEFORE_END = 0.1
"""PyTorch before 2.8 can deadlock if a process group is destroyed while its threads release their last message."""

Gather = Callable[[Any], 'list[Any]']
"""Exchanges a value of each rank; returns those of all ranks in order."""


class Ranks(NamedTuple):
    """Position of this process among those that a launcher has started, in all and on its machine, from 0."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Ranks:
        """Read the variables that torchrun sets.

        Raises:
            OptionsError: They contradict each other.
        """
        numbers = [os.environ.get(name) for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')]
        ranks = cls(*(int(number or default) for number, default in zip(numbers, (0, 1, 0), strict=True)))
        if not 0 <= ranks.rank < ranks.world_size:
            raise OptionsError(
                f'RANK={ranks.rank} and WORLD_SIZE={ranks.world_size} contradict each other. Start the processes with '
                'torchrun, or unset both variables.'
            )
        return ranks

    @property
    def device(self) -> str | None:
        """A GPU for each process of several; None: the default device."""
        if self.world_size > 1 and torch.cuda.is_available():
            return f'cuda:{self.local_rank % torch.cuda.device_count()}'
        return None


def split_inputs(inputs: Sequence[str], config: DeblurConfig) -> list[DeblurConfig]:
    """Return the settings of each of several inputs, whose outputs are in the folder `config.output`.

    Raises:
        OptionsError: The output is not a folder, or two inputs have the same name.
    """
    folder = config.output
    if folder.suffix.lower() in VIDEO_EXTENSIONS or (folder.exists() and not folder.is_dir()):
        raise OptionsError(f'-o {folder}: several INPUTs need a folder as OUTPUT.')
    names: dict[Path, str] = {}
    for text in inputs:
        path = Path(text)
        is_pattern = not path.exists() and any(sign in path.name for sign in '*?%[')
        output = folder / (path.absolute().parent.name if is_pattern else path.resolve().name)
        if path.is_file() and output.suffix.lower() not in CONTAINERS:
            output = output.with_suffix('' if output.suffix.lower() in IMAGE_EXTENSIONS else '.mp4')
        if output in names:
            raise OptionsError(
                f'{names[output]} and {text} would both be written to {output}. Rename one, or restore them separately.'
            )
        names[output] = text
    return [replace(config, input=text, output=output) for output, text in names.items()]


def restore_all(configs: Sequence[DeblurConfig], restore: Callable[[DeblurConfig], object], ranks: Ranks) -> list[str]:
    """Restore this rank's share of videos. A video that fails does not stop the others.

    Args:
        configs: settings of each video; the same on all ranks.
        restore: restores one video.
        ranks: position of this process.

    Returns:
        On rank 0, one line for each video that failed on any rank; on other ranks, nothing.

    Raises:
        DSTNetError: The connection to another rank was lost.
    """
    failures = []
    with _connect(ranks) as gather:
        for config in configs[ranks.rank :: ranks.world_size]:
            try:
                restore(config)
            except StoppedError:
                raise
            except DSTNetError as error:
                failures.append(f'{config.input}: {error}')
            except Exception as error:  # an error of ours or of a library in one video
                traceback.print_exc()
                failures.append(f'{config.input}: {type(error).__name__}: {first_line(error)}')
            else:
                continue
            print(printable(f'error: {failures[-1]}'), file=sys.stderr)
        # One rank reports all failures: a launcher stops the other ranks as soon as one fails.
        everything = gather(failures)
    return [failure for of_rank in everything for failure in of_rank] if ranks.rank == 0 else []


@contextmanager
def _connect(ranks: Ranks) -> Iterator[Gather]:
    if ranks.world_size == 1:
        yield lambda value: [value]
        return
    from torch import distributed

    def gather(value: Any) -> list[Any]:
        values: list[Any] = [None] * ranks.world_size
        distributed.all_gather_object(values, value)
        return values

    try:
        distributed.init_process_group('gloo', timeout=_TIMEOUT, rank=ranks.rank, world_size=ranks.world_size)
        yield gather
    except (RuntimeError, ValueError) as error:
        raise DSTNetError(
            f'Rank {ranks.rank} has no connection to the other ranks: {first_line(error)}. Start them with torchrun '
            '--nproc_per_node=N -m dstnet_arch deblur. Finished videos are kept; --resume restores the others.'
        ) from None
    finally:
        if distributed.is_initialized():
            time.sleep(_SECONDS_BEFORE_END)
            distributed.destroy_process_group()

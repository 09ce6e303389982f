"""Restoring many videos, shared out among the processes that a launcher such as torchrun has started."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from dstnet_arch.deblur.ranks import Ranks, in_contact, ranks_here, share
from dstnet_arch.errors import DSTNetError, OptionsError


def ranks() -> Ranks:
    """Which of how many processes this one is.

    Raises:
        OptionsError: a launcher's variables make no sense.
    """
    try:
        return ranks_here()
    except ValueError as error:
        raise OptionsError(f'The processes are not set up: {error}') from None


def device_of(name: str | None, rank: Ranks) -> str | None:
    """The device that was named; of several processes without a named one, each has a GPU of its own."""
    if name is None and rank.world_size > 1 and torch.cuda.is_available():
        return f'cuda:{rank.local_rank % torch.cuda.device_count()}'
    return name


def outputs_of(inputs: Sequence[str], folder: Path) -> list[Path]:
    """Where each of several videos goes: below `folder`, under the name of the file or folder that it is.

    Raises:
        OptionsError: two have the same name, or one comes from a pipe.
    """
    taken: dict[Path, str] = {}
    for text in inputs:
        if text == '-':
            raise OptionsError(
                'INPUT is -, a pipe, beside others. Give files, folders and patterns, or the pipe alone.'
            )
        path = Path(text)
        is_pattern = not path.exists() and any(sign in path.name for sign in '*?%[')
        output = folder / (path.absolute().parent.name if is_pattern else path.resolve().name)
        if output in taken:
            raise OptionsError(
                f'{taken[output]} and {text} would both go to {output}. Rename one of them, or restore them apart.'
            )
        taken[output] = text
    return list(taken)


def size_of(text: str) -> int:
    """About how much there is to be done: the bytes of a video file, or of the files in the folder of pictures."""
    path = Path(text)
    try:
        if path.is_file():
            return path.stat().st_size
        folder = path if path.is_dir() else path.parent
        return sum(entry.stat().st_size for entry in folder.iterdir() if entry.is_file())
    except OSError:
        return 0  # whoever opens it says what is wrong


def restore_all(inputs: Sequence[str], folder: Path, restore: Callable[[str, Path], None], rank: Ranks) -> None:
    """Restore this process's share of videos. One that cannot be restored does not keep the others from it.

    Args:
        inputs: files, folders and patterns; the same for all processes.
        folder: for the results, each of which appears in it when it is whole.
        restore: restores one to a place.
        rank: which of how many processes this one is.

    Raises:
        OptionsError: see `outputs_of`; or `folder` is a file.
        DSTNetError: of the only process, or of rank 0 when all have come to their end: what was not restored.
    """
    outputs = outputs_of(inputs, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionsError(f'-o {folder}: {error.strerror}. Several videos go to a folder.') from None
    failed = []
    try:
        with in_contact(rank) as gather:
            sizes = gather([size_of(text) for text in inputs])[0]
            for i in share(sizes, rank.rank, rank.world_size):
                try:
                    restore(inputs[i], outputs[i])
                except DSTNetError as error:
                    print(f'{inputs[i]}: {error}', file=sys.stderr)
                    failed.append(f'{inputs[i]}: {error}')
            failures = [text for texts in gather(failed) for text in texts]
    except ConnectionError as error:
        raise DSTNetError(f'{error}. What is done stays; the same command with --resume does the rest.') from None
    if rank.rank > 0:
        return
    print(f'{len(inputs) - len(failures)} of {len(inputs)} videos are in {folder}.')
    if failures:
        # One rank tells it all and gives the status: a launcher ends the others when one has failed.
        raise DSTNetError('\n'.join([f'{len(failures)} could not be restored:', *failures]))

"""Checkpoints that survive a crash: written whole or not at all, and readable with ``weights_only=True``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from dstnet_arch.errors import CheckpointError

_INCOMPLETE = '.incomplete'


@contextmanager
def atomic_file(path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under `path`, in place of an older one, only when it is complete.

    Args:
        path: where the file is to be; its folder exists.
        durable: wait until the disk holds the file, so that not even a power cut leaves an empty one.
    """
    # Stock BasicSR, which goes on from the highest number in a folder, does not see names with a leading dot.
    incomplete = path.with_name(f'.{path.name}{_INCOMPLETE}')
    try:
        with open(incomplete, 'wb') as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(incomplete, path)
    except BaseException:  # KeyboardInterrupt, too
        incomplete.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


def save_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint; what stood under `path` before stays whole until the new file is.

    Args:
        content: nested dicts, lists and tuples of tensors, numbers, texts and None.
        path: the file. What an interrupted `save_checkpoint` has left in its folder is removed.

    Raises:
        CheckpointError: it cannot be written, for instance because the disk is full.
        TypeError: see `plain`.
    """
    content = plain(content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f'.*{_INCOMPLETE}'):
            leftover.unlink()
        with atomic_file(path, durable=True) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as either
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f'The checkpoint {path} cannot be written: {reason}. The ones before it are untouched. Free some space or '
            'mend the permissions, then go on from the last one with --auto_resume.'
        ) from error


def plain(value: Any, name: str = 'checkpoint') -> Any:
    """Copy nested containers with NumPy's numbers turned into Python's, as ``weights_only`` loading wants them.

    Raises:
        TypeError: there is something in it that such a file cannot hold; the message says where.
    """
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str, Tensor)):
        return value
    if isinstance(value, Mapping):
        return {key: plain(item, f'{name}.{key}') for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [plain(item, f'{name}[{i}]') for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise TypeError(f'{name} is of {type(value).__name__}; a checkpoint holds tensors, numbers, texts and None only')


def _sync_folder(folder: Path) -> None:
    """Make a renaming in `folder` durable; only POSIX systems can and need to."""
    if os.name != 'posix':
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

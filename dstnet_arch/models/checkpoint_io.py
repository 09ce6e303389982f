"""Checkpoints that survive a crash: written whole or not at all, and readable with ``weights_only=True``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dstnet_arch.errors import CheckpointError
from dstnet_arch.files import INCOMPLETE_SUFFIX, atomic_file


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
        for leftover in path.parent.glob(f'.*{INCOMPLETE_SUFFIX}'):
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

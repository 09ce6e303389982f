"""Weights out of files, and checkpoints that survive a crash: written whole or not at all, and data alone, no code."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn

from dstnet_arch.archs.checkpoint import read_state_dict
from dstnet_arch.errors import CheckpointError, first_line
from dstnet_arch.files import INCOMPLETE_SUFFIX, atomic_file

_NAMED_AT_MOST = 5


def load_weights(net: nn.Module, path: str, strict: bool = True, param_key: str | None = 'params') -> None:
    """Load weights into any network.

    Args:
        net: the network.
        path: a file for `read_state_dict`.
        strict: refuse weights that do not all fit; else load those that fit and log the others.
        param_key: which weights of the file; one that is not there falls back to 'params'.

    Raises:
        CheckpointError: the file cannot be read, or its weights do not fit and `strict` is set.
    """
    state_dict = read_state_dict(path, param_key, expected=net.state_dict())
    get_root_logger().info(f'Loading {type(net).__name__} from {path}, key {param_key}.')
    try:
        net.load_state_dict(state_dict, strict=True)
    except RuntimeError as error:  # PyTorch raises it after it has loaded all that fits
        problem = f'{path} does not fit {type(net).__name__}: {_first_problems(error)}'
        if strict:
            raise CheckpointError(
                f'{problem} Give the network_g that the file was made with, another file, or '
                'path:strict_load_g=false to load what fits.'
            ) from None
        get_root_logger().warning(f'{problem} The rest was loaded.')


def _first_problems(error: RuntimeError) -> str:
    """What `load_state_dict` complains about: the first few keys of each kind."""
    problems = [line.strip() for line in str(error).splitlines()[1:]]
    for i, problem in enumerate(problems):
        keys = problem.split(', ')
        if problem.startswith(('Missing key', 'Unexpected key')) and len(keys) > _NAMED_AT_MOST:
            problems[i] = f'{", ".join(keys[:_NAMED_AT_MOST])} and {len(keys) - _NAMED_AT_MOST} more.'
    more = f' And {len(problems) - _NAMED_AT_MOST} more.' if len(problems) > _NAMED_AT_MOST else ''
    return ' '.join(problems[:_NAMED_AT_MOST]) + more


@contextmanager
def others_loading_explained() -> Iterator[None]:
    """Explain why a network or a loss of BasicSR could not load the weights that it wants beside ours.

    Raises:
        CheckpointError: their file is not there, or holds more than tensors.
    """
    where = 'It is named in network_g (spynet_path, edvr_path, load_path), or belongs to train:perceptual_opt.'
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f'The file {error.filename} is not there. {where} Give the path of another.') from error
    except (pickle.UnpicklingError, RuntimeError) as error:  # the latter for TorchScript and the oldest files
        if 'weights_only' not in str(error):
            raise
        raise CheckpointError(
            'A file of weights holds more than tensors, or is none; it was not loaded, because that could run code '
            f'from the file. {where} Where you trust it, save its weights alone (torch.save of a state dict).'
        ) from error


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
        reason = first_line(error)
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

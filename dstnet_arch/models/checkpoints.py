"""Weights and training states: written atomically, loaded with ``weights_only=True``.

A resumed run takes its progress from the training state and its settings from the options. So a run can be resumed with
another weight decay or a longer schedule; changes are logged.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_root_logger
from torch import Tensor
from torch.optim import Optimizer

from dstnet_arch.errors import CheckpointError, first_line
from dstnet_arch.files import INCOMPLETE_SUFFIX, atomic_file

_SCHEDULER_PROGRESS = ('last_epoch', '_step_count', '_last_lr')
_IMPLEMENTATION_FLAGS = {'fused', 'foreach', 'capturable', 'differentiable'}  # these do not change the optimiser
_MOMENTS = {'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'exp_inf', 'momentum_buffer', 'square_avg', 'grad_avg', 'sum'}


@contextmanager
def translate_weight_errors() -> Iterator[None]:
    """Translate errors of BasicSR's networks and losses that load weights by themselves.

    Raises:
        CheckpointError: their file does not exist, cannot be downloaded, or contains more than tensors.
    """
    try:
        yield
    except (OSError, pickle.UnpicklingError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and 'weights_only' not in str(error):
            raise
        raise CheckpointError(
            'Weights that network_g (spynet_path, edvr_path, load_path) or train:perceptual_opt loads cannot be read: '
            f'{first_line(error)}. Files that contain more than tensors are refused, because they can run code: save '
            'the state dict of a file that you trust with torch.save.'
        ) from error


def save_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint atomically: an older file of this name stays valid until the new one is complete.

    Args:
        content: nested dicts, lists and tuples of tensors, numbers, strings and None.
        path: the file. Remains of an interrupted `save_checkpoint` in its folder are removed.

    Raises:
        CheckpointError: the file cannot be written, for instance because the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f'.*{INCOMPLETE_SUFFIX}'):
            leftover.unlink()
        with atomic_file(path, durable=True) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as either
        raise CheckpointError(
            f'Cannot write the checkpoint {path}: {first_line(error)}. Earlier checkpoints are unchanged. Free some '
            'space or fix the permissions, then continue with --auto_resume.'
        ) from error


class ResumableRng:
    """Seeds the random generators at each checkpoint, so that a resumed run draws the same numbers.

    Between a checkpoint and the next step, data loaders draw a seed from PyTorch's generator whenever they start an
    epoch, and metrics may draw. So PyTorch's generators are seeded again before that step. Python's and NumPy's may
    already have been used for the data of this step.

    Args:
        seed: seed of the run.
        rank: number of this process; each draws other numbers.
    """

    def __init__(self, seed: int, rank: int) -> None:
        self.seed, self._rank = seed, rank
        self._next_step: int | None = None

    def at_checkpoint(self, iteration: int) -> None:
        """Seed all generators after a checkpoint was saved, or when a run is resumed from it."""
        number = int(np.random.SeedSequence([self.seed, self._rank, iteration]).generate_state(1)[0])
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002 - the generator that BasicSR seeds
        torch.manual_seed(number)
        self._next_step = number

    def before_step(self) -> None:
        """Seed PyTorch's generators if this is the first step after a checkpoint."""
        if self._next_step is not None:
            torch.manual_seed(self._next_step)
            self._next_step = None


@contextmanager
def translate_state_errors() -> Iterator[None]:
    """Translate the errors caused by a training state of another run or program into one clear error.

    Raises:
        CheckpointError: the training state does not fit.
    """
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f'The training state does not fit the options ({type(error).__name__}: {first_line(error)}). Resume with '
            'the network_g, train:optim_g and train:scheduler of that run, or start a new run from its weights '
            '(path:pretrain_network_g).'
        ) from error


def resume_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Load the moments and learning rates of a saved optimiser, and keep the settings of the new one.

    Raises:
        ValueError: the state belongs to other parameters.
    """
    groups = []
    for now, before in zip(optimizer.state_dict()['param_groups'], saved['param_groups'], strict=True):
        settings = {key: value for key, value in now.items() if key not in ('params', 'lr')}
        _log_changes('train:optim_g', before, settings)
        groups.append({**before, **settings})
    optimizer.load_state_dict({'state': saved['state'], 'param_groups': groups})
    for parameter, state in optimizer.state.items():
        for name in _MOMENTS & state.keys():  # PyTorch's kernels do not check the shapes and would read beyond the end
            if isinstance(state[name], Tensor) and state[name].shape != parameter.shape:
                raise ValueError(f'{name} has shape {tuple(state[name].shape)} for weights of {tuple(parameter.shape)}')


def resume_scheduler(scheduler: Any, saved: Mapping[str, Any]) -> None:
    """Load the position in the schedule, and keep the settings of the new scheduler."""
    settings = {key: value for key, value in scheduler.state_dict().items() if key not in _SCHEDULER_PROGRESS}
    _log_changes('train:scheduler', saved, settings)
    scheduler.load_state_dict({key: saved[key] for key in _SCHEDULER_PROGRESS})


def _log_changes(section: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key in sorted(before.keys() & now.keys() - _IMPLEMENTATION_FLAGS):
        if before[key] != now[key] and not key.startswith('_'):
            get_root_logger().warning(f'{section}:{key} was {before[key]}; the resumed run uses {now[key]}.')

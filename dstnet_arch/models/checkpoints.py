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
from dstnet_arch.models.distributed import Ranks

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


def rng_states() -> dict[str, Any]:
    """Return the states of all random generators of this process: Python's, NumPy's and PyTorch's on all devices."""
    version, internal, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - the generator that BasicSR seeds
    return {
        'python': (version, torch.tensor(internal), gauss),
        'numpy': (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_states(states: Mapping[str, Any], torch_only: bool = False) -> None:
    """Set the random generators, or PyTorch's only, to the result of `rng_states`, loaded to any device."""
    torch.set_rng_state(states['torch'].cpu())
    if torch.cuda.is_available():
        for device, state in zip(range(torch.cuda.device_count()), states['cuda'], strict=False):
            torch.cuda.set_rng_state(state.cpu(), device)
    if not torch_only:
        version, internal, gauss = states['python']
        random.setstate((version, tuple(internal.tolist()), gauss))
        name, keys, *rest = states['numpy']
        np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002 - as above


class ResumableRng:
    """Make the step after a checkpoint draw the same random numbers, whether or not the run was resumed there.

    Between a checkpoint and the next step, data loaders draw a seed from PyTorch's generator whenever they start an
    epoch, and metrics may draw. So PyTorch's generators are set again before that step. Python's and NumPy's may
    already have been used for the data of this step, so they are set only when a run is resumed.

    Args:
        ranks: all processes of the run.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._next_step: dict[str, Any] | None = None

    def save(self) -> list[dict[str, Any]]:
        """Return the states of all ranks for a checkpoint."""
        states = self._ranks.gather(rng_states)
        self._next_step = states[self._ranks.rank]
        return states

    def resume(self, states: list[dict[str, Any]]) -> None:
        """Set all generators to the states in a checkpoint, unless it has another number of ranks."""
        if len(states) == self._ranks.world_size:
            self._next_step = states[self._ranks.rank]
            set_rng_states(self._next_step)
        else:
            get_root_logger().warning(
                f'The training state contains random generators of {len(states)} processes, but there are '
                f'{self._ranks.world_size}: they start from manual_seed instead.'
            )

    def before_step(self) -> None:
        """Set PyTorch's generators if this is the first step after a checkpoint."""
        if self._next_step is not None:
            set_rng_states(self._next_step, torch_only=True)
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

"""What a run needs beside the weights to go on as if it had never stopped.

The progress of the run comes from its training state; its settings come from the options, so that a run can be resumed
with, say, another weight decay or a longer schedule. Changes are logged.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_root_logger
from torch import Tensor
from torch.optim import Optimizer

from dstnet_arch.errors import CheckpointError, first_line
from dstnet_arch.models.checkpoint_io import plain

_SCHEDULER_PROGRESS = ('last_epoch', '_step_count', '_last_lr')
_HOW_COMPUTED = {'fused', 'foreach', 'capturable', 'differentiable'}  # the same optimiser, whatever their values


def rng_states() -> dict[str, Any]:
    """State of every random generator of this process: Python's, NumPy's, PyTorch's on the CPU and on each GPU."""
    version, internal, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - the generator that BasicSR seeds
    return {
        'python': (version, torch.tensor(internal), gauss),
        'numpy': (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_states(states: Mapping[str, Any]) -> None:
    """Put the random generators into the states that `rng_states` gave, whatever device those were loaded to."""
    version, internal, gauss = states['python']
    random.setstate((version, tuple(internal.tolist()), gauss))
    name, keys, *rest = states['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002 - as above
    set_torch_rng_states(states)


def set_torch_rng_states(states: Mapping[str, Any]) -> None:
    """Put PyTorch's random generators alone into the states that `rng_states` gave."""
    torch.set_rng_state(states['torch'].cpu())
    if torch.cuda.is_available():
        for device, state in zip(range(torch.cuda.device_count()), states['cuda'], strict=False):
            torch.cuda.set_rng_state(state.cpu(), device)


@contextmanager
def misfit_explained() -> Iterator[None]:
    """Turn what comes of a training state that is of another run, or of another program, into one clear error.

    Raises:
        CheckpointError: instead of whatever a part of such a state can raise.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = first_line(error) if isinstance(error, ValueError) else f'{type(error).__name__}: {first_line(error)}'
        raise CheckpointError(
            f'The training state does not fit the options: {reason}. Resume with network_g, train:optim_g and '
            'train:scheduler of that run, or begin anew from its weights (path:pretrain_network_g).'
        ) from error


def resume_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Take the moments and learning rates of a saved state.

    Raises:
        ValueError: it is of an optimiser with other parameters; other errors where it is no state at all.
    """
    example = deepcopy(optimizer)
    groups = []
    for now, before in zip(optimizer.state_dict()['param_groups'], saved['param_groups'], strict=True):
        settings = {key: value for key, value in now.items() if key not in ('params', 'lr')}
        _log_changes('train:optim_g', before, settings)
        groups.append({**before, **settings, 'lr': float(before['lr'])})
    optimizer.load_state_dict({'state': saved['state'], 'param_groups': groups})
    _check_moments(optimizer, example)


def _check_moments(optimizer: Optimizer, example: Optimizer) -> None:
    """Whether an optimiser's state has the form of what it makes itself: PyTorch's kernels do not look at that.

    Args:
        optimizer: after it has taken a saved state.
        example: a copy of it from before, which is used up.
    """
    parameters, examples = (
        [parameter for group in each.param_groups for parameter in group['params']] for each in (optimizer, example)
    )
    for parameter in examples:
        parameter.grad = torch.zeros_like(parameter)
    example.step()
    for parameter, twin in zip(parameters, examples, strict=True):
        if parameter not in optimizer.state:
            continue
        for name, own in example.state[twin].items():
            given = optimizer.state[parameter].get(name)
            if isinstance(own, Tensor) and torch.as_tensor(given).shape != own.shape:
                raise ValueError(f'{name} has {tuple(given.shape)} values for a parameter of {tuple(own.shape)}')


def resume_scheduler(scheduler: Any, saved: Mapping[str, Any], iterations: int) -> None:
    """Take the position in the schedule from a saved state.

    Args:
        scheduler: made anew from the options.
        saved: its state.
        iterations: done by then.

    Raises:
        KeyError, TypeError, ValueError: it is not the state of a scheduler.
    """
    settings = {key: value for key, value in scheduler.state_dict().items() if key not in _SCHEDULER_PROGRESS}
    _log_changes('train:scheduler', saved, settings)
    progress = {key: saved[key] for key in _SCHEDULER_PROGRESS}
    if not all(isinstance(progress[key], int) for key in ('last_epoch', '_step_count')):
        raise ValueError('the position in the schedule is no whole number')
    if not 0 <= progress['last_epoch'] <= iterations:
        raise ValueError(f'the position in the schedule is {progress["last_epoch"]} after {iterations} iterations')
    scheduler.load_state_dict({**progress, '_last_lr': [float(lr) for lr in progress['_last_lr']]})


def _log_changes(section: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key in sorted(before.keys() & now.keys() - _HOW_COMPUTED):
        if plain(before[key]) != plain(now[key]) and not key.startswith('_'):
            get_root_logger().warning(f'{section}:{key} was {before[key]}; the resumed run has {now[key]}.')

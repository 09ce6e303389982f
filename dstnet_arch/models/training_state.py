"""What a run needs beside the weights to go on as if it had never stopped.

The progress of the run comes from its training state; its settings come from the options, so that a run can be resumed
with, say, another weight decay or a longer schedule. Changes are logged.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_root_logger
from torch.optim import Optimizer

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


def resume_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Take the moments and learning rates of a saved state.

    Raises:
        ValueError: it is of an optimiser with other parameters.
    """
    groups = []
    for now, before in zip(optimizer.state_dict()['param_groups'], saved['param_groups'], strict=True):
        settings = {key: value for key, value in now.items() if key not in ('params', 'lr')}
        _log_changes('train:optim_g', before, settings)
        groups.append({**before, **settings})
    optimizer.load_state_dict({'state': saved['state'], 'param_groups': groups})


def resume_scheduler(scheduler: Any, saved: Mapping[str, Any]) -> None:
    """Take the position in the schedule from a saved state.

    Raises:
        KeyError: it is not the state of a scheduler.
    """
    settings = {key: value for key, value in scheduler.state_dict().items() if key not in _SCHEDULER_PROGRESS}
    _log_changes('train:scheduler', saved, settings)
    scheduler.load_state_dict({key: saved[key] for key in _SCHEDULER_PROGRESS})


def _log_changes(section: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key in sorted(before.keys() & now.keys() - _HOW_COMPUTED):
        if plain(before[key]) != plain(now[key]) and not key.startswith('_'):
            get_root_logger().warning(f'{section}:{key} was {before[key]}; the resumed run has {now[key]}.')

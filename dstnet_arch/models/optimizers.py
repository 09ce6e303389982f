"""Optimisers by the names that options files have for them."""

from __future__ import annotations

import inspect
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer

from dstnet_arch.errors import OptionsError

_NOT_OPTIMIZERS = ('Optimizer', 'LBFGS', 'SparseAdam')  # the base class; wants a closure; wants sparse gradients


def make_optimizer(name: str, params: Any, lr: float, **settings: Any) -> Optimizer:
    """Make any optimiser of `torch.optim`, fused where it can be.

    Args:
        name: of its class.
        params: as the class takes them.
        lr: learning rate.
        **settings: its other arguments.

    Raises:
        OptionsError: there is no such optimiser, or it does not take these arguments.
    """
    known: dict[str, Any] = {
        key: cls
        for key, cls in vars(torch.optim).items()
        if inspect.isclass(cls) and issubclass(cls, Optimizer) and key not in _NOT_OPTIMIZERS
    }
    if name not in known:
        raise OptionsError(f'train:optim_g:type is {name}; it can be {", ".join(sorted(known))}.')
    make = partial(known[name], params, lr=lr)
    takes = inspect.signature(known[name]).parameters
    try:
        if 'fused' in takes and not {'fused', 'foreach'} & settings.keys():
            # One kernel for all parameters; on a CPU, too, it takes a third of the time.
            with suppress(RuntimeError):  # there is none for this device
                return make(fused=True, **settings)
        return make(**settings)
    except (TypeError, ValueError) as error:
        allowed = ', '.join(key for key in takes if key != 'params')
        raise OptionsError(f'train:optim_g does not suit {name}: {error}. Its arguments are {allowed}.') from error

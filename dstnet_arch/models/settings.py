"""Read the model's options and check them before training starts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from basicsr.utils.registry import METRIC_REGISTRY
from torch import nn
from torch.optim import Optimizer

from dstnet_arch.errors import OptionsError
from dstnet_arch.metrics.protocols import PROTOCOLS, Protocol
from dstnet_arch.metrics.scorer import needs_reference
from dstnet_arch.precision import Precision, resolve_precision
from dstnet_arch.streaming.stages import stages_of

Metrics = dict[str, dict[str, Any]]
"""Name -> entry of `val.metrics`."""

_UNSUPPORTED_OPTIMIZERS = ('Optimizer', 'LBFGS', 'SparseAdam')  # abstract; needs a closure; needs sparse gradients


def precision_of(opt: Mapping[str, Any], section: str, device: torch.device) -> Precision:
    """Return the precision given by the options `precision` or `amp`, its former name.

    Args:
        opt: the options of `train` or `val`.
        section: name of that section, for errors.
        device: the device that computes.

    Raises:
        OptionsError: unknown precision, or the device does not support it.
    """
    key = 'precision' if opt.get('precision') else 'amp'
    return resolve_precision(opt.get(key), device, option=f'{section}:{key}')


def protocol_of(val_opt: Mapping[str, Any]) -> Protocol:
    """Return the protocol that `val.protocol` names.

    Raises:
        OptionsError: unknown protocol.
    """
    name = val_opt.get('protocol') or 'dstnet'
    if name not in PROTOCOLS:
        raise OptionsError(f'val:protocol is {name}; allowed: {", ".join(PROTOCOLS)}.')
    return PROTOCOLS[name]


def metrics_of(val_opt: Mapping[str, Any], protocol: Protocol) -> Metrics:
    """Return the metrics to compute: those of the protocol, if it has its own, else those of `val.metrics`.

    Metrics without ground truth, such as NIQE, are kept in both cases.

    Raises:
        OptionsError: a metric is not registered.
    """
    metrics: Metrics = val_opt.get('metrics') or {}
    for name, opt in metrics.items():
        if opt.get('type') not in METRIC_REGISTRY:
            known = ', '.join(sorted(METRIC_REGISTRY.keys()))
            raise OptionsError(f'val:metrics:{name}:type is {opt.get("type")}; allowed: {known}.')
    return metrics if protocol.metrics is None else protocol.metrics | without_reference(metrics)


def without_reference(metrics: Metrics) -> Metrics:
    """Return the metrics that need no ground truth."""
    return {name: opt for name, opt in metrics.items() if not needs_reference(opt)}


def check_streaming(net: nn.Module) -> None:
    """Check that a network can restore frame by frame.

    Raises:
        OptionsError: it cannot.
    """
    try:
        stages_of(net)
    except TypeError as error:
        raise OptionsError(f'val:streaming is true, but: {error} Set it to false.') from None


def compile_network(net: nn.Module) -> None:
    """Compile a network in place with `torch.compile`; of our networks, only the step of the propagation."""
    getattr(net, 'compile_steps', net.compile)()


def make_optimizer(name: str, params: Any, lr: float, **settings: Any) -> Optimizer:
    """Create any optimiser of `torch.optim`, with its fused implementation if there is one for the device.

    Args:
        name: name of the class.
        params: parameters or parameter groups.
        lr: learning rate.
        **settings: other arguments of the class.

    Raises:
        OptionsError: unknown optimiser, or it does not accept these arguments.
    """
    known: dict[str, Any] = {
        key: cls
        for key, cls in vars(torch.optim).items()
        if inspect.isclass(cls) and issubclass(cls, Optimizer) and key not in _UNSUPPORTED_OPTIMIZERS
    }
    if name not in known:
        raise OptionsError(f'train:optim_g:type is {name}; allowed: {", ".join(sorted(known))}.')
    make = partial(known[name], params, lr=lr)
    accepted = inspect.signature(known[name]).parameters
    try:
        if 'fused' in accepted and not {'fused', 'foreach'} & settings.keys():
            # One kernel for all parameters; on a CPU, too, it takes a third of the time.
            with suppress(RuntimeError):  # not available on this device
                return make(fused=True, **settings)
        return make(**settings)
    except (TypeError, ValueError) as error:
        allowed = ', '.join(key for key in accepted if key != 'params')
        raise OptionsError(f'train:optim_g is wrong for {name}: {error}. Allowed arguments: {allowed}.') from error

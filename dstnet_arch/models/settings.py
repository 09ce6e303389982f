"""What the model takes from its options, looked at before the first iterations and not after thousands of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from basicsr.utils.registry import METRIC_REGISTRY
from torch import nn

from dstnet_arch.errors import OptionsError
from dstnet_arch.metrics.protocols import PROTOCOLS, Protocol
from dstnet_arch.streaming.stages import stages_of

AUTOCAST_DTYPES = {'none': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}
"""What `train.amp` and `val.amp` can be."""


def autocast_dtype(opt: Mapping[str, Any], key: str) -> torch.dtype | None:
    """The type that autocast computes in, by `opt.amp`; None for no autocast.

    Args:
        opt: the options of `train` or `val`.
        key: what the option is called in an error.

    Raises:
        OptionsError: there is no such type.
    """
    amp = opt.get('amp') or 'none'
    if amp not in AUTOCAST_DTYPES:
        raise OptionsError(f'{key} is {amp}; it can be {", ".join(AUTOCAST_DTYPES)}.')
    return AUTOCAST_DTYPES[amp]


def protocol_of(val_opt: Mapping[str, Any]) -> Protocol:
    """The protocol that `val.protocol` names.

    Raises:
        OptionsError: there is no such protocol.
    """
    name = val_opt.get('protocol') or 'dstnet'
    if name not in PROTOCOLS:
        raise OptionsError(f'val:protocol is {name}; it can be {", ".join(PROTOCOLS)}.')
    return PROTOCOLS[name]


def check_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise OptionsError where a metric is of a type that is not registered."""
    for name, opt in metrics.items():
        if opt.get('type') not in METRIC_REGISTRY:
            known = ', '.join(sorted(METRIC_REGISTRY.keys()))
            raise OptionsError(f'val:metrics:{name}:type is {opt.get("type")}; it can be {known}.')


def check_streaming(net: nn.Module) -> None:
    """Raise OptionsError where a network cannot restore frame by frame, as `val.streaming` wants it."""
    try:
        stages_of(net)
    except TypeError as error:
        raise OptionsError(f'val:streaming is on, but: {error} Set it to false.') from None

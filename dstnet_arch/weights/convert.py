"""Conversion of weights between safetensors and BasicSR's ``.pth``, and between our key names and the released ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dstnet_arch.archs.checkpoint import load_checkpoint, read_state_dict
from dstnet_arch.archs.released_keys import from_released, to_released
from dstnet_arch.archs.video_net import CONFIG_KEY, VideoNet, stored_config
from dstnet_arch.arguments import check_output
from dstnet_arch.errors import CheckpointError, first_line
from dstnet_arch.files import output_file

SUFFIXES = ('.safetensors', '.pth')

KeyNames = Literal['ours', 'released']


def convert(
    source: Path, target: Path, key_names: KeyNames = 'ours', param_key: str | None = None, overwrite: bool = False
) -> VideoNet:
    """Write weights in another format or with other key names; the values do not change by a bit.

    Args:
        source: Any file for `read_state_dict`.
        target: New file: ``.safetensors``, with the network in its metadata, or ``.pth`` with ``{'params': …}``.
        key_names: 'ours', or 'released' for the authors' code.
        param_key: Which weights of `source`, see `read_state_dict`.
        overwrite: Replace an existing file.

    Returns:
        The network with these weights.

    Raises:
        OptionsError: `target` exists, has another suffix, or its folder is not writable.
        CheckpointError: `source` is not a checkpoint of a network of ours, the released format cannot represent it, or
            `target` cannot be written.
    """
    check_output(target, SUFFIXES, overwrite)
    state_dict = read_state_dict(source, param_key)
    net = load_checkpoint(state_dict)
    # Not the state dict of `net`, which has a single dtype.
    weights = from_released(net.released_keys, state_dict)
    weights[CONFIG_KEY] = net.state_dict()[CONFIG_KEY]
    if key_names == 'released':
        weights = to_released(net.released_keys, weights)
        _check_configuration(net, weights, source)
    _write(weights, target, json.dumps(stored_config(net.get_extra_state()), sort_keys=True))
    return net


def describe(net: VideoNet) -> str:
    """Return the call that builds the network."""
    return f'{type(net).__name__}({", ".join(f"{k}={v!r}" for k, v in net.config.items())})'


def _check_configuration(net: VideoNet, released: Mapping[str, Tensor], source: Path) -> None:
    """Released files store no configuration, so it must follow from the shapes."""
    try:
        back = load_checkpoint(released)
    except CheckpointError:
        back = None
    if back is None or describe(back) != describe(net):
        raise CheckpointError(
            f'{source} is of {describe(net)}, which the released format cannot represent. Convert it with our key '
            'names (--to ours).'
        )


def _write(weights: Mapping[str, Tensor], target: Path, network: str) -> None:
    from safetensors.torch import save

    dense = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    with output_file(target, CheckpointError) as file:
        if target.suffix == '.safetensors':
            file.write(save(dense, {'format': 'pt', 'network': network}))  # other programs expect the format
            return
        try:
            torch.save({'params': dense}, file)
        except RuntimeError as error:  # how torch.save reports a full disk
            raise OSError(first_line(error)) from None

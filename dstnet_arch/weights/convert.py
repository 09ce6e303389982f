"""One file of weights into another: safetensors or BasicSR's ``.pth``, our key names or those of the authors' files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dstnet_arch._version import __version__
from dstnet_arch.archs.checkpoint import load_checkpoint, read_state_dict
from dstnet_arch.archs.released_keys import from_released, to_released
from dstnet_arch.archs.video_net import CONFIG_KEY, VideoNet, stored_config
from dstnet_arch.errors import CheckpointError, first_line
from dstnet_arch.files import atomic_file
from dstnet_arch.weights.released import git_ids, identify

SUFFIXES = ('.safetensors', '.pth')

KeyNames = Literal['ours', 'released']


def convert(
    source: Path, target: Path, key_names: KeyNames = 'ours', param_key: str | None = None, overwrite: bool = False
) -> VideoNet:
    """Write the weights of a file in another format or with other key names, every value bit by bit the same.

    A ``.pth`` file holds ``{'params': …}``, as BasicSR wants it. A ``.safetensors`` file also says in its metadata what
    network it is of and what file it was made from (`origin`).

    Args:
        source: any file for `read_state_dict`.
        target: the new file, ``.safetensors`` or ``.pth``; appears when it is whole.
        key_names: 'ours', or 'released' as in the authors' files, which the authors' code can load.
        param_key: which weights of `source`, see `read_state_dict`.
        overwrite: replace `target` if it is there.

    Returns:
        The network, with these weights.

    Raises:
        CheckpointError: `source` cannot be read or is of no network known here; `target` is there, has another suffix
            or cannot be written; or the authors' format cannot hold this network.
    """
    if target.suffix not in SUFFIXES:
        raise CheckpointError(f'{target} given. Allowed are names that end in {" or ".join(SUFFIXES)}.')
    if target.exists() and not overwrite:
        raise CheckpointError(f'{target} is there already. Give another name, or --overwrite to replace it.')
    state_dict = read_state_dict(source, param_key)
    net = load_checkpoint(state_dict)
    # Not the state dict of `net`, which has one type of numbers only.
    ours = from_released(net.released_keys, state_dict)
    ours[CONFIG_KEY] = net.state_dict()[CONFIG_KEY]
    weights = ours if key_names == 'ours' else _released(net, ours, source)
    _write(weights, target, _origin(net, source, key_names))
    return net


def origin(path: Path) -> dict[str, str]:
    """The metadata of a ``.safetensors`` file: 'network' as JSON, 'key_names', 'source', 'source_git_blob'; whatever
    others have written, or nothing.

    It is what the file says of itself; nothing vouches for it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework='pt') as file:
            return dict(file.metadata() or {})
    except SafetensorError:
        return {}


def _released(net: VideoNet, ours: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Translate to the authors' names, whose files store no configuration: only what needs none can go there."""
    released = to_released(net.released_keys, ours)
    try:
        back = load_checkpoint(released)
    except CheckpointError:
        back = None
    if back is None or back.config != net.config or type(back) is not type(net):
        raise CheckpointError(
            f"{source} is of {describe(net)}. The authors' files hold the network that they have released and cannot "
            'say what differs from it. Convert it with our key names (--to ours).'
        )
    return released


def describe(net: VideoNet) -> str:
    """The network as the call that builds it."""
    return f'{type(net).__name__}({", ".join(f"{k}={v!r}" for k, v in net.config.items())})'


def _origin(net: VideoNet, source: Path, key_names: str) -> dict[str, str]:
    known = identify(source)
    return {
        'format': 'pt',  # what other programs look for
        'network': json.dumps(stored_config(net.get_extra_state()), sort_keys=True),
        'key_names': key_names,
        'source': known.file if known else source.name,
        'source_git_blob': known.blob_id if known else git_ids(source)[0],
        'made_by': f'dstnet-arch {__version__}',
    }


def _write(weights: Mapping[str, Tensor], target: Path, metadata: dict[str, str]) -> None:
    from safetensors.torch import save

    dense = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as file:
            if target.suffix == '.safetensors':
                file.write(save(dense, metadata))
            else:
                torch.save({'params': dense}, file)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as either
        raise CheckpointError(
            f'{target} cannot be written: {first_line(error)}. Free some space or mend the permissions.'
        ) from None

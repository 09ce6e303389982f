"""Loading weights from any file, into a network built from the tensors themselves."""

from __future__ import annotations

import pickle
import re
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.archs.released_keys import from_released
from dstnet_arch.archs.video_net import CONFIG_KEY, VideoNet, stored_config
from dstnet_arch.errors import CheckpointError, first_line

ARCHITECTURES: tuple[type[VideoNet], ...] = (DSTNet, DSTNetPlus)

_FIRST_WEIGHTS = ('extract.weight', 'feat_extractor.weight')
"""A weight of every network of the family: our name and the released one."""

# Keys under which files hold weights, in order of preference: BasicSR's averaged and plain weights, Lightning's and
# mmengine's, those of training scripts.
_WRAPPERS = ('params_ema', 'params', 'state_dict', 'model_state_dict', 'model', 'net_g', 'generator')
# Prefixes of names: DataParallel, torch.compile, and modules that hold the network.
_PREFIX = re.compile(r'(?:module|_orig_mod|(?:generator|net_g|model)(?:_ema)?)\.')
_NAMES_SHOWN = 5


def read_state_dict(
    path: str | PathLike[str],
    param_key: str | None = None,
    map_location: str | torch.device = 'cpu',
    expected: Collection[str] = (),
) -> dict[str, Tensor]:
    """Read the weights from a checkpoint file.

    No code in the file is executed: ``.pth`` files load with ``weights_only=True``, ``.safetensors`` hold tensors only.

    Args:
        path: A ``.pth``, ``.pt`` or ``.ckpt`` file (weights, or weights below 'params_ema', 'params', 'state_dict' or
            'model', also nested) or a ``.safetensors`` file.
        param_key: Which weights to read if the file holds several; None prefers 'params_ema' to 'params'. A key that
            the file lacks falls back to the others.
        map_location: Device of the tensors.
        expected: Names of the network's weights. They tell which prefixes to remove (``module.``, ``_orig_mod.``,
            ``generator.``, ``net_g.``, ``model.``). Not needed for networks of this family.

    Returns:
        Name -> tensor, without prefixes.

    Raises:
        CheckpointError: the file does not exist, is not a checkpoint, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f'{path} does not exist. Check the path; it is relative to the current folder.')
    return _unwrap(_read(path, map_location), param_key, str(path), expected)


def load_checkpoint(
    path_or_state_dict: str | PathLike[str] | Mapping[str, Any], map_location: str | torch.device = 'cpu'
) -> VideoNet:
    """Build the network of a checkpoint and load its weights.

    Our checkpoints store their configuration. For others (released files, averaged weights, bare weights) architecture,
    width and depth follow from the shapes of the tensors, and `boundary` is as released.

    Args:
        path_or_state_dict: A file for `read_state_dict` or the content of one.
        map_location: Device of the network.

    Returns:
        The network in evaluation mode, in float64 if the weights are, else in float32.

    Raises:
        CheckpointError: as `read_state_dict`; or the weights are of another network: the message names the first keys
            that do not fit.
    """
    if isinstance(path_or_state_dict, Mapping):
        source = 'The state dict'
        state_dict = _unwrap(path_or_state_dict, None, source, ())
    else:
        source, state_dict = str(path_or_state_dict), read_state_dict(path_or_state_dict, map_location=map_location)
    with torch.device('meta'):  # costs no memory before the tensors are known to fit
        net = _build(state_dict, source)
    weights = from_released(net.released_keys, state_dict)
    weights[CONFIG_KEY] = net.state_dict()[CONFIG_KEY]
    _check_fit(net, weights, source)
    is_double = any(v.dtype == torch.float64 for k, v in weights.items() if k != CONFIG_KEY)
    net.to_empty(device=map_location).to(torch.float64 if is_double else torch.float32).load_state_dict(weights)
    return net.eval()


def _check_fit(net: VideoNet, weights: Mapping[str, Any], source: str) -> None:
    wanted = net.state_dict()
    shapes = [
        f'{k} is {tuple(weights[k].shape)}, not {tuple(v.shape)}'
        for k, v in wanted.items()
        if k in weights and weights[k].shape != v.shape
    ]
    problems = {
        'missing': [k for k in wanted if k not in weights],
        'unknown': [k for k in weights if k not in wanted],
        'of another shape': shapes,
    }
    if any(problems.values()):
        arguments = ', '.join(f'{k}={v!r}' for k, v in net.config.items())
        raise CheckpointError(
            f'{source} does not fit {type(net).__name__}({arguments}): '
            + '; '.join(f'{what}: {_first(keys)}' for what, keys in problems.items() if keys)
        )


def _build(state_dict: Mapping[str, Tensor], source: str) -> VideoNet:
    """Build the network of a state dict without loading the weights."""
    missing = []
    for architecture in ARCHITECTURES:
        ours = from_released(architecture.released_keys, state_dict)
        try:
            stored = stored_config(ours.get(CONFIG_KEY))
            if stored.pop('type', architecture.__name__) != architecture.__name__:
                continue
            if too_large := [k for k, v in stored.items() if isinstance(v, int) and v > _largest_size(ours)]:
                raise ValueError(f'its tensors are too small or too few for {too_large[0]}={stored[too_large[0]]}')
            return architecture(**(stored or architecture.infer_config(ours)))
        except KeyError as error:
            missing.append(f'{architecture.__name__} has a {error.args[0]}')
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f'{source} stores a configuration that {architecture.__name__} of this version does not accept '
                f'({first_line(error)}). If a later version wrote it, update dstnet-arch.'
            ) from None
    names = ' or '.join(a.__name__ for a in ARCHITECTURES)
    raise CheckpointError(
        f'{source} is not a checkpoint of {names}: it holds {", ".join(list(state_dict)[:3])}, …, but '
        f'{", ".join(missing)}. Give a file saved by this project or one of the released files.'
    )


def _largest_size(state_dict: Mapping[str, Tensor]) -> int:
    """Upper limit of the numbers of channels and blocks in a network with these tensors."""
    return max(len(state_dict), *(side for k, v in state_dict.items() if k != CONFIG_KEY for side in v.shape))


def _read(path: Path, map_location: str | torch.device) -> Any:
    if path.suffix == '.safetensors':
        from safetensors.torch import load_file
    torch.empty(0, device=map_location)  # an unknown device is not the file's fault
    try:
        if path.suffix == '.safetensors':
            return load_file(path, device=str(map_location))
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        # Only the object's name from PyTorch's text, which goes on to recommend a way to run the code.
        met = re.search(r'GLOBAL [\w.]+|Unsupported \w+ \d+', str(error))
        raise CheckpointError(
            f'{path} is not a checkpoint, or holds more than tensors{f" ({met[0]})" if met else ""}. It was not '
            'loaded, because that could run code from the file. If you trust it, save only its state dict with '
            'torch.save.'
        ) from None
    except Exception as error:  # a damaged file can make the unpickler raise nearly anything
        raise CheckpointError(
            f'{path} cannot be read as a checkpoint. It may be incomplete; fetch or save it again. '
            f'[{first_line(error)}]'
        ) from None


def _unwrap(content: Any, param_key: str | None, source: str, expected: Collection[str]) -> dict[str, Tensor]:
    """Find the weights in the content of a file."""
    keys = _WRAPPERS if param_key is None else (param_key, 'params', *_WRAPPERS)
    used = param_key
    while isinstance(content, Mapping) and (found := [k for k in keys if isinstance(content.get(k), Mapping)]):
        used = found[0]
        content = content[used]
    if param_key not in (None, 'params', used):
        warnings.warn(f'{source} has no {param_key}: its {used} are used.', stacklevel=3)
    weights = {str(k): v for k, v in content.items()} if isinstance(content, Mapping) else {}
    # Other tools may replace the configuration, which is no weight; `stored_config` ignores what it cannot read.
    weights = {k: v for k, v in weights.items() if isinstance(v, Tensor) or not k.endswith(CONFIG_KEY)}
    if not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        what = f'keys {", ".join(list(weights)[:3])}' if weights else type(content).__name__
        raise CheckpointError(
            f'{source} holds no weights: expected tensors, or one of {", ".join(dict.fromkeys(keys))}; found {what}.'
        )
    if odd := [k for k, v in weights.items() if not _is_dense(v)]:
        raise CheckpointError(
            f'{source} holds {odd[0]} in a form other than a dense tensor. Save it as tensor.to_dense().contiguous().'
        )
    return _without_prefixes(weights, expected)


def _without_prefixes(weights: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """Return the weights below the prefix that makes most names match `expected`."""
    weights = {k.replace('_orig_mod.', ''): v for k, v in weights.items()}
    names = {*expected, *_FIRST_WEIGHTS}
    matches: Counter[str] = Counter()
    for key in weights:
        start = 0
        while True:
            matches[key[:start]] += key[start:] in names
            if not (part := _PREFIX.match(key, start)):
                break
            start = part.end()
    best = max(matches, key=lambda prefix: (matches[prefix], '_ema.' in prefix))
    if not matches[best]:  # of an unknown network
        return {k.removeprefix('module.'): v for k, v in weights.items()}
    return {k.removeprefix(best): v for k, v in weights.items() if k.startswith(best)}


def _is_dense(tensor: Tensor) -> bool:
    """True if all values are stored; otherwise a small file could expand to any amount of memory."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_nested:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _first(keys: list[str]) -> str:
    more = f' and {len(keys) - _NAMES_SHOWN} more' if len(keys) > _NAMES_SHOWN else ''
    return ', '.join(keys[:_NAMES_SHOWN]) + more

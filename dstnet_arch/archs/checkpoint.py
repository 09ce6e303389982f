"""Reading weights: from whatever file, into a network built from the tensors themselves."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.archs.released_keys import from_released
from dstnet_arch.archs.video_net import CONFIG_KEY, VideoNet, stored_config
from dstnet_arch.errors import CheckpointError, first_line

# Keys under which a file may hold the weights, the most wanted first: BasicSR's averaged and plain weights,
# Lightning's.
_PARAM_KEYS = ('params_ema', 'params', 'state_dict')
_NAMED_AT_MOST = 5
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

ARCHITECTURES: tuple[type[VideoNet], ...] = (DSTNet, DSTNetPlus)


def read_state_dict(
    path: str | PathLike[str], param_key: str | None = None, map_location: str | torch.device = 'cpu'
) -> dict[str, Tensor]:
    """Read the weights from a checkpoint file.

    Nothing in the file is executed: ``.pth`` files load with ``weights_only=True``, ``.safetensors`` hold tensors only.

    Args:
        path: a ``.pth``/``.pt``/``.ckpt`` file (BasicSR's ``{'params': …, 'params_ema': …}``, ``{'state_dict': …}``
            or bare weights) or a ``.safetensors`` file.
        param_key: which weights to take; None takes 'params_ema' where there, else 'params'. As in BasicSR, a key
            that the file lacks falls back to 'params'.
        map_location: where the tensors go.

    Returns:
        Name -> tensor, names as in the file but for a ``module.`` of (Distributed)DataParallel in front, which is
        dropped.

    Raises:
        CheckpointError: no such file, not a checkpoint, objects other than tensors in it, or no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f'There is no checkpoint {path}. Check the path; it is relative to the current folder.')
    content = (
        _read_safetensors(path, map_location) if path.suffix == '.safetensors' else _read_pickle(path, map_location)
    )
    return _unwrap(content, param_key, str(path))


def load_checkpoint(
    path_or_state_dict: str | PathLike[str] | Mapping[str, Any], map_location: str | torch.device = 'cpu'
) -> VideoNet:
    """Build the network that a checkpoint belongs to, with its weights.

    Our own checkpoints store their configuration. For others (released files, bare weights) architecture, width and
    depth are read off the tensors, and what leaves no trace in them (`boundary`) is as released.

    Args:
        path_or_state_dict: a file for `read_state_dict` (the authors' released files among them), or what it holds.
        map_location: device of the network.

    Returns:
        The network in evaluation mode, float32 or whatever the file holds. Call `.train()` on it to go on training.

    Raises:
        CheckpointError: as `read_state_dict`; or the weights are of another network: the message names the first keys
            that do not fit.
    """
    if isinstance(path_or_state_dict, Mapping):
        source, state_dict = 'The state dict', _unwrap(path_or_state_dict, None, 'The state dict')
    else:
        source, state_dict = str(path_or_state_dict), read_state_dict(path_or_state_dict, map_location=map_location)
    dtype = next((v.dtype for v in state_dict.values() if v.is_floating_point()), torch.float32)
    if dtype not in _DTYPES:
        raise CheckpointError(
            f'{source} holds numbers of {dtype}; allowed: {", ".join(map(str, _DTYPES))}. Convert it.'
        )
    with torch.device('meta'):  # what a file says of itself costs neither time nor memory until its tensors fit
        _match(_build(state_dict, source), state_dict, source)
    net = _build(state_dict, source).to(map_location, dtype=dtype)
    load_weights(net, state_dict, source)
    return net.eval()


def load_weights(net: VideoNet, state_dict: Mapping[str, Any], source: str) -> None:
    """Load weights into a network that exists, every key of it.

    Args:
        net: the network; changed only if everything fits.
        state_dict: our key names or released ones.
        source: what the weights are called in an error.

    Raises:
        CheckpointError: names the first keys that are missing, unknown or of another shape.
    """
    given = _match(net, state_dict, source)
    try:
        net.load_state_dict(given)
    except RuntimeError as error:  # another configuration behind tensors of the same shapes
        raise CheckpointError(f'{source}: {str(error).splitlines()[-1].strip()}') from None


def _match(net: VideoNet, state_dict: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The weights under our names, if they are those that the network wants, in the same shapes."""
    wanted = net.state_dict()
    given = from_released(net.released_keys, state_dict)
    given.setdefault(CONFIG_KEY, wanted[CONFIG_KEY])
    shapes = [
        f'{k} is {tuple(given[k].shape)}, not {tuple(wanted[k].shape)}'
        for k in wanted
        if _other_shape(given, wanted, k)
    ]
    problems = [
        _first('missing', [k for k in wanted if k not in given]),
        _first('unknown', [k for k in given if k not in wanted]),
        _first('of another shape', shapes),
    ]
    if any(problems):
        raise CheckpointError(
            f'{source} does not fit {type(net).__name__}({_arguments(net.config)}): '
            + '; '.join(p for p in problems if p)
        )
    return given


def _build(state_dict: Mapping[str, Tensor], source: str) -> VideoNet:
    """The network that a state dict belongs to, its weights not yet loaded."""
    missing = []
    for architecture in ARCHITECTURES:
        ours = from_released(architecture.released_keys, state_dict)
        try:
            stored = stored_config(ours[CONFIG_KEY]) if CONFIG_KEY in ours else {}
            if stored.pop('type', architecture.__name__) != architecture.__name__:
                continue
            if too_large := [k for k, v in stored.items() if isinstance(v, int) and v > _largest_size(ours)]:
                raise ValueError(f'its tensors are too small or too few for {too_large[0]}={stored[too_large[0]]}')
            return architecture(**(stored or architecture.infer_config(ours)))
        except KeyError as error:
            missing.append(f'{architecture.__name__} has a {error.args[0]}')
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f'{source} holds a configuration that {architecture.__name__} of this version does not take '
                f'({first_line(error)}). Was it made by a later version? Then update this one.'
            ) from None
    names = ' or '.join(a.__name__ for a in ARCHITECTURES)
    raise CheckpointError(
        f'{source} is not a checkpoint of {names}: it holds {", ".join(list(state_dict)[:3])}, …, but '
        f'{", ".join(missing)}. Give a file that BasicSR made with this project, or one of the authors.'
    )


def _largest_size(state_dict: Mapping[str, Tensor]) -> int:
    """No number of channels or of blocks can be larger in a network with these tensors."""
    return max(len(state_dict), *(side for k, v in state_dict.items() if k != CONFIG_KEY for side in v.shape))


def _read_pickle(path: Path, map_location: str | torch.device) -> Any:
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        # Of PyTorch's text only what it met: it goes on to recommend what would run the code.
        met = re.search(r'GLOBAL [\w.]+|Unsupported \w+ \d+', str(error))
        raise CheckpointError(
            f'{path} holds more than tensors, or is no checkpoint; it was not loaded, because that could run code '
            f'from the file{f" ({met[0]})" if met else ""}. Where you trust it, save its weights alone (torch.save of '
            'a state dict).'
        ) from None
    except Exception as error:  # a damaged file can make the unpickler raise nearly anything
        raise CheckpointError(
            f'{path} cannot be read as a checkpoint. Is it complete? Fetch or save it again. [{first_line(error)}]'
        ) from None


def _read_safetensors(path: Path, map_location: str | torch.device) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device=str(map_location))
    except SafetensorError as error:
        raise CheckpointError(
            f'{path} cannot be read as safetensors. Is it complete? Fetch or save it again. [{first_line(error)}]'
        ) from None


def _unwrap(content: Any, param_key: str | None, source: str) -> dict[str, Tensor]:
    keys = _PARAM_KEYS if param_key is None else (param_key, 'params')
    if isinstance(content, Mapping):
        content = next((content[key] for key in keys if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        what = (
            f'keys {", ".join(map(str, list(content)[:3]))}' if isinstance(content, Mapping) else type(content).__name__
        )
        raise CheckpointError(
            f'{source} holds no weights: expected one of {", ".join(keys)}, or bare tensors; found {what}.'
        )
    if odd := [k for k, v in content.items() if not _is_dense(v)]:
        raise CheckpointError(
            f'{source} holds {odd[0]} as something else than a plain tensor with all its values. Save it as one: '
            'tensor.to_dense().contiguous().'
        )
    return {str(k).removeprefix('module.'): cast(Tensor, v) for k, v in content.items()}


def _is_dense(tensor: Tensor) -> bool:
    """Whether all values are stored: else a small file could stand for any amount of memory."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_nested:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _other_shape(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], key: str) -> bool:
    return key in given and key != CONFIG_KEY and given[key].shape != wanted[key].shape


def _first(what: str, keys: list[str]) -> str:
    more = f' and {len(keys) - _NAMED_AT_MOST} more' if len(keys) > _NAMED_AT_MOST else ''
    return f'{what}: {", ".join(keys[:_NAMED_AT_MOST])}{more}' if keys else ''


def _arguments(config: Mapping[str, Any]) -> str:
    return ', '.join(f'{k}={v!r}' for k, v in config.items())

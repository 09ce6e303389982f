"""The base class of the networks: input checks, padding, propagation, checkpoints that contain the configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dstnet_arch.archs.derived_weights import DerivedWeights
from dstnet_arch.archs.propagation import Boundary, propagate
from dstnet_arch.archs.released_keys import KeyTable, from_released
from dstnet_arch.ops.reflect_pad import reflect_pad

# Without gradients, work that needs no neighbouring frames is done for this many pixels at a time, so that maps of
# several hundred channels never exist for a whole clip. On a GPU this is a 720p frame, or sixteen of 256x256. On a CPU
# it is a strip of a frame: small maps stay in the caches, and their memory is reused instead of requested again.
_CHUNK_PIXELS = 2**20
_CHUNK_PIXELS_CPU = 2**14
_STRIP_HALO = 2  # rows at a strip's edges that are computed twice: `finish` is at most two 3x3 convolutions

CONFIG_KEY = '_extra_state'


class VideoNet(nn.Module):
    """Base of networks that map a blurry clip to a restored clip of the same shape.

    A subclass implements `restore`, `config` and `infer_config`. This class checks the input, pads, crops, and stores
    `config` in the state dict (key `_extra_state`, JSON in a uint8 tensor, which `weights_only` loading and safetensors
    support), so that a checkpoint is never silently run by a network that differs in what the shapes do not show.
    `load_state_dict` also accepts the names of released files.

    Attributes:
        size_multiple: `restore` needs sides that are multiples of this.
        min_size: the smallest side for `restore`.
        released_keys: names of the parameters in the authors' files.
        gradient_checkpointing: in training, save the inputs of each propagation step only and recompute the rest in
            the backward pass: less memory, more time, the same gradients.
    """

    size_multiple: ClassVar[int]
    min_size: ClassVar[int]
    released_keys: ClassVar[KeyTable]

    boundary: Boundary = 'zeros'
    backward_dtff: nn.Module
    forward_dtff: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False

    @property
    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct this network."""
        raise NotImplementedError

    @classmethod
    def infer_config(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """Constructor arguments, inferred from the tensors of a state dict (our names).

        Raises:
            KeyError: a tensor that this network must have is missing.
        """
        raise NotImplementedError

    def restore(self, frames: Tensor, num_frame: int) -> Tensor:
        """(T·B, 3, H, W), time-major -> the restored frames, the same shape."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Restore a clip.

        Args:
            x: blurry frames (B, T, 3, H, W), RGB in [0, 1], floating point; any T, H and W from 1 up.

        Returns:
            Restored frames, the same shape, not clamped.

        Raises:
            ValueError: `x` is not of that shape or not floating point.
        """
        if x.dim() != 5 or x.shape[2] != 3 or min(x.shape) < 1 or not x.is_floating_point():
            raise ValueError(
                f'{type(self).__name__} takes a clip of RGB frames (B, T, 3, H, W), floating point in [0, 1], with '
                f'at least one frame and one pixel; got {tuple(x.shape)} of {x.dtype}.'
            )
        with nullcontext() if torch.compiler.is_compiling() else self.derived_weights():
            return self._forward(x)

    def derived_weights(self) -> DerivedWeights:
        """A context in which merged and cast weights are computed once; the parameters must not change meanwhile."""
        return DerivedWeights()

    def _forward(self, x: Tensor) -> Tensor:
        b, t, _, h, w = x.shape
        padded = reflect_pad(x, self.padded_side(h), self.padded_side(w))
        frames = padded.transpose(0, 1).flatten(0, 1)  # (T·B, 3, H', W'): time-major, each time step one dense block
        restored = self.restore(frames.contiguous(memory_format=torch.channels_last), num_frame=t)
        return restored[..., :h, :w].unflatten(0, (t, b)).transpose(0, 1).contiguous()

    @classmethod
    def padded_side(cls, side: int) -> int:
        """The side of padded frames inside the network."""
        return max(-(-side // cls.size_multiple) * cls.size_multiple, cls.min_size)

    def propagate(self, x: Tensor, num_frame: int) -> Tensor:
        """Over all frames, backward, then forward: (T·B, C, h, w), time-major -> the same shape."""
        frames = list(x.chunk(num_frame))
        frames = propagate(self._step(self.backward_dtff), frames, reverse=True, boundary=self.boundary)  # Eq. (7)
        frames = propagate(self._step(self.forward_dtff), frames, boundary=self.boundary)  # Eq. (8)
        return torch.cat(frames)

    def apply_chunked(self, function: Callable[[Tensor, Tensor], Tensor], frames: Tensor, low: Tensor) -> Tensor:
        """Return ``function(frames, low)``; without gradients, for a few frames or a strip of one at a time.

        Args:
            function: a row of its result, (N, C', H/r, W/r), depends on rows of `low` at most `_STRIP_HALO` away.
            frames: (N, 3, H, W).
            low: (N, C, H/s, W/s).
        """
        if torch.is_grad_enabled():
            return function(frames, low)
        num, width = chunk_size(frames[0, 0].numel(), frames.device), frames.shape[-1]
        scale = frames.shape[-2] // low.shape[-2]
        rows = max(chunk_size(scale * width, frames.device), 8 * _STRIP_HALO)
        few = zip(frames.split(num), low.split(num), strict=True)
        parts = [_by_strips(function, x, y, rows) for x, y in few]
        return parts[0] if len(parts) == 1 else torch.cat(parts)  # streams come frame by frame: no copy for them

    def compile_steps(self, **options: Any) -> None:
        """Compile one step of the propagation in each direction with `torch.compile`, at its first call.

        A step is most of the network's work. It compiles in a fraction of the time of the whole network with its
        unrolled recurrence, and once for any number of frames.

        Args:
            options: arguments of `torch.compile`. `mode="reduce-overhead"` does not work: steps keep their results.
        """
        for name, module in self.named_children():
            if name in ('backward_dtff', 'forward_dtff'):  # networks without propagation have neither
                # With symbolic sizes, PyTorch 2.11 cannot trace the gradient of the bilinear resizing.
                module.compile(**{'dynamic': False, **options})

    def _step(self, dtff: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            # Nothing is random, and a CUDA graph could not save the state of the random generator.
            return partial(checkpoint, dtff, use_reentrant=False, preserve_rng_state=False)
        return dtff

    def get_extra_state(self) -> Tensor:
        """The network's type and `config` as JSON in a uint8 tensor (called by `state_dict`)."""
        text = json.dumps({'type': type(self).__name__, **self.config}, sort_keys=True)
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Do nothing: `_load_from_state_dict` has compared the stored configuration with this network's."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # PyTorch calls this in `load_state_dict` with a copy of the caller's dict, and passes it on to the sub-modules.
        error_msgs = args[-1]
        own = {k[len(prefix) :]: state_dict.pop(k) for k in [k for k in state_dict if k.startswith(prefix)]}
        own = from_released(self.released_keys, own)
        stored = own.setdefault(CONFIG_KEY, self.get_extra_state())  # foreign checkpoints hold none
        error_msgs.extend(_differences(stored_config(stored), self.config))
        state_dict.update({prefix + k: v for k, v in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)


def chunk_size(pixels: int, device: torch.device) -> int:
    """Number of frames of `pixels` pixels to process at a time."""
    return max(1, (_CHUNK_PIXELS_CPU if device.type == 'cpu' else _CHUNK_PIXELS) // pixels)


def _by_strips(function: Callable[[Tensor, Tensor], Tensor], frames: Tensor, low: Tensor, rows: int) -> Tensor:
    """``function(frames, low)``, computed in strips of `rows` rows of `low`."""
    height = low.shape[-2]
    if height <= rows + 2 * _STRIP_HALO:
        return function(frames, low)
    scale, strips = frames.shape[-2] // height, []
    for start in range(0, height, rows):
        first, last = max(start - _STRIP_HALO, 0), min(start + rows + _STRIP_HALO, height)
        strip = function(frames[..., scale * first : scale * last, :], low[..., first:last, :])
        grown = strip.shape[-2] // (last - first)
        strips.append(strip[..., grown * (start - first) : grown * (min(start + rows, height) - first), :])
    return torch.cat(strips, dim=-2)


def stored_config(extra_state: Any) -> dict[str, Any]:
    """Decode the value under `_extra_state`: 'type' and the constructor arguments; empty if it is anything else.

    The text survives conversion to another type and averaging of checkpoints with the same configuration.
    """
    try:
        numbers = extra_state.tolist()
        rounded = [round(number) for number in numbers]
        averaged = all(abs(a - b) < 0.1 for a, b in zip(numbers, rounded, strict=True))
        config = json.loads(bytes(rounded)) if averaged else None
    except (AttributeError, TypeError, ValueError, OverflowError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _differences(stored: dict[str, Any], own: dict[str, Any]) -> list[str]:
    return [
        f'The checkpoint is of a network with {k}={stored[k]!r}; this one was built with {k}={own[k]!r}.'
        for k in own
        if k in stored and stored[k] != own[k]
    ]

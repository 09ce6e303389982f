"""What the networks have in common: input checks, any frame size, checkpoints that describe themselves."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from dstnet_arch.ops.reflect_pad import reflect_pad


class VideoNet(nn.Module):
    """Base of networks that map a blurry clip to a restored clip of the same shape.

    A subclass implements `restore` for frames whose sides are multiples of `size_multiple`, and `config`. This class
    checks the input, pads and crops, and stores `config` in the state dict (key `_extra_state`, JSON in a uint8
    tensor, so that `weights_only` loading and safetensors can hold it): hyperparameters that leave no trace in the
    tensors' shapes are not lost, and a checkpoint is never silently run by a network that differs in them.

    Attributes:
        size_multiple: the sides that `restore` can take are the multiples of this.
        gradient_checkpointing: in training, keep the inputs of each propagation step only and recompute the rest in
            the backward pass: less memory for more time, the same gradients.
    """

    size_multiple: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False

    @property
    def config(self) -> dict[str, Any]:
        """Keyword arguments that build this network again."""
        raise NotImplementedError

    def restore(self, frames: Tensor, num_frame: int) -> Tensor:
        """(T·B, 3, H, W), time-major, sides multiples of `size_multiple` -> the restored frames, same shape."""
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
        b, t, _, h, w = x.shape
        multiple = self.size_multiple
        padded = reflect_pad(x, -(-h // multiple) * multiple, -(-w // multiple) * multiple)
        frames = padded.transpose(0, 1).flatten(0, 1)  # (T·B, 3, H', W'): time-major, each time step one dense block
        restored = self.restore(frames.contiguous(memory_format=torch.channels_last), num_frame=t)
        return restored[..., :h, :w].unflatten(0, (t, b)).transpose(0, 1).contiguous()

    def get_extra_state(self) -> Tensor:
        """`config` as JSON in a uint8 tensor (called by `state_dict`)."""
        return torch.frombuffer(bytearray(json.dumps(self.config, sort_keys=True).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Nothing to restore: `_load_from_state_dict` has compared the stored configuration with this network's."""

    def convert_state_dict(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Translate foreign (released) key names to this network's; returns what needs no translation unchanged."""
        return state_dict

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # PyTorch's hook into `load_state_dict`; it works on a copy of the caller's dict and hands it on to the
        # sub-modules.
        error_msgs = args[-1]
        own = {k[len(prefix) :]: state_dict.pop(k) for k in [k for k in state_dict if k.startswith(prefix)]}
        own = self.convert_state_dict(own)
        stored = own.setdefault('_extra_state', self.get_extra_state())  # foreign checkpoints hold none
        error_msgs.extend(_differences(decode_config(stored), self.config))
        state_dict.update({prefix + k: v for k, v in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)


def decode_config(extra_state: Tensor) -> dict[str, Any]:
    """The configuration stored under `_extra_state` in a state dict."""
    return json.loads(bytes(extra_state.cpu().tolist()))


def _differences(stored: dict[str, Any], own: dict[str, Any]) -> list[str]:
    return [
        f'The checkpoint is of a network with {k}={stored[k]!r}; this one was built with {k}={own[k]!r}.'
        for k in own
        if k in stored and stored[k] != own[k]
    ]

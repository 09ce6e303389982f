"""Image networks and networks for the middle frame of a window as video networks, to compare them with DSTNet."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dstnet_arch.archs.video_net import chunk_size
from dstnet_arch.errors import OptionsError
from dstnet_arch.ops.reflect_pad import reflect_pad

Ends = Literal['reflect', 'replicate']


class SlidingWindow(nn.Module):
    """Restore each frame of a clip as the middle frame of a sliding window, to train and test networks like DSTNet.

    Of stock BasicSR's networks, EDVR and TOFlow restore the middle one of several frames, and RIDNet, SwinIR, RRDBNet,
    EDSR, RCAN and others a single image. They must restore a frame at its own size, e.g. EDVR with `hr_in: true` and
    `with_predeblur: true`, SwinIR with `upscale: 1`. Checkpoints without this wrapper can be loaded as well.

    Args:
        network: the network in BasicSR's registry: its `type`, and its arguments.
        num_frame: frames in a window, an odd number: the network gets (N, num_frame, 3, H, W) and returns
            (N, 3, H, W). 1: an image network, which gets (N, 3, H, W).
        ends: beyond its ends, the clip is reflected ('reflect'), or its last frame is repeated ('replicate').
        size_multiple: the sides of frames are padded by reflection to multiples of this, and the result is cropped.

    Raises:
        OptionsError: an argument is out of range or does not fit `network`, or (in `forward`) the network does not
            restore one frame at its own size.
    """

    def __init__(
        self, network: dict[str, Any], num_frame: int = 5, ends: Ends = 'reflect', size_multiple: int = 1
    ) -> None:
        super().__init__()
        from basicsr.archs import build_network  # this module can be imported without BasicSR

        own = network.get('num_frame', num_frame)
        if num_frame < 1 or num_frame % 2 == 0 or own != num_frame:
            raise OptionsError(
                f'network_g:num_frame is {num_frame}, and that of the network inside {own}. Allowed: the same odd '
                'number, so that one frame is in the middle.'
            )
        if ends not in get_args(Ends) or size_multiple < 1:
            raise OptionsError(
                f'network_g: ends is {" or ".join(get_args(Ends))}, and size_multiple at least 1; got ends={ends!r}, '
                f'size_multiple={size_multiple}.'
            )
        self.network = build_network(network)
        self.num_frame, self.ends, self.size_multiple = num_frame, ends, size_multiple
        self.gradient_checkpointing = False  # as in VideoNet: recompute the windows in the backward pass

    def forward(self, clip: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> restored frames, the same shape; any T."""
        b, t, _, h, w = clip.shape
        height, width = (-(-side // self.size_multiple) * self.size_multiple for side in (h, w))
        padded = reflect_pad(clip, height, width)
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        # Windows contain each frame num_frame times: all at once only if their gradients are kept anyway.
        at_once = t if torch.is_grad_enabled() and not recompute else chunk_size(b * height * width, clip.device)
        network = partial(checkpoint, self.network, use_reentrant=False) if recompute else self.network
        restored = [self._restore(network, padded[:, window]) for window in self.windows(t).split(at_once)]
        return torch.cat(restored, dim=1)[..., :h, :w]

    def windows(self, num_frame: int) -> Tensor:
        """Positions, in a clip of `num_frame` frames, of the frames in each window: (T, window)."""
        reach = self.num_frame // 2
        positions = torch.arange(num_frame)[:, None] + torch.arange(-reach, reach + 1)
        if self.ends == 'replicate':
            return positions.clamp(0, num_frame - 1)
        period = max(2 * num_frame - 2, 1)
        positions %= period
        return torch.minimum(positions, period - positions)

    def _restore(self, network: Any, windows: Tensor) -> Tensor:
        """(B, K, window, 3, H, W) -> (B, K, 3, H, W)."""
        frames = windows.flatten(0, 1)
        restored = network(frames if self.num_frame > 1 else frames[:, 0])
        if restored.shape != frames[:, 0].shape:
            raise OptionsError(
                f'{type(self.network).__name__} makes {tuple(restored.shape)} of {tuple(frames.shape)}, but inside '
                f'SlidingWindow it must restore one frame at its own size: {tuple(frames[:, 0].shape)}. Set its scale '
                'to 1 (EDVR: hr_in: true and with_predeblur: true), or choose another network.'
            )
        return restored.unflatten(0, windows.shape[:2])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # This wrapper has no parameters of its own, so keys that do not start with its one child are the child's.
        inside = f'{prefix}network.'
        for key in [key for key in state_dict if key.startswith(prefix) and not key.startswith(inside)]:
            state_dict[inside + key[len(prefix) :]] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)

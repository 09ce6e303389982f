"""Networks in the form that is exported: for clips of a fixed number of frames, of one size or of any.

What stands in the way of exporting `VideoNet.forward` as it is, and what is done about it here:

- Without gradients it goes through a clip in parts, whose number depends on the size of the frames, and takes fast
  paths made for one device. Here the same stages (`streaming/stages.py`) see all frames at once, on the path of
  training, see `exportable`.
- It pads frames by code that branches on their size. Here the padding is computed, for every size alike.
- The propagation is a loop over the frames. Exporters unroll it: the number of frames is fixed.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.streaming.stages import stages_of

MIN_DYNAMIC_SIDE = 17
"""Smallest side of frames for a graph that takes any size. From smaller ones D_p makes maps of a single pixel, and
sizes of one are special to exporters."""


class ClipNet(nn.Module):
    """A network for whole clips, as plain operations that every exporter knows.

    The weights are a copy, in float32 on the CPU, that wants no gradients.

    Args:
        net: a DSTNet or DSTNetPlus.
        num_frame: T, 1 or more.
        dynamic: sides are known only when the graph runs, and are `MIN_DYNAMIC_SIDE` or more.

    Raises:
        TypeError: `net` is another network.
        ValueError: `num_frame` is less than 1.
    """

    def __init__(self, net: VideoNet, num_frame: int, dynamic: bool = False) -> None:
        super().__init__()
        stages_of(net)  # tells what is no such network
        if num_frame < 1:
            raise ValueError(f'A clip has at least 1 frame; got num_frame={num_frame}.')
        self.net = copy.deepcopy(net).cpu().float().requires_grad_(False)
        self.num_frame, self.dynamic = num_frame, dynamic
        self.eval()

    def forward(self, clip: Tensor) -> Tensor:
        """Blurry frames (1, T, 3, H, W), RGB in [0, 1] -> restored ones, the same shape, not clamped."""
        height, width = clip.shape[-2:]
        frames = self._pad(self._pad(clip.squeeze(0), -2), -1)  # (T, 3, H', W')
        stages, times = stages_of(self.net), range(self.num_frame)
        features = stages.encode(frames)
        for block in stages.blocks:
            features = block(features, self.num_frame)
        states = list(stages.prepare(frames, features).split(1))
        for step, order in ((stages.backward, times[::-1]), (stages.forward, times)):
            state = None
            for t in order:
                state = states[t] = step(states[t], state)
        restored = stages.finish(frames, torch.cat(states)).unsqueeze(0)
        if self.dynamic:  # without slices, which would tie the graph to sizes that are, or are not, the padded ones
            return restored.index_select(-2, torch.arange(height)).index_select(-1, torch.arange(width))
        return restored[..., :height, :width]

    def _pad(self, frames: Tensor, dim: int) -> Tensor:
        """`reflect_pad` along one dimension, without branches where the size is dynamic."""
        side, multiple = frames.shape[dim], self.net.size_multiple
        if self.dynamic:
            # Rounded up by a division of positive numbers: ONNX rounds those of negative ones the other way.
            position = torch.arange((side + multiple - 1) // multiple * multiple)
        else:
            position = torch.arange(self.net.padded_side(side)) % max(2 * side - 2, 1)
        return frames.index_select(dim, torch.where(position < side, position, 2 * side - 2 - position))


def exportable() -> AbstractContextManager[None]:
    """Have `ClipNet` take the path that exporters can follow, which is that of training.

    With gradients enabled, networks take no fast path for one device; as no weight wants gradients, the code of their
    own for the backward pass stays out as well.
    """
    return torch.enable_grad()

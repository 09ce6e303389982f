"""Small networks and videos for the tests of streaming."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.archs.video_net import VideoNet


def _randomize(net: VideoNet) -> VideoNet:
    """Set weights in float64 that keep results bounded over many frames and give every parameter an effect."""
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        noise = 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = parameter.data.double() + noise
    return net.eval()


def small_net(**kwargs: Any) -> VideoNet:
    torch.manual_seed(0)
    return _randomize(DSTNet(**{'num_feat': 2, 'num_block': 1, 'num_cwgdn': 2, **kwargs}))


def small_plus(**kwargs: Any) -> VideoNet:
    torch.manual_seed(0)
    return _randomize(DSTNetPlus(**{'num_feat': 2, 'num_kernel_block': 1, 'num_block': 1, **kwargs}))


def video(num_frame: int, height: int = 16, width: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_frame, 3, height, width, generator=generator, dtype=torch.float64)


def restore_clip(net: nn.Module, frames: Tensor) -> Tensor:
    """Restore all frames (T, 3, H, W) in one call of the network: the reference of all streams."""
    with torch.no_grad():
        return net(frames[None])[0]


NETS: dict[str, Callable[[], VideoNet]] = {
    'base': small_net,
    'large, paper': partial(small_net, num_cwgdn=1, prop_feat=3, boundary='paper'),
    'plus': small_plus,
    'w/ gMLP': partial(small_net, num_cwgdn=1, spatial='gmlp'),
    'w/o CWGDN': partial(small_net, spatial='none'),
    'w/o propagation': partial(small_net, propagation='none'),
    'bilinear': partial(small_net, num_cwgdn=1, propagation='bilinear'),
}


GPU_TYPES = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Types to test on a GPU, and their tolerances: the fused kernels run in float32 only."""


def assert_exact(restored: Any, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(torch.stack(list(restored)), expected, rtol=0, atol=tolerance)

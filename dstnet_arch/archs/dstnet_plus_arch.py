"""DSTNet+, the authors' journal version of DSTNet (IEEE TPAMI 2025): smaller and better.

Differences from DSTNet: one level of the Haar transform instead of two, and no CWGDN; the propagated features are
weighted by their similarity to the frame's own; the pixel-wise filters are predicted at three sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dstnet_arch.archs.blocks import Conv2d, Conv3x3, init_refinement, residual_blocks
from dstnet_arch.archs.cwgdn import HaarConv, HighBandNet
from dstnet_arch.archs.derived_weights import conv_weights, derive
from dstnet_arch.archs.released_keys import DSTNET_PLUS, count_modules
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.ops.dense_gradient import cat_channels
from dstnet_arch.ops.haar_conv import conv_haar, merge_conv_haar
from dstnet_arch.ops.pack_filters import taps_first
from dstnet_arch.ops.pixel_filter import TAPS, pixel_filter


class SimilarityFusion(nn.Module):
    """Blend the frame's features and the propagated ones by their similarity."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.compare = Conv2d(2 * num_feat, 2 * num_feat, 1)
        self.conv = Conv3x3(num_feat, num_feat)

    def forward(self, current: Tensor, propagated: Tensor) -> Tensor:
        """(B, C, H, W), (B, C, H, W) -> (B, C, H, W)."""
        q, k = self.compare(cat_channels(current, propagated)).chunk(2, dim=1)
        return self.conv(torch.lerp(current, propagated, torch.sigmoid(q * k)))


class PyramidFilterNet(nn.Module):
    """Pixel-wise filters from features at a half, a quarter and an eighth of their size.

    The 1x1 convolution `to_filter` is defined on the three scales resized to full size and concatenated. It commutes
    with the resizing: it is applied at each scale with its part of the weight, and `pixel_filter` sums the resized
    results.

    Args:
        num_feat: C.
        num_block: residual blocks at each scale.
    """

    def __init__(self, num_feat: int, num_block: int) -> None:
        super().__init__()
        self.stage1 = residual_blocks(num_feat, num_block)
        self.stage2 = residual_blocks(num_feat, num_block)
        self.stage3 = residual_blocks(num_feat, num_block)
        self.to_filter = Conv2d(3 * num_feat, TAPS * num_feat, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W), H and W at least 8 -> three (B, 9C, H/2^k, W/2^k), rounded down, for `pixel_filter`."""
        filters = []
        stages = (self.stage1, self.stage2, self.stage3)
        weights = derive(self, 'weight', lambda: taps_first(self.to_filter.weight), x).chunk(3, dim=1)
        bias: Tensor | None = derive(self, 'bias', lambda: taps_first(self.to_filter.bias), x)
        for stage, weight in zip(stages, weights, strict=True):
            # Adaptive pooling to half the size, rounded down; ONNX has only pooling by fixed windows.
            x = stage(F.max_pool2d(x, [2 + side % 2 for side in x.shape[-2:]], stride=2))
            filters.append(F.conv2d(x, weight, bias))
            bias = None  # it is added once
        return filters


class DTFFPlus(nn.Module):
    """One propagation step: fuse, filter every pixel, refine. Arguments as for `DSTNetPlus`."""

    def __init__(self, num_feat: int, num_kernel_block: int, num_block: int) -> None:
        super().__init__()
        self.fusion = SimilarityFusion(num_feat)
        self.filter_net = PyramidFilterNet(num_feat, num_kernel_block)
        self.refine = init_refinement(residual_blocks(num_feat, num_block))

    def forward(self, current: Tensor, propagated: Tensor) -> Tensor:
        """(B, C, H, W) of this frame, (B, C, H, W) from its neighbour -> (B, C, H, W). H and W at least 8."""
        fused = self.fusion(current, propagated)
        return self.refine(pixel_filter(fused, *self.filter_net(fused)))


class DSTNetPlus(VideoNet):
    """DSTNet+.

    Args:
        num_feat: C, feature channels. Base: 64; large: 96.
        num_kernel_block: residual blocks at each scale of the filter prediction. Base: 3; large: 5.
        num_block: residual blocks of each direction's refinement. Base: 15; large: 25.

    Raises:
        ValueError: an argument is out of range.
    """

    size_multiple = 2
    min_size = 16  # for smaller frames, an eighth of the low band has no pixel
    released_keys = DSTNET_PLUS

    def __init__(self, num_feat: int = 64, num_kernel_block: int = 3, num_block: int = 15) -> None:
        super().__init__()
        if num_feat < 1 or min(num_kernel_block, num_block) < 0:
            raise ValueError(
                'DSTNetPlus needs num_feat of at least 1, num_kernel_block and num_block of at least 0; got '
                f'num_feat={num_feat}, num_kernel_block={num_kernel_block}, num_block={num_block}.'
            )
        self.num_feat, self.num_kernel_block, self.num_block = num_feat, num_kernel_block, num_block
        self.extract = Conv2d(3, num_feat, 3, padding=1)
        self.high_band2 = HighBandNet(num_feat)  # numbered as in the released files
        self.backward_dtff = DTFFPlus(num_feat, num_kernel_block, num_block)
        self.forward_dtff = DTFFPlus(num_feat, num_kernel_block, num_block)
        self.reconstruct = HaarConv(num_feat, 3)

    @property
    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct this network."""
        return {k: getattr(self, k) for k in ('num_feat', 'num_kernel_block', 'num_block')}

    @classmethod
    def infer_config(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """Constructor arguments, inferred from a state dict; see `VideoNet.infer_config`."""
        return {
            'num_feat': state_dict['backward_dtff.fusion.compare.weight'].shape[0] // 2,
            'num_kernel_block': count_modules(state_dict, 'backward_dtff.filter_net.stage3'),
            'num_block': count_modules(state_dict, 'backward_dtff.refine'),
        }

    def restore(self, frames: Tensor, num_frame: int) -> Tensor:
        """(T·B, 3, H, W), time-major, H and W even and at least 16 -> restored frames, the same shape."""
        low = self.low_band(frames)  # (T·B, C, H/2, W/2)
        low = self.propagate(low, num_frame)  # (T·B, C, H/2, W/2)
        return self.apply_chunked(self.finish, frames, low)  # (T·B, 3, H, W)

    def low_band(self, frames: Tensor) -> Tensor:
        """Low band of the shallow features: (N, 3, H, W) -> (N, C, H/2, W/2)."""
        merged = derive(self, 'low band', lambda: merge_conv_haar(self.extract.weight, 1, 0), frames)
        return conv_haar(frames, merged, conv_weights(self.extract, frames)[1], level=1)

    def finish(self, frames: Tensor, low: Tensor) -> Tensor:
        """Restored frames: (N, 3, H, W), (N, C, H/2, W/2) -> (N, 3, H, W)."""
        high = self.high_band2.from_frames(frames, self.extract, level=1)  # (N, 3C, H/2, W/2)
        return self.reconstruct.from_bands(low, high) + frames

"""Discriminative temporal feature fusion (DTFF), F of Section 3.2 and Figure 3. In shapes, C is `num_feat`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dstnet_arch.archs.blocks import NEGATIVE_SLOPE, Conv2d, Conv3x3, init_refinement, residual_blocks
from dstnet_arch.archs.derived_weights import derive
from dstnet_arch.ops.dense_gradient import cat_channels
from dstnet_arch.ops.gated_sum import gated_sum
from dstnet_arch.ops.pack_filters import taps_first
from dstnet_arch.ops.pixel_filter import TAPS, pixel_filter

NUM_FILTER_BLOCK = 3  # residual blocks at each of D_p's two scales


class GatedFusion(nn.Module):
    """Gated fusion of a frame's features with those propagated from its neighbour."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv = Conv3x3(2 * num_feat, 2 * num_feat)
        self.gate1 = Conv3x3(num_feat, num_feat)
        self.gate2 = Conv3x3(num_feat, num_feat)

    def forward(self, current: Tensor, propagated: Tensor) -> Tensor:
        """(B, C, H, W), (B, C, H, W) -> (B, C, H, W)."""
        x1, x2 = self.conv.halves(cat_channels(current, propagated), NEGATIVE_SLOPE)
        return gated_sum(x1, *self.gate1.separate_bias(x1), x2, *self.gate2.separate_bias(x2))  # Eq. (3)


class PixelFilterNet(nn.Module):
    """D_p: from features, a 3x3 filter for every channel and pixel, at an eighth of the features' size (Figure 3)."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.stage1 = residual_blocks(num_feat, NUM_FILTER_BLOCK)
        self.stage2 = residual_blocks(num_feat, NUM_FILTER_BLOCK)
        self.to_filter = Conv2d(num_feat, TAPS * num_feat, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), H and W multiples of 8 -> (B, 9C, H/8, W/8), as `pixel_filter` needs them."""
        x = self.stage1(F.avg_pool2d(x, 4))
        x = self.stage2(F.max_pool2d(x, 2))
        weight, bias = self.to_filter.weight, self.to_filter.bias
        weight = derive(self, 'weight', lambda: taps_first(weight), x)
        return F.conv2d(x, weight, derive(self, 'bias', lambda: taps_first(bias), x))


class DTFF(nn.Module):
    """The function F: fuse, filter every pixel, refine. Both directions of the propagation use it.

    Eqs. (5) and (6), F(X_i, X_{i+1}) and F(X_i, X_{i-1}), are this module called with the next or the previous frame.

    Args:
        num_block: residual blocks of the refinement.
        fusion: the fusion module; None: `GatedFusion`.
        filter_pixels: False: there is no D_p, and the fused features are refined unfiltered.
    """

    def __init__(
        self, num_feat: int, num_block: int, fusion: nn.Module | None = None, filter_pixels: bool = True
    ) -> None:
        super().__init__()
        self.fusion = fusion or GatedFusion(num_feat)
        self.filter_net = PixelFilterNet(num_feat) if filter_pixels else None
        self.refine = init_refinement(residual_blocks(num_feat, num_block))

    def forward(self, current: Tensor, propagated: Tensor) -> Tensor:
        """(B, C, H, W) of this frame, (B, C, H, W) from its neighbour -> (B, C, H, W). H and W multiples of 8."""
        features = self.fusion(current, propagated)
        if self.filter_net is not None:
            features = pixel_filter(features, self.filter_net(features))  # Eq. (4)
        return self.refine(features)

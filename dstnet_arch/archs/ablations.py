"""Modules of the paper's ablations that replace those of DSTNet (Section 5, Tables 4 to 6).

The paper names its baselines without details. Each class documents what was chosen here, and why.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dstnet_arch.archs.blocks import NEGATIVE_SLOPE, Conv3x3
from dstnet_arch.archs.cwgdn import EXPANSION, GatedBlock, LayerNorm2d
from dstnet_arch.archs.dtff import GatedFusion
from dstnet_arch.ops.dense_gradient import cat_channels
from dstnet_arch.ops.gated_sum import gated_sum
from dstnet_arch.ops.reflect_pad import reflect_pad

WINDOW = 8  # side of GMLP's windows, in pixels of the features


class GMLP(GatedBlock):
    """Table 4, "w/ gMLP": the gate is a static linear projection over pixels (Liu et al., NeurIPS 2021), not a filter.

    Everything else is as in the CWGDN. gMLP's projection mixes a fixed number of tokens; frames have any size, so here
    it mixes the 64 pixels of each 8x8 window, with the same weights in all windows and channels. As in gMLP, the input
    is normalised, the weights start near zero and the bias at one.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__(num_feat)
        self.gate_norm = LayerNorm2d(EXPANSION * num_feat)
        self.mix = nn.Linear(WINDOW**2, WINDOW**2)
        nn.init.normal_(self.mix.weight, std=1e-3)
        nn.init.ones_(self.mix.bias)

    def gate_features(self, z: Tensor, filters: Tensor | None = None) -> Tensor:
        """(N, 8C, H, W) -> (N, 4C, H, W)."""
        z1, z2 = z.chunk(2, dim=1)
        return self.make_gate(z1) * z2

    def make_gate(self, z1: Tensor) -> Tensor:
        """(N, 4C, H, W) -> (N, 4C, H, W)."""
        n, c, h, w = z1.shape
        rows, columns = -(-h // WINDOW), -(-w // WINDOW)
        padded = reflect_pad(self.gate_norm(z1), rows * WINDOW, columns * WINDOW)
        windows = padded.reshape(n, c, rows, WINDOW, columns, WINDOW).transpose(3, 4)  # (N, 4C, rows, columns, 8, 8)
        mixed = self.mix(windows.flatten(4)).unflatten(4, (WINDOW, WINDOW))
        return mixed.transpose(3, 4).reshape(n, c, rows * WINDOW, columns * WINDOW)[..., :h, :w]


class BlendFusion(GatedFusion):
    """Table 5, "w/ the feature fusion [27]" (Park et al., BMVC 2021): the gates blend the input features."""

    def forward(self, current: Tensor, propagated: Tensor) -> Tensor:
        """(B, C, H, W), (B, C, H, W) -> (B, C, H, W)."""
        x1, x2 = self.conv.halves(cat_channels(current, propagated), NEGATIVE_SLOPE)
        gate1, gate2 = self.gate1.separate_bias(x1), self.gate2.separate_bias(x2)
        return gated_sum(current, *gate1, propagated, *gate2)  # Eq. (11)


class StackFusion(nn.Module):
    """Table 5, "w/o (3)": the stacked features pass one convolution with LeakyReLU and no gate.

    This is the "directly stacking" of Section 3.2, with the convolution that precedes Eq. (3) and C output channels.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv = Conv3x3(2 * num_feat, num_feat)

    def forward(self, current: Tensor, propagated: Tensor) -> Tensor:
        """(B, C, H, W), (B, C, H, W) -> (B, C, H, W)."""
        return self.conv(cat_channels(current, propagated), slope=NEGATIVE_SLOPE)


def upsample_without_haar(low: Tensor) -> Tensor:
    """Table 6, "w/ Bilinear in FP": (N, C, H, W) -> (N, C, 2H, 2W) in place of the inverse Haar transform.

    Bilinear downsampling by two is the mean of 2x2 pixels, which is Haar's low band. Without the wavelets, the high
    bands no longer bypass the propagation.
    """
    return F.interpolate(low, scale_factor=2, mode='bilinear', align_corners=False)

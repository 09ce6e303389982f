"""Blocks that several modules of the networks share. In shapes, C is `num_feat`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dstnet_arch.archs.derived_weights import conv_weights
from dstnet_arch.ops import fused
from dstnet_arch.ops.channel_filter import channel_filter
from dstnet_arch.ops.conv3x3 import conv3x3

NEGATIVE_SLOPE = 0.1  # of every LeakyReLU in the network


def leaky_relu(x: Tensor) -> Tensor:
    """LeakyReLU with the network's slope, in place: a convolution does not need its own output in the backward pass."""
    return F.leaky_relu(x, NEGATIVE_SLOPE, inplace=True)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with a bias, which uses the weights of the `DerivedWeights` context."""

    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H', W')."""
        return self._conv_forward(x, *conv_weights(self, x))


class Conv3x3(Conv2d):
    """3x3 convolution with zero padding and the operation that follows it; see `dstnet_arch.ops.conv3x3`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, slope: float | None = None, residual: Tensor | None = None) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H, W)."""
        return conv3x3(x, *conv_weights(self, x), slope, residual)

    def halves(self, x: Tensor, slope: float) -> list[Tensor]:
        """The two halves of the output channels, with LeakyReLU, as tensors of their own: no copy is needed later."""
        weight, bias = conv_weights(self, x)
        return [conv3x3(x, w, b, slope) for w, b in zip(weight.chunk(2), bias.chunk(2), strict=True)]

    def separate_bias(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The output and the bias that is still to be added; None if the convolution has added it at no cost."""
        if not fused.bias_is_separate(x):
            return self(x), None
        weight, bias = conv_weights(self, x)
        return F.conv2d(x, weight, padding=1), bias


class DepthwiseConv3x3(nn.Conv2d):
    """Depthwise 3x3 convolution with zero padding."""

    def __init__(self, num_feat: int) -> None:
        super().__init__(num_feat, num_feat, 3, padding=1, groups=num_feat)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        weight, bias = conv_weights(self, x)
        return channel_filter(x, weight.view(1, -1, 3, 3), bias)


class ResidualBlock(nn.Module):
    """x + conv(LeakyReLU(conv(x))), 3x3 convolutions. Stock BasicSR's `ResidualBlockNoBN` uses ReLU instead."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(num_feat, num_feat)
        self.conv2 = Conv3x3(num_feat, num_feat)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return self.conv2(self.conv1(x, slope=NEGATIVE_SLOPE), residual=x)


def residual_blocks(num_feat: int, num_block: int) -> nn.Sequential:
    """A sequence of `num_block` residual blocks."""
    return nn.Sequential(*(ResidualBlock(num_feat) for _ in range(num_block)))


def init_refinement(blocks: nn.Sequential) -> nn.Sequential:
    """Initialise and return the blocks that refine a propagation step: kaiming-normal times 0.1, biases zero.

    Small weights let a long chain of blocks start near the identity. All other layers keep PyTorch's initialisation.
    """
    for module in blocks.modules():
        # On the meta device there is nothing to initialise, and PyTorch would load its compiler for it.
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight)
            module.weight.data *= 0.1
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return blocks

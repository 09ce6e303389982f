"""Blocks that several modules of the network share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dstnet_arch.ops.conv3x3 import conv3x3

NEGATIVE_SLOPE = 0.1  # of every LeakyReLU in the network


def leaky_relu(x: Tensor) -> Tensor:
    """LeakyReLU of the network's slope, in place: the convolution before it does not need its own output again."""
    return F.leaky_relu(x, NEGATIVE_SLOPE, inplace=True)


class Conv3x3(nn.Conv2d):
    """3x3 convolution, zero padding, with what follows it: see `dstnet_arch.ops.conv3x3`.

    Args:
        in_channels: channels in.
        out_channels: channels out.
    """

    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, slope: float | None = None, residual: Tensor | None = None) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H, W)."""
        return conv3x3(x, self.weight, self.bias, slope, residual)


class ResidualBlock(nn.Module):
    """x + conv(LeakyReLU(conv(x))), 3x3 convolutions. (Stock BasicSR's `ResidualBlockNoBN` has a ReLU: it is not this
    block.)

    Args:
        num_feat: channels in and out.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(num_feat, num_feat)
        self.conv2 = Conv3x3(num_feat, num_feat)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return self.conv2(self.conv1(x, slope=NEGATIVE_SLOPE), residual=x)


def residual_blocks(num_feat: int, num_block: int) -> nn.Sequential:
    """`num_block` residual blocks in a row."""
    return nn.Sequential(*(ResidualBlock(num_feat) for _ in range(num_block)))


def init_refinement(blocks: nn.Sequential) -> nn.Sequential:
    """Initialise the blocks that refine a propagation step: kaiming-normal times 0.1, biases zero. Returns them.

    Small weights let a long chain of blocks start near the identity. All other layers keep PyTorch's initialisation.
    """
    for module in blocks.modules():
        # On the meta device there is nothing to fill, and PyTorch would load its compiler for it.
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight)
            module.weight.data *= 0.1
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return blocks

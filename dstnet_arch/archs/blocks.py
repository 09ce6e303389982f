"""Blocks that several modules of the network share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

NEGATIVE_SLOPE = 0.1  # of every LeakyReLU in the network


def leaky_relu(x: Tensor) -> Tensor:
    """LeakyReLU of the network's slope, in place: the convolution before it does not need its own output again."""
    return F.leaky_relu(x, NEGATIVE_SLOPE, inplace=True)


class ResidualBlock(nn.Module):
    """x + conv(LeakyReLU(conv(x))), 3x3 convolutions. (Stock BasicSR's `ResidualBlockNoBN` has a ReLU: it is not this
    block.)

    Args:
        num_feat: channels in and out.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return self.conv2(leaky_relu(self.conv1(x))).add_(x)


def residual_blocks(num_feat: int, num_block: int) -> nn.Sequential:
    """`num_block` residual blocks in a row."""
    return nn.Sequential(*(ResidualBlock(num_feat) for _ in range(num_block)))


def init_refinement(blocks: nn.Sequential) -> nn.Sequential:
    """Initialise the blocks that refine a propagation step: kaiming-normal times 0.1, biases zero. Returns them.

    Small weights let a long chain of blocks start near the identity. All other layers keep PyTorch's initialisation.
    """
    for module in blocks.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            module.weight.data *= 0.1
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return blocks

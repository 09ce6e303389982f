"""The 3x3 convolution with its activation or residual."""

from __future__ import annotations

import pytest
import torch

from dstnet_arch.ops.conv3x3 import conv3x3


def test_conv3x3_refuses_slope_with_residual() -> None:
    x = torch.rand(1, 2, 4, 4)
    with pytest.raises(ValueError, match='got both'):
        conv3x3(x, torch.rand(2, 2, 3, 3), torch.rand(2), slope=0.1, residual=x)

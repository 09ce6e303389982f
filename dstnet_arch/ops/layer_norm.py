"""Layer normalisation over the channels of each pixel.

In inference on GPUs, one kernel does it (elementwise_triton.py): PyTorch's has a block of threads for each pixel, which
is slow with few channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dstnet_arch.ops import fused


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Compute `layer_norm` in PyTorch."""
    return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, eps).permute(0, 3, 1, 2)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise each pixel to mean 0 and variance 1 (biased) over its channels, then scale and shift the channels.

    Args:
        x: (N, C, H, W).
        weight: (C,), scale.
        bias: (C,), shift.
        eps: added to the variance.

    Returns:
        (N, C, H, W).
    """
    if torch.is_grad_enabled() or not fused.elementwise_usable(x):
        return layer_norm_reference(x, weight, bias, eps)
    return torch.ops.dstnet.layer_norm(x.contiguous(memory_format=torch.channels_last), weight, bias, eps)


fused.register(
    'layer_norm(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor',
    module='elementwise_triton',
    fake=lambda x, weight, bias, eps: torch.empty_like(x),
)

"""Gradients that are contiguous in the channels-last layout.

The gradients of a concatenation, of a slice and of a pixel shuffle are views with the strides of a larger tensor or of
another layout. Each convolution that receives one copies it; here it is copied once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def dense_gradient(x: Tensor) -> Tensor:
    """Return `x`, (N, C, H, W); its gradient will be contiguous, channels-last."""
    return _DenseGradient.apply(x) if x.requires_grad and torch.is_grad_enabled() else x


def cat_channels(*tensors: Tensor) -> Tensor:
    """Concatenate the channels of tensors (N, C, H, W)."""
    return torch.cat([dense_gradient(x) for x in tensors], dim=1)


class _DenseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x[...]  # `view_as` changes the stride of a batch of one, and operations no longer see the layout

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous(memory_format=torch.channels_last)

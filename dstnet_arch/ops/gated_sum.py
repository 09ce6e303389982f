"""The sum of two gated features in Eqs. (3) and (11).

::

    out = x1 * sigmoid(y1 + bias1) + x2 * sigmoid(y2 + bias2)

On GPUs, this is one kernel (elementwise_triton.py); on CPUs too, where a C compiler is found (native.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dstnet_arch.ops import fused, native


def gated_sum_reference(x1: Tensor, y1: Tensor, bias1: Tensor, x2: Tensor, y2: Tensor, bias2: Tensor) -> Tensor:
    """Compute `gated_sum` as its equation is written."""
    gate1, gate2 = torch.sigmoid(y1 + bias1.view(-1, 1, 1)), torch.sigmoid(y2 + bias2.view(-1, 1, 1))
    return x1 * gate1 + x2 * gate2


def gated_sum(x1: Tensor, y1: Tensor, bias1: Tensor | None, x2: Tensor, y2: Tensor, bias2: Tensor | None) -> Tensor:
    """Multiply features by gates and add the products.

    Args:
        x1: (N, C, H, W), features.
        y1: (N, C, H, W), their gates before the bias and the sigmoid.
        bias1: (C,); None: `y1` contains it already.
        x2: (N, C, H, W).
        y2: (N, C, H, W).
        bias2: (C,) or None.

    Returns:
        (N, C, H, W).
    """
    x1, x2 = x1.to(y1.dtype), x2.to(y2.dtype)  # they may differ under autocast
    if bias1 is not None and bias2 is not None:
        if fused.elementwise_usable(x1, y1, x2, y2):
            x1, y1, x2, y2 = (t.contiguous(memory_format=torch.channels_last) for t in (x1, y1, x2, y2))
            return _FusedGatedSum.apply(x1, y1, bias1.contiguous(), x2, y2, bias2.contiguous())
        return gated_sum_reference(x1, y1, bias1.to(y1.dtype), x2, y2, bias2.to(y2.dtype))
    if x1.shape == y1.shape == x2.shape == y2.shape and native.usable((x1, y1, x2, y2), x1.shape[1]):
        return torch.ops.dstnet.native_gated_sum(x1, y1, x2, y2)
    return x1 * torch.sigmoid(y1) + x2 * torch.sigmoid(y2)


fused.register(
    'gated_sum(Tensor x1, Tensor y1, Tensor bias1, Tensor x2, Tensor y2, Tensor bias2) -> Tensor',
    module='elementwise_triton',
    fake=lambda x1, *_: torch.empty_like(x1),
)
fused.register(
    'gated_sum_backward(Tensor grad, Tensor x1, Tensor y1, Tensor bias1, Tensor x2, Tensor y2, Tensor bias2)'
    ' -> (Tensor, Tensor, Tensor, Tensor)',
    module='elementwise_triton',
    fake=lambda grad, x1, y1, bias1, x2, y2, bias2: tuple(map(torch.empty_like, (x1, y1, x2, y2))),
)


class _FusedGatedSum(torch.autograd.Function):
    """The kernels of elementwise_triton.py."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return torch.ops.dstnet.gated_sum(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        grad = grad.contiguous(memory_format=torch.channels_last)
        inputs = ctx.saved_tensors
        x1, y1, x2, y2 = torch.ops.dstnet.gated_sum_backward(grad, *inputs)
        bias1, bias2 = (y.sum(dim=(0, 2, 3), dtype=b.dtype) for y, b in ((y1, inputs[2]), (y2, inputs[5])))
        return x1, y1, bias1, x2, y2, bias2

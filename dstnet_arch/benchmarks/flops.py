"""Multiply-adds of a network, by PyTorch's counter and by formula.

Convention: one multiply-add is one MAC and two FLOPs. The GFLOPs of papers on restoration are giga multiply-adds,
usually for one 256x256 frame. The counter (`torch.utils.flop_counter`) covers convolutions and matrix products. Other
products with data-dependent weights are counted by formula and reported separately:

    pixel filter             9 per value of the filtered features, Eq. (4)
    filter resizing          4 per filter value at full size (bilinear)
    channel filter           9 per value of the filtered features, Eq. (1), where it is not a convolution
    deformable convolution   its products, and 4 per bilinear sample
    warping                  4 per value (bilinear)

Neither counts biases, activations, normalisation, pooling, gating or resizing of features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from dstnet_arch.archs.cwgdn import ChannelFilterNet
from dstnet_arch.archs.dstnet_plus_arch import PyramidFilterNet
from dstnet_arch.archs.dtff import PixelFilterNet
from dstnet_arch.benchmarks.plain import PlainDSTNet
from dstnet_arch.ops.pixel_filter import TAPS

_BILINEAR = 4  # multiply-adds for a value interpolated between four others


@dataclass(frozen=True)
class Count:
    """Multiply-adds of one pass.

    Attributes:
        counted: by PyTorch's counter.
        by_formula: products it does not see, by name.
    """

    counted: int
    by_formula: dict[str, int]

    @property
    def total(self) -> int:
        """All multiply-adds; FLOPs are twice this."""
        return self.counted + sum(self.by_formula.values())


def count(net: nn.Module, shape: Sequence[int]) -> Count:
    """Count the work of one pass in evaluation mode.

    Nothing is computed: the network is moved to the meta device and cannot be used afterwards.

    Args:
        net: a network of ours or of stock BasicSR that maps a clip to a clip.
        shape: (B, T, 3, H, W).
    """
    net = net.eval().to('meta')
    filters: Counter[str] = Counter()
    for module in net.modules():
        if isinstance(module, (PixelFilterNet, PyramidFilterNet)):
            module.register_forward_hook(lambda _, args, out: filters.update(_pixel_filter(args[0], out)))
        # The fast channel filter is a convolution, which the counter sees.
        elif isinstance(module, ChannelFilterNet) and isinstance(net, PlainDSTNet):
            module.register_forward_hook(lambda _, args, out: filters.update({'channel filter': _filter_work(args[0])}))
    formulas = _operator_formulas()
    counter = FlopCounterMode(display=False, custom_mapping={op: formula for op, (_, formula) in formulas.items()})
    with torch.no_grad(), counter, _NoBranches():
        net(torch.empty(tuple(shape), device='meta'))
    flops: dict[Any, int] = dict(counter.get_flop_counts().get('Global', {}))
    by_formula = {name: flops.pop(op) // 2 for op, (name, _) in formulas.items() if op in flops}
    return Count(sum(flops.values()) // 2, {**filters, **by_formula})


class _NoBranches(TorchFunctionMode):
    """Answer False where a network takes the truth value of a tensor, which has none on the meta device.

    EDVR does so to warn of large offsets, BasicVSR++ to detect mirrored clips: False for ordinary clips.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return False if func is Tensor.__bool__ else func(*args, **(kwargs or {}))


def _filter_work(features: Tensor) -> int:
    return TAPS * features.numel()


def _pixel_filter(features: Tensor, filters: Tensor | Sequence[Tensor]) -> dict[str, int]:
    # Filters come at one size or at several; those of each size are resized to the features' size.
    sizes = 1 if isinstance(filters, Tensor) else len(filters)
    return {
        'pixel filter': _filter_work(features),
        'filter resizing': sizes * _BILINEAR * _filter_work(features),
    }


def _operator_formulas() -> dict[Any, tuple[str, Any]]:
    """Operator -> (name, FLOPs from the shapes of its arguments)."""
    formulas: dict[Any, tuple[str, Any]] = {torch.ops.aten.grid_sampler_2d: ('warping', _warping)}
    deform_conv2d = getattr(torch.ops.torchvision, 'deform_conv2d', None)  # where torchvision is loaded
    if deform_conv2d is not None:
        formulas[deform_conv2d] = ('deformable convolution', _deformable_convolution)
    return formulas


def _warping(x: Any, grid: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * _BILINEAR * prod(out_shape)


def _deformable_convolution(x: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    n, _, height, width = out_shape
    samples = n * x[1] * prod(weight[2:]) * height * width
    return 2 * (prod(out_shape) * prod(weight[1:]) + _BILINEAR * samples)

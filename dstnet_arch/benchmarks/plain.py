"""DSTNet in the plain schedule: one standard PyTorch operation for each step of the paper, nothing merged or shared.

Same parameters and results as `DSTNet`. It is the baseline of the benchmarks and a reference for tests.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from dstnet_arch.archs.cwgdn import CWGDN
from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dtff import DTFF, GatedFusion, PixelFilterNet
from dstnet_arch.archs.propagation import propagate
from dstnet_arch.ops.channel_filter import channel_filter_reference
from dstnet_arch.ops.haar import haar_analysis, haar_synthesis_reference
from dstnet_arch.ops.native import native
from dstnet_arch.ops.pixel_filter import pixel_filter_reference
from dstnet_arch.ops.temporal_conv import temporal_conv_reference


class PlainDSTNet(DSTNet):
    """`DSTNet` in the plain schedule. Arguments as there, except those of the ablations.

    Raises:
        ValueError: an ablation argument differs from its default.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if (self.spatial, self.fusion, self.pixel_filter, self.propagation) != ('cwgdn', 'gated', True, 'haar'):
            raise ValueError('PlainDSTNet is the full network only. Use DSTNet for ablations.')

    def restore(self, frames: Tensor, num_frame: int) -> Tensor:
        """Map frames (T*B, 3, H, W), time-major, H and W multiples of 16, to restored frames of the same shape."""
        with native(False):
            return self._restore(frames.contiguous(), num_frame)

    def _restore(self, frames: Tensor, num_frame: int) -> Tensor:
        features = self.extract(frames)
        low1, high1 = haar_analysis(features)
        low2, high2 = haar_analysis(low1)
        for block in self.cwgdn:
            low2 = _cwgdn(cast(CWGDN, block), low2, num_frame)
        low1 = haar_synthesis_reference(low2, self.high_band2(high2))
        x = list(self.widen(low1).chunk(num_frame))
        x = propagate(partial(_dtff, cast(DTFF, self.backward_dtff)), x, reverse=True, boundary=self.boundary)
        x = propagate(partial(_dtff, cast(DTFF, self.forward_dtff)), x, boundary=self.boundary)
        features = haar_synthesis_reference(self.narrow(torch.cat(x)), self.high_band1(high1))
        return self.reconstruct(features) + frames


def _cwgdn(block: CWGDN, y: Tensor, num_frame: int) -> Tensor:
    z1, z2 = temporal_conv_reference(block.norm(y).contiguous(), block.project_in.weight, num_frame).chunk(2, dim=1)
    enhanced = channel_filter_reference(z1, block.filter_net(z1), block.filter_bias) * z2
    return y + temporal_conv_reference(enhanced, block.project_out.weight, num_frame)


def _dtff(dtff: DTFF, current: Tensor, propagated: Tensor) -> Tensor:
    fusion, filter_net = cast(GatedFusion, dtff.fusion), cast(PixelFilterNet, dtff.filter_net)
    x1, x2 = F.leaky_relu(fusion.conv(torch.cat([current, propagated], dim=1)), 0.1).chunk(2, dim=1)
    fused = x1 * torch.sigmoid(fusion.gate1(x1)) + x2 * torch.sigmoid(fusion.gate2(x2))
    return dtff.refine(pixel_filter_reference(fused, filter_net(fused)))

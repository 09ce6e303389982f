"""DSTNet: Deep Discriminative Spatial and Temporal Network for Efficient Video Deblurring (Pan et al., CVPR 2023).

Where each equation of the paper is (files beside this one, or in ops/)::

    Eq. (1)  channel-wise dynamic filters            cwgdn.py        CWGDN, ops/channel_filter.py
    Eq. (2)  gating                                  cwgdn.py        CWGDN, ops/channel_filter.py
    Eq. (3)  gated feature fusion                    dtff.py         GatedFusion
    Eq. (4)  pixel-wise filters                      dtff.py         DTFF, ops/pixel_filter.py
    Eq. (5)  fusion with the next frame              dtff.py         DTFF
    Eq. (6)  fusion with the previous frame          dtff.py         DTFF
    Eq. (7)  backward propagation                    propagation.py  propagate, called in video_net.py
    Eq. (8)  forward propagation                     propagation.py  propagate, called in video_net.py
    Eq. (9)  inverse Haar transform                  below, ops/haar.py, ops/haar_conv.py
    Eq. (10) restored frame = residual + blurry      below
    Eq. (11) fusion of Park et al. (ablation)        ablations.py    BlendFusion

Where the paper is silent or differs from the weights its authors released, this network is the released one.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from dstnet_arch.archs.ablations import GMLP, BlendFusion, StackFusion, upsample_without_haar
from dstnet_arch.archs.cwgdn import CWGDN, GatedBlock, HighBandNet
from dstnet_arch.archs.dtff import DTFF, GatedFusion
from dstnet_arch.archs.propagation import Boundary
from dstnet_arch.archs.released_keys import DSTNET, count_modules
from dstnet_arch.archs.video_net import VideoNet, chunk_size
from dstnet_arch.ops.haar import haar_synthesis
from dstnet_arch.ops.haar_conv import conv_haar_low, haar_conv

Spatial = Literal['cwgdn', 'gmlp', 'none']
Fusion = Literal['gated', 'blend', 'none']
Propagation = Literal['haar', 'none', 'bilinear']

SIZE_MULTIPLE = 16
"""Sides of frames inside the network: two Haar levels, and D_p's filters at an eighth of the first one's size."""


class DSTNet(VideoNet):
    """DSTNet and, with `prop_feat`, DSTNet-L.

    Args:
        num_feat: C, feature channels. The paper: 64.
        num_block: residual blocks in the DTFF module of each direction. The paper: 15; DSTNet-L: 30.
        prop_feat: feature channels inside the propagation; None: `num_feat`. DSTNet-L: 96. Another number than
            `num_feat` adds a 1x1 convolution on the way in and out, as the released DSTNet-L has them.
        num_cwgdn: CWGDN blocks in a row. The released weights: 5.
        boundary: 'zeros': each direction of the propagation starts from zeros (the released weights); 'paper': it
            starts from the features of its first frame, as Eqs. (7) and (8) are printed. The parameters are the same.
        spatial: Table 4. 'cwgdn'; 'gmlp': gates by a static projection in place of dynamic filters; 'none': no blocks.
        fusion: Table 5. 'gated': Eq. (3); 'blend': Eq. (11); 'none': a convolution of the stacked features.
        pixel_filter: Table 5. False: without the pixel-wise filters, Eq. (4), and D_p.
        propagation: Table 6. 'haar'; 'bilinear': bilinear resizing in place of the wavelet transform around the
            propagation, and so without its high bands; 'none': no propagation at all, each frame's low band goes
            straight to the synthesis.

    Raises:
        ValueError: an argument is out of range.
    """

    size_multiple = min_size = SIZE_MULTIPLE
    released_keys = DSTNET

    def __init__(
        self,
        num_feat: int = 64,
        num_block: int = 15,
        prop_feat: int | None = None,
        num_cwgdn: int = 5,
        boundary: Boundary = 'zeros',
        spatial: Spatial = 'cwgdn',
        fusion: Fusion = 'gated',
        pixel_filter: bool = True,
        propagation: Propagation = 'haar',
    ) -> None:
        super().__init__()
        prop_feat = num_feat if prop_feat is None else prop_feat
        if min(num_feat, prop_feat) < 1 or min(num_block, num_cwgdn) < 0:
            raise ValueError(
                'DSTNet needs num_feat and prop_feat of at least 1, num_block and num_cwgdn of at least 0; got '
                f'num_feat={num_feat}, prop_feat={prop_feat}, num_block={num_block}, num_cwgdn={num_cwgdn}.'
            )
        for name, value, choices in (
            ('boundary', boundary, Boundary),
            ('spatial', spatial, Spatial),
            ('fusion', fusion, Fusion),
            ('propagation', propagation, Propagation),
        ):
            if value not in get_args(choices):
                raise ValueError(f'{name} must be one of {", ".join(get_args(choices))}; got {value!r}.')
        self.num_feat, self.num_block, self.prop_feat, self.num_cwgdn = num_feat, num_block, prop_feat, num_cwgdn
        self.boundary, self.spatial, self.fusion = boundary, spatial, fusion
        self.pixel_filter, self.propagation = pixel_filter, propagation

        self.extract = nn.Conv2d(3, num_feat, 3, padding=1)
        if propagation != 'bilinear':
            self.high_band1 = HighBandNet(num_feat)
        self.high_band2 = HighBandNet(num_feat)
        block = GMLP if spatial == 'gmlp' else CWGDN
        self.cwgdn = nn.ModuleList(block(num_feat) for _ in range(0 if spatial == 'none' else num_cwgdn))
        if propagation != 'none':
            self.widen = nn.Conv2d(num_feat, prop_feat, 1) if prop_feat != num_feat else nn.Identity()
            self.backward_dtff = self._make_dtff()
            self.forward_dtff = self._make_dtff()
            self.narrow = nn.Conv2d(prop_feat, num_feat, 1) if prop_feat != num_feat else nn.Identity()
        self.reconstruct = nn.Conv2d(num_feat, 3, 3, padding=1)

    def _make_dtff(self) -> DTFF:
        fusion = {'gated': GatedFusion, 'blend': BlendFusion, 'none': StackFusion}[self.fusion]
        return DTFF(self.prop_feat, self.num_block, fusion(self.prop_feat), self.pixel_filter)

    @property
    def config(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in inspect.signature(DSTNet).parameters}

    @classmethod
    def infer_config(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            'num_feat': state_dict['extract.weight'].shape[0],
            'num_block': count_modules(state_dict, 'backward_dtff.refine'),
            'prop_feat': state_dict['backward_dtff.fusion.gate1.weight'].shape[0],
            'num_cwgdn': count_modules(state_dict, 'cwgdn'),
        }

    def restore(self, frames: Tensor, num_frame: int) -> Tensor:
        """(T·B, 3, H, W), time-major, H and W multiples of 16 -> restored frames, the same shape."""
        low2 = self.low_band(frames)  # (T·B, C, H/4, W/4)
        low2 = self.explore(low2, num_frame)  # (T·B, C, H/4, W/4)
        low1 = self.by_parts(self.synthesize, frames, low2)  # (T·B, C, H/2, W/2)
        if self.propagation != 'none':
            low1 = self.narrow(self.propagate(self.widen(low1), num_frame))  # (T·B, C, H/2, W/2)
        return self.by_parts(self.finish, frames, low1)  # (T·B, 3, H, W)

    # The features' high bands bypass the spatial and the temporal part, and are made from the frames where they are
    # wanted: that repeats a fraction of a per cent of the network's work, and no band is kept for the whole clip.

    def low_band(self, frames: Tensor) -> Tensor:
        """Low band, after two levels, of the shallow features: (N, 3, H, W) -> (N, C, H/4, W/4)."""
        return conv_haar_low(frames, self.extract.weight, self.extract.bias, level=2)

    def explore(self, low2: Tensor, num_frame: int) -> Tensor:
        """The CWGDN blocks, on frames and their neighbours: (T·B, C, H/4, W/4), time-major -> the same shape."""
        for block in self.cwgdn:
            if torch.is_grad_enabled():
                low2 = block(low2, num_frame)
            else:
                at_once = chunk_size(16 * low2[0, 0].numel(), low2.device)
                low2 = cast(GatedBlock, block).forward_by_chunks(low2, num_frame, at_once)
        return low2

    def synthesize(self, frames: Tensor, low2: Tensor) -> Tensor:
        """Features of the first level from the second's: (N, 3, H, W), (N, C, H/4, W/4) -> (N, C, H/2, W/2)."""
        return haar_synthesis(low2, self.high_band2.from_frames(frames, self.extract.weight, level=2))

    def finish(self, frames: Tensor, low1: Tensor) -> Tensor:
        """Restored frames: (N, 3, H, W), (N, C, H/2, W/2) -> (N, 3, H, W)."""
        if self.propagation == 'bilinear':
            return self.reconstruct(upsample_without_haar(low1)) + frames
        high1 = self.high_band1.from_frames(frames, self.extract.weight, level=1)  # (N, 3C, H/2, W/2)
        residual = haar_conv(low1, high1, self.reconstruct.weight, self.reconstruct.bias)  # Eq. (9), then N_f
        return residual + frames  # Eq. (10)

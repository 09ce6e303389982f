"""DSTNet: Deep Discriminative Spatial and Temporal Network for Efficient Video Deblurring (Pan et al., CVPR 2023).

Index of the paper's equations (files in this folder, or in ops/)::

    Eq. (1)  channel-wise dynamic filters            cwgdn.py        CWGDN, ops/channel_filter.py
    Eq. (2)  gating                                  cwgdn.py        CWGDN, ops/channel_filter.py
    Eq. (3)  gated feature fusion                    dtff.py         GatedFusion, ops/gated_sum.py
    Eq. (4)  pixel-wise filters                      dtff.py         DTFF, ops/pixel_filter.py
    Eq. (5)  fusion with the next frame              dtff.py         DTFF
    Eq. (6)  fusion with the previous frame          dtff.py         DTFF
    Eq. (7)  backward propagation                    propagation.py  propagate, called in video_net.py
    Eq. (8)  forward propagation                     propagation.py  propagate, called in video_net.py
    Eq. (9)  inverse Haar transform                  below, ops/haar.py, ops/haar_conv.py
    Eq. (10) restored frame = residual + blurry      below
    Eq. (11) fusion of Park et al. (ablation)        ablations.py    BlendFusion

Where the paper gives no details, or differs from the released weights, this network follows the weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from dstnet_arch.archs.ablations import GMLP, BlendFusion, StackFusion, upsample_without_haar
from dstnet_arch.archs.blocks import Conv2d
from dstnet_arch.archs.cwgdn import CWGDN, GatedBlock, HaarConv, HighBandNet
from dstnet_arch.archs.derived_weights import conv_weights, derive
from dstnet_arch.archs.dtff import DTFF, GatedFusion
from dstnet_arch.archs.propagation import Boundary
from dstnet_arch.archs.released_keys import DSTNET, count_modules
from dstnet_arch.archs.video_net import VideoNet, chunk_size
from dstnet_arch.ops.haar import haar_synthesis
from dstnet_arch.ops.haar_conv import conv_haar, merge_conv_haar

Spatial = Literal['cwgdn', 'gmlp', 'none']
Fusion = Literal['gated', 'blend', 'none']
Propagation = Literal['haar', 'none', 'bilinear']

SIZE_MULTIPLE = 16
"""Sides of frames inside the network: two Haar levels, and D_p's filters at an eighth of the first one's size."""


class DSTNet(VideoNet):
    """DSTNet and, with `prop_feat`, DSTNet-L.

    Some layers, such as `extract` and `reconstruct`, are computed merged with the Haar transforms: their hooks do not
    run, and counters of work that use hooks miss them (`dstnet complexity` does not).

    Args:
        num_feat: C, feature channels. The paper: 64.
        num_block: residual blocks in the DTFF module of each direction. The paper: 15; DSTNet-L: 30.
        prop_feat: feature channels inside the propagation; None: `num_feat`. DSTNet-L: 96. If it differs from
            `num_feat`, a 1x1 convolution before and one after the propagation convert, as in the released DSTNet-L.
        num_cwgdn: number of CWGDN blocks. The released weights: 5.
        boundary: 'zeros': each direction of the propagation starts from zeros (the released weights); 'paper': it
            starts from the features of its first frame, as Eqs. (7) and (8) are printed. The parameters are the same.
        spatial: Table 4. 'cwgdn'; 'gmlp': gates by a static projection instead of dynamic filters; 'none': no blocks.
        fusion: Table 5. 'gated': Eq. (3); 'blend': Eq. (11); 'none': a convolution of the stacked features.
        pixel_filter: Table 5. False: without the pixel-wise filters, Eq. (4), and D_p.
        propagation: Table 6. 'haar'; 'bilinear': bilinear resizing instead of the wavelet transform around the
            propagation, hence without its high bands; 'none': no propagation, each frame's low band goes directly to
            the synthesis.

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

        self.extract = Conv2d(3, num_feat, 3, padding=1)
        if propagation != 'bilinear':
            self.high_band1 = HighBandNet(num_feat)
        self.high_band2 = HighBandNet(num_feat)
        block = GMLP if spatial == 'gmlp' else CWGDN
        self.cwgdn = nn.ModuleList(block(num_feat) for _ in range(0 if spatial == 'none' else num_cwgdn))
        if propagation != 'none':
            self.widen = Conv2d(num_feat, prop_feat, 1) if prop_feat != num_feat else nn.Identity()
            self.backward_dtff = self._make_dtff()
            self.forward_dtff = self._make_dtff()
            self.narrow = Conv2d(prop_feat, num_feat, 1) if prop_feat != num_feat else nn.Identity()
        self.reconstruct = HaarConv(num_feat, 3)

    def _make_dtff(self) -> DTFF:
        fusion = {'gated': GatedFusion, 'blend': BlendFusion, 'none': StackFusion}[self.fusion]
        return DTFF(self.prop_feat, self.num_block, fusion(self.prop_feat), self.pixel_filter)

    @property
    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct this network."""
        return {k: getattr(self, k) for k in inspect.signature(DSTNet).parameters}

    @classmethod
    def infer_config(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """Constructor arguments, inferred from a state dict; see `VideoNet.infer_config`."""
        return {
            'num_feat': state_dict['extract.weight'].shape[0],
            'num_block': count_modules(state_dict, 'backward_dtff.refine'),
            'prop_feat': state_dict['backward_dtff.fusion.gate1.weight'].shape[0],
            'num_cwgdn': count_modules(state_dict, 'cwgdn'),
        }

    def restore(self, frames: Tensor, num_frame: int) -> Tensor:
        """(T·B, 3, H, W), time-major, H and W multiples of 16 -> restored frames, the same shape."""
        low2 = self.low_band(frames)  # (T·B, C, H/4, W/4)
        low2 = self.apply_blocks(low2, num_frame)  # (T·B, C, H/4, W/4)
        low1 = self.apply_chunked(self.synthesize, frames, low2)  # (T·B, C, H/2, W/2)
        if self.propagation != 'none':
            low1 = self.narrow(self.propagate(self.widen(low1), num_frame))  # (T·B, C, H/2, W/2)
        return self.apply_chunked(self.finish, frames, low1)  # (T·B, 3, H, W)

    # The features' high bands bypass the spatial and the temporal part. They are computed from the frames where they
    # are needed: that repeats less than a per cent of the work, and no band is stored for the whole clip.

    def low_band(self, frames: Tensor) -> Tensor:
        """Low band, after two levels, of the shallow features: (N, 3, H, W) -> (N, C, H/4, W/4)."""
        merged = derive(self, 'low band', lambda: merge_conv_haar(self.extract.weight, 2, 0), frames)
        return conv_haar(frames, merged, conv_weights(self.extract, frames)[1], level=2)

    def apply_blocks(self, low2: Tensor, num_frame: int) -> Tensor:
        """The CWGDN blocks, on frames and their neighbours: (T·B, C, H/4, W/4), time-major -> the same shape."""
        for block in self.cwgdn:
            if torch.is_grad_enabled():
                low2 = block(low2, num_frame)
            else:
                at_once = chunk_size(16 * low2[0, 0].numel(), low2.device)
                low2 = cast(GatedBlock, block).forward_chunked(low2, num_frame, at_once)
        return low2

    def synthesize(self, frames: Tensor, low2: Tensor) -> Tensor:
        """Features of the first level from the second's: (N, 3, H, W), (N, C, H/4, W/4) -> (N, C, H/2, W/2)."""
        return haar_synthesis(low2, self.high_band2.from_frames(frames, self.extract, level=2))

    def finish(self, frames: Tensor, low1: Tensor) -> Tensor:
        """Restored frames: (N, 3, H, W), (N, C, H/2, W/2) -> (N, 3, H, W)."""
        if self.propagation == 'bilinear':
            return self.reconstruct(upsample_without_haar(low1)) + frames
        high1 = self.high_band1.from_frames(frames, self.extract, level=1)  # (N, 3C, H/2, W/2)
        residual = self.reconstruct.from_bands(low1, high1)  # Eq. (9), then N_f
        return residual + frames  # Eq. (10)

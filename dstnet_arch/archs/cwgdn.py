"""Channel-wise gated dynamic network (CWGDN), Section 3.1 and Figure 2."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dstnet_arch.archs.blocks import leaky_relu
from dstnet_arch.ops.channel_filter import channel_filter, gated_channel_filter
from dstnet_arch.ops.haar_conv import conv_haar_high
from dstnet_arch.ops.temporal_conv import temporal_conv, temporal_gather, temporal_scatter

EXPANSION = 4  # the gate and the gated features have 4C channels each; Section 3.1 writes 8C for both


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels at each pixel: (N, C, H, W) -> the same, biased variance, eps 1e-5."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TemporalConv(nn.Module):
    """3x1x1 convolution over time without bias, zero padding of one frame.

    Args:
        in_channels: channels in.
        out_channels: channels out.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # PyTorch's default for a Conv3d of this shape

    def forward(self, x: Tensor, num_frame: int) -> Tensor:
        """(T·B, C_in, H, W), time-major -> (T·B, C_out, H, W)."""
        return temporal_conv(x, self.weight, num_frame)


class ChannelFilterNet(nn.Module):
    """D_c: from features, one 3x3 filter for each channel of each frame (Figure 2).

    Args:
        num_feat: channels of the features.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(*(nn.Conv2d(num_feat, num_feat, 3, padding=1, groups=num_feat) for _ in range(3)))
        self.stage2 = nn.Sequential(*(nn.Conv2d(num_feat, num_feat, 3, padding=1, groups=num_feat) for _ in range(3)))
        self.to_filter = nn.Conv2d(num_feat, 9 * num_feat, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), H and W at least 4 -> filters (N, C, 3, 3)."""
        return self.make_filters(self.features(x).mean(dim=(2, 3), keepdim=True))

    def features(self, x: Tensor) -> Tensor:
        """What the filters are made from, as its mean over the frame: (N, C, H, W) -> (N, C, H/4, W/4)."""
        return self.stage2(F.max_pool2d(self.stage1(F.avg_pool2d(x, 2)), 2))

    def make_filters(self, mean: Tensor) -> Tensor:
        """(N, C, 1, 1) -> (N, C, 3, 3)."""
        return self.to_filter(mean).view(*mean.shape[:2], 3, 3)


class GatedBlock(nn.Module):
    """Widen the features over time, gate one half by the other, narrow them over time; residual around it.

    A subclass makes the gate (`make_gate`) from the first half.

    Args:
        num_feat: C, channels in and out.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        hidden = EXPANSION * num_feat
        self.norm = LayerNorm2d(num_feat)
        self.project_in = TemporalConv(num_feat, 2 * hidden)
        self.project_out = TemporalConv(hidden, num_feat)

    def make_gate(self, z1: Tensor) -> Tensor:
        """(N, 4C, H, W), a frame at each N -> (N, 4C, H, W)."""
        raise NotImplementedError

    def forward(self, y: Tensor, num_frame: int) -> Tensor:
        """(T·B, C, H, W), time-major -> (T·B, C, H, W)."""
        return y + self.project_out(self.gate_features(self.project_in(self.norm(y), num_frame)), num_frame)

    def forward_by_chunks(self, y: Tensor, num_frame: int, chunk: int) -> Tensor:
        """`forward`, the wide features (8C) made for `chunk` time steps at a time: the same work in less memory."""
        batch = y.shape[0] // num_frame
        end = y.new_zeros(batch, *y.shape[1:])
        normed = torch.cat([end, self.norm(y), end])
        # Frame t of the clip stands at time step t + 1, so that the first and the last may add to neighbours outside.
        out = torch.cat([end, y, end])
        for start in range(0, y.shape[0], chunk * batch):
            stop = min(start + chunk * batch, y.shape[0])
            z = temporal_gather(normed[start : stop + 2 * batch], self.project_in.weight, batch)
            before, here, after = temporal_scatter(self.gate_features(z), self.project_out.weight)
            for offset, part in ((2, before), (1, here), (0, after)):
                out[start + offset * batch : stop + offset * batch] += part
        return out[batch:-batch]

    def gate_features(self, z: Tensor, make_gate: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(N, 8C, H, W) -> (N, 4C, H, W); `make_gate`: in place of this block's own, for parts of a frame."""
        z1, z2 = z.chunk(2, dim=1)
        return (make_gate or self.make_gate)(z1) * z2  # Eq. (2)


class CWGDN(GatedBlock):
    """One block of the channel-wise gated dynamic network: the gate is filtered by filters that it predicts itself.

    Args:
        num_feat: C, channels in and out.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__(num_feat)
        self.filter_net = ChannelFilterNet(EXPANSION * num_feat)
        self.filter_bias = nn.Parameter(torch.zeros(EXPANSION * num_feat))

    def make_gate(self, z1: Tensor) -> Tensor:
        """(N, 4C, H, W), H and W at least 4 -> (N, 4C, H, W)."""
        return channel_filter(z1, self.filter_net(z1), self.filter_bias)  # Eq. (1)

    def gate_features(self, z: Tensor, make_gate: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(N, 8C, H, W) -> (N, 4C, H, W)."""
        if make_gate is not None:
            return super().gate_features(z, make_gate)
        filters = self.filter_net(z[:, : z.shape[1] // 2])
        return gated_channel_filter(z, filters, self.filter_bias)  # Eqs. (1) and (2)


class HighBandNet(nn.Module):
    """N_h of Section 3.3 for the three high bands at once, each with its own weights: 1x1 convolution, LeakyReLU, 1x1
    convolution.

    Args:
        num_feat: C, channels of one band.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3 * num_feat, 3 * num_feat, 1, groups=3)
        self.conv2 = nn.Conv2d(3 * num_feat, 3 * num_feat, 1, groups=3)

    def forward(self, high: Tensor) -> Tensor:
        """(N, 3C, H, W) -> (N, 3C, H, W)."""
        return self.conv2(leaky_relu(self.conv1(high)))

    def from_frames(self, frames: Tensor, weight: Tensor, level: int) -> Tensor:
        """The same for the high bands of frames' features, which are not made: the extraction of the features, the Haar
        analysis and the first convolution are one.

        Args:
            frames: (N, 3, H, W).
            weight: of the 3x3 convolution that makes the features, (C, 3, 3, 3).
            level: of the Haar analysis, 1 or 2.

        Returns:
            (N, 3C, H/2^level, W/2^level).
        """
        mixed = conv_haar_high(frames, weight, level, self.conv1.weight, self.conv1.bias)
        return self.conv2(leaky_relu(mixed))

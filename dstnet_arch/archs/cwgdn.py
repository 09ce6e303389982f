"""Channel-wise gated dynamic network (CWGDN), Section 3.1 and Figure 2. In shapes, C is `num_feat`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dstnet_arch.archs.blocks import NEGATIVE_SLOPE, Conv2d, DepthwiseConv3x3, leaky_relu
from dstnet_arch.archs.derived_weights import conv_weights, derive
from dstnet_arch.ops.channel_filter import gated_channel_filter
from dstnet_arch.ops.conv_bias import conv_bias
from dstnet_arch.ops.haar_conv import conv_haar, haar_conv, merge_conv_haar_high, merge_haar_conv
from dstnet_arch.ops.layer_norm import layer_norm
from dstnet_arch.ops.pool_half import pool_half
from dstnet_arch.ops.temporal_conv import (
    gather_weight,
    neighbours,
    scatter_weight,
    temporal_conv,
    temporal_gather,
    temporal_scatter,
)

EXPANSION = 4  # the gate and the gated features have 4C channels each; Section 3.1 writes 8C for both


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels at each pixel: (N, C, H, W) -> the same, biased variance, eps 1e-5."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return layer_norm(x, self.weight, self.bias, self.eps)


class TemporalConv(nn.Module):
    """3x1x1 convolution over time without bias, zero padding of one frame."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # PyTorch's default for a Conv3d of this shape

    def forward(self, x: Tensor, num_frame: int) -> Tensor:
        """(T·B, C_in, H, W), time-major -> (T·B, C_out, H, W)."""
        return temporal_conv(x, self.weight, num_frame)

    def gather(self, before: Tensor, here: Tensor, after: Tensor) -> Tensor:
        """Convolve frames, given their neighbours: three (N, C_in, H, W) -> (N, C_out, H, W)."""
        return temporal_gather(before, here, after, derive(self, 'gather', lambda: gather_weight(self.weight), here))

    def scatter(self, x: Tensor) -> tuple[Tensor, ...]:
        """What frames add to the next frame, to themselves and to the previous frame: three (N, C_out, H, W)."""
        return temporal_scatter(x, derive(self, 'scatter', lambda: scatter_weight(self.weight), x))


class ChannelFilterNet(nn.Module):
    """D_c: from features, one 3x3 filter for each channel of each frame (Figure 2)."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(*(DepthwiseConv3x3(num_feat) for _ in range(3)))
        self.stage2 = nn.Sequential(*(DepthwiseConv3x3(num_feat) for _ in range(3)))
        self.to_filter = nn.Conv2d(num_feat, 9 * num_feat, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), H and W at least 4 -> filters (N, C, 3, 3)."""
        return self.filters_of_pooled(F.avg_pool2d(x, 2))

    def filters_of_pooled(self, pooled: Tensor) -> Tensor:
        """The same from features that are already pooled by 2x2: (N, C, H/2, W/2) -> (N, C, 3, 3)."""
        features = self._features_of_pooled(pooled)
        mean = features.permute(0, 2, 3, 1).mean(dim=(1, 2))  # the gradient of this form is channels-last
        return self.make_filters(mean[..., None, None])

    def features(self, x: Tensor) -> Tensor:
        """The features whose mean over the frame determines the filters: (N, C, H, W) -> (N, C, H/4, W/4)."""
        return self._features_of_pooled(F.avg_pool2d(x, 2))

    def _features_of_pooled(self, pooled: Tensor) -> Tensor:
        return self.stage2(F.max_pool2d(self.stage1(pooled), 2))

    def make_filters(self, mean: Tensor) -> Tensor:
        """(N, C, 1, 1) -> (N, C, 3, 3)."""
        weight, bias = conv_weights(self.to_filter, mean)
        return F.linear(mean.flatten(1), weight.flatten(1), bias).view(*mean.shape[:2], 3, 3)


class GatedBlock(nn.Module):
    """Widen the features over time, gate one half by the other, narrow them over time, add the input.

    A subclass implements `gate_features`.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        hidden = EXPANSION * num_feat
        self.norm = LayerNorm2d(num_feat)
        self.project_in = TemporalConv(num_feat, 2 * hidden)
        self.project_out = TemporalConv(hidden, num_feat)

    def forward(self, y: Tensor, num_frame: int) -> Tensor:
        """(T·B, C, H, W), time-major -> (T·B, C, H, W)."""
        return y + self.project_out(self.gate_features(self.project_in(self.norm(y), num_frame)), num_frame)

    def forward_chunked(self, y: Tensor, num_frame: int, chunk: int) -> Tensor:
        """`forward` with the wide features (8C) of `chunk` time steps at a time: the same work in less memory."""
        batch = y.shape[0] // num_frame
        end = torch.zeros_like(y[:batch])
        normed = torch.cat([end, self.norm(y), end])
        # Frame t of the clip is at time step t + 1, so that the first and the last frame can add to neighbours outside.
        out = torch.cat([end, y, end])
        for start in range(0, y.shape[0], chunk * batch):
            stop = min(start + chunk * batch, y.shape[0])
            z = self.project_in.gather(*neighbours(normed[start : stop + 2 * batch], batch))
            before, here, after = self.project_out.scatter(self.gate_features(z))
            for offset, part in ((2, before), (1, here), (0, after)):
                out[start + offset * batch : stop + offset * batch] += part
        return out[batch:-batch]

    def gate_features(self, z: Tensor, filters: Tensor | None = None) -> Tensor:
        """(N, 8C, H, W), a frame at each N -> (N, 4C, H, W).

        If `z` are tiles, a CWGDN block needs the `filters` of their frames, (N, 4C, 3, 3).
        """
        raise NotImplementedError


class CWGDN(GatedBlock):
    """One block of the channel-wise gated dynamic network: the gate is filtered by filters predicted from itself."""

    def __init__(self, num_feat: int) -> None:
        super().__init__(num_feat)
        self.filter_net = ChannelFilterNet(EXPANSION * num_feat)
        self.filter_bias = nn.Parameter(torch.zeros(EXPANSION * num_feat))

    def gate_features(self, z: Tensor, filters: Tensor | None = None) -> Tensor:
        """(N, 8C, H, W), H and W at least 4 -> (N, 4C, H, W)."""
        if filters is None:
            pooled, z = pool_half(z)
            filters = self.filter_net.filters_of_pooled(pooled)
        # Eq. (1) filters the first half of the channels.
        # Eq. (2) multiplies the result by the second half.
        return gated_channel_filter(z, filters, self.filter_bias)


class HighBandNet(nn.Module):
    """N_h of Section 3.3 for the three high bands, each with its own weights: two 1x1 convolutions and a LeakyReLU."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(3 * num_feat, 3 * num_feat, 1, groups=3)
        self.conv2 = Conv2d(3 * num_feat, 3 * num_feat, 1, groups=3)

    def forward(self, high: Tensor) -> Tensor:
        """(N, 3C, H, W) -> (N, 3C, H, W)."""
        return self.conv2(leaky_relu(self.conv1(high)))

    def from_frames(self, frames: Tensor, extract: nn.Conv2d, level: int) -> Tensor:
        """Compute the same from frames, without their features and high bands.

        The extraction of the features, the Haar analysis and the first convolution are one convolution.

        Args:
            frames: (N, 3, H, W).
            extract: the 3x3 convolution that extracts the features.
            level: level of the Haar analysis, 1 or 2.

        Returns:
            (N, 3C, H/2^level, W/2^level).
        """
        merged = derive(self, 'merged', lambda: merge_conv_haar_high(extract.weight, level, self.conv1.weight), frames)
        _, bias = conv_weights(self.conv1, frames)
        features = conv_haar(frames, merged, bias, level, NEGATIVE_SLOPE)
        if torch.is_grad_enabled() or not features.is_cuda:
            return self.conv2(features)
        # cuDNN is slow with groups: one convolution with zeros in place of the other groups.
        dense = derive(self, 'dense', lambda: _ungroup(self.conv2.weight, groups=3), features)
        return conv_bias(features, dense, conv_weights(self.conv2, features)[1])


def _ungroup(weight: Tensor, groups: int) -> Tensor:
    """(C_out, C_in / groups, 1, 1) of a grouped 1x1 convolution -> (C_out, C_in, 1, 1)."""
    return torch.block_diag(*weight.flatten(1).chunk(groups))[..., None, None]


class HaarConv(Conv2d):
    """3x3 convolution that can be merged with the Haar synthesis before it."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def from_bands(self, low: Tensor, high: Tensor) -> Tensor:
        """The convolution of the synthesised features: (N, C, H/2, W/2), (N, 3C, H/2, W/2) -> (N, C_out, H, W)."""
        c = self.in_channels
        weight_low = derive(self, 'low', lambda: merge_haar_conv(self.weight)[:, :c], low)
        weight_high = derive(self, 'high', lambda: merge_haar_conv(self.weight)[:, c:], low)
        bias = derive(self, 'merged bias', lambda: self.bias.repeat_interleave(4), low)
        return haar_conv(low, high, weight_low, weight_high, bias)

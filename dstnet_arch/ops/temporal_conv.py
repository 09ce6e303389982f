"""Convolution along time, kernel 3x1x1: the first and the last layer of the CWGDN (Section 3.1).

Frames are stacked time-major, (T·B, C, H, W), so that a shift by one frame is a shift by B along the first axis and
every time step is contiguous. A convolution is one matrix product, with the three taps stacked on the side that has
fewer channels: on the input (`temporal_gather`: each frame with its neighbours) or on the output (`temporal_scatter`:
what each frame adds to itself and its neighbours).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dstnet_arch.ops.dense_gradient import dense_gradient


def temporal_conv_reference(x: Tensor, weight: Tensor, num_frame: int) -> Tensor:
    """Compute `temporal_conv` by the 3-D convolution that defines it."""
    tb, c, h, w = x.shape
    clips = x.view(num_frame, tb // num_frame, c, h, w).permute(1, 2, 0, 3, 4)  # (B, C, T, H, W)
    out = F.conv3d(clips, weight[..., None, None], padding=(1, 0, 0))
    return out.permute(2, 0, 1, 3, 4).reshape(tb, -1, h, w)


def temporal_conv(x: Tensor, weight: Tensor, num_frame: int) -> Tensor:
    """Convolve each pixel along time, zero padding of one frame at both ends.

    Args:
        x: (T·B, C, H, W), time-major.
        weight: (C_out, C, 3); [..., 0] multiplies the previous frame, [..., 2] the next one.
        num_frame: T.

    Returns:
        (T·B, C_out, H, W).
    """
    batch = x.shape[0] // num_frame
    c_out, c_in = weight.shape[:2]
    if c_in <= c_out:
        end = torch.zeros_like(x[:batch])
        padded = torch.cat([end, x, end])
        return temporal_gather(*neighbours(padded, batch), gather_weight(weight))
    before, here, after = temporal_scatter(x, scatter_weight(weight))
    return here + _shift(before, batch) + _shift(after, -batch)


def gather_weight(weight: Tensor) -> Tensor:
    """The weight for `temporal_gather`: (C_out, C, 3) -> (C_out, 3C, 1, 1)."""
    return weight.transpose(1, 2).reshape(weight.shape[0], -1, 1, 1)


def neighbours(x: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """The frames before, at and after each inner time step: ((T+2)·B, C, H, W) -> three (T·B, C, H, W)."""
    num = x.shape[0] - 2 * batch
    return x[:num], x[batch : batch + num], x[2 * batch :]


def temporal_gather(before: Tensor, here: Tensor, after: Tensor, weight: Tensor) -> Tensor:
    """Convolve frames, given their neighbours: three (N, C, H, W), (C_out, 3C, 1, 1) -> (N, C_out, H, W)."""
    return F.conv2d(torch.cat([before, here, after], dim=1), weight)


def scatter_weight(weight: Tensor) -> Tensor:
    """The weight for `temporal_scatter`: (C_out, C, 3) -> (3 C_out, C, 1, 1)."""
    return weight.permute(2, 0, 1).reshape(-1, weight.shape[1], 1, 1)


def temporal_scatter(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """What each frame adds to the results of the next frame, of itself, and of the previous frame.

    (N, C, H, W), (3 C_out, C, 1, 1) -> three tensors (N, C_out, H, W).
    """
    return dense_gradient(F.conv2d(x, weight)).chunk(3, dim=1)


def _shift(x: Tensor, frames: int) -> Tensor:
    """Shift along the first axis, to later frames if `frames` is positive, and fill with zeros."""
    return F.pad(x, (0, 0, 0, 0, 0, 0, frames, -frames))

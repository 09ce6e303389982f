"""Convolution along time, kernel 3x1x1: the first and the last layer of the CWGDN (Section 3.1).

Frames are stacked time-major, (T·B, C, H, W), so that a shift by one frame is a shift by B along the first axis and
every time step is one dense block. A convolution is one matrix product, with the three taps stacked on one side: on
the input (`gather`: each frame beside its neighbours) or on the output (`scatter`: what each frame adds to itself and
its neighbours).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def temporal_conv_reference(x: Tensor, weight: Tensor, num_frame: int) -> Tensor:
    """`temporal_conv` as the 3-D convolution that defines it."""
    tb, c, h, w = x.shape
    clips = x.view(num_frame, tb // num_frame, c, h, w).permute(1, 2, 0, 3, 4)  # (B, C, T, H, W)
    out = F.conv3d(clips, weight[..., None, None], padding=(1, 0, 0))
    return out.permute(2, 0, 1, 3, 4).reshape(tb, -1, h, w)


def temporal_conv(x: Tensor, weight: Tensor, num_frame: int) -> Tensor:
    """Convolve each pixel along time, zero padding of one frame at both ends.

    Args:
        x: (T·B, C, H, W), time-major.
        weight: (C_out, C, 3); [..., 0] multiplies the frame before, [..., 2] the frame after.
        num_frame: T.

    Returns:
        (T·B, C_out, H, W).
    """
    batch = x.shape[0] // num_frame
    c_out, c_in = weight.shape[:2]
    if c_in <= c_out:  # stack on the side that has fewer channels
        end = x.new_zeros(batch, *x.shape[1:])
        return temporal_gather(torch.cat([end, x, end]), weight, batch)
    before, here, after = temporal_scatter(x, weight)
    return here + _shift(before, batch) + _shift(after, -batch)


def temporal_gather(x: Tensor, weight: Tensor, batch: int) -> Tensor:
    """Convolve frames that all have both neighbours: ((T+2)·B, C, H, W), (C_out, C, 3) -> (T·B, C_out, H, W)."""
    c_out, c_in = weight.shape[:2]
    num = x.shape[0] - 2 * batch
    stacked = torch.cat([x[:num], x[batch : batch + num], x[2 * batch :]], dim=1)
    return F.conv2d(stacked, weight.transpose(1, 2).reshape(c_out, 3 * c_in, 1, 1))


def temporal_scatter(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """What each frame adds to the results of the next frame, of itself, and of the frame before.

    (N, C, H, W), (C_out, C, 3) -> three times (N, C_out, H, W).
    """
    c_out, c_in = weight.shape[:2]
    return F.conv2d(x, weight.permute(2, 0, 1).reshape(3 * c_out, c_in, 1, 1)).chunk(3, dim=1)


def _shift(x: Tensor, frames: int) -> Tensor:
    """Move frames along the first axis, later for positive `frames`; zeros come in at the end left empty."""
    if x.shape[0] <= abs(frames):
        return torch.zeros_like(x)
    end = torch.zeros_like(x[: abs(frames)])
    return torch.cat([end, x[:-frames]] if frames > 0 else [x[-frames:], end])

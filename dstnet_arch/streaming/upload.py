"""Frames on their way to the computing device."""

from __future__ import annotations

import torch
from torch import Tensor


class Uploader:
    """Copies frames to a device.

    On a GPU, copies are made from pinned memory in a CUDA stream of their own: the CPU does not wait for them, and they
    run during the computation. PyTorch does not reuse pinned memory before the copies from it are done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, frame: Tensor) -> Tensor:
        """Return the frame on the device, for use in the current CUDA stream. `frame` may be changed afterwards."""
        if self._device.type != 'cuda' or frame.device.type != 'cpu':
            return frame.to(self._device)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            copied = _pinned_copy(frame).to(self._device, non_blocking=True)
        current.wait_stream(self._stream)
        copied.record_stream(current)  # its memory belongs to the other stream, which must not reuse it too early
        return copied


def _pinned_copy(frame: Tensor) -> Tensor:
    """Copy a frame to pinned memory; without free memory of this kind, return the frame itself."""
    try:
        pinned = torch.empty_like(frame, pin_memory=True)
    except RuntimeError:
        return frame  # copies from it are slower, and no less safe
    return pinned.copy_(frame)


def to_floating_point(frame: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a frame, floating point or uint8, to `dtype`, in [0, 1].

    Levels are divided in float32 at least, which gives the same bits on all devices.
    """
    if frame.dtype != torch.uint8:
        return frame.to(dtype)
    levels = frame.to(torch.promote_types(dtype, torch.float32))
    # Not by a number: for that, CUDA multiplies by the rounded reciprocal.
    return (levels / torch.full((), 255, dtype=levels.dtype, device=levels.device)).to(dtype)

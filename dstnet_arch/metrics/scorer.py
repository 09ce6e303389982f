"""Compute the metrics that `val.metrics` names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dstnet_arch.data.frame_source import size_text
from dstnet_arch.errors import DataError
from dstnet_arch.metrics.psnr import batch_psnr
from dstnet_arch.metrics.ssim import ssim, ssim3d

# These give the same values as the functions registered under these names, but in batches, on any device, and on a CPU
# in at most half the time of stock BasicSR's.
_BATCHED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'calculate_psnr': batch_psnr,
    'calculate_ssim': ssim,
    'calculate_ssim3d': ssim3d,
}
_MINIMUM_SIDES = {'calculate_ssim': 11, 'calculate_niqe': 96}  # one window; one block


def least_side(opt: Mapping[str, Any]) -> int:
    """Return the shortest side of a frame, in pixels, that an entry of `val.metrics` can score."""
    return 2 * int(opt.get('crop_border') or 0) + _MINIMUM_SIDES.get(opt['type'], 1)


def needs_reference(opt: Mapping[str, Any]) -> bool:
    """Return True if the metric of an entry of `val.metrics` compares with ground truth, False e.g. for NIQE."""
    if opt['type'] in _BATCHED:
        return True
    from basicsr.utils.registry import METRIC_REGISTRY

    return 'img2' in inspect.signature(METRIC_REGISTRY.get(opt['type'])).parameters


class Scorer:
    """Score frames by the entries of `val.metrics`.

    PSNR, SSIM and SSIM-3D in colour are computed in batches on the frames' device. Any other metric, or one of these
    with other settings, is computed by the function registered with BasicSR, frame by frame on the CPU.

    Args:
        metrics: name -> options, including the `type` registered with BasicSR.

    Attributes:
        on_any_device: True if all metrics are computed in batches.
    """

    def __init__(self, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        self._metrics = [dict(opt) for opt in metrics.values()]
        self.on_any_device = all(map(_is_batched, self._metrics))

    def __call__(self, frames: Tensor, sharp: Tensor | None) -> list[tuple[float, ...]]:
        """Return the scores of each frame, in the order of the metrics.

        Args:
            frames: (N, 3, H, W) RGB in 0..255 on any device: uint8, or float64 for frames with more levels.
            sharp: the ground truth, same shape, type and device; may be None if no metric needs it.

        Raises:
            DataError: the frames differ in size from the ground truth, or are too small for one of the metrics.
        """
        size = size_text(frames.shape[-2:])
        if sharp is not None and sharp.shape != frames.shape:
            raise DataError(
                f'Frames of {size} cannot be scored against ground truth of {size_text(sharp.shape[-2:])}. Deblurring '
                'keeps the size: use ground truth of the same size.'
            )
        columns = []
        for opt in self._metrics:
            if min(frames.shape[-2:]) < (least := least_side(opt)):
                raise DataError(
                    f'Frames of {size} are too small for {opt["type"]}, which needs sides of at least {least} pixels. '
                    'Remove it from val:metrics, or use a smaller crop_border.'
                )
            if sharp is not None and _is_batched(opt):
                columns.append(_batch_scores(opt, frames, sharp))
            else:
                columns.append(_frame_scores(opt, frames, sharp))
        # One transfer for all metrics, because each waits for the device.
        return [tuple(row) for row in torch.stack(columns, dim=1).tolist()]


def to_picture(frame: Tensor) -> NDArray[Any]:
    """Convert (3, H, W) RGB on any device to (H, W, 3) BGR of the same type, as BasicSR's metrics and OpenCV expect."""
    return np.asarray(frame.flip(0).permute(1, 2, 0).contiguous().cpu().numpy())


def _is_batched(opt: Mapping[str, Any]) -> bool:
    border = opt.get('crop_border')
    special = opt.get('test_y_channel') or opt.get('input_order', 'HWC') != 'HWC'
    return opt['type'] in _BATCHED and isinstance(border, int) and border >= 0 and not special


def _batch_scores(opt: Mapping[str, Any], frames: Tensor, sharp: Tensor) -> Tensor:
    border, (height, width) = opt['crop_border'], frames.shape[-2:]
    inner = (..., slice(border, height - border), slice(border, width - border))
    return _BATCHED[opt['type']](frames[inner], sharp[inner])


def _frame_scores(opt: Mapping[str, Any], frames: Tensor, sharp: Tensor | None) -> Tensor:
    from basicsr.metrics import calculate_metric  # importing BasicSR registers the model, which imports this module

    data: list[dict[str, Any]] = [{'img': to_picture(frame)} for frame in frames]
    if sharp is not None:
        for entry, frame in zip(data, sharp, strict=True):
            entry['img2'] = to_picture(frame)
    scores = [float(calculate_metric(entry, opt)) for entry in data]
    return torch.tensor(scores, dtype=torch.float64, device=frames.device)

"""The scores that `val.metrics` names, computed where the frames are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dstnet_arch.data.frame_source import size_text
from dstnet_arch.errors import DataError
from dstnet_arch.metrics.psnr import batch_psnr
from dstnet_arch.metrics.ssim import RADIUS, ssim
from dstnet_arch.metrics.ssim3d import ssim3d

# By the types of the options files: with the same values as the functions registered there, but in batches, on any
# device, and on a CPU, too, in half the time or less of stock BasicSR's.
_IN_BATCHES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'calculate_psnr': batch_psnr,
    'calculate_ssim': ssim,
    'calculate_ssim3d': ssim3d,
}
# What has to be left of a side, where it is more than one pixel.
_LEAST_SIDES = {'calculate_ssim': 2 * RADIUS + 1}


def least_side(opt: Mapping[str, Any]) -> int:
    """The shortest side of a frame, in pixels, that an entry of `val.metrics` can score."""
    return 2 * int(opt.get('crop_border') or 0) + _LEAST_SIDES.get(opt['type'], 1)


class Scorer:
    """Scores frames by the entries of `val.metrics`.

    PSNR, SSIM and SSIM-3D in colour are computed in batches, on the frames' device; any other metric, or one with other
    settings, by the function that is registered with BasicSR, picture by picture on the CPU.

    Args:
        metrics: name -> options, among them the `type` as BasicSR's registry has it.

    Attributes:
        on_any_device: whether all scores are computed in batches.
    """

    def __init__(self, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        self._metrics = [dict(opt) for opt in metrics.values()]
        self.on_any_device = all(map(_in_batches, self._metrics))

    def __call__(self, restored: Tensor, sharp: Tensor) -> list[tuple[float, ...]]:
        """Score frames against the ground truth.

        Args:
            restored: (N, 3, H, W) uint8, RGB, on any device.
            sharp: the same, on the same device.

        Returns:
            For each frame its scores, in the order of the metrics.

        Raises:
            DataError: the frames are too small for one of them.
        """
        for opt in self._metrics:
            if min(sharp.shape[-2:]) < (least := least_side(opt)):
                raise DataError(
                    f'Frames of {size_text(sharp.shape[-2:])} are too small for {opt["type"]}, which wants sides of '
                    f'{least} pixels or more. Leave it out of val:metrics, or set its crop_border to 0.'
                )
        columns = [
            _batch_scores(opt, restored, sharp) if _in_batches(opt) else _picture_scores(opt, restored, sharp)
            for opt in self._metrics
        ]
        # One transfer for all of them: each waits for the device.
        scores: list[list[float]] = torch.stack(columns, dim=1).tolist()
        return [tuple(row) for row in scores]


def to_picture(levels: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) uint8, RGB, on any device -> (H, W, 3), BGR, as BasicSR's metrics and OpenCV want it."""
    return np.asarray(levels.flip(0).permute(1, 2, 0).contiguous().cpu().numpy(), np.uint8)


def _in_batches(opt: Mapping[str, Any]) -> bool:
    border = opt.get('crop_border')
    return (
        opt['type'] in _IN_BATCHES
        and isinstance(border, int)
        and border >= 0
        and not opt.get('test_y_channel')
        and opt.get('input_order', 'HWC') == 'HWC'
    )


def _batch_scores(opt: Mapping[str, Any], restored: Tensor, sharp: Tensor) -> Tensor:
    border, (height, width) = opt['crop_border'], restored.shape[-2:]
    inner = (..., slice(border, max(height - border, border)), slice(border, max(width - border, border)))
    return _IN_BATCHES[opt['type']](restored[inner], sharp[inner])


def _picture_scores(opt: Mapping[str, Any], restored: Tensor, sharp: Tensor) -> Tensor:
    from basicsr.metrics import calculate_metric  # not above: importing BasicSR registers the model, which needs Scorer

    pairs = zip(map(to_picture, restored), map(to_picture, sharp), strict=True)
    scores = [float(calculate_metric({'img': image, 'img2': target}, opt)) for image, target in pairs]
    return torch.tensor(scores, dtype=torch.float64, device=restored.device)

"""Scoring protocols: the rules by which papers score a test set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Over = Literal['frames', 'clips']
"""A mean over all frames of a set, or over the means of its videos."""


@dataclass(frozen=True)
class Protocol:
    """Rules for scoring restored frames against sharp ones.

    The blurry input is scored by the same rules. All frames are restored and saved, including those that are not
    scored. Frames are quantised to the bit depth of the data: 8 bits, or 16 bits for 16-bit images.

    Attributes:
        name: value of `val:protocol`.
        border_frames: number of frames at the start and at the end of each video that are not scored.
        truncates: truncate the network's output to whole levels instead of rounding; also for saved images.
        crop_border: pixels that are left out at each edge.
        ssim: BasicSR's name of the SSIM that is computed with PSNR; None: the metrics of `val:metrics`.
        over: what the mean of a set is taken over.
    """

    name: str
    border_frames: int = 0
    truncates: bool = False
    crop_border: int = 0
    ssim: str | None = None
    over: Over = 'frames'

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Metrics that replace those of `val.metrics`, in the same form; empty: no replacement."""
        types = {'psnr': 'calculate_psnr', 'ssim': self.ssim} if self.ssim else {}
        return {name: {'type': type_, 'crop_border': self.crop_border} for name, type_ in types.items()}

    def __str__(self) -> str:
        """Return a description for reports."""
        n = self.border_frames
        frames = f'without the first {n} and the last {n} frames of each video' if n else 'all frames'
        edges = f'without {self.crop_border} pixels at each edge, ' if self.crop_border else ''
        levels = 'truncated' if self.truncates else 'rounded'
        over = 'mean over all frames' if self.over == 'frames' else "mean over the videos' means"
        return f'{self.name}: {frames}, {edges}{levels} to the bit depth of the data, {over}'


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol('dstnet'),
        Protocol('basicsr', ssim='calculate_ssim', over='clips'),
        Protocol('cdvd', border_frames=2, crop_border=4, ssim='calculate_ssim'),
        Protocol('estrnn', border_frames=2, truncates=True, ssim='calculate_ssim'),
    )
}
"""The protocols as implemented in their authors' released code:

- dstnet: the paper's numbers. Its metrics, including `calculate_ssim3d`, are listed in the options files.
- basicsr: stock BasicSR's video models.
- cdvd: CDVD-TSP. It also crops frames to multiples of 4 pixels; the sizes of the usual sets are such multiples.
- estrnn: ESTRNN, for BSD. Its SSIM (scikit-image, Gaussian weights, sigma 1.5, no sample covariance) equals BasicSR's
  2-D SSIM.
"""

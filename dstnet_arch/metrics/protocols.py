"""How a test set is scored: the protocols in use, so that numbers can be compared with those of other papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Over = Literal['frames', 'clips']
"""What a mean is over: all frames of a set, or the means of its videos."""


@dataclass(frozen=True)
class Protocol:
    """One way of scoring restored frames against sharp ones.

    The blurry input is scored in the same way, for comparison. All frames are restored and saved, those that do not
    count, too.

    Attributes:
        name: what `val:protocol` calls it.
        border_frames: so many frames at the beginning and at the end of each video do not count.
        truncates: 255 times the network's output, clamped, loses its fraction on the way to 8 bits; else it is rounded.
            Saved pictures are made likewise, and frames that come from files are 8-bit already.
        crop_border: pixels along each edge that the scores leave out.
        ssim: BasicSR's name of the SSIM that goes with PSNR; None: the scores are those of `val:metrics`.
        over: what the mean of a set is over.
    """

    name: str
    border_frames: int = 0
    truncates: bool = False
    crop_border: int = 0
    ssim: str | None = None
    over: Over = 'frames'

    @property
    def metrics(self) -> dict[str, dict[str, Any]] | None:
        """The scores that take the place of `val:metrics`, in the same form; None: those stay."""
        if self.ssim is None:
            return None
        types = {'psnr': 'calculate_psnr', 'ssim': self.ssim}
        return {name: {'type': type_, 'crop_border': self.crop_border} for name, type_ in types.items()}

    def uncounted(self, videos: Mapping[str, Sequence[str]]) -> frozenset[tuple[str, str]]:
        """The frames that do not count, as (video, frame): all of them in a video of no more than twice the border.

        Args:
            videos: names of the videos and of all their frames, in order.
        """
        border = self.border_frames
        return frozenset(
            (video, frame)
            for video, frames in videos.items()
            for i, frame in enumerate(frames)
            if not border <= i < len(frames) - border
        )

    def __str__(self) -> str:
        """The protocol in words, for reports."""
        n = self.border_frames
        frames = f'the first {n} and the last {n} frames of a video do not count' if n else 'every frame counts'
        levels = 'truncated to 8 bits' if self.truncates else 'rounded to 8 bits'
        edges = f'without {self.crop_border} pixels along each edge' if self.crop_border else 'whole frames'
        scores = f'{edges}, ' if self.ssim else ''
        over = 'mean over all frames' if self.over == 'frames' else "mean of the videos' means"
        return f'{self.name}: {frames}, {levels}, {scores}{over}'


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol('dstnet'),
        Protocol('basicsr', ssim='calculate_ssim', over='clips'),
        Protocol('cdvd', border_frames=2, crop_border=4, ssim='calculate_ssim'),
        Protocol('estrnn', border_frames=2, truncates=True, ssim='calculate_ssim'),
    )
}
"""The protocols, as the code that their authors released has them:

- dstnet: the paper's numbers. Its SSIM, `calculate_ssim3d`, stands in the options files, as do all scores.
- basicsr: stock BasicSR's own video models.
- cdvd: CDVD-TSP. It also cuts frames to multiples of 4 pixels at the right and at the bottom; those of the usual sets
  are such multiples.
- estrnn: ESTRNN, for BSD. Its SSIM, scikit-image's with Gaussian weights, sigma 1.5 and without sample covariance, is
  the 2-D SSIM of BasicSR.
"""

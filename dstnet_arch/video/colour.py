"""Conversion between video samples (Y'CbCr or RGB, 8 to 16 bits) and RGB tensors.

FFmpeg's converter is a level or two off by default, more with subsampled chroma. Samples that the network does not
change must come out unchanged, so the formulas of ITU-T H.273 are computed here in float32. Pixel formats have FFmpeg's
names, colour tags H.273's numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Plane = NDArray[Any]
"""(H, W) uint8 or uint16; subsampled chroma planes are smaller."""

UNTAGGED = 2  # H.273: unspecified

_KR_KB = {  # weights of red and blue in luma, by matrix
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
}
KNOWN_MATRICES = (*_KR_KB, 0, UNTAGGED)
"""Supported matrix numbers of H.273; others are treated as untagged."""

_FORMAT = re.compile(r'(?:(yuv)(a?)j?(\d{3})p|(gbr)(a?)p|(gray))(9|1\d|)(?:le)?')
_SHIFTS = {'444': (0, 0), '440': (1, 0), '422': (0, 1), '420': (1, 1), '411': (0, 2), '410': (2, 2)}


class SampleFormat(NamedTuple):
    """Sample format of the planes of a frame.

    Attributes:
        family: Y'CbCr, RGB (planes in the order green, blue, red) or gray.
        depth: bits per sample, 8 to 16.
        shift: chroma has 2**-shift of the (rows, columns) of luma, rounded up.
        alpha: True if the last plane is alpha.
    """

    family: Literal['yuv', 'rgb', 'gray']
    depth: int
    shift: tuple[int, int] = (0, 0)
    alpha: bool = False

    @classmethod
    def parse(cls, name: str) -> SampleFormat | None:
        """Parse FFmpeg's name of a pixel format, such as yuv420p10le; None if it is not planar and little-endian."""
        match = _FORMAT.fullmatch(name)
        if match is None:
            return None
        yuv, yuv_alpha, chroma, rgb, rgb_alpha, _, depth = match.groups()
        family: Literal['yuv', 'rgb', 'gray'] = 'yuv' if yuv else 'rgb' if rgb else 'gray'
        return cls(family, int(depth or 8), _SHIFTS.get(chroma, (0, 0)), bool(yuv_alpha or rgb_alpha))

    @property
    def name(self) -> str:
        """FFmpeg's name of the pixel format; empty if there is none for this subsampling of chroma."""
        alpha, depth = 'a' * self.alpha, '' if self.depth == 8 else f'{self.depth}le'
        if self.family == 'gray':
            return f'gray{depth}'
        if self.family == 'rgb':
            return f'gbr{alpha}p{depth}'
        return next((f'yuv{alpha}{chroma}p{depth}' for chroma, shift in _SHIFTS.items() if shift == self.shift), '')

    @property
    def dtype(self) -> np.dtype[Any]:
        """Sample type of the planes."""
        return np.dtype(np.uint8 if self.depth == 8 else '<u2')

    def plane_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return (rows, columns) of each plane of a frame."""
        luma, chroma = (height, width), (-(-height >> self.shift[0]), -(-width >> self.shift[1]))
        planes = [luma] if self.family == 'gray' else [luma, chroma, chroma]
        return [*planes, luma] if self.alpha else planes


class Colour(NamedTuple):
    """Colour tags of a video file.

    Attributes:
        matrix: matrix coefficients of Y'CbCr.
        full: True for full range, False for limited range, None if untagged.
        primaries: colour primaries.
        transfer: transfer characteristics.
    """

    matrix: int = UNTAGGED
    full: bool | None = None
    primaries: int = UNTAGGED
    transfer: int = UNTAGGED

    def resolved(self, height: int, width: int, family: str) -> Colour:
        """Return these tags with the defaults of players for a missing matrix and range.

        The matrix is BT.601 up to 576 rows and 1279 columns, else BT.709. The range is limited for Y'CbCr, else full.
        """
        guess = 1 if height > 576 or width >= 1280 else 6
        matrix = self.matrix if self.matrix in _KR_KB else guess
        return self._replace(matrix=matrix, full=family != 'yuv' if self.full is None else self.full)


def to_rgb(planes: Sequence[Plane], form: SampleFormat, colour: Colour) -> Tensor:
    """Convert the planes of a frame to RGB (3, H, W), float32, clipped to [0, 1]. `colour` must be resolved."""
    low, span, chroma_span = _levels(form.depth, colour.full)
    samples = [torch.from_numpy(plane.astype(np.float32)) for plane in planes]
    luma = (samples[0] - low) / span
    if form.family == 'gray':
        return luma.expand(3, -1, -1).clamp(0, 1)
    if form.family == 'rgb':
        green, blue, red = ((plane - low) / span for plane in samples[:3])
        return torch.stack([red, green, blue]).clamp_(0, 1)
    kr, kb = _KR_KB[colour.matrix]
    chroma = (torch.stack(samples[1:3]) - (1 << form.depth - 1)) / chroma_span
    cb, cr = _upsample(chroma, form.shift)[:, : luma.shape[0], : luma.shape[1]]
    red, blue = luma + 2 * (1 - kr) * cr, luma + 2 * (1 - kb) * cb
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return torch.stack([red, green, blue]).clamp_(0, 1)


def from_rgb(rgb: Tensor, form: SampleFormat, colour: Colour, alpha: Tensor | None = None) -> list[Plane]:
    """Convert RGB (3, H, W), clipped to [0, 1], to planes.

    Args:
        rgb: frame on any device.
        form: sample format of the planes.
        colour: resolved tags.
        alpha: opacity (H, W) in [0, 1]; None: opaque.
    """
    rgb = rgb.float().clamp(0, 1)
    low, span, chroma_span = _levels(form.depth, colour.full)
    red, green, blue = rgb
    kr, kb = _KR_KB[colour.matrix]
    if form.family == 'rgb':
        values = [plane * span + low for plane in (green, blue, red)]
    else:
        luma = kr * red + (1 - kr - kb) * green + kb * blue
        values = [luma * span + low]
        if form.family == 'yuv':
            chroma = torch.stack([(blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))])
            values += (_downsample(chroma, form.shift) * chroma_span + (1 << form.depth - 1)).unbind()
    if form.alpha:
        opaque = torch.ones_like(red) if alpha is None else alpha.to(red)
        values.append(opaque * ((1 << form.depth) - 1))
    return [_quantise(plane, form) for plane in values]


def alpha_of(planes: Sequence[Plane], form: SampleFormat) -> Tensor | None:
    """Return the opacity (H, W), float32 in [0, 1]; None if there is none."""
    return torch.from_numpy(planes[-1].astype(np.float32)) / ((1 << form.depth) - 1) if form.alpha else None


def _levels(depth: int, full: bool | None) -> tuple[int, int, int]:
    """Return the black level and the spans of luma and chroma."""
    if full:
        return 0, (1 << depth) - 1, (1 << depth) - 1
    return 16 << depth - 8, 219 << depth - 8, 224 << depth - 8


def _quantise(plane: Tensor, form: SampleFormat) -> Plane:
    levels = plane.round().clamp_(0, (1 << form.depth) - 1).to(torch.int32 if form.depth > 8 else torch.uint8)
    return np.ascontiguousarray(levels.cpu().numpy().astype(form.dtype, copy=False))


# Chroma samples lie midway between rows and on every second (fourth) column: chroma location 0 of H.273, the usual one.
# Each downsampling filter, a low-pass, inverts the upsampling exactly.


def _upsample(chroma: Tensor, shift: tuple[int, int]) -> Tensor:
    for _ in range(shift[0]):
        padded = F.pad(chroma[None], (0, 0, 1, 1), 'replicate')[0]
        before, here, after = padded[:, :-2], chroma, padded[:, 2:]
        chroma = torch.stack([before + 3 * here, 3 * here + after], 2).flatten(1, 2) / 4
    for _ in range(shift[1]):
        after = F.pad(chroma[None], (0, 1, 0, 0), 'replicate')[0][..., 1:]
        chroma = torch.stack([chroma, (chroma + after) / 2], 3).flatten(2, 3)
    return chroma


def _downsample(chroma: Tensor, shift: tuple[int, int]) -> Tensor:
    for _ in range(shift[0]):
        rows = F.pad(chroma[None], (0, 0, 1, 1 + chroma.shape[1] % 2), 'replicate')[0]
        chroma = (3 * (rows[:, 1:-2:2] + rows[:, 2:-1:2]) - rows[:, :-3:2] - rows[:, 3::2]) / 4
    for _ in range(shift[1]):
        x = F.pad(chroma[None], (2, 2 + chroma.shape[2] % 2, 0, 0), 'replicate')[0]
        outer, inner = x[..., :-5:2] + x[..., 4:-1:2], x[..., 1:-4:2] + x[..., 3:-2:2]
        chroma = (6 * x[..., 2:-3:2] + 2 * inner - outer) / 8
    return chroma

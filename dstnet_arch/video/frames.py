"""Decoded video frames: their samples, and how they are to be displayed."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from av.sidedata.sidedata import Type
from av.video import VideoFrame
from torch import Tensor

from dstnet_arch.video.colour import KNOWN_MATRICES, Colour, Plane, SampleFormat, alpha_of, to_rgb

_HDR = {16: 'PQ', 18: 'HLG'}  # transfer functions of ITU-T H.273
_HIDDEN = {
    'A53_CC': 'closed captions',
    'SPHERICAL': '360° projection',
    'STEREO3D': 'stereo 3D layout',
    'DOVI_METADATA': 'Dolby Vision metadata',
    'DYNAMIC_HDR_PLUS': 'HDR10+ metadata',
}
_UPRIGHT = (1, 0, 0, 1)


class VideoFormat(NamedTuple):
    """Properties that a video file needs to show frames as the source does.

    Attributes:
        format: sample format.
        colour: colour tags.
        sample_aspect: width of a pixel divided by its height.
        mastering: HDR mastering display: red, green, blue and white as (x, y), then (max, min) luminance in cd/m².
        light_level: HDR content light level: maximum and frame average, in cd/m².
    """

    format: SampleFormat
    colour: Colour
    sample_aspect: Fraction = Fraction(1)
    mastering: tuple[tuple[Fraction, Fraction], ...] | None = None
    light_level: tuple[int, int] | None = None


class FrameKind(NamedTuple):
    """Properties that all frames of a video share.

    Attributes:
        size: (height, width) as stored.
        stored: format as stored; its sample format is that of `planes_of`.
        matrix: display matrix (a, b, c, d), each in {-1, 0, 1}: (x, y) is shown at (ax + cy, bx + dy).
    """

    size: tuple[int, int]
    stored: VideoFormat
    matrix: tuple[int, int, int, int]

    @classmethod
    def of(cls, frame: VideoFrame, sample_aspect: Fraction | None) -> FrameKind:
        """Return the kind of a frame of a stream with this sample aspect ratio."""
        form = _planar_format(frame)
        full = {1: False, 2: True}.get(frame.color_range, True if frame.format.name.startswith('yuvj') else None)
        matrix = 0 if form.family == 'rgb' else frame.colorspace  # unpacked RGB is RGB, whatever the file says
        colour = Colour(matrix, full, frame.color_primaries, frame.color_trc)
        stored = VideoFormat(form, colour, sample_aspect or Fraction(1), _mastering(frame), _light_level(frame))
        return cls((frame.height, frame.width), stored, _display_matrix(frame))

    @property
    def is_sideways(self) -> bool:
        """True if stored rows are shown as columns."""
        return self.matrix[0] == 0

    @property
    def shown_size(self) -> tuple[int, int]:
        """(height, width) as shown."""
        return self.size[::-1] if self.is_sideways else self.size

    @property
    def shown(self) -> VideoFormat:
        """Format of a file that stores the frames as they are shown."""
        if not self.is_sideways:
            return self.stored
        form = self.stored.format
        if form.shift[0] != form.shift[1]:
            form = form._replace(shift=(0, 0))
        # Players guess missing tags from the height, which changes.
        colour = self._resolved._replace(full=self.stored.colour.full)
        return self.stored._replace(format=form, colour=colour, sample_aspect=1 / self.stored.sample_aspect)

    def frame(self, planes: Sequence[Plane]) -> Tensor:
        """Convert planes to what is shown: (3, H, W), RGB in [0, 1]."""
        return self._turned(to_rgb(planes, self.stored.format, self._resolved))

    def alpha(self, planes: Sequence[Plane]) -> Tensor | None:
        """Return the opacity (H, W) as shown, in [0, 1]; None if there is none."""
        alpha = alpha_of(planes, self.stored.format)
        return None if alpha is None else self._turned(alpha)

    def warnings(self, path: Path) -> list[str]:
        """Describe properties that change the result."""
        found, colour = [], self.stored.colour
        if colour.transfer in _HDR:
            found.append(f'{path} is HDR ({_HDR[colour.transfer]}), but the network was trained on SDR.')
        if colour.matrix not in KNOWN_MATRICES:
            found.append(
                f'{path} has the colour matrix {colour.matrix} of ITU-T H.273, which is not supported. It is treated '
                'as untagged.'
            )
        return found

    @property
    def _resolved(self) -> Colour:
        return self.stored.colour.resolved(*self.size, self.stored.format.family)

    def _turned(self, x: Tensor) -> Tensor:
        a, b, c, d = self.matrix
        x = x.transpose(-1, -2) if self.is_sideways else x
        flipped = [dim for dim, sign in ((-1, a + c), (-2, b + d)) if sign < 0]
        return torch.flip(x, flipped) if flipped else x.contiguous()


def planes_of(frame: VideoFrame, kind: FrameKind | None = None) -> list[Plane]:
    """Return the samples of a frame, plane by plane.

    Packed formats are unpacked, without loss up to 16 bits.

    Args:
        frame: a decoded frame.
        kind: size and format to convert to, if the frame has others.
    """
    form = _planar_format(frame)
    height, width = frame.height, frame.width
    if kind is not None:
        form, (height, width) = kind.stored.format, kind.size
    if SampleFormat.parse(frame.format.name) != form or (frame.height, frame.width) != (height, width):
        frame = frame.reformat(width=width, height=height, format=form.name)
    planes = []
    for plane, (rows, columns) in zip(frame.planes, form.plane_sizes(height, width), strict=True):
        samples: Plane = np.frombuffer(memoryview(plane), form.dtype)
        lines = samples.reshape(-1, plane.line_size // form.dtype.itemsize)
        planes.append(np.ascontiguousarray(lines[:rows, :columns]))
    return planes


def hidden_side_data(frame: VideoFrame) -> set[str]:
    """Return display data of a frame that the result does not get, in words."""
    return {_HIDDEN[kind.name] for kind in Type if kind.name in _HIDDEN and _side_data(frame, kind) is not None}


def _planar_format(frame: VideoFrame) -> SampleFormat:
    """Return the planar format that holds all samples of a frame."""
    form = frame.format
    if planar := SampleFormat.parse(form.name):
        return planar
    depth = max(component.bits for component in form.components)
    alpha = any(component.is_alpha for component in form.components)
    if form.has_palette or form.is_rgb or form.is_bayer or len(form.components) < 3:
        return SampleFormat('rgb', 8 if depth <= 8 else 16, alpha=alpha or form.has_palette)
    depth = next(supported for supported in (8, 10, 12, 16) if depth <= supported)
    rows, columns = (16 // side for side in (form.chroma_height(16), form.chroma_width(16)))
    planar = SampleFormat('yuv', depth, (rows.bit_length() - 1, columns.bit_length() - 1))
    return planar._replace(shift=(0, 0), alpha=alpha) if alpha or not planar.name else planar


def _side_data(frame: VideoFrame, kind: Type) -> bytes | None:
    try:
        found: Any = frame.side_data.get(kind)  # type: ignore[call-overload]
    except ValueError:  # PyAV does not know the type of one of them, such as EXIF
        return None
    return None if found is None else bytes(found)


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    data = _side_data(frame, Type.DISPLAYMATRIX)
    if data is None:  # or unreadable: the rotation is known even then, counter-clockwise in degrees
        return {90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}.get(frame.rotation % 360, _UPRIGHT)
    values = np.frombuffer(data, '<i4')  # a, b, u, c, d, v, x, y, w; the first ones in 1/65536
    scale = max(1, int(np.abs(values[[0, 1, 3, 4]]).max()))
    a, b, c, d = (int(v) for v in np.rint(values[[0, 1, 3, 4]] / scale))
    return (a, b, c, d) if abs(a * d - b * c) == 1 and (a == d == 0 or b == c == 0) else _UPRIGHT


def _mastering(frame: VideoFrame) -> tuple[tuple[Fraction, Fraction], ...] | None:
    data = _side_data(frame, Type.MASTERING_DISPLAY_METADATA)  # AVMasteringDisplayMetadata
    if data is None:
        return None
    *numbers, has_primaries, has_luminance = np.frombuffer(data, '<i4')[:22].tolist()
    if not (has_primaries and has_luminance and all(numbers[1::2])):
        return None
    values = [Fraction(a, b) for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
    darkest, brightest = values[8:]
    return (*((values[i], values[i + 1]) for i in range(0, 8, 2)), (brightest, darkest))


def _light_level(frame: VideoFrame) -> tuple[int, int] | None:
    data = _side_data(frame, Type.CONTENT_LIGHT_LEVEL)
    if data is None:
        return None
    brightest, average = np.frombuffer(data, '<u4')[:2].tolist()
    return brightest, average

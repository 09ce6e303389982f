"""``dstnet deblur --report``: one HTML page about a restored video, which loads nothing from elsewhere.

It shows frames before and after under a slider, one column of pixels over time, the sharpness of each frame, settings
and times.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from PIL import Image

from dstnet_arch.deblur.compare import RGBImage
from dstnet_arch.errors import DataError
from dstnet_arch.files import atomic_file

_JPEG_QUALITY = 92
_MAX_WIDTH = 1920  # pixels of frames in the page; larger frames are scaled down
_MAX_POINTS = 1600  # columns of a profile and points of a curve; of a longer video, every n-th frame is shown
_MIN_PROFILE_WIDTH = 480  # pixels; columns of short videos are repeated


class Report:
    """Collects frames and writes the page.

    Keeps a few compressed frames, one column of pixels for at most 1600 frames, and two numbers for each frame.

    Args:
        title: heading of the page.
        names: names of the frames.
        facts: facts about the run, name -> value, in this order.
        num_shown: number of frames to show under a slider, evenly spaced.
    """

    def __init__(self, title: str, names: Sequence[str], facts: Mapping[str, str], num_shown: int = 5) -> None:
        self._title, self._names, self._facts = title, names, facts
        self._shown = spaced_positions(len(names), num_shown)
        self._every = -(-len(names) // _MAX_POINTS)
        self._frames: list[dict[str, Any]] = []
        self._columns: tuple[list[RGBImage], list[RGBImage]] = ([], [])
        self._sharpness: tuple[list[float], list[float]] = ([], [])
        self._width = 0

    def add(self, position: int, before: RGBImage, after: RGBImage) -> None:
        """Add the next frame.

        Args:
            position: its number.
            before: (H, W, 3) uint8 RGB.
            after: the same shape.
        """
        self._width = before.shape[1]
        for image, columns, values in zip((before, after), self._columns, self._sharpness, strict=True):
            values.append(sharpness(image))
            if position % self._every == 0:
                columns.append(image[:, self._width // 2].copy())  # a view would keep the frame in memory
        if position in self._shown:
            self._frames.append(
                {
                    'name': self._names[position],
                    'number': position,
                    'height': before.shape[0],
                    'width': self._width,
                    'before': _encode(before),
                    'after': _encode(after),
                }
            )

    def html(self) -> str:
        """Return the page."""
        from jinja2 import Environment  # imported here: the command starts faster without it

        template = files('dstnet_arch.deblur').joinpath('report.html.j2').read_text('utf-8')
        before, after = map(median, self._sharpness)
        return (
            Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
            .from_string(template)
            .render(
                title=self._title,
                facts=self._facts,
                frames=self._frames,
                column=self._width // 2,
                width=self._width,
                every=self._every,
                profiles=[_encode(_stretch(np.stack(columns, axis=1))) for columns in self._columns],
                chart=_chart(self._sharpness, self._every),
                median_before=f'{before:.4g}',
                median_after=f'{after:.4g}',
                ratio=f'{after / before:.2f}' if before else None,
            )
        )

    def save(self, path: Path) -> None:
        """Write the page, replacing an older one.

        Raises:
            DataError: It cannot be written.
        """
        try:
            with atomic_file(path) as file:
                file.write(self.html().encode(errors='replace'))  # names of files may be invalid UTF-8
        except OSError as error:
            raise DataError(f'Cannot write {path}: {error}. Free some space or correct the permissions.') from None


def sharpness(image: RGBImage) -> float:
    """Return the variance of the Laplacian of the luminance (0 to 255) of (H, W, 3) uint8 RGB."""
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def spaced_positions(num_frame: int, count: int) -> set[int]:
    """Return up to `count` evenly spaced positions including the first and the last; for a count of 1, the middle."""
    return {num_frame // 2} if count == 1 else {int(t) for t in np.linspace(0, num_frame - 1, count).round()}


def _stretch(profile: RGBImage) -> RGBImage:
    return profile.repeat(max(1, _MIN_PROFILE_WIDTH // profile.shape[1]), axis=1)


def _encode(image: RGBImage) -> str:
    """Return a JPEG file as a data URI."""
    picture = Image.fromarray(image)
    if picture.width > _MAX_WIDTH:
        picture = picture.resize((_MAX_WIDTH, max(1, round(picture.height * _MAX_WIDTH / picture.width))))
    file = io.BytesIO()
    picture.save(file, 'JPEG', quality=_JPEG_QUALITY)
    return _data_uri('image/jpeg', file)


def _chart(curves: tuple[list[float], list[float]], every: int) -> str:
    """Plot the sharpness before and after over the frames; return an SVG file as a data URI."""
    from matplotlib.figure import Figure  # imported here: it takes a second

    figure = Figure(figsize=(8, 3.2), layout='constrained')
    axes = figure.subplots()
    for name, style, values in zip(('before', 'after'), ('--', '-'), curves, strict=True):
        starts = range(0, len(values), every)
        means = [np.mean(values[start : start + every]) for start in starts]
        axes.plot(starts, means, style, label=name, marker='.' if len(values) <= 40 else '')
    axes.set(xlabel='frame', ylabel='sharpness', ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format='svg')
    return _data_uri('image/svg+xml', file)


def _data_uri(kind: str, file: io.BytesIO) -> str:
    return f'data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}'

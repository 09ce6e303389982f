"""Self-contained HTML pages: templates, images and charts in them. They load nothing from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dstnet_arch.errors import DataError
from dstnet_arch.files import output_file

RGBImage = NDArray[np.uint8]
"""(H, W, 3), RGB."""

MAX_POINTS = 1600
"""Columns of a temporal profile, and points of a curve; of a longer video, every n-th frame is shown."""

_JPEG_QUALITY = 92
_MAX_WIDTH = 1920  # pixels of images in a page; larger ones are scaled down
_MIN_PROFILE_WIDTH = 480  # pixels; columns of short videos are repeated


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader  # imported here: commands start faster without it

    return Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=PackageLoader('dstnet_arch', 'templates')
    )


def render(template: str, **values: Any) -> str:
    """Return the text of a template in the folder ``templates``, with values escaped."""
    text: str = _environment().get_template(template).render(**values)
    return text


def slider(name: str, before: RGBImage, after: RGBImage) -> str:
    """Return a frame before and after under a slider, as a part of a page that has the style ``parts.css``."""
    text: str = _environment().get_template('parts.html.j2').module.slider(frame_values(name, before, after))
    return text


def frame_values(name: str, before: RGBImage, after: RGBImage, note: str = '') -> dict[str, Any]:
    """Return what the templates need of a frame.

    Args:
        name: of the frame.
        before: (H, W, 3) uint8 RGB.
        after: the same shape.
        note: a remark for the caption.
    """
    height, width = before.shape[:2]
    return {
        'name': name,
        'height': height,
        'width': width,
        'note': note,
        'before': encode_image(before),
        'after': encode_image(after),
    }


def save_page(path: Path, text: str) -> None:
    """Write a page, replacing an older one.

    Raises:
        DataError: It cannot be written.
    """
    with output_file(path, DataError) as file:
        file.write(text.encode(errors='replace'))  # names of files may be invalid UTF-8


def encode_image(image: RGBImage) -> str:
    """Return a JPEG file as a data URI."""
    picture = Image.fromarray(image)
    if picture.width > _MAX_WIDTH:
        picture = picture.resize((_MAX_WIDTH, max(1, round(picture.height * _MAX_WIDTH / picture.width))))
    file = io.BytesIO()
    picture.save(file, 'JPEG', quality=_JPEG_QUALITY)
    return _data_uri('image/jpeg', file)


def encode_profile(profile: RGBImage) -> str:
    """Return a temporal profile (H, T, 3), one column of each frame, as a data URI."""
    return encode_image(profile.repeat(max(1, _MIN_PROFILE_WIDTH // profile.shape[1]), axis=1))


def spaced_positions(num_frame: int, count: int) -> set[int]:
    """Return up to `count` evenly spaced positions including the first and the last; for a count of 1, the middle."""
    return {num_frame // 2} if count == 1 else {int(t) for t in np.linspace(0, num_frame - 1, count).round()}


def line_chart(curves: Mapping[str, Sequence[float]], label: str, every: int = 1, from_zero: bool = False) -> str:
    """Plot curves over the frames; return an SVG file as a data URI.

    Args:
        curves: name -> value of each frame; the first one is dashed. Values that are not finite are left out.
        label: of the values.
        every: number of frames whose values are averaged to a point.
        from_zero: begin the axis at 0.
    """
    from matplotlib.figure import Figure  # imported here: it takes a second
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 3.2), layout='constrained')
    axes = figure.subplots()
    for style, (name, values) in zip(('--', '-'), curves.items(), strict=False):
        finite = np.where(np.isfinite(values), values, np.nan)
        starts = range(0, len(values), every)
        means = [np.mean(finite[start : start + every]) for start in starts]
        axes.plot(starts, means, style, label=name, marker='.' if len(values) <= 40 else '')
    axes.set(xlabel='frame', ylabel=label)
    if from_zero:
        axes.set_ylim(0, None)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format='svg')
    return _data_uri('image/svg+xml', file)


def _data_uri(kind: str, file: io.BytesIO) -> str:
    return f'data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}'

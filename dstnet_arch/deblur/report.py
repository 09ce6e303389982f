"""``dstnet deblur --report``: one HTML page about a restored video, which needs nothing but a browser.

Frames before and after under a slider, one column of pixels over time, the sharpness of every frame, the settings and
times. Everything is in the page itself; nothing is loaded from anywhere.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np

from dstnet_arch.deblur.report_page import FIGURE, PAGE, PROFILE, TABLE_ROW
from dstnet_arch.errors import DataError
from dstnet_arch.files import atomic_file
from dstnet_arch.visualize.canvas import Image, resize

_JPEG_QUALITY = 92
_MOST_WIDTH = 1920  # of frames in the page, in pixels: larger ones are made smaller
_MOST_COLUMNS = 1600  # of a profile, and of points in a chart: a longer video is shown in steps
_LEAST_PROFILE = 480  # pixels that a profile is stretched to, by repeating columns
_MOST_ROWS = 240  # of the table under the chart


class Sharpness(NamedTuple):
    """Variance of the Laplacian of a frame's luminance (0 to 255), before and after."""

    before: float
    after: float


def sharpness(image: Image) -> float:
    """Variance of the Laplacian of the luminance of (H, W, 3) uint8 RGB: grows with fine detail, and with noise."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(gray, cv2.CV_64F).var())


def spread_positions(num_frame: int, count: int) -> list[int]:
    """Up to `count` frames, evenly spread, the first and the last among them; of one, the middle frame."""
    if count == 1:
        return [num_frame // 2]
    return sorted({round(number * (num_frame - 1) / (count - 1)) for number in range(count)})


class Report:
    """An `Observer` that writes the page.

    In memory are the chosen frames, compressed, one column of pixels of at most 1600 frames and two numbers for each
    frame.

    Args:
        target: the page, ``.html``; an older one is replaced when the new one is whole.
        names: of the frames.
        facts: what to say of the run: name -> value, in this order.
        title: of the page.
        count: how many frames to show under a slider, evenly spread.
    """

    def __init__(
        self, target: Path, names: Sequence[str], facts: Mapping[str, str], title: str, count: int = 5
    ) -> None:
        self._target, self._names, self._facts, self._title = target, list(names), dict(facts), title
        self._shown = set(spread_positions(len(self._names), count))
        self._step = -(-len(self._names) // _MOST_COLUMNS)
        self._figures: list[str] = []
        self._columns: tuple[list[Image], list[Image]] = ([], [])
        self._sharpness: list[Sharpness] = []
        self._width = 0

    def see(self, position: int, before: Image, after: Image) -> None:
        self._width = before.shape[1]
        self._sharpness.append(Sharpness(sharpness(before), sharpness(after)))
        if position % self._step == 0:
            for columns, image in zip(self._columns, (before, after), strict=True):
                columns.append(image[:, self._width // 2].copy())  # a view would keep the whole frame
        if position in self._shown:
            self._figures.append(_figure(position, self._names[position], before, after))

    def finish(self) -> Path:
        try:
            with atomic_file(self._target) as file:
                file.write(self.page().encode(errors='replace'))  # names of files may be no UTF-8
        except OSError as error:
            raise DataError(
                f'{self._target} cannot be written: {error}. Free some space or mend the permissions.'
            ) from None
        return self._target

    def close(self) -> None:
        pass

    def page(self) -> str:
        """The page, of the frames that were seen."""
        values = self._sharpness
        before, after = median(v.before for v in values), median(v.after for v in values)
        return PAGE.substitute(
            title=html.escape(self._title),
            facts=_definitions(self._facts),
            figures='\n'.join(self._figures),
            profile=self._profile(),
            chart=chart(values),
            chart_steps=f', the mean of every {self._step} frames' if self._step > 1 else '',
            before=_digits(before),
            after=_digits(after),
            times=f', {after / before:.2f} times as much' if before > 0 else '',
            rows=self._rows(),
        )

    def _profile(self) -> str:
        images = [np.stack(columns, axis=1) for columns in self._columns]
        factor = max(1, _LEAST_PROFILE // images[0].shape[1])
        before, after = (_data_uri(image.repeat(factor, axis=1)) for image in images)
        which = f'one of every {self._step} frames' if self._step > 1 else 'every frame'
        return PROFILE.substitute(before=before, after=after, column=self._width // 2, width=self._width, which=which)

    def _rows(self) -> str:
        chosen = range(0, len(self._names), -(-len(self._names) // _MOST_ROWS))
        return '\n'.join(
            TABLE_ROW.substitute(
                name=html.escape(self._names[t]),
                before=_digits(self._sharpness[t].before),
                after=_digits(self._sharpness[t].after),
            )
            for t in chosen
        )


def chart(values: Sequence[Sharpness]) -> str:
    """Sharpness over time as SVG, with axes and labels; colours and fonts are the page's.

    More than 1600 frames are drawn as means of some frames each.
    """
    step = -(-len(values) // _MOST_COLUMNS)
    groups = [values[start : start + step] for start in range(0, len(values), step)]
    times = [start + (len(group) - 1) / 2 for start, group in zip(range(0, len(values), step), groups, strict=True)]
    lines = [
        ('before', [float(np.mean([v.before for v in group])) for group in groups]),
        ('after', [float(np.mean([v.after for v in group])) for group in groups]),
    ]
    left, top, right, bottom = 62, 14, 426, 210
    y_ticks = _ticks(0, max(max(line) for _, line in lines) or 1)
    x_ticks = [t for t in _ticks(0, max(len(values) - 1, 1)) if t == int(t)]

    def x(time: float) -> float:
        return left + (right - left) * time / max(len(values) - 1, 1)

    def y(value: float) -> float:
        return bottom - (bottom - top) * value / y_ticks[-1]

    parts = []
    for tick in y_ticks:
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        if tick <= max(len(values) - 1, 0):
            parts.append(f'<line class="axis" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
            parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<path class="axis" d="M{left} {top}V{bottom}H{right}"/>')
    parts.append(f'<text x="{(left + right) / 2}" y="{bottom + 38}" text-anchor="middle">frame</text>')
    parts.append(
        f'<text x="14" y="{(top + bottom) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(top + bottom) / 2})">sharpness</text>'
    )
    for name, line in lines:
        points = [(x(time), y(value)) for time, value in zip(times, line, strict=True)]
        parts.append(f'<polyline class="{name}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>')
        if len(points) <= 40:
            parts += [f'<circle class="{name}" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>' for a, b in points]
    return '\n'.join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to at least `high`, four to six of them."""
    raw = (high - low) / 4
    unit = 10.0 ** np.floor(np.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * (1 - 1e-9))
    return [float(round(low + step * number, 12)) for number in range(int(np.ceil((high - low) / step - 1e-9)) + 1)]


def _figure(position: int, name: str, before: Image, after: Image) -> str:
    height, width = before.shape[:2]
    note = ''
    if width > _MOST_WIDTH:
        height = max(1, round(height * _MOST_WIDTH / width))
        note = f' (made smaller from {width} pixels of width)'
        width = _MOST_WIDTH
        before, after = resize(before, height, width), resize(after, height, width)
    return FIGURE.substitute(
        number=position,
        name=html.escape(name),
        note=note,
        width=width,
        height=height,
        before=_data_uri(before),
        after=_data_uri(after),
    )


def _data_uri(image: Image) -> str:
    data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    return f'data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}'


def _definitions(facts: Mapping[str, str]) -> str:
    pairs: Iterable[tuple[str, str]] = ((html.escape(key), html.escape(value)) for key, value in facts.items())
    return '\n'.join(f'<div><dt>{key}</dt><dd>{value}</dd></div>' for key, value in pairs)


def _digits(value: float) -> str:
    return f'{value:.4g}' if value < 1000 else f'{value:.0f}'

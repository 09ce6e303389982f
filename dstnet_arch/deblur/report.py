"""``dstnet deblur --report``: one HTML page about a restored video.

It shows frames before and after under a slider, one column of pixels over time, the sharpness of each frame, settings
and times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import cv2
import numpy as np

from dstnet_arch.html import (
    MAX_POINTS,
    RGBImage,
    encode_profile,
    frame_values,
    line_chart,
    render,
    spaced_positions,
)


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
        self._every = -(-len(names) // MAX_POINTS)
        self._frames: list[dict[str, Any]] = []
        self._columns: tuple[list[RGBImage], list[RGBImage]] = ([], [])
        self._sharpness: dict[str, list[float]] = {'before': [], 'after': []}
        self._width = 0

    def add(self, position: int, before: RGBImage, after: RGBImage) -> None:
        """Add the next frame.

        Args:
            position: its number.
            before: (H, W, 3) uint8 RGB.
            after: the same shape.
        """
        self._width = before.shape[1]
        for image, columns, values in zip((before, after), self._columns, self._sharpness.values(), strict=True):
            values.append(sharpness(image))
            if position % self._every == 0:
                columns.append(image[:, self._width // 2].copy())  # a view would keep the frame in memory
        if position in self._shown:
            name = self._names[position]
            number = '' if name.lstrip('0') in ('', str(position)) else f'number {position}'
            self._frames.append(frame_values(name, before, after, number))

    def html(self) -> str:
        """Return the page."""
        before, after = map(median, self._sharpness.values())
        return render(
            'deblur_report.html.j2',
            title=self._title,
            facts=self._facts,
            frames=self._frames,
            column=self._width // 2,
            width=self._width,
            every=self._every,
            profiles=[encode_profile(np.stack(columns, axis=1)) for columns in self._columns],
            chart=line_chart(self._sharpness, 'sharpness', self._every, from_zero=True),
            median_before=f'{before:.4g}',
            median_after=f'{after:.4g}',
            ratio=f'{after / before:.2f}' if before else None,
        )


def sharpness(image: RGBImage) -> float:
    """Return the variance of the Laplacian of the luminance (0 to 255) of (H, W, 3) uint8 RGB."""
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())

"""Tiny videos whose pixel values say where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from data_utils import Pixels

HEIGHT, WIDTH = 20, 24
# Numbering starts anywhere and is not always padded: natural order differs from text order.
CLIPS = {
    'GOPR0372_07_00': [f'{number:06d}' for number in range(47, 54)],
    'b10': ['8', '9', '10', '11'],
    'b9': ['1', '2', '3'],
}
VIDEOS = {'GOPR0372_07_00': CLIPS['GOPR0372_07_00'], 'b9': CLIPS['b9'], 'b10': CLIPS['b10']}
"""CLIPS in natural order."""


def picture(clip: str, frame: str, height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    """RGB: the row, the column, and the frame's number plus ten times the clip's."""
    rows, columns = np.mgrid[:height, :width]
    number = np.full_like(rows, int(frame) + 10 * sorted(CLIPS).index(clip))
    return np.stack([rows, columns, number], -1).astype(np.uint8)


def sharp(image: Pixels) -> Pixels:
    """Ground truth that commutes with crops and flips."""
    return 255 - image


def pictures_of(clips: Mapping[str, Iterable[str]] = CLIPS, **size: int) -> dict[str, Pixels]:
    return {f'{clip}/{frame}': picture(clip, frame, **size) for clip, frames in clips.items() for frame in frames}

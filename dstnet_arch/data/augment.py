"""Random crops and symmetries of the square, one for all frames of a clip."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Window: TypeAlias = tuple[slice, slice]
"""Rows and columns of a picture."""


class Augmentation(NamedTuple):
    """A square crop, then flips, then a transposition; the three together reach the square's eight symmetries."""

    top: int
    left: int
    size: int
    hflip: bool
    vflip: bool
    transpose: bool

    @property
    def window(self) -> Window:
        """The crop: what is needed of a frame."""
        return slice(self.top, self.top + self.size), slice(self.left, self.left + self.size)

    def flip(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What is to be done to the crop: (size, size, 3) -> the same shape, a view."""
        image = crop
        if self.hflip:
            image = image[:, ::-1]
        if self.vflip:
            image = image[::-1]
        if self.transpose:
            image = image.transpose(1, 0, 2)
        return image


def draw_augmentation(
    rng: np.random.Generator, height: int, width: int, size: int, use_hflip: bool, use_rot: bool
) -> Augmentation:
    """Draw a crop of `size` pixels a side in a frame of (height, width), and the flips that are allowed.

    `use_hflip` allows the horizontal flip; `use_rot` the vertical flip and the transposition, by which quarter turns
    come about. Each has a chance of one half.
    """
    top = int(rng.integers(height - size + 1))
    left = int(rng.integers(width - size + 1))
    # All are drawn, so that one option does not change what another one does.
    hflip, vflip, transpose = (bool(flip) for flip in rng.integers(2, size=3))
    return Augmentation(top, left, size, use_hflip and hflip, use_rot and vflip, use_rot and transpose)

"""Random crops, flips and transpositions, the same for all frames of a clip."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dstnet_arch.data.image_file import Pixels, Window


class Augmentation(NamedTuple):
    """A square crop, then flips, then a transposition: together the eight symmetries of the square.

    Attributes:
        top: first row of the crop.
        left: first column of the crop.
        size: side of the crop in pixels.
        hflip: reverse the columns.
        vflip: reverse the rows.
        transpose: exchange rows and columns.
    """

    top: int
    left: int
    size: int
    hflip: bool
    vflip: bool
    transpose: bool

    @property
    def window(self) -> Window:
        """Rows and columns of the crop."""
        return slice(self.top, self.top + self.size), slice(self.left, self.left + self.size)

    def flip(self, crop: Pixels) -> Pixels:
        """Apply flips and transposition to the crop: (size, size, 3) -> a view of the same shape."""
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
    """Draw a random crop and random flips, each with probability 1/2.

    Args:
        rng: random numbers.
        height: of the frames in pixels.
        width: of the frames in pixels.
        size: side of the crop in pixels.
        use_hflip: allow the horizontal flip.
        use_rot: allow the vertical flip and the transposition, which together with the horizontal flip make quarter
            turns.
    """
    top = int(rng.integers(height - size + 1))
    left = int(rng.integers(width - size + 1))
    # All are drawn, so that one option does not change the draws of another.
    hflip, vflip, transpose = (bool(flip) for flip in rng.integers(2, size=3))
    return Augmentation(top, left, size, use_hflip and hflip, use_rot and vflip, use_rot and transpose)

"""Random crops, flips and transpositions, the same for all frames of a clip."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dstnet_arch.data.image_file import Pixels, Window


class Augmentation(NamedTuple):
    """A crop, then flips, then a transposition: together the eight symmetries of the square.

    Attributes:
        window: rows and columns of the crop, which is a square.
        hflip: reverse the columns.
        vflip: reverse the rows.
        transpose: exchange rows and columns.
    """

    window: Window
    hflip: bool
    vflip: bool
    transpose: bool

    def flip(self, crop: Pixels) -> Pixels:
        """Apply flips and transposition to the crop: (size, size, 3) of the same shape, contiguous."""
        image = crop[:: -1 if self.vflip else 1, :: -1 if self.hflip else 1]
        # Copied always: NumPy calls a single row contiguous whatever its strides are, PyTorch does not.
        return (image.transpose(1, 0, 2) if self.transpose else image).copy()


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
    window = slice(top, top + size), slice(left, left + size)
    return Augmentation(window, use_hflip and hflip, use_rot and vflip, use_rot and transpose)

"""Random crops and symmetries of the square, one for all frames of a clip."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Augmentation(NamedTuple):
    """A square crop, then flips, then a transposition; the three together reach the square's eight symmetries."""

    top: int
    left: int
    size: int
    hflip: bool
    vflip: bool
    transpose: bool

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) -> (size, size, 3), contiguous and independent of `image`."""
        image = image[self.top : self.top + self.size, self.left : self.left + self.size]
        if self.hflip:
            image = image[:, ::-1]
        if self.vflip:
            image = image[::-1]
        if self.transpose:
            image = image.transpose(1, 0, 2)
        return image.copy(order='C')


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

"""Interface of a video to restore."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from torch import Tensor

from dstnet_arch.errors import DataError
from dstnet_arch.video.frames import VideoFormat
from dstnet_arch.video.images import Image, ImageKind, to_image
from dstnet_arch.video.timing import Timing

Place = int | Fraction
"""A place in a video: a frame number (from 0, or from -1 backward), or seconds after the first frame."""


class Source(ABC):
    """A video whose frames can be read in any order.

    Attributes:
        size: (height, width) of every frame.
        names: unique names of the frames.
        warnings: what the user should know.
        timing: times of the frames.
        path: the file; None for several images.
        media: the file to take other streams from: `path`, or a copy with a continuous clock; None for images.
        stream_index: index of the video stream in `media`.
        is_cut: True if frames of the file are left out.
        cut_duration: duration of what is kept of the file, in seconds on its own clock.
    """

    size: tuple[int, int]
    names: list[str]
    warnings: list[str]
    timing: Timing
    path: Path | None = None
    media: Path | None = None
    stream_index = 0
    is_cut = False
    cut_duration = Fraction(0)

    @property
    @abstractmethod
    def format(self) -> VideoFormat:
        """Format of a video file that shows the frames as the source does.

        Raises:
            DataError: the source cannot be read.
        """

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def __getitem__(self, position: int) -> Tensor:
        """Return a frame: (3, H, W), RGB in [0, 1].

        Raises:
            DataError: it cannot be read.
        """

    @abstractmethod
    def kind(self, position: int) -> ImageKind:
        """Return the kind of image that shows a frame as the source does."""

    @abstractmethod
    def alpha(self, position: int) -> Tensor | None:
        """Return the opacity (H, W) of a frame, in [0, 1]; None if it has none."""

    @abstractmethod
    def identity(self) -> str:
        """Return a digest that changes when the source changes."""

    def restored_image(self, position: int, restored: Tensor) -> Image:
        """Convert a restored frame (3, H, W) to an image of the kind that the source has at `position`."""
        kind = self.kind(position)
        image = to_image(restored, kind)
        alpha = self.alpha(position) if kind.alpha else None
        if alpha is None:
            return image
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        return np.dstack([image, to_image(alpha[None], ImageKind(True, False, kind.dtype))])

    def icc_profile(self, position: int) -> bytes | None:
        """Return the colour profile of a frame; None if it has none."""
        return None

    def close(self) -> None:
        """Free memory and temporary files."""
        return


def frame_numbers(seconds: Sequence[Fraction], name: object, start: Place | None, end: Place | None) -> range:
    """Return the frames from `start` to before `end`; a time means the first frame shown then or later.

    Args:
        seconds: time of each frame after the first one.
        name: the video, for messages.
        start: first frame to use.
        end: first frame after `start` not to use.

    Raises:
        DataError: there is no frame between `start` and `end`.
    """
    places = [bisect_left(seconds, place) if isinstance(place, Fraction) else place for place in (start, end)]
    if chosen := range(len(seconds))[slice(*places)]:
        return chosen
    raise DataError(f'{name}: none of its frames 0 to {len(seconds) - 1} is between --start and --end.')


def digest_of(paths: Iterable[Path], *settings: object) -> str:
    """Return a digest of the names, sizes and times of files, and of settings."""
    stats = ((path.name, path.stat()) for path in paths)
    facts = [f'{name}\t{stat.st_size}\t{stat.st_mtime_ns}' for name, stat in stats]
    return hashlib.sha256('\n'.join([*facts, *map(str, settings)]).encode('utf-8', 'surrogateescape')).hexdigest()

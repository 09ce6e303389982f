"""Interface of a video to restore."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from dstnet_arch.errors import DataError
from dstnet_arch.video.frames import VideoFormat
from dstnet_arch.video.images import Image
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
        path: the video file; None for images.
        media: the file to take other streams from: `path`, or a copy with a continuous clock.
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
    def restored_image(self, position: int, restored: Tensor) -> Image:
        """Convert a restored frame (3, H, W) to an image of the kind that the source has at `position`."""

    @abstractmethod
    def alpha(self, position: int) -> Tensor | None:
        """Return the opacity (H, W) of a frame, in [0, 1]; None if it has none."""

    def icc_profile(self, position: int) -> bytes | None:
        """Return the colour profile of a frame; None if it has none."""
        return None

    @abstractmethod
    def identity(self) -> str:
        """Return a digest that changes when the source changes."""

    def close(self) -> None:
        """Free memory and temporary files."""
        return


def frame_numbers(seconds: Sequence[Fraction], *places: Place | None) -> list[int | None]:
    """Return frame numbers for places; a time means the first frame shown then or later."""
    return [place if isinstance(place, int | None) else bisect_left(seconds, place) for place in places]


def file_facts(path: Path) -> str:
    """Return what identifies a version of a file."""
    stat = path.stat()
    return f'{path.name}\t{stat.st_size}\t{stat.st_mtime_ns}'


def digest(facts: str) -> str:
    """Return a digest of facts."""
    return hashlib.sha256(facts.encode('utf-8', 'surrogateescape')).hexdigest()


def nothing_chosen(name: object, count: int, start: Place | None, end: Place | None) -> DataError:
    """Return the error for `start` and `end` without a frame between them."""
    first, last = (
        f'{float(p):g} s' if isinstance(p, Fraction) else p for p in (start or 0, count if end is None else end)
    )
    return DataError(
        f'{name} has {count} frames, 0 to {count - 1}; none of them is between --start {first} and --end {last}.'
    )

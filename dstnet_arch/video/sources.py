"""Videos to restore. A source is what `Streamer` reads, with what is needed to write the result in the same kind.

Here: pictures in a folder. Video files are in `video_source`, which needs PyAV.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from dstnet_arch.data.frame_source import IMAGE_EXTENSIONS, name_some, size_text
from dstnet_arch.data.lmdb_format import natural_key
from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.video.colour import Colour, SampleFormat
from dstnet_arch.video.images import (
    Kind,
    Picture,
    is_picture,
    read_picture,
    to_alpha,
    to_frame,
    to_picture,
    upright_size,
)

VIDEO_EXTENSIONS = (
    '.mp4', '.mkv', '.mov', '.avi', '.webm', '.m4v', '.mpg', '.mpeg', '.ts', '.wmv', '.flv', '.mts', '.m2ts', '.mxf',
    '.ogv', '.3gp', '.nut', '.y4m', '.vob', '.asf', '.gif',
)  # fmt: skip

_NUMBERED = re.compile(r'%0?\d*d')  # as ffmpeg has it: frames/%05d.png
_LAST_NUMBER = re.compile(r'(.*?)(\d+)(\D*)')


DEFAULT_RATE = Fraction(24)
"""Frames a second of a video that is made of pictures."""

Place = int | Fraction
"""A place in a video: the number of a frame, from 0 or backward from -1; or seconds since the first one is shown."""


class Look(NamedTuple):
    """What a video file must be like to show a source as it is.

    Attributes:
        format: of the samples.
        colour: its tags; where `format` is not the video file's, they are to be resolved first.
        sample_aspect: width of a pixel by its height.
    """

    format: SampleFormat
    colour: Colour
    sample_aspect: Fraction = Fraction(1)


class Timing(NamedTuple):
    """When the frames of a source are shown.

    Attributes:
        time_base: seconds in a unit.
        times: of each frame, in units since `origin`, rising.
        last_duration: of the last frame, in units.
        rate: frames a second, on average.
        origin: when the result begins in the source's own time, in seconds.
    """

    time_base: Fraction
    times: list[int]
    last_duration: int
    rate: Fraction
    origin: Fraction = Fraction(0)

    @classmethod
    def constant(cls, rate: Fraction, count: int) -> Timing:
        """Of frames that are shown equally long."""
        return cls(1 / rate, list(range(count)), 1, rate)


class Source(ABC):
    """A video that can be read again, in any order.

    Attributes:
        size: (height, width) of every frame.
        names: of the frames, unique.
        warnings: what its user should know.
        timing: of the frames.
        path: the video file that all is read from; None where there are pictures.
        is_cut: whether frames of that file are left out.
    """

    size: tuple[int, int]
    names: list[str]
    warnings: list[str]
    timing: Timing
    path: Path | None = None
    is_cut = False

    @property
    @abstractmethod
    def look(self) -> Look:
        """As it is in a video file.

        Raises:
            DataError: it cannot be read.
        """

    @property
    def format(self) -> Look:
        """The new name of `look`."""
        return self.look

    def restored_image(self, position: int, restored: Tensor) -> Picture:
        """The new name of `restored_picture`."""
        return self.restored_picture(position, restored)

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def __getitem__(self, position: int) -> Tensor:
        """A frame: (3, H, W), RGB in [0, 1].

        Raises:
            DataError: it cannot be read.
        """

    @abstractmethod
    def restored_picture(self, position: int, restored: Tensor) -> Picture:
        """A restored frame (3, H, W) as a picture of the kind that the source has there, which was read before."""

    @abstractmethod
    def alpha(self, position: int) -> Tensor | None:
        """Opacity (H, W) of a frame, in [0, 1]; None where it has none."""

    @abstractmethod
    def identity(self) -> str:
        """Changes when the source changes."""

    def close(self) -> None:
        """Give back what reading takes. Frames can be read after it, too."""
        return


class PictureSource(Source):
    """Picture files, one a frame.

    All headers are read at once, so that what does not fit together is said before any work.

    Args:
        paths: in the order of time, at least one.
        where: what the user has called them.
        rate: frames a second.

    Raises:
        DataError: they are no video: unreadable, of different sizes, or two of one name.
    """

    def __init__(self, paths: Sequence[Path], where: str, rate: Fraction = DEFAULT_RATE) -> None:
        self.paths, self.names = list(paths), [path.stem for path in paths]
        if twice := [name for name, count in Counter(self.names).items() if count > 1]:
            both = [str(path) for path in paths if path.stem == twice[0]]
            raise DataError(
                f'{where}: {" and ".join(both[:2])} would both be restored to {twice[0]}.png. Keep one of them, or '
                'name a pattern such as "FOLDER/*.png".'
            )
        sizes = [upright_size(path) for path in paths]
        self.size = Counter(sizes).most_common(1)[0][0]
        others = [f'{path.name} ({size_text(s)})' for path, s in zip(paths, sizes, strict=True) if s != self.size]
        if others:
            raise DataError(
                f'{where}: a video has frames of one size. Most are {size_text(self.size)}, but not '
                f'{name_some(others)}. Put each video into a folder of its own.'
            )
        self.warnings = [f'{where}: {gap}' for gap in _gaps(self.names)]
        self._kinds: dict[int, Kind] = {}
        self.timing = Timing.constant(rate, len(self.paths))

    @property
    def look(self) -> Look:
        kind = Kind.of(self._read(0))
        return Look(SampleFormat('rgb', 16 if kind.dtype == np.uint16 else 8, alpha=kind.alpha), Colour())

    def __getitem__(self, position: int) -> Tensor:
        picture = self._read(position)
        self._kinds[position] = Kind.of(picture)
        return to_frame(picture)

    def restored_picture(self, position: int, restored: Tensor) -> Picture:
        kind = self._kinds[position]
        picture = to_picture(restored, kind)
        if kind.alpha:  # as it was: transparency has no blur to be removed
            original = self._read(position)
            original[..., :3] = picture
            return original
        return picture

    def alpha(self, position: int) -> Tensor | None:
        return to_alpha(self._read(position))

    def identity(self) -> str:
        return identity_of(''.join(f'{file_facts(path)}\n' for path in self.paths))

    def _read(self, position: int) -> Picture:
        path = self.paths[position]
        picture = read_picture(path)
        if picture.shape[:2] != self.size:
            raise DataError(
                f'{path} is {size_text(picture.shape[:2])} now, and was {size_text(self.size)}: it was changed '
                'meanwhile. Start again.'
            )
        return picture


def open_source(
    name: str,
    start: Place | None = None,
    end: Place | None = None,
    rate: Fraction | None = None,
    temp_dir: str | None = None,
    show_progress: bool = False,
) -> Source:
    """The video that a user names.

    Args:
        name: a video file, a folder with pictures in it, a picture, or a pattern for pictures: ``'frames/*.png'`` or
            ``frames/%05d.png``.
        start: the first frame to take.
        end: the first one after `start` not to take.
        rate: frames a second of pictures; a video file has its own.
        temp_dir: folder for temporary files; None: the system's.
        show_progress: a bar on standard error, if it takes long.

    Raises:
        DataError: there is no video.
        OptionsError: a rate is given for a video file.
    """
    path = Path(name)
    if path.is_file() and not is_picture(path):
        if rate is not None:
            raise OptionsError(f'--fps {rate} is for pictures; {name} is a video file, and keeps its own timing.')
        return _open_video(path, start, end, temp_dir, show_progress)
    paths = sorted(_find(name), key=lambda path: natural_key(path.name))
    if not paths:
        raise DataError(
            f'{name} holds no pictures, which are files ending in {", ".join(IMAGE_EXTENSIONS)}. {_hint(name)}'
        )
    rate = rate or DEFAULT_RATE
    numbers = [None if place is None else place_to_number(place, rate) for place in (start, end)]
    chosen = paths[slice(*numbers)]
    if not chosen:
        raise nothing_chosen(name, len(paths), start, end)
    return PictureSource(chosen, name, rate)


def place_to_number(place: Place, rate: Fraction) -> int:
    """Of the first frame that is shown at that time or later, where all are shown equally long."""
    return place if isinstance(place, int) else -(-place * rate // 1)


def file_facts(path: Path) -> str:
    """By what a file is known: its name, size and time of change, for `identity_of`."""
    stat = path.stat()
    return f'{path.name}\t{stat.st_size}\t{stat.st_mtime_ns}'


def identity_of(facts: str) -> str:
    """A `Source.identity`, of all that tells a source from others."""
    return hashlib.sha256(facts.encode('utf-8', 'surrogateescape')).hexdigest()


def nothing_chosen(name: object, count: int, start: Place | None, stop: Place | None) -> DataError:
    """What to say when `start` and `stop` leave nothing."""
    first, last = (f'{float(p):g} s' if isinstance(p, Fraction) else p for p in (start or 0, stop or count))
    return DataError(
        f'{name} has {count} frames, 0 to {count - 1}, of which none lies between --start {first} and --end {last}.'
    )


def _open_video(
    path: Path, start: Place | None, stop: Place | None, temp_dir: str | None, show_progress: bool
) -> Source:
    if find_spec('av'):
        from dstnet_arch.video.video_source import VideoSource

        return VideoSource(path, start, stop, temp_dir, show_progress)
    from dstnet_arch.video.video_mmcv import MmcvSource

    return MmcvSource(path, start, stop, temp_dir)


def _find(name: str) -> list[Path]:
    path = Path(name)
    try:
        if path.is_dir():
            return [entry for entry in path.iterdir() if _is_picture(entry)]
        if path.is_file():
            return [path]  # whatever it is called: its content decides
        if _NUMBERED.search(path.name):
            return _numbered(path)
        return [match for match in map(Path, glob.glob(name)) if _is_picture(match)]
    except OSError as error:
        raise DataError(f'{name} cannot be read: {error}.') from None


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith('.') and path.is_file()


def _numbered(path: Path) -> list[Path]:
    """Files of a pattern with one %d in it."""
    pattern = r'\d+'.join(map(re.escape, _NUMBERED.split(path.name)))
    return [entry for entry in path.parent.iterdir() if re.fullmatch(pattern, entry.name)]


def _hint(name: str) -> str:
    if not os.path.exists(name):
        return f'It does not exist; the current folder is {os.getcwd()}.'
    entries = sorted(Path(name).iterdir())
    folders = [entry.name for entry in entries if entry.is_dir()]
    videos = [entry.name for entry in entries if entry.suffix.lower() in VIDEO_EXTENSIONS]
    if videos:
        return f'There are video files in it ({name_some(videos)}): give one of them.'
    return f'There are folders in it ({name_some(folders)}): give one of them.' if folders else 'Give another one.'


def _gaps(names: Sequence[str]) -> list[str]:
    """What seems to be missing where the names are numbers, counted by ones or by any other constant step."""
    matches = [_LAST_NUMBER.fullmatch(name) for name in names]
    numbers = [int(match[2]) for match in matches if match]
    frames = {(match[1], match[3]) if match else None for match in matches}
    if len(numbers) < 3 or len(frames) != 1 or None in frames:
        return []
    steps = [b - a for a, b in pairwise(numbers)]
    usual = min(steps)
    gaps = [f'{a} to {b}' for (a, b), step in zip(pairwise(names), steps, strict=True) if step != usual]
    if not gaps or usual < 1:
        return []
    return [f'frames are missing in the numbering, from {name_some(gaps, 3)}; they are taken as consecutive.']


class ReadAhead:
    """Reads the next frames, in the direction of the last two reads, while the one before is in use.

    Args:
        frames: what to read from; in one thread, one frame at a time.
        count: how many frames to be ahead.
    """

    def __init__(self, frames: Source, count: int = 2) -> None:
        self._frames, self._count = frames, count
        self._pool = ThreadPoolExecutor(1, thread_name_prefix='read')
        self._ahead: dict[int, Future[Tensor]] = {}
        self._last = -1

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, position: int) -> Tensor:
        step = -1 if position < self._last else 1
        self._last = position
        wanted = (position + i * step for i in range(self._count + 1))
        self._ahead = {
            t: self._ahead.get(t) or self._pool.submit(self._frames.__getitem__, t)
            for t in wanted
            if 0 <= t < len(self._frames)
        }
        return self._ahead[position].result()

    def close(self) -> None:
        """Wait for the read that is going on, and begin none after it."""
        self._pool.shutdown(cancel_futures=True)

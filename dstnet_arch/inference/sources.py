"""Videos to restore. A source is what `Streamer` reads, with what is needed to write the result in the same kind.

So far: pictures in a folder. A video file becomes one more class with the same methods.
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
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from data_prep.lmdb_format import natural_key
from dstnet_arch.data.frame_source import IMAGE_EXTENSIONS, name_some, size_text
from dstnet_arch.errors import DataError
from dstnet_arch.inference.pictures import Kind, Picture, read_picture, to_frame, to_picture, upright_size

VIDEO_EXTENSIONS = ('.mp4', '.mkv', '.mov', '.avi', '.webm', '.m4v', '.mpg', '.mpeg', '.ts', '.wmv', '.flv')

_NUMBERED = re.compile(r'%0?\d*d')  # as ffmpeg has it: frames/%05d.png
_LAST_NUMBER = re.compile(r'(.*?)(\d+)(\D*)')


class Source(ABC):
    """A video that can be read again, in any order.

    Attributes:
        size: (height, width) of every frame.
        names: of the frames, unique.
        warnings: what its user should know.
    """

    size: tuple[int, int]
    names: list[str]
    warnings: list[str]

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
    def identity(self) -> str:
        """Changes when the source changes."""


class PictureSource(Source):
    """Picture files, one a frame.

    All headers are read at once, so that what does not fit together is said before any work.

    Args:
        paths: in the order of time, at least one.
        where: what the user has called them.

    Raises:
        DataError: they are no video: unreadable, of different sizes, or two of one name.
    """

    def __init__(self, paths: Sequence[Path], where: str) -> None:
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

    def identity(self) -> str:
        stats = [(path.name, path.stat()) for path in self.paths]
        lines = [f'{name}\t{stat.st_size}\t{stat.st_mtime_ns}\n' for name, stat in stats]
        return hashlib.sha256(''.join(lines).encode('utf-8', 'surrogateescape')).hexdigest()

    def _read(self, position: int) -> Picture:
        path = self.paths[position]
        picture = read_picture(path)
        if picture.shape[:2] != self.size:
            raise DataError(
                f'{path} is {size_text(picture.shape[:2])} now, and was {size_text(self.size)}: it was changed '
                'meanwhile. Start again.'
            )
        return picture


def open_source(name: str, start: int | None = None, stop: int | None = None) -> Source:
    """The video that a user names.

    Args:
        name: a folder with pictures in it, a picture, or a pattern for pictures: ``'frames/*.png'`` or
            ``frames/%05d.png``.
        start: the first frame to take; negative numbers count from the end.
        stop: the first one after `start` not to take.

    Raises:
        DataError: there is no video.
    """
    paths = sorted(_find(name), key=lambda path: natural_key(path.name))
    if not paths:
        raise DataError(
            f'{name} holds no pictures, which are files ending in {", ".join(IMAGE_EXTENSIONS)}. {_hint(name)}'
        )
    chosen = paths[start:stop]
    if not chosen:
        raise DataError(
            f'{name} has {len(paths)} frames, 0 to {len(paths) - 1}, of which none lies between --start '
            f'{0 if start is None else start} and --end {len(paths) if stop is None else stop}.'
        )
    return PictureSource(chosen, name)


def _find(name: str) -> list[Path]:
    path = Path(name)
    try:
        if path.is_dir():
            return [entry for entry in path.iterdir() if _is_picture(entry)]
        if path.is_file():
            if path.suffix.lower() in VIDEO_EXTENSIONS:
                raise DataError(
                    f'{name} is a video file; so far, frames are read from pictures. Take it apart first: '
                    f'ffmpeg -i {name} FOLDER/%06d.png'
                )
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
    folders = sorted(entry.name for entry in Path(name).iterdir() if entry.is_dir())
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

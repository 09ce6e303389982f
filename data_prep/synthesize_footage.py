"""Footage to make pairs from: a video file or a folder of frames, read from its beginning to its end."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.blur_model import Image, Response
from data_prep.layouts import IMAGE_EXTENSIONS
from dstnet_arch.data.lmdb_format import natural_key
from dstnet_arch.errors import DataError

FRAME_EXTENSIONS = (*IMAGE_EXTENSIONS, '.bmp', '.tif', '.tiff')
_INSTALL = "pip install 'dstnet-arch[video]', or in a checkout: pip install -e '.[video]'"
_HASH_BYTES = 1 << 22


class Footage(ABC):
    """Frames in the order of time, which can be read again from the beginning.

    Attributes:
        path: What the user has named.
        name: Of the clips made from it, in characters that keys in LMDB can have.
        claimed: How many frames there should be, for progress bars; 0 if nobody says.
        frame_rate: Frames a second; None if nobody says.
    """

    claimed: int
    frame_rate: float | None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = clip_name(path)

    @abstractmethod
    def frames(self) -> Iterator[Image]:
        """All frames: (height, width, 3), BGR, uint8, of whatever size they have.

        Raises:
            DataError: one cannot be read.
        """

    @abstractmethod
    def files(self) -> list[Path]:
        """The files that it consists of, in their order."""

    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.files())

    def sha256(self) -> str:
        """Of the contents of all files, one after the other."""
        digest = hashlib.sha256()
        for path in self.files():
            with open(path, 'rb') as file:
                while block := file.read(_HASH_BYTES):
                    digest.update(block)
        return digest.hexdigest()


class VideoFile(Footage):
    """A video file, read by mmcv.

    Raises:
        DataError: mmcv is not installed, or the file is no video that it can read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        reader = self._open()
        self.claimed = max(0, reader.frame_cnt)
        self.frame_rate = round(reader.fps, 3) if 0 < reader.fps < 1e5 else None

    def frames(self) -> Iterator[Image]:
        reader = self._open()
        try:
            # Not VideoReader.read(): that jumps wherever the container's time stamps and a count of frames differ.
            while (frame := reader.vcap.read()[1]) is not None:
                yield frame
        finally:
            reader.vcap.release()

    def files(self) -> list[Path]:
        return [self.path]

    def _open(self) -> Any:
        try:
            from mmcv import VideoReader
        except ImportError as error:
            raise DataError(
                f'{self.path} is a video file, and reading it needs mmcv-lite ({error}).\n'
                f'Install it: {_INSTALL}\n'
                f'Or take the frames out by other means and give their folder: '
                f'ffmpeg -i {self.path} -fps_mode passthrough FOLDER/%06d.png'
            ) from None
        reader = VideoReader(str(self.path), cache_capacity=1)
        if not reader.opened:
            raise DataError(
                f'{self.path} cannot be read as a video: it is damaged, or of a kind that OpenCV does not know. '
                f'Convert it: ffmpeg -i {self.path} -c:v libx264 -crf 10 -fps_mode passthrough NEW.mp4'
            )
        return reader


class FrameFolder(Footage):
    """A folder of pictures, one a frame, in the natural order of their names.

    Raises:
        DataError: there are no pictures.
    """

    frame_rate = None

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        found = [
            entry
            for entry in path.iterdir()
            if entry.suffix.lower() in FRAME_EXTENSIONS and not entry.name.startswith('.') and entry.is_file()
        ]
        self._files = sorted(found, key=lambda entry: natural_key(entry.name))
        self.claimed = len(found)
        if not found:
            folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and entry.name[0] != '.')
            hint = f' It holds folders ({", ".join(folders[:3])}): give each one of them.' if folders else ''
            raise DataError(f'{path} holds no frames, which are files ending in {", ".join(FRAME_EXTENSIONS)}.{hint}')

    def frames(self) -> Iterator[Image]:
        import cv2

        for path in self._files:
            try:
                frame = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
            except (cv2.error, OSError) as error:
                raise DataError(f'{path} cannot be read ({error})') from None
            if frame is None:
                raise DataError(f'{path} is no readable image: put a whole one in its place, or take it out')
            yield frame

    def files(self) -> list[Path]:
        return self._files


def open_footage(path: Path) -> Footage:
    """Footage by what is at `path`: a folder of frames, or a video file whatever it is called.

    Raises:
        DataError: there is nothing, nothing readable, or its name cannot become the name of clips.
    """
    if path.is_dir():
        return FrameFolder(path)
    if not path.is_file():
        raise DataError(f'{path} does not exist; give video files, or folders of frames')
    if path.stat().st_size == 0:
        raise DataError(f'{path} is empty')
    return VideoFile(path)


def clip_name(path: Path) -> str:
    """The name of a video's clips: its own, with `_` for what a key in LMDB cannot have.

    Raises:
        DataError: no ASCII letter or digit is left.
    """
    path = Path(path.absolute().as_posix())
    own = path.name if path.is_dir() else path.stem
    plain = unicodedata.normalize('NFKD', own).encode('ascii', 'ignore').decode()
    name = re.sub('[^A-Za-z0-9_-]+', '_', plain).strip('_')
    if not any(character.isalnum() for character in name):
        raise DataError(f'{path}: clips are named for their video, in ASCII letters and digits; rename it')
    return name


@dataclass(frozen=True)
class Geometry:
    """What becomes of a frame before anything else: first a part of it is cut out, then that is scaled down."""

    crop: tuple[int, int, int | None, int | None] | None = None
    """(width, height, left, top), in pixels of the source; in the middle where left and top are None."""
    scale: float | None = None
    """In (0, 1]."""
    max_size: int | None = None
    """The longer side is at most this, in pixels. Not together with `scale`."""

    def box(self, source: tuple[int, int]) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the part that is cut out of frames of the size `source`, (height, width).

        Raises:
            DataError: it does not lie within them.
        """
        if self.crop is None:
            return 0, 0, *source
        width, height, left, top = self.crop
        left = (source[1] - width) // 2 if left is None else left
        top = (source[0] - height) // 2 if top is None else top
        if left < 0 or top < 0 or left + width > source[1] or top + height > source[0]:
            raise DataError(
                f'--crop {width}x{height}+{left}+{top} does not lie within frames of {source[1]}x{source[0]}'
            )
        return top, left, height, width

    def factor(self, source: tuple[int, int]) -> float:
        """By which the part is scaled, in (0, 1]."""
        _, _, height, width = self.box(source)
        if self.max_size is not None:
            return min(1.0, self.max_size / max(height, width))
        return self.scale or 1.0

    def size(self, source: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of what comes out.

        Raises:
            DataError: see `box`.
        """
        _, _, height, width = self.box(source)
        factor = self.factor(source)
        return max(1, round(height * factor)), max(1, round(width * factor))

    def apply(self, frame: Image, response: Response) -> Image:
        """Cut and scale a frame (height, width, 3), uint8; a pixel becomes the mean light of the area it covers."""
        import cv2

        top, left, height, width = self.box(frame.shape[:2])
        part = frame[top : top + height, left : left + width]
        size = self.size(frame.shape[:2])
        if size == (height, width):
            return np.ascontiguousarray(part)
        light = response.light(part, np.float32)
        return response.picture(cv2.resize(light, size[::-1], interpolation=cv2.INTER_AREA))


def size_text(size: tuple[int, int]) -> str:
    """`1280x720` for (height, width)."""
    return f'{size[1]}x{size[0]}'

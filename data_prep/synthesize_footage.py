"""Footage for blur synthesis: video files and folders of frames, with their time stamps and colour."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.blur_model import Image, Response
from dstnet_arch.data.lmdb_format import IMAGE_EXTENSIONS, natural_key
from dstnet_arch.errors import DataError

HDR_TRANSFERS = {16: 'PQ', 18: 'HLG'}
"""Transfer characteristics of HDR video (ITU-T H.273)."""

_INSTALL = "pip install 'dstnet-arch[video]', or in a checkout: pip install -e '.[video]'"
_HASH_BYTES = 1 << 22


class Footage:
    """Frames in temporal order that can be read repeatedly.

    Attributes:
        path: Path given by the user.
        name: Name of the clips made from it, in characters that LMDB keys allow.
        claimed: Number of frames according to the container, for progress bars; 0 if unknown.
        frame_rate: Frames per second according to the container; None if unknown.
        stamps: Presentation times of the frames in seconds, increasing; None if unknown.
        tick: Resolution of the time stamps in seconds.
        hdr: 'PQ' or 'HLG' for HDR video, else None.
    """

    frame_rate: float | None = None
    stamps: NDArray[np.float64] | None = None
    tick = 0.0
    hdr: str | None = None

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.path = path
        self.name = clip_name(path)
        self.files = files
        self.claimed = len(files)

    def frames(self) -> Iterator[Image]:
        """Yield all frames: (height, width, 3), BGR, uint8.

        Raises:
            DataError: a frame cannot be read.
        """
        raise NotImplementedError

    def sha256(self) -> str:
        """Hash of the contents of all files, concatenated."""
        digest = hashlib.sha256()
        for path in self.files:
            with open(path, 'rb') as file:
                while block := file.read(_HASH_BYTES):
                    digest.update(block)
        return digest.hexdigest()


class VideoFile(Footage):
    """A video file, decoded by mmcv and probed by PyAV.

    Raises:
        DataError: mmcv is not installed, or the file cannot be decoded.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, [path])
        reader = self._open()
        self.claimed = max(0, reader.frame_cnt)
        self.frame_rate = float(reader.fps) if 0 < reader.fps < 1e5 else None
        reader.vcap.release()
        self._probe()

    def frames(self) -> Iterator[Image]:
        """Decode all frames."""
        reader = self._open()
        try:
            # VideoReader.read() seeks wherever time stamps and frame count disagree, so read the capture directly.
            while (frame := reader.vcap.read()[1]) is not None:
                yield frame
        finally:
            reader.vcap.release()

    def _open(self) -> Any:
        try:
            from mmcv import VideoReader
        except ImportError as error:
            raise DataError(
                f'{self.path} is a video file and needs mmcv ({error}). Install it: {_INSTALL}\n'
                f'Or extract the frames and pass their folder: ffmpeg -i {self.path} -fps_mode passthrough '
                'FOLDER/%06d.png'
            ) from None
        reader = VideoReader(str(self.path), cache_capacity=1)
        if not reader.opened:
            raise DataError(
                f'{self.path} cannot be decoded: it is not a video, damaged, or in a format that OpenCV does not '
                f'support. Convert it: ffmpeg -i {self.path} -c:v libx264 -crf 10 -fps_mode passthrough NEW.mp4'
            )
        return reader

    def _probe(self) -> None:
        import av

        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.video[0]
                self.hdr = HDR_TRANSFERS.get(int(stream.codec_context.color_trc))
                packets = [packet for packet in container.demux(stream) if packet.size]  # without the flush packet
                shown = [packet.pts for packet in packets if not packet.is_discard]  # of the edit list
                # Not OpenCV's count, which is a product of duration and frame rate in some containers.
                self.claimed = (stream.frames or len(packets)) - (len(packets) - len(shown))
                stamps = np.sort(np.array(shown, np.float64))  # a missing stamp becomes nan
                self.tick = float(stream.time_base or 0)
        except (av.FFmpegError, IndexError, ValueError, TypeError):
            return  # the frame count still decides: time stamps only refine it
        if len(stamps) and np.all(np.diff(stamps) > 0):
            self.stamps = stamps * self.tick


class FrameFolder(Footage):
    """A folder with one image per frame, in natural order of their names.

    Raises:
        DataError: the folder has no images.
    """

    def __init__(self, path: Path) -> None:
        entries = [entry for entry in path.iterdir() if not entry.name.startswith('.')]
        found = [entry for entry in entries if entry.suffix.lower() in IMAGE_EXTENSIONS and entry.is_file()]
        super().__init__(path, sorted(found, key=lambda entry: natural_key(entry.name)))
        if not found:
            folders = sorted(entry.name for entry in entries if entry.is_dir())
            hint = f' It has sub-folders ({", ".join(folders[:3])}): pass each of them.' if folders else ''
            raise DataError(f'{path} has no frames (files ending in {", ".join(IMAGE_EXTENSIONS)}).{hint}')

    def frames(self) -> Iterator[Image]:
        """Read all images."""
        import cv2

        for path in self.files:
            try:
                frame = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
            except (cv2.error, OSError) as error:
                raise DataError(f'{path} cannot be read ({error})') from None
            if frame is None:
                raise DataError(f'{path} is not a readable image: replace or remove it')
            yield frame


def open_footage(path: Path) -> Footage:
    """Open a folder of frames or a video file of any extension.

    Raises:
        DataError: nothing readable exists at `path`, or no clip name can be derived from it.
    """
    if path.is_dir():
        return FrameFolder(path)
    if not path.is_file():
        raise DataError(f'{path} does not exist; pass video files or folders of frames')
    if path.stat().st_size == 0:
        raise DataError(f'{path} is empty')
    return VideoFile(path)


def clip_name(path: Path) -> str:
    """Derive the name of a video's clips: its own name with `_` for characters that LMDB keys do not allow.

    Raises:
        DataError: the name has no ASCII letter or digit.
    """
    path = Path(path.absolute().as_posix())
    own = path.name if path.is_dir() else path.stem
    plain = unicodedata.normalize('NFKD', own).encode('ascii', 'ignore').decode()
    name = re.sub('[^A-Za-z0-9_-]+', '_', plain).strip('_')
    if not any(character.isalnum() for character in name):
        raise DataError(f'{path}: clips are named after their video in ASCII letters and digits; rename it')
    return name


@dataclass(frozen=True)
class Geometry:
    """Cropping and scaling of frames before synthesis; the crop is applied first."""

    crop: tuple[int, int, int | None, int | None] | None = None
    """(width, height, left, top) in pixels of the footage; centred if left and top are None."""
    scale: float | None = None
    """Scale factor in (0, 1]."""
    max_size: int | None = None
    """Maximum of the longer side in pixels. Not together with `scale`."""

    def box(self, source: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return the crop (top, left, height, width) in frames of the size `source`, (height, width).

        Raises:
            DataError: the crop exceeds the frame.
        """
        if self.crop is None:
            return 0, 0, *source
        width, height, left, top = self.crop
        left = (source[1] - width) // 2 if left is None else left
        top = (source[0] - height) // 2 if top is None else top
        if left < 0 or top < 0 or left + width > source[1] or top + height > source[0]:
            raise DataError(f'--crop {width}x{height}+{left}+{top} exceeds frames of {size_text(source)}')
        return top, left, height, width

    def factor(self, source: tuple[int, int]) -> float:
        """Return the scale factor in (0, 1] for frames of the size `source`."""
        _, _, height, width = self.box(source)
        if self.max_size is not None:
            return min(1.0, self.max_size / max(height, width))
        return self.scale or 1.0

    def size(self, source: tuple[int, int]) -> tuple[int, int]:
        """Return the output size (height, width) for frames of the size `source`."""
        _, _, height, width = self.box(source)
        factor = self.factor(source)
        return max(1, round(height * factor)), max(1, round(width * factor))

    def apply(self, frame: Image, response: Response) -> Image:
        """Crop and scale a frame (height, width, 3), uint8, averaging areas in linear light."""
        import cv2

        top, left, height, width = self.box(frame.shape[:2])
        part = frame[top : top + height, left : left + width]
        size = self.size(frame.shape[:2])
        if size == (height, width):
            return np.ascontiguousarray(part)
        light = response.light(np.ascontiguousarray(part), np.float32)
        return response.image(cv2.resize(light, size[::-1], interpolation=cv2.INTER_AREA))


def size_text(size: tuple[int, int]) -> str:
    """Format (height, width) as `1280x720`."""
    return f'{size[1]}x{size[0]}'

"""Footage for blur synthesis: video files and folders of frames, with their time stamps."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.blur_model import Image
from dstnet_arch.data.lmdb_format import IMAGE_EXTENSIONS, natural_key
from dstnet_arch.errors import DataError

HDR_TRANSFERS = {16: 'PQ', 18: 'HLG'}
"""Transfer characteristics of HDR video (ITU-T H.273)."""

_INSTALL = "pip install 'dstnet-arch[video]', or in a checkout: pip install -e '.[video]'"


@dataclass
class Footage:
    """Frames in temporal order that can be read repeatedly."""

    path: Path
    """Path given by the user."""
    files: Sequence[Path] = ()
    """Images of a folder; empty for a video file."""
    listed: int = 0
    """Number of frames according to the file or folder; the decoder may find another number."""
    frame_rate: float | None = None
    """Frames per second according to the container; None if unknown."""
    stamps: NDArray[np.float64] | None = None
    """Presentation times in units of `time_base`, increasing; None if unknown."""
    time_base: float = 1.0
    """Unit of `stamps` in seconds."""
    hdr: str | None = None
    """'PQ' or 'HLG' for HDR video, else None."""

    @property
    def name(self) -> str:
        """Name of the clips made from it."""
        return clip_name(self.path)

    def frames(self) -> Iterator[Image]:
        """Return all frames: (height, width, 3), BGR, uint8.

        Raises:
            DataError: a frame cannot be read.
        """
        return _read_images(self.files) if self.files else _decode_video(self.path)


def open_footage(path: Path) -> Footage:
    """Open a folder of images, in natural order of their names, or a video file.

    Raises:
        DataError: nothing readable exists at `path`, or no clip name can be derived from it.
    """
    clip_name(path)  # raises DataError
    if path.is_dir():
        images = (p for p in path.iterdir() if p.suffix.lower() in IMAGE_EXTENSIONS and not p.name.startswith('.'))
        files = sorted(images, key=lambda file: natural_key(file.name))
        if not files:
            raise DataError(f'{path} has no frames (files ending in {", ".join(IMAGE_EXTENSIONS)})')
        return Footage(path, files, len(files))
    if not path.is_file():
        raise DataError(f'{path} does not exist; pass video files or folders of frames')
    return _probe_video(path)


def _read_images(files: Sequence[Path]) -> Iterator[Image]:
    import cv2

    for file in files:
        data = np.fromfile(file, np.uint8)
        frame = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        if frame is None:
            raise DataError(f'{file} is not a readable image: replace or remove it')
        yield frame


def _probe_video(path: Path) -> Footage:
    import av

    _open_video(path).vcap.release()
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            # Without the flush packet, and without frames that the edit list hides.
            shown = [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
            stamps = np.sort(np.array(shown, np.float64))  # a missing stamp becomes nan
            return Footage(
                path,
                listed=len(shown),
                frame_rate=float(stream.average_rate or 0) or None,
                stamps=stamps if len(stamps) and np.all(np.diff(stamps) > 0) else None,
                time_base=float(stream.time_base or 1),
                hdr=HDR_TRANSFERS.get(int(stream.codec_context.color_trc)),
            )
    except (av.FFmpegError, IndexError):
        raise DataError(_undecodable(path)) from None


def _decode_video(path: Path) -> Iterator[Image]:
    reader = _open_video(path)
    try:
        # VideoReader.read() seeks wherever time stamps and frame count disagree, so read the capture directly.
        while (frame := reader.vcap.read()[1]) is not None:
            yield frame
    finally:
        reader.vcap.release()


def _open_video(path: Path) -> Any:
    try:
        from mmcv import VideoReader
    except ImportError as error:
        raise DataError(
            f'{path} is a video file and needs mmcv ({error}). Install it: {_INSTALL}. '
            f'Or extract the frames and pass their folder: ffmpeg -i {path} -fps_mode passthrough FOLDER/%06d.png'
        ) from None
    reader = VideoReader(str(path), cache_capacity=1)
    if not reader.opened:
        raise DataError(_undecodable(path))
    return reader


def _undecodable(path: Path) -> str:
    return (
        f'{path} cannot be decoded: it is not a video, damaged, or in a format that OpenCV does not support. Convert '
        f'it: ffmpeg -i {path} -c:v libx264 -crf 10 -fps_mode passthrough NEW.mp4'
    )


def clip_name(path: Path) -> str:
    """Derive the name of a video's clips: its own name with `_` for characters that LMDB keys do not allow.

    Raises:
        DataError: the name has no ASCII letter or digit.
    """
    own = path.absolute().name if path.is_dir() else path.stem
    plain = unicodedata.normalize('NFKD', own).encode('ascii', 'ignore').decode()
    name = re.sub('[^A-Za-z0-9_-]+', '_', plain).strip('_')
    if not any(character.isalnum() for character in name):
        raise DataError(f'{path}: clips are named after their video in ASCII letters and digits; rename it')
    return name


def size_text(size: tuple[int, int]) -> str:
    """Format (height, width) as `1280x720`."""
    return f'{size[1]}x{size[0]}'

"""Opening of videos: a file, a folder of images, a pattern for images, a multi-page or animated image."""

from __future__ import annotations

import glob
import os
import re
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from dstnet_arch.data.frame_source import IMAGE_EXTENSIONS, name_some
from dstnet_arch.data.lmdb_format import natural_key
from dstnet_arch.errors import DataError
from dstnet_arch.video.image_source import ImageSource, PageSource
from dstnet_arch.video.images import file_type
from dstnet_arch.video.source import Place, Source, frame_numbers, nothing_chosen
from dstnet_arch.video.timing import DEFAULT_RATE
from dstnet_arch.video.video_source import VideoSource

VIDEO_EXTENSIONS = (
    '.mp4', '.mkv', '.mov', '.avi', '.webm', '.m4v', '.mpg', '.mpeg', '.ts', '.wmv', '.flv', '.mts', '.m2ts', '.mxf',
    '.ogv', '.3gp', '.nut', '.y4m', '.vob', '.asf', '.gif',
)  # fmt: skip

_NUMBERED = re.compile(r'%0?\d*d')  # as in ffmpeg: frames/%05d.png
_URL = re.compile(r'[a-zA-Z][a-zA-Z0-9+.-]+://')


def open_source(
    name: str,
    start: Place | None = None,
    end: Place | None = None,
    rate: Fraction | None = None,
    temp_dir: str | None = None,
    show_progress: bool = False,
) -> Source:
    """Open the video that a user names.

    Args:
        name: a video file, a folder of images, an image, or a pattern for images: ``'frames/*.png'`` or
            ``frames/%05d.png``.
        start: first frame to use.
        end: first frame after `start` not to use.
        rate: frames per second; None: a file's own times, or the default for images.
        temp_dir: folder for temporary files; None: the system's.
        show_progress: show a bar on standard error if it takes long.

    Raises:
        DataError: the input contains no video.
    """
    if _URL.match(name):
        raise DataError(f'{name} is a URL. Download the video first and give the file.')
    path = Path(name)
    kind = file_type(path) if path.is_file() else 'image'
    if kind == 'video':
        return VideoSource(path, start, end, rate, temp_dir, show_progress)
    if kind == 'pages':
        return PageSource(path, start, end, rate, temp_dir)
    paths = sorted(_find(name), key=lambda path: natural_key(path.name))
    if not paths:
        raise DataError(
            f'{name} has no images in it, which are files ending in {", ".join(IMAGE_EXTENSIONS)}. {_hint(name)}'
        )
    rate = rate or DEFAULT_RATE
    chosen = paths[slice(*frame_numbers([i / rate for i in range(len(paths))], start, end))]
    if not chosen:
        raise nothing_chosen(name, len(paths), start, end)
    return ImageSource(chosen, name, rate)


def _find(name: str) -> list[Path]:
    path = Path(name)
    try:
        if path.is_dir():
            return [entry for entry in path.iterdir() if _is_image(entry)]
        if path.is_file():
            return [path]  # the content decides, not the name
        if _NUMBERED.search(path.name):
            pattern = r'\d+'.join(map(re.escape, _NUMBERED.split(path.name)))
            return [entry for entry in path.parent.iterdir() if re.fullmatch(pattern, entry.name)]
        return [match for match in map(Path, glob.glob(name)) if _is_image(match)]
    except OSError as error:
        raise DataError(f'{name} cannot be read: {error}.') from None


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith('.') and path.is_file()


def _hint(name: str) -> str:
    if not os.path.exists(name):
        return f'It does not exist; the current folder is {os.getcwd()}.'
    entries = sorted(Path(name).iterdir())
    folders = [entry.name for entry in entries if entry.is_dir()]
    videos = [entry.name for entry in entries if entry.suffix.lower() in VIDEO_EXTENSIONS]
    if videos:
        return f'It has video files in it ({name_some(videos)}): give one of them.'
    return f'It has folders in it ({name_some(folders)}): give one of them.' if folders else 'Give another one.'


class ReadAhead:
    """Reads the next frames in a thread, in the direction of the last two reads.

    Args:
        frames: the source.
        count: number of frames to read ahead.
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
        """Wait for the read in progress and start no more."""
        self._pool.shutdown(cancel_futures=True)

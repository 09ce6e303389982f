"""Opening of videos: a file, a folder of images, a pattern for images, a multi-page or animated image."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from threading import Lock

import numpy as np
from torch import Tensor
from typing_extensions import override

from dstnet_arch.errors import DataError
from dstnet_arch.video.colour import Plane
from dstnet_arch.video.encoding import CONTAINERS
from dstnet_arch.video.frames import VideoFormat
from dstnet_arch.video.image_source import ImageSource, PageSource, find_images
from dstnet_arch.video.images import ImageKind, file_type
from dstnet_arch.video.reader import VideoFile
from dstnet_arch.video.source import Place, Source, digest_of, frame_numbers
from dstnet_arch.video.timing import DEFAULT_RATE, Timing

VIDEO_EXTENSIONS = (*CONTAINERS, '.ogv', '.y4m', '.gif')
"""Extensions of video files. Of INPUTs, the content decides."""

_FRAMES_AHEAD = 2


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
    path = Path(name)
    kind = file_type(path) if path.is_file() else 'image'
    if kind == 'video':
        return VideoSource(path, start, end, rate, temp_dir, show_progress)
    if kind == 'pages':
        return PageSource(path, start, end, rate, temp_dir)
    paths = find_images(name)
    rate = rate or DEFAULT_RATE
    chosen = frame_numbers([i / rate for i in range(len(paths))], name, start, end)
    return ImageSource([paths[number] for number in chosen], name, rate)


class VideoSource(Source):
    """A video file, or a part of it. The arguments are those of `open_source`."""

    def __init__(
        self,
        path: Path,
        start: Place | None,
        end: Place | None,
        rate: Fraction | None,
        temp_dir: str | None,
        show_progress: bool,
    ) -> None:
        from_the_end = any(place is not None and place < 0 for place in (start, end))
        self._reading = Lock()  # alpha is read by the thread that writes
        self._rate = rate
        self._file = file = VideoFile(path, None if from_the_end else end, show_progress, temp_dir)
        self.path, self.media, self.stream_index = path, file.media, file.stream_index
        seconds = [(time - file.times[0]) * file.time_base for time in file.times]
        try:
            self._chosen = chosen = frame_numbers(seconds, path, start, end)
        except DataError:
            self.close()
            raise
        self.names = [f'{number:06d}' for number in chosen]
        self.size = file.kind.shown_size
        self.warnings = file.warnings
        self.is_cut = file.stopped or len(chosen) < len(file)
        self.timing = self._own_timing()
        self.cut_duration = self.timing.duration
        if rate is not None:
            self.timing = Timing.constant(rate, len(chosen))._replace(origin=self.timing.origin)

    @property
    @override
    def format(self) -> VideoFormat:
        return self._file.kind.shown

    def __getitem__(self, position: int) -> Tensor:
        return self._file.kind.frame(self._planes(position))

    @override
    def kind(self, position: int) -> ImageKind:
        form = self._file.kind.stored.format
        return ImageKind(form.family == 'gray', form.alpha, np.dtype(np.uint8 if form.depth == 8 else np.uint16))

    @override
    def alpha(self, position: int) -> Tensor | None:
        return self._file.kind.alpha(self._planes(position)) if self._file.kind.stored.format.alpha else None

    @override
    def identity(self) -> str:
        assert self.path is not None
        return digest_of([self.path], self._chosen, self._rate)

    @override
    def close(self) -> None:
        self._file.close()

    def _planes(self, position: int) -> list[Plane]:
        with self._reading:
            return self._file[self._chosen[position]]

    def _own_timing(self) -> Timing:
        file, chosen = self._file, self._chosen
        ends = [*file.times[1:], file.times[-1] + file.last_duration]
        first = file.times[chosen.start] * file.time_base
        begin = first if chosen.start or first - file.start_time < Fraction(1, 1000) else file.start_time
        shift = round(begin / file.time_base)
        times = [time - shift for time in file.times[chosen.start : chosen.stop]]
        return Timing(file.time_base, times, ends[chosen.stop - 1] - shift - times[-1], file.rate, begin)


class ReadAhead:
    """Reads the next frames of a source in a thread, in the direction of the last two reads."""

    def __init__(self, frames: Source) -> None:
        self._frames = frames
        self._pool = ThreadPoolExecutor(1, thread_name_prefix='read')
        self._ahead: dict[int, Future[Tensor]] = {}
        self._last = -1

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, position: int) -> Tensor:
        step = -1 if position < self._last else 1
        self._last = position
        self._ahead = {
            t: self._ahead.get(t) or self._pool.submit(self._frames.__getitem__, t)
            for t in range(position, position + step * (_FRAMES_AHEAD + 1), step)
            if 0 <= t < len(self._frames)
        }
        return self._ahead[position].result()

    def close(self) -> None:
        """Wait for the read in progress and start no more."""
        self._pool.shutdown(cancel_futures=True)

"""A video file as a source."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from threading import Lock

import numpy as np
from torch import Tensor
from typing_extensions import override

from dstnet_arch.video.colour import Plane
from dstnet_arch.video.frames import VideoFormat
from dstnet_arch.video.images import Image, ImageKind, to_image
from dstnet_arch.video.reader import VideoFile
from dstnet_arch.video.source import Place, Source, digest, file_facts, frame_numbers, nothing_chosen
from dstnet_arch.video.timing import Timing


class VideoSource(Source):
    """A video file, or a part of it.

    Args:
        path: the file.
        start: first frame to use.
        end: first frame after `start` not to use.
        rate: frames per second instead of the file's own times.
        temp_dir: folder for temporary files.
        show_progress: show a bar on standard error while the file is read.

    Raises:
        DataError: no frame can be decoded, or there is none between `start` and `end`.
    """

    def __init__(
        self,
        path: Path,
        start: Place | None = None,
        end: Place | None = None,
        rate: Fraction | None = None,
        temp_dir: str | None = None,
        show_progress: bool = False,
    ) -> None:
        backward = any(place is not None and place < 0 for place in (start, end))

        def enough(count: int, time: Fraction) -> bool:
            return end is not None and not backward and (count if isinstance(end, int) else time) >= end

        self._reading = Lock()  # alpha is read by the thread that writes
        self._file = file = VideoFile(path, enough, show_progress, temp_dir)
        self.path, self.media, self.stream_index = path, file.media, file.stream_index
        seconds = [(time - file.times[0]) * file.time_base for time in file.times]
        self._chosen = chosen = range(len(file))[slice(*frame_numbers(seconds, start, end))]
        if not chosen:
            raise nothing_chosen(path, len(file), start, end)
        self.names = [f'{number:06d}' for number in chosen]
        self.size = file.kind.shown_size
        self.is_cut = file.stopped or len(chosen) < len(file)
        self.timing = self._timing()
        self.cut_duration = self.timing.duration
        self.warnings = list(file.warnings)
        if rate is not None:
            self.timing = Timing.constant(rate, len(chosen))._replace(origin=self.timing.origin)
        self._rate = rate

    @property
    @override
    def format(self) -> VideoFormat:
        return self._file.kind.shown

    def __getitem__(self, position: int) -> Tensor:
        return self._file.kind.frame(self._planes(position))

    @override
    def alpha(self, position: int) -> Tensor | None:
        return self._file.kind.alpha(self._planes(position)) if self._file.kind.format.alpha else None

    @override
    def restored_image(self, position: int, restored: Tensor) -> Image:
        form = self._file.kind.format
        dtype = np.dtype(np.uint8 if form.depth == 8 else np.uint16)
        image = to_image(restored, ImageKind(form.family == 'gray', False, dtype))
        alpha = self.alpha(position)
        if alpha is None:
            return image
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        return np.dstack([image, to_image(alpha[None], ImageKind(True, False, dtype))])

    @override
    def identity(self) -> str:
        assert self.path is not None
        return digest(f'{file_facts(self.path)}\t{self._chosen.start}\t{self._chosen.stop}\t{self._rate}')

    @override
    def close(self) -> None:
        self._file.close()

    def _planes(self, position: int) -> list[Plane]:
        with self._reading:
            return self._file[self._chosen[position]]

    def _timing(self) -> Timing:
        file, chosen = self._file, self._chosen
        ends = [*file.times[1:], file.times[-1] + file.last_duration]
        first = file.times[chosen.start] * file.time_base
        begin = first if chosen.start or first - file.start_time < Fraction(1, 1000) else file.start_time
        shift = round(begin / file.time_base)
        times = [time - shift for time in file.times[chosen.start : chosen.stop]]
        return Timing(file.time_base, times, ends[chosen.stop - 1] - shift - times[-1], file.rate, begin)

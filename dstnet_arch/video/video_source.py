"""Video files to restore, as they are seen: upright, RGB."""

from __future__ import annotations

from bisect import bisect_left
from fractions import Fraction
from pathlib import Path
from threading import Lock

import numpy as np
from torch import Tensor

from dstnet_arch.errors import DataError
from dstnet_arch.video.colour import KNOWN_MATRICES, Plane
from dstnet_arch.video.images import Kind, Picture, to_picture
from dstnet_arch.video.reader import VideoFile, opened
from dstnet_arch.video.sources import Look, Place, Source, Timing, file_facts, identity_of, nothing_chosen

_HDR = {16: 'PQ', 18: 'HLG'}  # H.273's numbers of transfer functions


class VideoSource(Source):
    """A video file, or a part of it.

    Args:
        path: the file.
        start: the first frame to take.
        stop: the first one after it not to take.
        temp_dir: folder for temporary files; None: the system's.
        show_progress: a bar on standard error while the file is looked through.

    Raises:
        DataError: it is no video, ends before its end, or there is nothing between `start` and `stop`.
    """

    def __init__(
        self,
        path: Path,
        start: Place | None = None,
        stop: Place | None = None,
        temp_dir: str | None = None,
        show_progress: bool = False,
    ) -> None:
        self.path = path
        backward = any(place is not None and place < 0 for place in (start, stop))

        def enough(count: int, time: Fraction) -> bool:
            return stop is not None and not backward and (count if isinstance(stop, int) else time) >= stop

        self._reading = Lock()  # opacity is read by the threads that write
        self._file = VideoFile(path, enough, show_progress, temp_dir)
        if self._file.problem and (stop is None or backward):
            raise DataError(
                f'{path} is not whole: {self._file.problem}. --end {self._file.whole} takes the '
                f'{self._file.whole} frames that are there.'
            )
        seconds = self._seconds()
        numbers = [place if isinstance(place, int | None) else bisect_left(seconds, place) for place in (start, stop)]
        self._chosen = range(len(self._file))[slice(*numbers)]
        if not self._chosen:
            raise nothing_chosen(path, len(self._file), start, stop)
        self.names = [f'{number:06d}' for number in self._chosen]
        self.size = self._file.kind.shown_size
        self.timing = self._timing()
        self.warnings = self._warnings()

    def __getitem__(self, position: int) -> Tensor:
        return self._file.kind.frame(self._planes(position))

    @property
    def look(self) -> Look:
        return self._file.kind.look

    def alpha(self, position: int) -> Tensor | None:
        return self._file.kind.alpha(self._planes(position))

    def restored_picture(self, position: int, restored: Tensor) -> Picture:
        form = self._file.kind.format
        dtype = np.dtype(np.uint8 if form.depth == 8 else np.uint16)
        picture = to_picture(restored, Kind(form.family == 'gray', False, dtype))
        alpha = self.alpha(position)
        if alpha is None:
            return picture
        return np.dstack([picture, to_picture(alpha[None], Kind(True, False, dtype))])

    def identity(self) -> str:
        assert self.path is not None
        return identity_of(f'{file_facts(self.path)}\t{self._chosen.start}\t{self._chosen.stop}')

    def close(self) -> None:
        self._file.close()

    def _planes(self, position: int) -> list[Plane]:
        with self._reading:
            return self._file[self._chosen[position]]

    def _seconds(self) -> list[Fraction]:
        """When each frame of the file is shown, after the first."""
        file = self._file
        if not file.in_order:
            return [number / file.rate for number in range(len(file))]
        times = [mark.pts or 0 for mark in file.marks]
        return [(time - times[0]) * file.time_base for time in times]

    def _timing(self) -> Timing:
        file, chosen = self._file, self._chosen
        assert self.path is not None
        with opened(self.path) as container:
            begin = Fraction(container.start_time or 0, 1_000_000)
        if not file.in_order:
            self.is_cut = len(chosen) < len(file) or file.stopped
            return Timing.constant(file.rate, len(chosen))._replace(origin=begin + chosen.start / file.rate)
        times = [mark.pts or 0 for mark in file.marks]
        usual = round(1 / file.rate / file.time_base) or 1
        after = times[chosen.stop] if chosen.stop < len(times) else times[-1] + (file.last_duration or usual)
        self.is_cut = len(chosen) < len(times) or file.stopped
        origin = times[chosen.start] * file.time_base if chosen.start else begin
        shift = round(origin / file.time_base)
        kept = [time - shift for time in times[chosen.start : chosen.stop]]
        return Timing(file.time_base, kept, after - times[chosen.stop - 1], file.rate, origin)

    def _warnings(self) -> list[str]:
        file, colour = self._file, self._file.kind.colour
        warnings = []
        if file.problem:
            warnings.append(f'{self.path} is not whole: {file.problem}.')
        if file.damaged:
            warnings.append(
                f'{self.path} is damaged in {file.damaged} places; frames are restored as the decoder mends them.'
            )
        if not file.in_order:
            warnings.append(
                f'{self.path} has no time stamps in order; its frames are taken for equally long, '
                f'{float(file.rate):g} a second.'
            )
        if file.interlaced:
            warnings.append(
                f'{self.path} is interlaced. Its frames are restored as pictures of one moment each, which they are '
                'not, and the result is not interlaced: combs may stay. Make frames of its fields first: '
                'ffmpeg -i IN -vf bwdif -c:v ffv1 -c:a copy OUT.mkv'
            )
        if colour.transfer in _HDR:
            warnings.append(
                f'{self.path} is HDR ({_HDR[colour.transfer]}). Its values are restored as they are, though the '
                'network has learned from SDR. Depth and colour tags stay; mastering and light level metadata do not.'
            )
        if colour.matrix not in KNOWN_MATRICES:
            warnings.append(
                f'{self.path} has a colour matrix that is not supported (number {colour.matrix} of ITU-T H.273); it '
                'is taken for an untagged one both ways.'
            )
        return warnings

"""Video files where PyAV is not installed: frames as MMCV reads them, 8 bits and without time stamps."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from dstnet_arch.errors import DataError
from dstnet_arch.streaming.state_store import spool
from dstnet_arch.video.colour import Colour, SampleFormat
from dstnet_arch.video.images import Kind, Picture, to_picture
from dstnet_arch.video.sources import (
    Look,
    Place,
    Source,
    Timing,
    file_facts,
    identity_of,
    nothing_chosen,
    place_to_number,
)

ADVICE = 'Install PyAV, which this package needs for all that video files hold: pip install av'


class MmcvSource(Source):
    """A video file, or a part of it, read by ``mmcv.VideoReader``.

    OpenCV, which that uses, does not seek exactly in all files. So frames are read once, in order, into a temporary
    file.

    Args:
        path: the file.
        start: the first frame to take.
        stop: the first one after it not to take.
        temp_dir: folder for the temporary file; None: the system's.

    Raises:
        DataError: MMCV is not installed, either, or the file is no video for it.
    """

    def __init__(
        self, path: Path, start: Place | None = None, stop: Place | None = None, temp_dir: str | None = None
    ) -> None:
        try:
            from mmcv import VideoReader
        except ImportError:
            raise DataError(f'{path} is a video file, and cannot be read here. {ADVICE}') from None
        reader = VideoReader(str(path))
        rate = Fraction(reader.fps or 25).limit_denominator(1001)
        numbers = [None if place is None else place_to_number(place, rate) for place in (start, stop)]
        bgr = spool((torch.from_numpy(frame) for frame in reader if frame is not None), temp_dir)
        self._frames, self._file, self._path = range(len(bgr))[slice(*numbers)], bgr, path
        if not len(bgr):
            raise DataError(f'{path} cannot be read as a video: OpenCV finds no frames in it. {ADVICE}')
        if not self._frames:
            raise nothing_chosen(path, len(bgr), start, stop)
        self.names = [f'{number:06d}' for number in self._frames]
        self.size = (bgr[0].shape[0], bgr[0].shape[1])
        self.timing = Timing.constant(rate, len(self._frames))
        self.warnings = [
            f'{path} is read without PyAV: 8 bits, with the colours that OpenCV makes of it, without its sound and its '
            f'time stamps, and the result cannot be a video file. {ADVICE}'
        ]

    def __getitem__(self, position: int) -> Tensor:
        return self._file[self._frames[position]].flip(2).permute(2, 0, 1) / 255

    @property
    def look(self) -> Look:
        return Look(SampleFormat('rgb', 8), Colour())

    def alpha(self, position: int) -> Tensor | None:
        return None

    def restored_picture(self, position: int, restored: Tensor) -> Picture:
        return to_picture(restored, Kind(False, False, torch.empty(0, dtype=torch.uint8).numpy().dtype))

    def identity(self) -> str:
        return identity_of(f'{file_facts(self._path)}\t{self._frames.start}\t{self._frames.stop}\tmmcv')

    def close(self) -> None:
        self._file.close()

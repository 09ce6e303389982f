"""Video files as results, which an interrupted run can go on with.

An encoder has a state of its own that cannot be saved, and frames inside it that are not written. So frames are kept
as they are, one file each, until there are enough for a *chunk*, which is encoded by itself and written as packets;
then its frames are deleted. Chunks always hold the same frames, so that interruptions change nothing in the result. It
is put together of chunks and of the source's other streams at the end.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.files import atomic_file
from dstnet_arch.video.colour import Plane
from dstnet_arch.video.encoder import EncodedPacket, Encoding
from dstnet_arch.video.reader import split_planes
from dstnet_arch.video.remux import Companions, write_video
from dstnet_arch.video.sinks import FileSink, Job
from dstnet_arch.video.sources import Source

CHUNK_FRAMES = 120
"""In a chunk: its first frame is a key frame, and the frames of two chunks at most are on disk at a time."""

_RECORD = struct.Struct('<QBQ')  # frame in the chunk, whether it is a key frame, bytes that follow


class VideoSink(FileSink[list[Plane]]):
    """A video file; frames are given as the planes that the encoding wants.

    Args:
        target: the file.
        source: of the frames; its other streams go along.
        encoding: of the frames.
        container: FFmpeg's name of the container.
        job: as for `FileSink`.
        resume: as for `FileSink`.
        overwrite: replace a file, and what an interrupted run has left.

    Attributes:
        warnings: what cannot be taken along.

    Raises:
        OptionsError: as `FileSink`.
        DataError: as `FileSink`.
    """

    def __init__(
        self,
        target: Path,
        source: Source,
        encoding: Encoding,
        container: str,
        job: Job,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self._source, self._encoding, self._container = source, encoding, container
        self._sizes = encoding.format.plane_sizes(*encoding.size)
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix='encode')
        self._encoding_now: Future[None] | None = None
        self._companions = Companions(source, container)
        self.warnings = self._companions.warnings
        super().__init__(target, len(source), {**job, 'encoding': encoding.as_job()}, resume, overwrite)
        for chunk in range(self.position // CHUNK_FRAMES):
            self._encode_later(chunk)

    def write(self, position: int, make: Callable[[], list[Plane]]) -> None:
        super().write(position, make)
        if position + 1 in (self._stop(position // CHUNK_FRAMES), self._count):
            self._wait()
            self._encode_later(position // CHUNK_FRAMES)

    def close(self) -> None:
        self._encoder.shutdown(cancel_futures=True)
        self._companions.close()
        super().close()

    def _stop(self, chunk: int) -> int:
        return min((chunk + 1) * CHUNK_FRAMES, self._count)

    def _keep(self, position: int, made: list[Plane]) -> None:
        if self._chunk_path(position // CHUNK_FRAMES).exists():
            return
        with atomic_file(self._frame_path(position)) as file:
            for plane in made:
                file.write(plane.data)

    def _missing(self, count: int) -> list[str]:
        there = {entry.name for entry in self._frames.iterdir()} if self._frames.is_dir() else set()
        missing = []
        for position in range(count):
            chunk = self._chunk_path(position // CHUNK_FRAMES).name
            if chunk not in there and self._frame_path(position).name not in there:
                missing.append(f'frame {position}')
        return missing

    def _check_target(self) -> None:
        check_video_target(self._target, self._overwrite)

    def _complete(self) -> None:
        chunks = range(-(-self._count // CHUNK_FRAMES))
        for chunk in chunks:
            self._encode_later(chunk)
        if self._encoding_now is not None:
            self._encoding_now.result()

        def packets() -> Iterator[EncodedPacket]:
            for chunk in chunks:
                for packet in _read_packets(self._chunk_path(chunk)):
                    yield packet._replace(number=packet.number + chunk * CHUNK_FRAMES)

        result = self._partial / f'result{self._target.suffix}'
        write_video(result, self._encoding, self._source.timing, packets, self._companions, self._container)
        os.replace(result, self._target)

    def _encode_later(self, chunk: int) -> None:
        """In another thread, while frames of the next chunk come; but no more than one at a time, for want of room."""
        with self._explained():
            if self._encoding_now is not None:
                self._encoding_now.result()
        if not self._chunk_path(chunk).exists():
            self._encoding_now = self._encoder.submit(self._encode, chunk)

    def _encode(self, chunk: int) -> None:
        positions = range(chunk * CHUNK_FRAMES, self._stop(chunk))
        frames = (
            split_planes(np.fromfile(self._frame_path(position), self._encoding.format.dtype), self._sizes)
            for position in positions
        )
        numbers = []
        with atomic_file(self._chunk_path(chunk)) as file:
            for packet in self._encoding.encode(frames):
                numbers.append(packet.number)
                file.write(_RECORD.pack(packet.number, packet.is_key, len(packet.data)))
                file.write(packet.data)
            if sorted(numbers) != list(range(len(positions))):
                raise DataError(
                    f'{self._encoding.codec} has made {len(numbers)} frames of {len(positions)}. Choose another '
                    '--codec.'
                )
        for position in positions:
            self._frame_path(position).unlink()

    def _frame_path(self, position: int) -> Path:
        return self._frames / f'{position:09d}.raw'

    def _chunk_path(self, chunk: int) -> Path:
        return self._frames / f'chunk-{chunk:06d}.packets'


def _read_packets(path: Path) -> Iterator[EncodedPacket]:
    with path.open('rb') as file:
        while head := file.read(_RECORD.size):
            number, is_key, size = _RECORD.unpack(head)
            yield EncodedPacket(number, bool(is_key), file.read(size))


def check_video_target(target: Path, overwrite: bool) -> None:
    """Whether a video file can have this name.

    Raises:
        OptionsError: it cannot, or another one has it.
    """
    if target.is_dir():
        raise OptionsError(f'{target} is a folder; the video needs a name of its own.')
    if os.path.lexists(target) and not overwrite:
        raise OptionsError(f'{target} exists. Give another name, or --overwrite to replace it.')

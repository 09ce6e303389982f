"""Files of encoded frames."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.video.stream import VideoStream
from numpy.typing import NDArray

from dstnet_arch.errors import DataError
from dstnet_arch.files import incomplete_path
from dstnet_arch.video.colour import Colour, Plane
from dstnet_arch.video.encoding import Encoding, container_name, encoder_rate, first_container, quality_options
from dstnet_arch.video.join import join_segments
from dstnet_arch.video.timing import Timing


class SegmentWriter:
    """A playable file of consecutive encoded frames. It starts with a key frame.

    Args:
        path: the file, which is replaced.
        encoding: settings.

    Raises:
        DataError: FFmpeg cannot encode.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, encoding: Encoding) -> None:
        self._encoding, self._frames, self._packets = encoding, 0, 0
        container = first_container(encoding.codec, ('nut', 'matroska', 'mov'))
        self._output = av.open(str(path), 'w', format=container)
        try:
            stream = self._output.add_stream(encoding.codec, rate=encoding.rate)
            assert isinstance(stream, VideoStream)
            self._stream = stream
            encoding.configure(stream.codec_context)
        except BaseException:
            self._output.close()
            raise

    def write(self, planes: Sequence[Plane]) -> None:
        """Encode the next frame."""
        height, width = self._encoding.size
        colour = self._encoding.colour
        frame = av.VideoFrame(width, height, self._encoding.pix_fmt)
        for target, plane in zip(frame.planes, planes, strict=True):
            lines = np.frombuffer(memoryview(target), plane.dtype).reshape(-1, target.line_size // plane.dtype.itemsize)
            lines[: plane.shape[0], : plane.shape[1]] = plane
        frame.pts, frame.time_base = self._frames, 1 / self._encoding.rate
        frame.colorspace, frame.color_range = colour.matrix, {None: 0, False: 1, True: 2}[colour.full]
        frame.color_primaries, frame.color_trc = colour.primaries, colour.transfer
        self._frames += 1
        self._encode(frame)

    def finish(self) -> None:
        """Write what is left in the encoder and close the file."""
        self._encode(None)
        self._output.close()
        if self._packets != self._frames:
            raise DataError(
                f'{self._encoding.codec} made {self._packets} packets of {self._frames} frames. Choose another --codec.'
            )

    def abort(self) -> None:
        """Close the file without the frames that are left in the encoder."""
        self._output.close()

    def _encode(self, frame: av.VideoFrame | None) -> None:
        try:
            packets = self._stream.encode(frame)
        except av.FFmpegError as error:
            raise DataError(
                f'{self._encoding.codec} cannot encode: {error.strerror}. Choose another --codec.'
            ) from None
        self._packets += len(packets)
        self._output.mux(packets)


class VideoWriter:
    """Visually lossless H.264 file of 8-bit RGB images, without sound.

    Args:
        path: the .mp4, .mov or .mkv file, which is replaced when all images are written.
        size: (height, width), both even.
        timing: times of the images.

    Raises:
        DataError: the file cannot be written.
    """

    def __init__(self, path: Path, size: tuple[int, int], timing: Timing) -> None:
        self._path, self._timing = path, timing
        self._segment = incomplete_path(path.with_suffix('.segment'))
        rate = encoder_rate(timing.rate, 'libx264')
        options = quality_options('libx264', None)[0]
        colour = Colour(matrix=1, full=False, primaries=1, transfer=1)
        self._encoding = Encoding(
            'libx264', 'yuv420p', colour, size, rate, Fraction(1), options, None, global_header=True, reorders=True
        )
        with self._explained():
            self._writer = SegmentWriter(self._segment, self._encoding)

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, image: NDArray[np.uint8]) -> None:
        """Write the next image, (H, W, 3) RGB."""
        frame = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1) / 255
        with self._explained():
            self._writer.write(self._encoding.planes(frame))

    def __exit__(self, kind: object, *error: object) -> None:
        try:
            if kind is not None:
                self._writer.abort()
                return
            unfinished = incomplete_path(self._path)
            with self._explained():
                self._writer.finish()
                join_segments([self._segment], unfinished, container_name(self._path), self._timing)
                os.replace(unfinished, self._path)
        finally:
            self._segment.unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f'{self._path} cannot be written: {error}.') from None

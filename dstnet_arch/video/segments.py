"""Encoded segments of a video, and joining them into one file with exact times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

from dstnet_arch.errors import DataError
from dstnet_arch.video.colour import Colour, Plane
from dstnet_arch.video.encoding import Encoding, first_container
from dstnet_arch.video.ffmpeg import open_container, video_stream
from dstnet_arch.video.timing import Timing

_SEGMENT_CONTAINERS = ('nut', 'matroska', 'mov')
_JOINED_CONTAINERS = ('mp4', 'mov', 'nut')  # have exact times; NUT has no negative ones, which only reordering needs


class SegmentWriter:
    """A playable file of consecutive encoded frames, which starts with a key frame. An existing file is replaced.

    Raises:
        DataError: FFmpeg cannot encode.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, encoding: Encoding) -> None:
        self._encoding, self._frames, self._packets = encoding, 0, 0
        self._output = av.open(str(path), 'w', format=first_container(encoding.codec, _SEGMENT_CONTAINERS))
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
        frame = av.VideoFrame(width, height, self._encoding.pix_fmt)
        for target, plane in zip(frame.planes, planes, strict=True):
            lines = np.frombuffer(memoryview(target), plane.dtype).reshape(-1, target.line_size // plane.dtype.itemsize)
            lines[: plane.shape[0], : plane.shape[1]] = plane
        frame.pts, frame.time_base = self._frames, 1 / self._encoding.rate
        self._encoding.tag(frame)
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


def join_segments(
    segments: Sequence[Path], output: Path, encoding: Encoding, timing: Timing, container: str | None = None
) -> None:
    """Write the packets of segments into one file, which holds video only and starts at time 0.

    Args:
        segments: files of `SegmentWriter`.
        output: the file, which is replaced.
        encoding: settings of the segments.
        timing: times of all frames.
        container: FFmpeg's name of a container; None: one with exact times.

    Raises:
        DataError: the container does not accept the video.
        OSError: the file cannot be written.
    """
    container = container or first_container(encoding.codec, _JOINED_CONTAINERS)
    times = [time - timing.times[0] for time in timing.times]
    times.append(times[-1] + timing.last_duration)
    # Players decode by DTS in the order of storage. The sorted times, delayed by as many places as frames come late,
    # increase and are never after the PTS.
    late = max(place - number for place, (number, _) in enumerate(_packets(segments)))
    options = {'strict': 'experimental'}
    if container in ('mp4', 'mov'):
        options['video_track_timescale'] = str(timing.time_base.denominator)
        if encoding.colour != Colour():
            options['movflags'] = '+write_colr'  # also if some tags are missing
    try:
        with (
            av.open(str(output), 'w', format=container, options=options) as result,
            open_container(segments[0]) as first,
        ):
            stream = result.add_stream_from_template(video_stream(first, segments[0]), opaque=True)
            stream.time_base = timing.time_base
            stream.codec_context.sample_aspect_ratio = encoding.sample_aspect
            encoding.tag(stream.codec_context)
            for place, (number, source) in enumerate(_packets(segments)):
                packet = av.Packet(bytes(source))
                packet.pts, packet.duration = times[number], times[number + 1] - times[number]
                packet.dts = times[place - late] if place >= late else (place - late) * times[1]
                packet.time_base, packet.is_keyframe, packet.stream = timing.time_base, source.is_keyframe, stream
                result.mux(packet)
    except av.FFmpegError as error:
        if isinstance(error, OSError) and error.errno and 0 < error.errno < 256 and not isinstance(error, ValueError):
            raise OSError(error.errno, error.strerror) from None
        raise DataError(f'{container} does not accept this video: {error.strerror}.') from None


def count_frames(path: Path) -> tuple[int, tuple[int, int]]:
    """Return the number of frames of a video file, without decoding them, and their (height, width).

    Raises:
        DataError: it is not a video.
    """
    with open_container(path) as container:
        stream = video_stream(container, path)
        found = sum(1 for packet in container.demux(stream) if packet.size and not packet.is_discard)
        return found, (stream.codec_context.height, stream.codec_context.width)


def packet_sizes(path: Path) -> list[int]:
    """Return the size of each packet of a segment in bytes."""
    return [packet.size for _, packet in _packets([path])]


def _packets(segments: Sequence[Path]) -> Iterator[tuple[int, av.Packet]]:
    """Yield packets in the order of storage, each with the number of its frame in the order of presentation."""
    first = 0
    for segment in segments:
        with open_container(segment) as container:
            packets = [p for p in container.demux(video_stream(container, segment)) if p.size]
            order = {pts: number for number, pts in enumerate(sorted(packet.pts or 0 for packet in packets), first)}
            yield from ((order[packet.pts or 0], packet) for packet in packets)
        first += len(packets)

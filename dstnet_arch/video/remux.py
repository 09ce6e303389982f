"""A video file of encoded frames, with everything else of the file that they come from: sound, subtitles, cover
pictures, attachments, chapters and metadata. Nothing of that is encoded again.
"""

from __future__ import annotations

import errno
import heapq
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer, OutputContainer
from av.stream import AttachmentStream, Disposition, Stream
from av.video.stream import VideoStream

from dstnet_arch.errors import DataError
from dstnet_arch.video.encoder import EncodedPacket, Encoding
from dstnet_arch.video.reader import opened, picture_stream
from dstnet_arch.video.sources import Source, Timing

_OWN_METADATA = {'encoder', 'rotate', 'duration', 'major_brand', 'minor_version', 'compatible_brands'}
"""What containers write themselves, or what is no longer so."""


class Part:
    """What is kept of a source's own time: all, or from `origin` to `end` (s)."""

    def __init__(self, source: Source) -> None:
        timing = source.timing
        self.origin, self.end = timing.origin, timing.origin + end_of(timing) * timing.time_base
        self.is_cut = source.is_cut

    def has(self, time: Fraction) -> bool:
        """Whether what is shown or heard at that time is kept."""
        return not self.is_cut or self.origin <= time < self.end


def end_of(timing: Timing) -> int:
    """When the last frame ends, in units since the origin."""
    return timing.times[-1] + timing.last_duration


class Companions:
    """The other streams of a source's file.

    Args:
        source: its `path` is the file; without one, there are no streams.
        container: FFmpeg's name of the container that they are to go into.

    Attributes:
        streams: those that the container takes.
        warnings: about those that it does not.
    """

    def __init__(self, source: Source, container: str) -> None:
        self.part, self.warnings = Part(source), []
        self._stack = ExitStack()
        self._input: InputContainer | None = None
        self.streams: list[Stream] = []
        if source.path is None:
            return
        self._input = self._stack.enter_context(opened(source.path))
        main = picture_stream(self._input, source.path)
        for stream in self._input.streams:
            if stream.index == main.index:
                self._main = main
            elif fits(stream, container):
                self.streams.append(stream)
            elif stream.type != 'data':  # time codes and the like: containers make their own
                name = stream.codec_context.name if stream.codec_context else 'unknown'
                self.warnings.append(
                    f'{source.path}: stream {stream.index} ({stream.type}, {name}) does not go into {container}, and '
                    'is left out. .mkv takes almost all.'
                )

    def add_to(self, output: OutputContainer) -> dict[int, Stream]:
        """Add the streams to a file; returns them by their number in the source's."""
        return {stream.index: add_stream(output, stream) for stream in self.streams}

    def describe(self, output: OutputContainer, video: VideoStream) -> None:
        """Copy metadata and chapters."""
        if self._input is None:
            return
        output.metadata.update(lasting(self._input.metadata))
        video.metadata.update(lasting(self._main.metadata))
        video.disposition = self._main.disposition
        if chapters := list(self._chapters(self._input)):
            output.set_chapters(chapters)

    def packets(self, streams: dict[int, Stream]) -> Iterator[tuple[Fraction, av.Packet]]:
        """When, and what, in about the order of time."""
        wanted = [stream for stream in self.streams if not isinstance(stream, AttachmentStream)]
        if self._input is None or not wanted:
            return
        for packet in self._input.demux(wanted):
            if packet.pts is None or not packet.size:
                continue
            unit = Fraction(packet.time_base)
            is_cover = packet.stream.disposition & Disposition.attached_pic
            if not is_cover and not self.part.has(packet.pts * unit):
                continue
            shift = 0 if is_cover else round(self.part.origin / unit)
            packet.dts = packet.pts - shift if packet.dts is None else packet.dts - shift
            packet.pts -= shift
            packet.stream = streams[packet.stream.index]
            yield packet.dts * unit, packet

    def close(self) -> None:
        self._stack.close()

    def _chapters(self, container: InputContainer) -> Iterator[av.container.core.Chapter]:
        for chapter in container.chapters():
            unit = Fraction(chapter['time_base'] or 1)
            start, end = (
                min(max(chapter[key] * unit, self.part.origin), self.part.end)
                if self.part.is_cut
                else chapter[key] * unit
                for key in ('start', 'end')
            )
            if start < end:
                moved = {key: round((time - self.part.origin) / unit) for key, time in (('start', start), ('end', end))}
                yield {**chapter, **moved}  # type: ignore[typeddict-item]


def write_video(
    path: Path,
    encoding: Encoding,
    timing: Timing,
    packets: Callable[[], Iterable[EncodedPacket]],
    companions: Companions,
    container: str,
) -> None:
    """Write a video file.

    Args:
        path: of the file.
        encoding: what `packets` were made by.
        timing: of the frames.
        packets: gives all of them, in the order in which they are stored, each time it is called.
        companions: what goes along.
        container: FFmpeg's name.

    Raises:
        DataError: the container does not take it.
        OSError: it cannot be written.
    """
    try:
        with av.open(str(path), 'w', format=container) as output:
            video = add_video(output, encoding, timing)
            others = companions.add_to(output)
            companions.describe(output, video)
            restored = _timed(packets, timing, video)
            for _, packet in heapq.merge(restored, companions.packets(others), key=lambda timed: timed[0]):
                output.mux(packet)
        _verify(path, encoding, len(timing.times))
    except av.FFmpegError as error:
        if error.errno != errno.EINVAL and 0 < (error.errno or 0) < 256:  # others are FFmpeg's own
            raise OSError(error.errno, error.strerror) from None
        raise DataError(
            f'{container} does not take this video: {error}. Choose another --codec or container.'
        ) from None


def add_video(output: OutputContainer, encoding: Encoding, timing: Timing) -> VideoStream:
    """A stream whose header is that of the encoding; its own encoder gets no frames."""
    video = output.add_stream(encoding.codec, rate=encoding.rate)
    assert isinstance(video, VideoStream)
    encoding.configure(video.codec_context)
    video.time_base = timing.time_base
    return video


def _timed(
    packets: Callable[[], Iterable[EncodedPacket]], timing: Timing, video: VideoStream
) -> Iterator[tuple[Fraction, av.Packet]]:
    # Players decode by DTS, in the order of storage, and show by PTS. The times of the frames themselves, moved by as
    # few places as frames come late, rise and are never after the PTS.
    late = max(place - packet.number for place, packet in enumerate(packets()))
    for place, encoded in enumerate(packets()):
        packet = av.Packet(encoded.data)
        packet.pts = timing.times[encoded.number]
        packet.dts = decoding_time(timing, place - late)
        following = timing.times[encoded.number + 1 : encoded.number + 2]
        packet.duration = following[0] - packet.pts if following else timing.last_duration
        packet.time_base, packet.is_keyframe, packet.stream = timing.time_base, encoded.is_key, video
        yield packet.dts * timing.time_base, packet


def decoding_time(timing: Timing, place: int) -> int:
    """The time of a frame; before the first one, times go on in the first step."""
    if place >= 0:
        return timing.times[place]
    step = timing.times[1] - timing.times[0] if len(timing.times) > 1 else timing.last_duration
    return timing.times[0] + place * step


def _verify(path: Path, encoding: Encoding, count: int) -> None:
    """Whether a file that was written can be read. Not every error comes up while writing."""
    found, size = count_frames(path)
    if found != count or size != encoding.size:
        raise DataError(
            f'{path} came out with {found} frames of {size[1]}x{size[0]} instead of {count} of '
            f'{encoding.size[1]}x{encoding.size[0]}: the disk is full, or the container does not take them.'
        )


def count_frames(path: Path) -> tuple[int, tuple[int, int]]:
    """How many frames a video file holds, without decoding them, and their (height, width).

    Raises:
        DataError: it is no video.
    """
    with opened(path) as container:
        stream = picture_stream(container, path)
        found = sum(1 for packet in container.demux(stream) if packet.size)
        return found, (stream.codec_context.height, stream.codec_context.width)


def add_stream(output: OutputContainer, stream: Stream) -> Stream:
    """Add a stream like that of another file, without its packets."""
    if isinstance(stream, AttachmentStream):
        return output.add_attachment(stream.name or 'attachment', stream.mimetype or '', stream.data)
    added = output.add_stream_from_template(stream, opaque=True)
    added.metadata.update(lasting(stream.metadata))
    if stream.type != 'data':
        added.disposition = stream.disposition
    return added


def fits(stream: Stream, container: str) -> bool:
    """Whether a container, by FFmpeg's name, takes a stream: by writing a file's header with it."""
    is_cover = bool(stream.disposition & Disposition.attached_pic)
    if stream.type == 'video' and not is_cover:
        return False
    try:
        with av.open(io.BytesIO(), 'w', format=container) as output:
            add_stream(output, stream)
            if not is_cover:  # some containers want its picture before the header
                output.start_encoding()
    except (av.FFmpegError, ValueError, TypeError, OSError):
        return False
    return True


def lasting(metadata: dict[str, str]) -> dict[str, str]:
    """What still holds in another file."""
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in _OWN_METADATA and not key.startswith(('_STATISTICS', 'BPS', 'NUMBER_OF_', 'DURATION'))
    }

"""Video from and to pipes, restored as it comes; what is heard and read beside it goes along at once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path

import av
import torch
from av.container import InputContainer, OutputContainer
from av.video import VideoStream
from av.video.codeccontext import VideoCodecContext
from torch import Tensor
from tqdm import tqdm

from dstnet_arch.errors import DataError
from dstnet_arch.files import incomplete_path
from dstnet_arch.streaming.live import LiveStreamer
from dstnet_arch.video.encoder import Encoding, container_name
from dstnet_arch.video.images import Picture
from dstnet_arch.video.reader import Kind, picture_stream, planes_of, unreadable
from dstnet_arch.video.remux import add_stream, add_video, fits, lasting
from dstnet_arch.video.sources import Look, Source, Timing

PIPE_FORMAT = 'matroska'
"""The container of a pipe that nobody has named one for: all codecs, and no going back."""

_NO_WAITING = {'flush_packets': '1', 'cluster_time_limit': '100'}  # ms, of Matroska


def restore_pipe(
    source: str,
    target: Path,
    streamer: LiveStreamer,
    choose: Callable[[Source, str], Encoding],
    container: str | None = None,
) -> int:
    """Restore a video as it comes.

    Args:
        source: a video file, or - for standard input.
        target: a video file, or - for standard output.
        streamer: what restores.
        choose: the encoding, given what is known when the first frame has come, and FFmpeg's name of the container.
        container: FFmpeg's name; None: by the extension, and `PIPE_FORMAT` for a pipe.

    Returns:
        The number of frames.

    Raises:
        DataError: it cannot be read or written. A file has been written to another name, and is removed.
    """
    to_pipe = str(target) == '-'
    container = container_name(target, container or (PIPE_FORMAT if to_pipe else None))
    path = target if to_pipe else incomplete_path(target)
    try:
        with ExitStack() as stack:
            feed = stack.enter_context(closing(_Feed(source)))
            if not to_pipe:
                stack.callback(path.unlink, missing_ok=True)  # unless it has got its name
            encoding = choose(feed, container)
            output = stack.enter_context(
                av.open('pipe:1' if to_pipe else str(path), 'w', format=container, container_options=_NO_WAITING)
            )
            writer = _Writer(output, encoding, feed)
            bar = stack.enter_context(tqdm(desc='restoring', unit='frame'))
            for restored in streamer(feed.frames(writer.pass_on)):
                if not torch.isfinite(restored).all():
                    raise DataError('The network gave values that are not finite. Take --precision fp32.')
                writer.write(restored)
                bar.update()
            writer.finish()
            output.close()
            if feed.problem:
                raise DataError(f'{source}: {feed.problem} after {writer.count} frames.')
            if not to_pipe:
                os.replace(path, target)
            return writer.count
    except av.FFmpegError as error:
        raise DataError(f'{source} cannot be restored to {target}: {error}.') from None


class _Feed(Source):
    """Frames of a video file that is read once."""

    def __init__(self, name: str) -> None:
        try:
            self.input: InputContainer = av.open('pipe:0' if name == '-' else name, metadata_errors='replace')
        except (av.FFmpegError, OSError) as error:
            if name == '-':
                raise DataError(f'No video comes through the pipe: {error}.') from None
            raise unreadable(Path(name), error) from None
        self.stream: VideoStream = picture_stream(self.input, Path(name))
        self._early: list[av.Packet] = []  # the result cannot be begun before there is a frame
        self._pass_on: Callable[[av.Packet], None] = self._early.append
        self.pts: deque[int | None] = deque()
        self.names, self.warnings, self.problem = [], [], ''
        self._packets = self._demux()
        self._decoded = self._decode()
        first = next(self._decoded, None)
        if first is None:
            self.close()
            raise DataError(f'{name} has no frames that can be decoded.')
        self._first, self._kind = first, Kind.of(first, self.stream)
        self.size = self._kind.shown_size
        rate = Fraction(self.stream.average_rate or self.stream.guessed_rate or 25)
        self.timing = Timing(Fraction(self.stream.time_base or 1 / rate), [], 1, rate)

    @property
    def look(self) -> Look:
        look = self._kind.look
        return look._replace(format=look.format._replace(alpha=False))  # it would have to wait for its frame

    def frames(self, pass_on: Callable[[av.Packet], None]) -> Iterator[Tensor]:
        """The frames as they come; packets of `others` that come between are passed on."""
        for packet in self._early:
            pass_on(packet)
        self._pass_on = pass_on
        frame: av.VideoFrame | None = self._first
        while frame is not None:
            if Kind.of(frame, self.stream)[:2] != self._kind[:2]:
                self.problem = f'frames are of another kind ({frame.width}x{frame.height}, {frame.format.name})'
                return
            self.pts.append(frame.pts)
            yield self._kind.frame(planes_of(frame))
            frame = next(self._decoded, None)

    def close(self) -> None:
        self.input.close()

    def _demux(self) -> Iterator[av.Packet]:
        try:
            yield from self.input.demux()
        except av.FFmpegError as error:
            self.problem = f'reading stops with {error.strerror or error}'

    def _decode(self) -> Iterator[av.VideoFrame]:
        for packet in self._packets:
            if packet.stream.index != self.stream.index:
                if packet.size and packet.pts is not None:
                    self._pass_on(packet)
                continue
            try:
                yield from self.stream.decode(packet)
            except av.error.InvalidDataError:
                continue  # decoders begin anywhere, and mend what they can

    # What no pipe has

    def __getitem__(self, position: int) -> Tensor:
        raise NotImplementedError

    def alpha(self, position: int) -> Tensor | None:
        return None

    def restored_picture(self, position: int, restored: Tensor) -> Picture:
        raise NotImplementedError

    def identity(self) -> str:
        raise NotImplementedError


class _Writer:
    """Encodes and writes at once. Frames are stored in the order in which they are shown."""

    def __init__(self, output: OutputContainer, encoding: Encoding, feed: _Feed) -> None:
        self.count = 0
        self._output, self._encoding, self._feed = output, encoding, feed
        self._video = add_video(output, encoding, feed.timing)
        self._video.metadata.update(lasting(feed.stream.metadata))
        output.metadata.update(lasting(feed.input.metadata))
        container = output.format.name
        others = [s for s in feed.input.streams if s.index != feed.stream.index and s.type in ('audio', 'subtitle')]
        self._others = {s.index: add_stream(output, s) for s in others if fits(s, container)}
        self._context = av.CodecContext.create(encoding.codec, 'w')
        assert isinstance(self._context, VideoCodecContext)
        encoding.configure(self._context)
        self._times: dict[int, int] = {}

    def write(self, restored: Tensor) -> None:
        """Write the next frame."""
        assert isinstance(self._context, VideoCodecContext)
        pts, timing = self._feed.pts.popleft(), self._feed.timing
        self._times[self.count] = round(self.count / timing.rate / timing.time_base) if pts is None else pts
        frame = self._encoding.frame(self._encoding.planes(self._feed, self.count, restored), self.count)
        self.count += 1
        self._mux(self._context.encode(frame))

    def finish(self) -> None:
        """Write what is still within the encoder."""
        assert isinstance(self._context, VideoCodecContext)
        self._mux(self._context.encode(None))

    def pass_on(self, packet: av.Packet) -> None:
        """Write a packet of another stream."""
        if packet.stream.index in self._others:
            packet.dts = packet.pts if packet.dts is None else packet.dts
            packet.stream = self._others[packet.stream.index]
            self._output.mux(packet)

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            assert packet.pts is not None
            packet.pts = packet.dts = self._times.pop(packet.pts)
            packet.duration = 0
            packet.time_base, packet.stream = self._feed.timing.time_base, self._video
            self._output.mux(packet)

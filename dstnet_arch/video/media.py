"""Opening and decoding of media files with PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
from av.container import InputContainer
from av.video import VideoFrame, VideoStream

from dstnet_arch.errors import DataError
from dstnet_arch.video.ffmpeg import PROTOCOLS, file_url

av.logging.set_level(None)  # errors are raised as exceptions


@contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """Open a local file for reading.

    Raises:
        DataError: FFmpeg cannot read it.
    """
    try:
        container = av.open(file_url(path), metadata_errors='replace', options={'protocol_whitelist': PROTOCOLS})
    except (av.FFmpegError, OSError) as error:
        raise _unreadable(path, error) from None
    with container:
        yield container


def _unreadable(path: Path, error: Exception) -> DataError:
    if not path.exists():
        return DataError(f'{path} does not exist.')
    if path.stat().st_size == 0:
        return DataError(f'{path} is empty.')
    reason = getattr(error, 'strerror', None) or error
    with suppress(OSError), path.open('rb') as file:
        if file.read(12)[4:8] == b'ftyp' and isinstance(error, av.error.InvalidDataError):
            return DataError(
                f"{path} cannot be read: it has no list of its frames ('moov'), probably because the recording was "
                'interrupted. Tools such as untrunc can rebuild it from another file of the same camera.'
            )
    return DataError(f'{path} cannot be read as a video: {reason}. Check that it is a complete video file.')


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the main video stream, never a cover picture.

    Raises:
        DataError: there is none, or there is no decoder for it.
    """
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise DataError(f'{path} has no video in it. Give a video file or a folder of images.')
    best = container.streams.best('video')
    stream = best if isinstance(best, VideoStream) and best in streams else streams[0]
    if stream.codec_context is None:
        raise DataError(f'{path}: PyAV has no decoder for its video. Convert it with another program first.')
    return stream


class ReadLog:
    """What happened while a file was read.

    Attributes:
        packets: number of packets.
        damaged: number of damaged packets and frames.
        stopped_by: error that ended reading; empty at the end of the file.
    """

    def __init__(self) -> None:
        self.packets, self.damaged, self.stopped_by = 0, 0, ''


def read_frames(container: InputContainer, stream: VideoStream, log: ReadLog) -> Iterator[VideoFrame]:
    """Decode all frames and skip what cannot be decoded."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError as error:
            log.stopped_by = str(error.strerror or error)
            yield from _decode(stream, None, log)
            return
        log.packets += packet.size > 0
        log.damaged += packet.is_corrupt
        yield from _decode(stream, packet, log)


def _decode(stream: VideoStream, packet: av.Packet | None, log: ReadLog) -> list[VideoFrame]:
    try:
        return stream.decode(packet)
    except av.error.EOFError:
        return []
    except av.FFmpegError:
        log.damaged += 1
        return []

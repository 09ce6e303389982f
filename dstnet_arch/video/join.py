"""Joining of segments into one video file with exact times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av

from dstnet_arch.errors import DataError
from dstnet_arch.video.media import open_container, video_stream
from dstnet_arch.video.timing import Timing


class _Packet(NamedTuple):
    number: int  # of the frame in presentation order
    is_key: bool
    data: bytes


def join_segments(
    segments: Sequence[Path], output: Path, container: str, timing: Timing, sample_aspect: Fraction = Fraction(1)
) -> None:
    """Write the packets of segments into one file, which holds video only and starts at time 0.

    Args:
        segments: files of `SegmentWriter`, or one file that this function has made.
        output: the file, which is replaced.
        container: FFmpeg's name of its container.
        timing: times of all frames.
        sample_aspect: width of a pixel divided by its height.

    Raises:
        DataError: the container does not accept the video.
        OSError: the file cannot be written.
    """
    ticks = timing.time_base.denominator
    times = [time - timing.times[0] for time in timing.times]
    # Players decode by DTS in the order of storage. The sorted times, delayed by as many places as frames come late,
    # increase and are never after the PTS.
    late = max(place - number for place, number in enumerate(_numbers(segments)))
    step = times[1] if len(times) > 1 else timing.last_duration
    shift = late * step if container == 'nut' else 0  # NUT has no negative times
    options = {'video_track_timescale': str(ticks)} if container in ('mp4', 'mov') else {}
    try:
        with (
            av.open(str(output), 'w', format=container, options={'strict': 'experimental', **options}) as result,
            open_container(segments[0]) as first,
        ):
            template = video_stream(first, segments[0])
            stream = result.add_stream_from_template(template, opaque=True)
            stream.time_base = timing.time_base
            stream.codec_context.sample_aspect_ratio = sample_aspect
            for place, (number, is_key, data) in enumerate(_packets(segments)):
                packet = av.Packet(data)
                packet.pts = times[number] + shift
                packet.dts = (times[place - late] if place >= late else (place - late) * step) + shift
                end = times[number + 1] if number + 1 < len(times) else times[number] + timing.last_duration
                packet.duration = end - times[number]
                packet.time_base, packet.is_keyframe, packet.stream = timing.time_base, is_key, stream
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
    """Return the size of each video packet of a file in bytes."""
    with open_container(path) as container:
        return [p.size for p in container.demux(video_stream(container, path)) if p.size]


def _numbers(segments: Sequence[Path]) -> Iterator[int]:
    """Yield the number of the frame of each packet, in the order of storage."""
    first = 0
    for segment in segments:
        with open_container(segment) as container:
            stamps = [p.pts or 0 for p in container.demux(video_stream(container, segment)) if p.size]
        order = {pts: number for number, pts in enumerate(sorted(stamps))}
        yield from (first + order[pts] for pts in stamps)
        first += len(stamps)


def _packets(segments: Sequence[Path]) -> Iterator[_Packet]:
    numbers = _numbers(segments)
    for segment in segments:
        with open_container(segment) as container:
            for packet in container.demux(video_stream(container, segment)):
                if packet.size:
                    yield _Packet(next(numbers), packet.is_keyframe, bytes(packet))

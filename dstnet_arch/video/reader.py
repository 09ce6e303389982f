"""Frames of a video file, by number.

Headers, indexes and time stamps can be wrong. The file is therefore decoded once from start to end, which finds the
frames and their times. Later reads seek to a key frame and decode the frames up to the next one (a group). If seeking
leads to another frame than expected, the whole file is decoded into a temporary file instead.
"""

from __future__ import annotations

import itertools
import tempfile
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video import VideoFrame, VideoStream

from dstnet_arch.errors import DataError, counted
from dstnet_arch.progress import Progress
from dstnet_arch.streaming.state_store import TensorFile
from dstnet_arch.video.colour import Plane
from dstnet_arch.video.ffmpeg import FFmpegError, file_url, input_arguments, run_ffmpeg
from dstnet_arch.video.frames import FrameKind, hidden_side_data, planes_of
from dstnet_arch.video.media import ReadLog, open_container, read_frames, video_stream
from dstnet_arch.video.timing import average_rate, repair_times, usual_step

_GROUP_FRAMES = 32  # at least, so that decoders are not restarted for each frame of intra-only video
_MEMORY_BYTES = 256 << 20  # of decoded frames; larger groups are kept in a temporary file
_RESTARTABLE = 0x0200  # AVFMT_TS_DISCONT: containers whose clock may restart
_LONGEST_STEP = 10  # seconds; a longer one is a restart to the ffmpeg program, in these containers


class _FrameInfo(NamedTuple):
    pts: int | None
    fingerprint: int | None  # of key frames


class VideoFile:
    """A video file that has been decoded once.

    Args:
        path: any container that FFmpeg reads.
        enough: called with the number of frames so far and the time of the next one in seconds after the first; True:
            the next frame and all after it are not needed.
        show_progress: show a bar on standard error while the file is decoded.
        temp_dir: folder for temporary files.

    Attributes:
        media: the file to read: `path`, or a copy with a continuous clock.
        kind: properties of all frames.
        time_base: length of one tick in seconds.
        times: time of each frame in ticks, strictly increasing.
        start_time: time on the file's clock at which its first stream starts, in seconds.
        last_duration: duration of the last frame in ticks.
        rate: average number of frames per second.
        stopped: True if frames were left unread because there were `enough`.
        warnings: problems that the user should know.

    Raises:
        DataError: the file cannot be read as a video.
    """

    kind: FrameKind

    def __init__(
        self,
        path: Path,
        enough: Callable[[int, Fraction], bool] = lambda count, time: False,
        show_progress: bool = False,
        temp_dir: str | None = None,
    ) -> None:
        self.path = self.media = path
        self._temp_dir = temp_dir
        self._enough, self._show_progress = enough, show_progress
        self._copies: list[tempfile.TemporaryDirectory[str]] = []
        self._groups: dict[int, _Group] = {}
        self._scan()
        if self._clock_restarts and self._copy_with_continuous_clock():
            self._scan()
        self._starts = self._find_starts()

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, number: int) -> list[Plane]:
        """Return the planes of a frame.

        Raises:
            DataError: the file has changed, or a temporary file cannot be written.
        """
        start = self._starts[bisect_right(self._starts, number) - 1]
        if start not in self._groups:
            while len(self._groups) > 1:  # two, because reading alternates at their border
                self._groups.pop(next(iter(self._groups))).close()
            self._groups[start] = _Group(self, start, self._stop_of(start), self._temp_dir)
        try:
            return self._groups[start][number]
        except _SeekError:
            if start == 0:
                raise DataError(f'{self.path} has changed since it was opened. Start again.') from None
            self._drop_groups()
            self._starts = [0]
            return self[number]

    def close(self) -> None:
        """Free memory and temporary files."""
        self._drop_groups()
        for copy in self._copies:
            copy.cleanup()

    def decode(self, start: int, stop: int) -> Iterator[list[Plane]]:
        """Decode the frames `start` to `stop - 1`.

        Raises:
            _SeekError: seeking leads to other frames.
        """
        earlier = self._starts[max(bisect_right(self._starts, start) - 3, 0)]
        for begin in dict.fromkeys([start, earlier]):  # some containers seek too late
            number = start
            for frame in self._decode_from(begin, start):
                yield planes_of(frame, self.kind)
                number += 1
                if number == stop:
                    return
            if number > start:
                break
        raise _SeekError

    def _decode_from(self, begin: int, start: int) -> Iterator[VideoFrame]:
        """Decode from frame `start` on, after seeking to frame `begin`."""
        info = self._frames[start]
        with open_container(self.media) as container:
            stream = video_stream(container, self.path)
            stream.thread_type = 'AUTO'
            if begin:
                pts = self._frames[begin].pts
                assert pts is not None
                try:
                    container.seek(pts, stream=stream)
                except av.FFmpegError:
                    return
            frames = read_frames(container, stream, ReadLog())
            for frame in frames:
                if not start or (frame.pts == info.pts and _fingerprint(frame) == info.fingerprint):
                    yield frame
                    break
            yield from frames

    def _scan(self) -> None:
        self._frames: list[_FrameInfo] = []
        self.stopped = False
        self.warnings: list[str] = []
        self._interlaced = False
        log = ReadLog()
        with open_container(self.media) as container:
            stream = video_stream(container, self.path)
            stream.thread_type = 'AUTO'
            self.stream_index = stream.index
            self.time_base = Fraction(stream.time_base or Fraction(1, 1000))
            self.start_time = Fraction(container.start_time or 0, av.time_base)
            kinds: Counter[tuple[int, int, str]] = Counter()
            found: dict[tuple[int, int, str], FrameKind] = {}
            hidden: set[str] = set()
            first: int | None = None
            last: VideoFrame | None = None
            following: int | None = None
            with Progress(stream.frames, 'frame', 'reading') if self._show_progress else nullcontext() as bar:
                for frame in read_frames(container, stream, log):
                    first = frame.pts if first is None else first
                    ticks = None if frame.pts is None or first is None else frame.pts - first
                    seconds = Fraction(len(self), 25) if ticks is None else ticks * self.time_base
                    if self._enough(len(self), seconds):
                        self.stopped, following = True, frame.pts
                        break
                    name = frame.height, frame.width, frame.format.name
                    if name not in found:
                        found[name] = FrameKind.of(frame, stream)
                        hidden |= hidden_side_data(frame)
                    kinds[name] += 1
                    self._frames.append(_FrameInfo(frame.pts, _fingerprint(frame) if frame.key_frame else None))
                    self._interlaced |= frame.interlaced_frame
                    log.damaged += frame.is_corrupt
                    last = frame
                    if bar is not None:
                        bar.update()
            if last is None:
                reason = f': {log.stopped_by}' if log.stopped_by else ''
                raise DataError(f'{self.path} has no frame that can be decoded{reason}.')
            self.kind = found[kinds.most_common(1)[0][0]]
            declared = [stream.average_rate, stream.guessed_rate]
            self._set_times(declared, last, following, _declared_end(container, stream))
            self._clock_restarts = bool(int(container.format.flags) & _RESTARTABLE) and any(
                not 0 < (b - a) * self.time_base <= _LONGEST_STEP
                for a, b in pairwise(info.pts for info in self._frames if info.pts is not None)
            )
            self._set_warnings(len(kinds), log, hidden)
            if not self.stopped:
                self._check_end(container, stream, log)

    def _set_times(
        self, declared: list[Fraction | None], last: VideoFrame, following: int | None, end: int | None
    ) -> None:
        stamps = [info.pts for info in self._frames]
        rate = next((rate for rate in declared if rate and 1 <= rate <= 300), Fraction(25))
        usual = usual_step(stamps, round(1 / rate / self.time_base))
        self._untimed = all(stamp is None for stamp in stamps)
        if self._untimed:
            self.time_base, usual = 1 / rate, 1
        smallest = max(1, -int(-Fraction(1, 1000) / self.time_base // 1))  # what Matroska can tell apart
        self.times, self._repaired = repair_times(stamps, usual, smallest)
        self.rate = average_rate(self.times, self.time_base, declared)
        duration = last.duration or usual
        if following is not None:
            duration = following - self.times[-1]
        elif end is not None and abs(end - self.times[-1] - duration) * self.time_base > Fraction(1, 500):
            duration = end - self.times[-1]
        self.last_duration = duration if duration >= usual / 4 and not self._untimed else usual

    def _set_warnings(self, num_kinds: int, log: ReadLog, hidden: set[str]) -> None:
        self.warnings += self.kind.warnings(self.path)
        if log.damaged:
            self.warnings.append(
                f'{self.path} is damaged in {counted(log.damaged, "place")}: frames there are restored as they decode.'
            )
        if num_kinds > 1:
            self.warnings.append(
                f'{self.path} changes its frame size or pixel format: all frames are scaled to '
                f'{self.kind.size[1]}x{self.kind.size[0]}.'
            )
        if self._untimed and len(self) > 1:
            self.warnings.append(
                f'{self.path} has no time stamps: {float(self.rate):g} fps are used. --fps sets another rate.'
            )
        elif self._repaired:
            self.warnings.append(
                f'{self.path} has {counted(self._repaired, "wrong time stamp")}; only these were corrected.'
            )
        if self._interlaced:
            self.warnings.append(
                f'{self.path} is interlaced: frames are restored as progressive ones, and the result is marked as '
                'progressive. To deinterlace first: ffmpeg -i IN -vf bwdif -c:v ffv1 -c:a copy OUT.mkv'
            )
        if hidden:
            self.warnings.append(f'{self.path}: not kept: {", ".join(sorted(hidden))}.')

    def _check_end(self, container: InputContainer, stream: VideoStream, log: ReadLog) -> None:
        """Warn if frames seem to be missing at the end."""
        end = (self.times[-1] + self.last_duration) * self.time_base
        declared = Fraction(container.duration or 0, av.time_base) + min(self.start_time, Fraction(0))
        reason = log.stopped_by
        if 'mov' in container.format.name and log.packets < stream.frames:
            reason = f'{log.packets} of {stream.frames} frames are in it'
        elif 'matroska' in container.format.name and declared > end + max(Fraction(1), end / 20):
            reason = f'its video ends after {float(end):.1f} of {float(declared):.1f} s'
        if reason:
            self.warnings.append(f'{self.path} may be incomplete ({reason}). What it has is used.')

    def _copy_with_continuous_clock(self) -> bool:
        """Let the ffmpeg program correct the clock of all streams alike; False if it cannot."""
        self._copies.append(tempfile.TemporaryDirectory(prefix='dstnet-', dir=self._temp_dir))
        copy = Path(self._copies[-1].name) / 'copy.nut'
        streams = ['-map', f'0:{self.stream_index}', '-map', '0:a?', '-map', '0:s?']
        try:
            run_ffmpeg(
                [
                    *input_arguments(self.path, '-fflags', '+genpts'),
                    *streams,
                    '-c',
                    'copy',
                    '-copyinkf',
                    '-f',
                    'nut',
                    file_url(copy),
                ]
            )
        except FFmpegError:
            return False
        self.media = copy
        return True

    def _find_starts(self) -> list[int]:
        """Return the numbers of the frames at which groups begin."""
        counts = Counter(info.pts for info in self._frames)
        starts = [0]
        for number, info in enumerate(self._frames):
            seekable = info.fingerprint is not None and info.pts is not None and counts[info.pts] == 1
            if seekable and number - starts[-1] >= _GROUP_FRAMES:
                starts.append(number)
        return starts

    def _stop_of(self, start: int) -> int:
        place = bisect_right(self._starts, start)
        return self._starts[place] if place < len(self._starts) else len(self)

    def _drop_groups(self) -> None:
        for group in self._groups.values():
            group.close()
        self._groups.clear()


class _SeekError(Exception):
    """Seeking leads to other frames."""


class _Group:
    """Consecutive frames, decoded when first needed."""

    def __init__(self, file: VideoFile, start: int, stop: int, temp_dir: str | None) -> None:
        self._start, self._source = start, file.decode(start, stop)
        self._sizes = file.kind.format.plane_sizes(*file.kind.size)
        self._dtype = file.kind.format.dtype
        frame_bytes = sum(rows * columns for rows, columns in self._sizes) * self._dtype.itemsize
        fits = frame_bytes * (stop - start) <= _MEMORY_BYTES
        # One block, because many small ones between the frames of other threads fragment the memory.
        self._memory = torch.empty((stop - start if fits else 0, frame_bytes), dtype=torch.uint8)
        self._file = None if fits else TensorFile(temp_dir)
        self._count = 0

    def __getitem__(self, number: int) -> list[Plane]:
        place = number - self._start
        while self._count <= place:
            try:
                planes = next(self._source)
            except StopIteration:
                raise _SeekError from None
            samples = torch.from_numpy(np.concatenate([plane.reshape(-1) for plane in planes]).view(np.uint8))
            if self._file is None:
                self._memory[self._count] = samples
            else:
                self._file.append(samples)
            self._count += 1
        frame = (self._memory if self._file is None else self._file)[place].numpy().view(self._dtype)
        ends = list(itertools.accumulate(rows * columns for rows, columns in self._sizes))
        return [part.reshape(size) for part, size in zip(np.split(frame, ends[:-1]), self._sizes, strict=True)]

    def close(self) -> None:
        self._source.close()  # type: ignore[attr-defined]
        if self._file is not None:
            self._file.close()


def _fingerprint(frame: VideoFrame) -> int:
    """Return a checksum of the first plane."""
    plane = frame.planes[0]
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return zlib.crc32(lines[:, : plane.width].tobytes())


def _declared_end(container: InputContainer, stream: VideoStream) -> int | None:
    """Return the time in ticks at which an MP4 or MOV file says that its video ends."""
    if 'mov' not in container.format.name or not stream.duration:
        return None
    return (stream.start_time or 0) + stream.duration

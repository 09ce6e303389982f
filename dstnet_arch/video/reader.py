"""Frames of a video file, by number.

Headers, indexes and time stamps can be wrong. The file is therefore decoded once from start to end, which finds the
frames and their times. Later reads seek to a key frame and decode the frames up to the next one (a group). If seeking
leads to another frame than expected, the whole file is decoded into a temporary file instead.
"""

from __future__ import annotations

import tempfile
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from fractions import Fraction
from itertools import accumulate, dropwhile, islice, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av import VideoCodecContext
from av.container import InputContainer
from av.video import VideoFrame, VideoStream

from dstnet_arch.errors import DataError, counted
from dstnet_arch.progress import Progress
from dstnet_arch.streaming.state_store import TensorFile
from dstnet_arch.video.colour import Plane
from dstnet_arch.video.ffmpeg import FFmpegError, input_arguments, open_container, run_ffmpeg, video_stream
from dstnet_arch.video.frames import FrameKind, hidden_side_data, planes_of
from dstnet_arch.video.timing import average_rate, repair_times, usual_step

_GROUP_FRAMES = 32  # at least, so that decoders are not restarted for each frame of intra-only video
_MEMORY_BYTES = 256 << 20  # of decoded frames; larger groups are kept in a temporary file
_RESTARTABLE = 0x0200  # AVFMT_TS_DISCONT: containers whose clock may restart
_LONGEST_STEP = 10  # seconds; a longer one is a restart to the ffmpeg program, in these containers
_ALPHA_DECODERS = {'vp8': 'libvpx', 'vp9': 'libvpx-vp9'}  # FFmpeg's own decoders ignore alpha


class VideoFile:
    """A video file that has been decoded once.

    Args:
        path: any container that FFmpeg reads.
        end: number of the first frame that is not needed, or its time in seconds after the first one; None: read all.
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
        stopped: True if frames were left unread because of `end`.
        warnings: problems that the user should know.

    Raises:
        DataError: the file cannot be read as a video.
    """

    def __init__(
        self,
        path: Path,
        end: int | Fraction | None = None,
        show_progress: bool = False,
        temp_dir: str | None = None,
    ) -> None:
        self.path = self.media = path
        self._temp_dir = temp_dir
        self._end, self._show_progress = end, show_progress
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._groups: dict[int, _Group] = {}
        self._scan()
        if self._clock_restarts and self._copy_with_continuous_clock():
            self._scan()
        self._starts = self._find_starts()

    def __len__(self) -> int:
        return len(self._stamps)

    def __getitem__(self, number: int) -> list[Plane]:
        """Return the planes of a frame.

        Raises:
            DataError: the file has changed, or a temporary file cannot be written.
        """
        place = bisect_right(self._starts, number)
        start, stop = self._starts[place - 1], [*self._starts, len(self)][place]
        if start not in self._groups:
            while len(self._groups) > 1:  # two, because reading alternates at their border
                self._groups.pop(next(iter(self._groups))).close()
            self._groups[start] = _Group(self, start, stop, self._temp_dir)
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
        if self._copy is not None:
            self._copy.cleanup()

    def decode(self, start: int, stop: int) -> Iterator[list[Plane]]:
        """Decode the frames `start` to `stop - 1`.

        Raises:
            _SeekError: seeking leads to other frames.
        """
        earlier = self._starts[max(bisect_right(self._starts, start) - 3, 0)]
        number = start
        for begin in dict.fromkeys([start, earlier]):  # some containers seek too late
            with open_container(self.media) as container:
                frames = iter(_Decoder(container, self.path))
                if begin:
                    try:
                        container.seek(self._stamps[begin] or 0, stream=container.streams[self.stream_index])
                    except av.FFmpegError:
                        continue
                if start:
                    frames = dropwhile(lambda frame: not self._is_key(frame, start), frames)
                for frame in islice(frames, stop - start):
                    yield planes_of(frame, self.kind)
                    number += 1
            if number > start:
                break
        if number < stop:
            raise _SeekError

    def _is_key(self, frame: VideoFrame, number: int) -> bool:
        return frame.pts == self._stamps[number] and _fingerprint(frame) == self._keys[number]

    def _scan(self) -> None:
        self._stamps: list[int | None] = []
        self._keys: dict[int, int] = {}  # fingerprints of key frames by number
        self.stopped = interlaced = False
        kinds: dict[tuple[int, int, str], FrameKind] = {}
        counts: Counter[tuple[int, int, str]] = Counter()
        hidden: set[str] = set()
        last: VideoFrame | None = None
        following: int | None = None
        with open_container(self.media) as container:
            decoder = _Decoder(container, self.path)
            stream = decoder.stream
            self.stream_index = stream.index
            self.time_base = Fraction(stream.time_base or Fraction(1, 1000))
            self.start_time = Fraction(container.start_time or 0, av.time_base)
            with Progress(stream.frames, 'frame', 'reading') if self._show_progress else nullcontext() as bar:
                for frame in decoder:
                    if self._is_end(frame):
                        self.stopped, following = True, frame.pts
                        break
                    kind = frame.height, frame.width, frame.format.name
                    if kind not in kinds:
                        kinds[kind] = FrameKind.of(frame, stream.sample_aspect_ratio)
                        hidden |= hidden_side_data(frame)
                    counts[kind] += 1
                    if frame.key_frame:
                        self._keys[len(self)] = _fingerprint(frame)
                    self._stamps.append(frame.pts)
                    interlaced |= frame.interlaced_frame
                    last = frame
                    if bar is not None:
                        bar.update()
            if last is None:
                reason = decoder.stopped_by or 'all of them are damaged'
                raise DataError(f'{self.path} has no frame that can be decoded: {reason}.')
            self.kind = kinds[counts.most_common(1)[0][0]]
            self.warnings = self.kind.warnings(self.path)
            if decoder.damaged:
                places = counted(decoder.damaged, 'place')
                self._warn(f'is damaged in {places}: frames there are restored as they decode')
            if len(kinds) > 1:
                height, width = self.kind.size
                self._warn(f'changes its frame size or pixel format: all frames are scaled to {width}x{height}')
            self._set_times(container, stream, last, following)
            if interlaced:
                self._warn(
                    'is interlaced: frames are restored as progressive ones, and the result is marked as progressive '
                    '(to deinterlace first: ffmpeg -i IN -vf bwdif -c:v ffv1 -c:a copy OUT.mkv)'
                )
            if hidden:
                self._warn(f'has {" and ".join(sorted(hidden))}, which the result does not get')
            if not self.stopped:
                self._check_end(container, decoder)

    def _is_end(self, frame: VideoFrame) -> bool:
        if not self._stamps:
            return False
        if not isinstance(self._end, Fraction):
            return self._end is not None and len(self) >= self._end
        first = self._stamps[0]
        if frame.pts is None or first is None:
            return Fraction(len(self), 25) >= self._end
        return (frame.pts - first) * self.time_base >= self._end

    def _set_times(
        self, container: InputContainer, stream: VideoStream, last: VideoFrame, following: int | None
    ) -> None:
        stamps = self._stamps
        self._clock_restarts = bool(int(container.format.flags) & _RESTARTABLE) and any(
            not 0 < (b - a) * self.time_base <= _LONGEST_STEP
            for a, b in pairwise(stamp for stamp in stamps if stamp is not None)
        )
        declared = [stream.average_rate, stream.guessed_rate]
        rate = next((rate for rate in declared if rate and 1 <= rate <= 300), Fraction(25))
        usual = usual_step(stamps, round(1 / rate / self.time_base))
        is_untimed = all(stamp is None for stamp in stamps)
        if is_untimed:
            self.time_base, usual = 1 / rate, 1
        smallest = max(1, -int(-Fraction(1, 1000) / self.time_base // 1))  # what Matroska can tell apart
        self.times, num_repaired = repair_times(stamps, usual, smallest)
        self.rate = average_rate(self.times, self.time_base, declared)
        if is_untimed and len(self) > 1:
            self._warn(f'has no time stamps: without --fps, {float(self.rate):g} fps are used')
        elif num_repaired:
            self._warn(f'has {counted(num_repaired, "wrong time stamp")}; only these were corrected')

        duration = last.duration or usual
        if following is not None:
            duration = following - self.times[-1]
        elif 'mov' in container.format.name and stream.duration:
            declared_duration = (stream.start_time or 0) + stream.duration - self.times[-1]
            if abs(declared_duration - duration) * self.time_base > Fraction(1, 500):
                duration = declared_duration
        self.last_duration = duration if duration >= usual / 4 and not is_untimed else usual

    def _check_end(self, container: InputContainer, decoder: _Decoder) -> None:
        """Warn if frames seem to be missing at the end."""
        end = (self.times[-1] + self.last_duration) * self.time_base
        declared = Fraction(container.duration or 0, av.time_base) + min(self.start_time, Fraction(0))
        reason, num_frames = decoder.stopped_by, decoder.stream.frames
        if 'mov' in container.format.name and decoder.packets < num_frames:
            reason = f'{decoder.packets} of {num_frames} frames are in it'
        elif 'matroska' in container.format.name and declared > end + max(Fraction(1), end / 20):
            reason = f'its video ends after {float(end):.1f} of {float(declared):.1f} s'
        if reason:
            self._warn(f'may be incomplete ({reason}). What it has is used')

    def _warn(self, problem: str) -> None:
        self.warnings.append(f'{self.path} {problem}.')

    def _copy_with_continuous_clock(self) -> bool:
        """Let the ffmpeg program correct the clock of all streams alike; False if it cannot."""
        self._copy = tempfile.TemporaryDirectory(prefix='dstnet-', dir=self._temp_dir)
        copy = Path(self._copy.name) / 'copy.nut'
        streams = ['-map', f'0:{self.stream_index}', '-map', '0:a?', '-map', '0:s?']
        options = ['-c', 'copy', '-copyinkf', '-f', 'nut', f'file:{copy}']
        try:
            run_ffmpeg([*input_arguments(self.path, '-fflags', '+genpts'), *streams, *options])
        except FFmpegError:
            return False
        self.media = copy
        return True

    def _find_starts(self) -> list[int]:
        """Return the numbers of the frames at which groups begin."""
        counts = Counter(self._stamps)
        starts = [0]
        for number in self._keys:
            stamp = self._stamps[number]
            if stamp is not None and counts[stamp] == 1 and number - starts[-1] >= _GROUP_FRAMES:
                starts.append(number)
        return starts

    def _drop_groups(self) -> None:
        for group in self._groups.values():
            group.close()
        self._groups.clear()


class _SeekError(Exception):
    """Seeking leads to other frames."""


class _Decoder:
    """Decodes the main video stream of a container and skips what cannot be decoded.

    Attributes:
        stream: the stream.
        packets: number of packets so far.
        damaged: number of damaged packets and frames so far.
        stopped_by: error that ended reading; empty at the end of the file.
    """

    def __init__(self, container: InputContainer, path: Path) -> None:
        self.stream = video_stream(container, path)
        self.packets, self.damaged, self.stopped_by = 0, 0, ''
        self._packets = container.demux(self.stream)
        self._has_dts_only = container.format.name == 'avi'
        context: Any = self.stream.codec_context
        has_alpha = '1' in (self.stream.metadata.get(key) for key in ('alpha_mode', 'ALPHA_MODE'))
        if has_alpha and context.name in _ALPHA_DECODERS:
            context = VideoCodecContext.create(_ALPHA_DECODERS[context.name], 'r')
        context.thread_type = 'AUTO'
        self._context = context

    def __iter__(self) -> Iterator[VideoFrame]:
        while True:
            try:
                packet = next(self._packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                self.stopped_by = str(error.strerror or error)
                yield from self._decode(None)
                return
            self.packets += packet.size > 0
            self.damaged += packet.is_corrupt
            for frame in self._decode(packet):
                self.damaged += frame.is_corrupt
                yield frame

    def _decode(self, packet: av.Packet | None) -> list[VideoFrame]:
        try:
            frames: list[VideoFrame] = self._context.decode(packet)
        except av.error.EOFError:
            return []
        except av.FFmpegError:
            self.damaged += packet is None or packet.size > 0  # empty ones repeat the frame before
            return []
        if self._has_dts_only:  # FFmpeg guesses the PTS, often wrongly
            for frame in frames:
                frame.pts = frame.dts
        return frames


class _Group:
    """Consecutive frames, decoded when first needed."""

    def __init__(self, file: VideoFile, start: int, stop: int, temp_dir: str | None) -> None:
        self._start, self._source = start, file.decode(start, stop)
        form = file.kind.stored.format
        self._sizes, self._dtype = form.plane_sizes(*file.kind.size), form.dtype
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
        ends = list(accumulate(rows * columns for rows, columns in self._sizes))
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

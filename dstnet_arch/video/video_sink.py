"""Video files as results, which an interrupted run can continue.

Frames are encoded in segments, because the state of an encoder cannot be saved. Segments always hold the same frames,
so interruptions do not change the result. At the end, the segments are joined and the source's other streams added.
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from fractions import Fraction
from math import gcd
from pathlib import Path

from torch import Tensor
from typing_extensions import override

from dstnet_arch.data.frame_source import size_text
from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.video.encoding import OutputOptions, choose_encoding, container_name
from dstnet_arch.video.ffmpeg import input_arguments, run_ffmpeg
from dstnet_arch.video.remux import Remuxer
from dstnet_arch.video.segments import SegmentWriter, count_frames, join_segments, packet_sizes
from dstnet_arch.video.sink import Job, Sink
from dstnet_arch.video.source import Source
from dstnet_arch.video.timing import Timing

SEGMENT_FRAMES = 60
"""Frames in a segment: what an interrupted run restores again, at most."""

_TRIAL_FRAMES = 3
_INTER_SHARE = 20  # frames that are predicted from others take at least this fraction of one that is not
_CONSTANT_RATE = ('mxf', 'mxf_opatom')
_MAX_AVI_SLOTS = 20  # per frame, including empty ones


class VideoSink(Sink):
    """Video file. The arguments are those of `open_sink`, which names the errors."""

    _num_threads = 1  # frames must be encoded in order

    def __init__(
        self, output: Path, source: Source, job: Job, resume: bool, overwrite: bool, options: OutputOptions
    ) -> None:
        container = container_name(output, options.container)
        self._encoding = choose_encoding(source, container, options)
        self._timing = _fit_timing(source.timing, container)
        self.description = f'{self._encoding.description}, {float(source.timing.rate):.5g} fps'
        self._segment: SegmentWriter | None = None
        facts = f'{self._encoding.description}, {zlib.crc32(str(self._encoding).encode()):08x}'
        super().__init__(output, source, {**job, 'encoding': facts}, resume, overwrite)
        self._next = self.position  # frame to encode
        self._remuxer = Remuxer(source, self._timing, container, self._encoding, self._partial)
        try:
            with self._explained():
                self._try_out()
        except BaseException:
            self.close()
            raise
        self.warnings = self._encoding.losses + self._remuxer.warnings
        wanted, shown = self._encoding.colour, self._remuxer.shown
        if shown is not None and shown != wanted:  # frames are converted to what a player assumes
            self._encoding = self._encoding._replace(colour=shown)
            if (shown.primaries, shown.transfer) != (wanted.primaries, wanted.transfer):  # no conversion is possible
                self.warnings.append(f'{container} with {self._encoding.codec} cannot hold all colour tags.')

    @override
    def close(self) -> None:
        self._pool.shutdown()
        if self._segment is not None:
            self._segment.abort()
            self._segment = None
        super().close()

    def _is_due(self, position: int) -> bool:
        return position % SEGMENT_FRAMES == 0

    def _try_out(self) -> None:
        """Mux the first frame with all streams, to find what fails before the work."""
        segment, video = self._partial / 'trial.segment', self._partial / 'trial.video'
        count = min(_TRIAL_FRAMES, len(self._source))
        planes = self._encoding.planes(self._source[0], self._source.alpha(0))
        writer = SegmentWriter(segment, self._encoding)
        try:
            for _ in range(count):
                writer.write(planes)
        except BaseException:
            writer.abort()
            raise
        writer.finish()
        sizes = packet_sizes(segment)
        is_intra = min(sizes) > max(sizes) / 2
        frame_bytes = max(sizes) // (1 if is_intra else _INTER_SHARE)
        self._check_space(2 * frame_bytes * (len(self._source) - self.position))  # joined, then with all streams
        join_segments([segment], video, self._encoding, self._timing._replace(times=self._timing.times[:count]))
        try:
            self._remuxer.try_out(video)
        finally:
            for path in (segment, video):
                path.unlink(missing_ok=True)

    def _write(self, position: int, restored: Tensor) -> None:
        if position != self._next:
            raise DataError(f'Frame {self._next} was not written.')
        alpha = self._source.alpha(position) if self._encoding.format.alpha else None
        path = self._segment_path(position)
        if self._segment is None:
            self._segment = SegmentWriter(path.with_suffix('.incomplete'), self._encoding)
        self._segment.write(self._encoding.planes(restored, alpha))
        self._next = position + 1
        if self._is_due(self._next) or self._next == len(self._source):
            self._segment.finish()
            self._segment = None
            os.replace(path.with_suffix('.incomplete'), path)

    def _is_stored(self, count: int) -> bool:
        starts = range(0, count, SEGMENT_FRAMES)
        return self._joined.exists() or all(self._segment_path(start).exists() for start in starts)

    def _check_target(self) -> None:
        if self._target.is_dir():
            raise OptionsError(f'{self._target} is a folder. Give another name for the video file.')
        if os.path.lexists(self._target) and not self._overwrite:
            raise OptionsError(f'{self._target} exists. Give another name, or --overwrite to replace it.')

    def _complete(self) -> None:
        self._join()
        result = self._partial / f'result{self._target.suffix}'
        expected = len(self._source), self._source.size
        try:
            self._remuxer.run(self._joined, result)
            count, size = count_frames(result)
            if (count, size) != expected:
                raise DataError(
                    f'{count} frames of {size_text(size)} arrived instead of {expected[0]} of {size_text(expected[1])}.'
                )
        except DataError as error:
            raise self._keep_video(error) from None
        os.replace(result, self._target)

    def _join(self) -> None:
        if self._joined.exists():
            return
        segments = [self._segment_path(start) for start in range(0, len(self._source), SEGMENT_FRAMES)]
        if not all(segment.exists() for segment in segments):
            raise DataError(f'Segments have vanished from {self._frames}. Start again with --overwrite.')
        unfinished = self._joined.with_suffix('.incomplete')
        join_segments(segments, unfinished, self._encoding, self._timing)
        os.replace(unfinished, self._joined)
        for segment in segments:
            segment.unlink()

    def _keep_video(self, error: DataError) -> DataError:
        """Make a playable file of the restored frames, after muxing has failed."""
        kept = self._partial / 'restored.mkv'
        with suppress(DataError):
            run_ffmpeg([*input_arguments(self._joined), '-c', 'copy', f'file:{kept}'])
        return DataError(
            f'{self._target} cannot be written: {error} All frames are restored: {kept} has the video without sound. '
            'When the cause is removed, the same command with --resume only repeats the muxing.'
        )

    @property
    def _joined(self) -> Path:
        return self._frames / 'joined.video'

    def _segment_path(self, position: int) -> Path:
        return self._frames / f'segment-{position // SEGMENT_FRAMES:06d}.video'


def _fit_timing(timing: Timing, container: str) -> Timing:
    """Return times as the container can hold them."""
    if container in _CONSTANT_RATE and not timing.is_constant:
        raise OptionsError(f'{container} needs a constant frame rate. Use .mov or .mkv, or set --fps.')
    if container != 'avi':
        return timing
    # AVI shows a frame in each slot, or repeats the one before: slots must be as long as possible.
    slot = gcd(*timing.times, timing.last_duration)
    if timing.duration / timing.time_base / slot <= _MAX_AVI_SLOTS * len(timing.times):
        unit = slot * timing.time_base
    else:
        unit = 1 / timing.rate if timing.is_constant else min(Fraction(1, 100), 1 / timing.rate / 4)
    times: list[int] = []
    for time in timing.times:
        times.append(max(round(time * timing.time_base / unit), times[-1] + 1 if times else 0))
    duration = max(1, round(timing.last_duration * timing.time_base / unit))
    return timing._replace(time_base=unit, times=times, last_duration=duration)

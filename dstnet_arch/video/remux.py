"""Addition of the source's other streams (sound, subtitles, covers, ...) to the restored video with ffmpeg."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import AttachmentStream, Disposition, Stream

from dstnet_arch.data.frame_source import name_some
from dstnet_arch.errors import DataError
from dstnet_arch.video.colour import Colour
from dstnet_arch.video.encoding import Encoding
from dstnet_arch.video.ffmpeg import FFmpegError, input_arguments, open_container, run_ffmpeg, video_stream
from dstnet_arch.video.frames import FrameKind
from dstnet_arch.video.source import Source
from dstnet_arch.video.timing import Timing

_CONVERSIONS = {
    'audio': {'aac': 'AAC', 'libopus': 'Opus', 'libvorbis': 'Vorbis', 'mp2': 'MP2', 'pcm_s16le': '16-bit PCM'},
    'subtitle': {name: name for name in ('mov_text', 'subrip', 'ass', 'webvtt')},
}
"""Encoders to try, in this order, if a container does not accept a stream, and their names for messages."""

_IMAGE_TYPES = {'mjpeg': ('cover.jpg', 'image/jpeg'), 'png': ('cover.png', 'image/png')}
_OWN_METADATA = {
    'encoder', 'rotate', 'duration', 'major_brand', 'minor_version', 'compatible_brands', 'handler_name', 'vendor_id',
    'variant_bitrate', 'creation_time', 'alpha_mode',
}  # fmt: skip
"""Metadata that containers write themselves, or that no longer hold."""

_TRIAL_SECONDS = Fraction(10)
_SAME_DURATION = Fraction(1, 100)
_LONGEST_ADVANCE = Fraction(1, 20)  # seconds of sound before the picture that go unnoticed
_MOV_FAMILY = ('mp4', 'mov', 'ipod', '3gp', '3g2')


@dataclass
class _Track:
    """A stream of the source. `action` is 'copy', an encoder, or empty to leave it out."""

    index: int
    type: str
    codec: str
    channels: int
    disposition: str
    metadata: dict[str, str]
    action: str = 'copy'

    @classmethod
    def of(cls, stream: Stream) -> _Track:
        context = stream.codec_context
        codec = context.codec.canonical_name if context is not None else (getattr(stream, 'name', None) or 'unknown')
        if isinstance(stream, AttachmentStream):
            codec = stream.mimetype or 'attachment'
        disposition = '+'.join(str(flag.name) for flag in Disposition if flag in stream.disposition)
        channels = getattr(context, 'channels', 0) if stream.type == 'audio' else 0
        return cls(stream.index, stream.type, codec, channels or 1, disposition, dict(stream.metadata))

    @property
    def is_cover(self) -> bool:
        return 'attached_pic' in self.disposition

    @property
    def label(self) -> str:
        return f'stream {self.index} ({"cover picture" if self.is_cover else self.type}, {self.codec})'

    def arrives_as(self, found: _Track) -> bool:
        same = self.type == found.type and self.is_cover == found.is_cover
        return same and (self.action != 'copy' or self.codec == found.codec)


class Remuxer:
    """One call of the ffmpeg program that joins the restored video with everything else of its source.

    Args:
        source: without a file (`media`), there is only the video.
        timing: times of the restored video.
        container: FFmpeg's name of the container to write.
        encoding: settings of the restored video.
        folder: for temporary files.

    Attributes:
        warnings: what is converted or left out; complete after `try_out`.
        shown: colour tags that a player finds in the result; None if unknown.
    """

    def __init__(self, source: Source, timing: Timing, container: str, encoding: Encoding, folder: Path) -> None:
        self._source, self._timing, self._container, self._encoding = source, timing, container, encoding
        self._folder = folder
        self.warnings: list[str] = []
        self.shown: Colour | None = None
        self._tracks: list[_Track] = []
        self._covers: list[tuple[Path, str]] = []  # with MIME type, to attach to Matroska
        self._metadata: dict[str, str] = {}
        self._video_metadata: dict[str, str] = {}
        self._has_chapters = self._use_metadata_tags = False
        if source.media is not None:
            with open_container(source.media) as media:
                self._find_tracks(media)
            kept, made = source.cut_duration, source.timing.duration
            if abs(made / kept - 1) > _SAME_DURATION and any(track.type == 'audio' for track in self._tracks):
                self.warnings.append(
                    f'--fps changes the duration of the video from {float(kept):.2f} to {float(made):.2f} s; that of '
                    'the sound stays.'
                )

    def try_out(self, video: Path) -> None:
        """Find out what the container accepts, with a short video and the beginning of the other streams.

        Raises:
            DataError: the container does not even accept the video.
        """
        trial = self._folder / 'trial'
        try:
            if not self._works(video, trial, self._tracks):
                self._choose_tracks(video, trial)
            lost = self._lost(video, trial)
            has_cover = any(track.is_cover for track in self._tracks)
            if lost and self._container in _MOV_FAMILY and not has_cover:  # FFmpeg writes no cover with this flag
                self._use_metadata_tags = True
                lost = self._lost(video, trial)
        except FFmpegError as error:
            raise DataError(f'{self._container} does not accept this video: {error}') from None
        finally:
            trial.unlink(missing_ok=True)
        if lost:
            self.warnings.append(f'{self._container} does not keep these metadata: {name_some(lost, 8)}.')

    def run(self, video: Path, output: Path, is_trial: bool = False) -> None:
        """Write the result from a file of `join_segments`, or only the beginning of it.

        Raises:
            FFmpegError: the ffmpeg program fails.
        """
        run_ffmpeg([*self._arguments(video, self._tracks, is_trial), '-f', self._container, f'file:{output}'])

    def _find_tracks(self, media: InputContainer) -> None:
        source, container = self._source, self._container
        self._metadata = _lasting(media.metadata)
        num_chapters = len(media.chapters())
        self._has_chapters = num_chapters > 0 and not source.is_cut
        for stream in media.streams:
            if stream.index == source.stream_index:
                self._video_metadata = _lasting(stream.metadata)
                continue
            track = _Track.of(stream)
            if container == 'avi' and track.type == 'audio' and not source.is_cut:
                delay = (stream.start_time or 0) * Fraction(stream.time_base or 1) - self._timing.origin
                if delay > _LONGEST_ADVANCE:
                    self.warnings.append(f'avi cannot delay sound: {track.label} starts {float(delay):.2f} s early.')
            if track.is_cover and container in ('matroska', 'webm'):
                self._extract_cover(media, track)
            elif track.type == 'data' and ('timecode' in track.metadata or stream.frames == num_chapters > 0):
                continue  # the muxer makes its own from metadata and chapters
            else:
                self._tracks.append(track)
        if source.is_cut and self._video_metadata.pop('timecode', ''):
            self.warnings.append(f'{source.path}: the time code is left out, because the video is cut.')

    def _extract_cover(self, media: InputContainer, track: _Track) -> None:
        name, mime_type = _IMAGE_TYPES.get(track.codec, ('', ''))
        packet = next((p for p in media.demux(media.streams[track.index]) if p.size), None)
        if self._container == 'webm' or not name or packet is None:
            self.warnings.append(f'{self._container} does not accept {track.label}: it is left out.')
            return
        path = self._folder / (f'{len(self._covers)}_{name}' if self._covers else name)
        path.write_bytes(bytes(packet))
        self._covers.append((path, mime_type))

    def _choose_tracks(self, video: Path, trial: Path) -> None:
        """Choose for each track alone whether to copy or convert it, or to leave it out."""
        if 'timecode' in self._video_metadata and not self._works(video, trial, []):
            del self._video_metadata['timecode']
            self.warnings.append(f'{self._container} does not accept the time code: it is left out.')
        for track in self._tracks:
            encoders = _CONVERSIONS.get(track.type, {})
            for action in ('copy', *encoders, ''):
                track.action = action
                if not action or self._works(video, trial, [track]):
                    break
            if track.action != 'copy':
                made = f'converted to {encoders[track.action]}' if track.action else 'left out'
                self.warnings.append(f'{self._container} does not accept {track.label}: it is {made}.')
        self._tracks = [track for track in self._tracks if track.action]

    def _works(self, video: Path, trial: Path, tracks: list[_Track]) -> bool:
        """True if the container accepts these tracks, and they can be read back as what they are."""
        before, self._tracks = self._tracks, tracks
        try:
            self.run(video, trial, is_trial=True)
        except FFmpegError:
            return False
        finally:
            self._tracks = before
        with suppress(DataError), open_container(trial) as result:  # some are too short to be recognised
            found = iter([_Track.of(stream) for stream in result.streams][1:])  # MP4 stores chapters as a stream, too
            return all(any(track.arrives_as(other) for other in found) for track in tracks)
        return True

    def _lost(self, video: Path, trial: Path) -> list[str]:
        """Return the metadata that do not arrive, after a check that the video does."""
        self.run(video, trial, is_trial=True)
        lost: list[str] = []
        is_readable = True
        with suppress(DataError), open_container(trial) as result:  # some are too short to be recognised
            stream = video_stream(result, trial)
            kept = {key.lower() for key in (*result.metadata, *stream.metadata)}
            lost = [key for key in self._metadata if key.lower() not in kept]
            lost += ['timecode'] if 'timecode' in self._video_metadata and 'timecode' not in kept else []
            lost += ['chapters'] if self._has_chapters and not result.chapters() else []
            is_readable = False
            with suppress(av.FFmpegError, StopIteration):
                self.shown = FrameKind.of(next(result.decode(stream)), None).stored.colour
                is_readable = True
        if not is_readable:
            raise FFmpegError(f'{self._encoding.codec} in it cannot be read back. Choose another --codec.')
        return sorted(lost)

    def _arguments(self, video: Path, tracks: Sequence[_Track], is_trial: bool) -> Iterator[str]:
        source, timing = self._source, self._timing
        yield from ('-copyts', *input_arguments(video, '-itsoffset', _seconds(timing.times[0] * timing.time_base)))
        if source.media is not None:
            yield from input_arguments(source.media, '-itsoffset', _seconds(-timing.origin))
        yield from ('-map', '0:v:0', '-c', 'copy', '-strict', 'experimental', '-max_muxing_queue_size', '9999')
        filters = ['dump_extra'] if (self._container, self._encoding.codec) == ('mpegts', 'mpeg4') else []
        if self._encoding.reorders and not timing.is_constant:
            # MP4 stores decoding steps, not durations; the end of the video follows from the last frame's duration.
            last, duration = (ticks * timing.time_base.numerator for ticks in (timing.times[-1], timing.last_duration))
            filters.append(f'setts=pts=PTS:dts=DTS:duration=if(eq(PTS\\,{last})\\,{duration}\\,DURATION)')
        if filters:
            yield from ('-bsf:0', ','.join(filters))
        for key, value in self._video_metadata.items():
            yield from ('-metadata:s:0', f'{key}={value}')
        for number, track in enumerate(tracks, 1):
            yield from self._track_arguments(number, track)
        for number, (path, mime_type) in enumerate(self._covers, len(tracks) + 1):
            yield from ('-attach', str(path), f'-metadata:s:{number}', f'mimetype={mime_type}')
            yield from (f'-metadata:s:{number}', f'filename={path.name}')
        if source.media is not None:
            yield from ('-map_metadata', '1', '-map_chapters', '1')
            for key in ('major_brand', 'minor_version', 'compatible_brands'):
                yield from ('-metadata', f'{key}=')
        limits = [_TRIAL_SECONDS] if is_trial else []
        if source.is_cut:
            limits.append(source.cut_duration if is_trial else max(source.cut_duration, timing.duration))
        if limits:
            yield from ('-t', _seconds(min(limits)))
        if self._container in _MOV_FAMILY:
            yield from ('-video_track_timescale', str(timing.time_base.denominator))
            if av.codec.Codec(self._encoding.codec, 'w').canonical_name == 'hevc':
                yield from ('-tag:v:0', 'hvc1')  # Apple's players do not know FFmpeg's default, hev1
            if self._use_metadata_tags:
                yield from ('-movflags', 'use_metadata_tags')
        if self._container == 'avi':
            yield from ('-r:v:0', str(1 / timing.time_base))  # length of a slot
        elif timing.is_constant:
            yield from ('-r:v:0', str(timing.rate))  # Matroska's times are too coarse to tell it
        if self._encoding.sample_aspect != 1 and self._container not in _MOV_FAMILY:  # these have it in the packets
            height, width = source.size
            shape = self._encoding.sample_aspect * width / height
            yield from ('-aspect:0', f'{shape.numerator}:{shape.denominator}')

    def _track_arguments(self, number: int, track: _Track) -> Iterator[str]:
        yield from ('-map', f'1:{track.index}', f'-disposition:{number}', track.disposition or '0')
        if track.action != 'copy':
            yield from (f'-c:{number}', track.action)
        if track.action in ('aac', 'libopus', 'libvorbis'):
            yield from (f'-b:{number}', f'{96 * track.channels}k')
        if track.action == 'pcm_s16le' and self._container == 'mxf':
            yield from (f'-ar:{number}', '48000')  # it accepts no other
        if not self._source.is_cut or track.is_cover:
            return
        if track.action in _CONVERSIONS['audio']:
            yield from (f'-filter:{number}', 'atrim=start=0')
        elif track.type != 'attachment':
            yield from (f'-copypriorss:{number}', '0')


def _lasting(metadata: dict[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in _OWN_METADATA and not key.startswith(('_STATISTICS', 'BPS', 'NUMBER_OF_', 'DURATION'))
    }


def _seconds(time: Fraction) -> str:
    return f'{float(time):.6f}'

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
from dstnet_arch.video.encoding import Encoding
from dstnet_arch.video.ffmpeg import FFmpegError, file_url, input_arguments, run_ffmpeg
from dstnet_arch.video.media import open_container
from dstnet_arch.video.source import Source
from dstnet_arch.video.timing import Timing

_CONVERSIONS = {
    'audio': ('aac', 'libopus', 'libvorbis', 'mp2', 'pcm_s16le'),
    'subtitle': ('mov_text', 'subrip', 'ass', 'webvtt'),
}
"""Encoders to try, in this order, if a container does not accept a stream."""

_NAMES = {'aac': 'AAC', 'libopus': 'Opus', 'libvorbis': 'Vorbis', 'mp2': 'MP2', 'pcm_s16le': '16-bit PCM'}
_IMAGE_TYPES = {'mjpeg': ('cover.jpg', 'image/jpeg'), 'png': ('cover.png', 'image/png')}
_OWN_METADATA = {
    'encoder', 'rotate', 'duration', 'major_brand', 'minor_version', 'compatible_brands', 'handler_name', 'vendor_id',
    'variant_bitrate', 'creation_time',
}  # fmt: skip
"""Metadata that containers write themselves, or that no longer hold."""

_TRIAL_SECONDS = 10
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

    @property
    def is_cover(self) -> bool:
        return 'attached_pic' in self.disposition

    @property
    def label(self) -> str:
        return f'stream {self.index} ({"cover picture" if self.is_cover else self.type}, {self.codec})'


class Remuxer:
    """One call of the ffmpeg program that joins the restored video with everything else of its source.

    Args:
        source: without a file (`path`), there is only the video.
        timing: times of the restored video.
        container: FFmpeg's name of the container to write.
        encoding: settings of the restored video.
        joined_as: container of the restored video.
        folder: for temporary files.

    Attributes:
        warnings: what is converted or left out; complete after `try_out`.
    """

    def __init__(
        self,
        source: Source,
        timing: Timing,
        container: str,
        encoding: Encoding,
        joined_as: str,
        folder: Path,
    ) -> None:
        self._source, self._timing = source, timing
        self._container, self._encoding, self._joined_as = container, encoding, joined_as
        self._folder = folder
        self.warnings: list[str] = []
        self._tracks: list[_Track] = []
        self._covers: list[tuple[Path, str]] = []  # with MIME type, to attach to Matroska
        self._metadata: dict[str, str] = {}
        self._video_metadata: dict[str, str] = {}
        self._use_metadata_tags = False
        if source.media is not None:
            with open_container(source.media) as media:
                self._find_tracks(media)
            kept, made = source.cut_duration, timing.duration
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
            self._check_metadata(video, trial)
        except FFmpegError as error:
            raise DataError(f'{self._container} does not accept this video: {error}') from None
        finally:
            trial.unlink(missing_ok=True)

    def _choose_tracks(self, video: Path, trial: Path) -> None:
        """Choose for each track alone whether to copy or convert it, or to leave it out."""
        if 'timecode' in self._video_metadata and not self._works(video, trial, []):
            del self._video_metadata['timecode']
            self.warnings.append(f'{self._container} does not accept the time code: it is left out.')
        for track in self._tracks:
            for action in ('copy', *_CONVERSIONS.get(track.type, ()), ''):
                track.action = action
                if not action or self._works(video, trial, [track]):
                    break
            if track.action != 'copy':
                made = f'converted to {_NAMES.get(track.action, track.action)}' if track.action else 'left out'
                self.warnings.append(f'{self._container} does not accept {track.label}: it is {made}.')
        self._tracks = [track for track in self._tracks if track.action]

    def run(self, video: Path, output: Path, is_trial: bool = False) -> None:
        """Write the result.

        Args:
            video: file of `join_segments`.
            output: the file, which is replaced.
            is_trial: write the beginning only.

        Raises:
            FFmpegError: the ffmpeg program fails.
        """
        run_ffmpeg([*self._arguments(video, self._tracks, is_trial), '-f', self._container, file_url(output)])

    def _arguments(self, video: Path, tracks: Sequence[_Track], is_trial: bool) -> Iterator[str]:
        source, timing = self._source, self._timing
        yield from ('-copyts', '-itsoffset', _seconds(timing.times[0] * timing.time_base - _nut_shift(video)))
        yield from input_arguments(video)
        if source.media is not None:
            yield from input_arguments(source.media, '-itsoffset', _seconds(-timing.origin))
        yield from ('-map', '0:v:0', '-c', 'copy', '-strict', 'experimental', '-max_muxing_queue_size', '9999')
        if self._encoding.reorders and not timing.is_constant:
            # MP4 stores decoding steps, not durations; the end of the video follows from the last frame's duration.
            last, duration = (ticks * timing.time_base.numerator for ticks in (timing.times[-1], timing.last_duration))
            yield from ('-bsf:0', f'setts=pts=PTS:dts=DTS:duration=if(eq(PTS\\,{last})\\,{duration}\\,DURATION)')
        for key, value in self._video_metadata.items():
            yield from ('-metadata:s:0', f'{key}={value}')
        for number, track in enumerate(tracks, 1):
            yield from ('-map', f'1:{track.index}')
            if track.action != 'copy':
                yield from (f'-c:{number}', track.action)
            if track.action in ('aac', 'libopus', 'libvorbis'):
                yield from (f'-b:{number}', f'{96 * track.channels}k')
            yield from (f'-disposition:{number}', track.disposition or '0')
            if track.is_cover:
                continue
            if source.is_cut and track.action in _CONVERSIONS['audio']:
                yield from (f'-filter:{number}', 'atrim=start=0')
            elif source.is_cut and track.type != 'attachment':
                yield from (f'-copypriorss:{number}', '0')
        for number, (path, mime_type) in enumerate(self._covers, len(tracks) + 1):
            yield from ('-attach', str(path), f'-metadata:s:{number}', f'mimetype={mime_type}')
            yield from (f'-metadata:s:{number}', f'filename={path.name}')
        if source.media is not None:
            yield from ('-map_metadata', '1', '-map_chapters', '1')
            for key in ('major_brand', 'minor_version', 'compatible_brands'):
                yield from ('-metadata', f'{key}=')
        limit = source.cut_duration if source.is_cut else None
        if is_trial:
            limit = min(limit or Fraction(_TRIAL_SECONDS), Fraction(_TRIAL_SECONDS))
        if limit is not None:
            yield from ('-t', _seconds(limit if is_trial else max(limit, timing.duration)))
        if self._container in _MOV_FAMILY:
            yield from ('-video_track_timescale', str(timing.time_base.denominator))
            if self._use_metadata_tags:
                yield from ('-movflags', 'use_metadata_tags')
        if self._container == 'avi':
            yield from ('-r:v:0', str(1 / timing.time_base))  # length of a slot
        elif timing.is_constant:
            yield from ('-r:v:0', str(timing.rate))  # Matroska's times are too coarse to tell it
        if self._encoding.sample_aspect != 1 and self._joined_as not in ('mp4', 'mov'):  # these hold it
            height, width = source.size
            shape = self._encoding.sample_aspect * width / height
            yield from ('-aspect:0', f'{shape.numerator}:{shape.denominator}')

    def _find_tracks(self, media: InputContainer) -> None:
        source, container = self._source, self._container
        self._metadata = _lasting(media.metadata)
        num_chapters = len(media.chapters())
        for stream in media.streams:
            if stream.index == source.stream_index:
                self._video_metadata = _lasting(stream.metadata)
                continue
            track = _track_of(stream)
            if container == 'avi' and track.type == 'audio' and not source.is_cut:
                delay = (stream.start_time or 0) * Fraction(stream.time_base or 1) - self._timing.origin
                if delay > _LONGEST_ADVANCE:
                    self.warnings.append(f'avi cannot delay sound: {track.label} starts {float(delay):.2f} s early.')
            if track.is_cover and container in ('matroska', 'webm'):
                self._extract_cover(media, track, len(self._covers))
            elif track.type == 'data' and ('timecode' in track.metadata or stream.frames == num_chapters > 0):
                continue  # the muxer makes its own from metadata and chapters
            else:
                self._tracks.append(track)
        if source.is_cut and self._video_metadata.pop('timecode', ''):
            self.warnings.append(f'{source.path}: the time code is left out, because the video is cut.')

    def _extract_cover(self, media: InputContainer, track: _Track, number: int) -> None:
        name, mime_type = _IMAGE_TYPES.get(track.codec, ('', ''))
        packet = next((p for p in media.demux(media.streams[track.index]) if p.size), None)
        if self._container == 'webm' or not name or packet is None:
            self.warnings.append(f'{self._container} does not accept {track.label}: it is left out.')
            return
        path = self._folder / (f'{number}_{name}' if number else name)
        path.write_bytes(bytes(packet))
        self._covers.append((path, mime_type))

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
            return all(
                number < len(result.streams) and _is_same(track, _track_of(result.streams[number]))
                for number, track in enumerate(tracks, 1)
            )
        return True

    def _check_metadata(self, video: Path, trial: Path) -> None:
        """Keep as many metadata as possible; warn about the others."""
        self.run(video, trial, is_trial=True)
        lost = self._lost_metadata(trial)
        has_cover = any(track.is_cover for track in self._tracks)
        if lost and self._container in _MOV_FAMILY and not has_cover:  # FFmpeg writes no cover with this flag
            self._use_metadata_tags = True
            self.run(video, trial, is_trial=True)
            lost = self._lost_metadata(trial)
        if lost:
            self.warnings.append(f'{self._container} does not keep these metadata: {name_some(lost, 8)}.')

    def _lost_metadata(self, trial: Path) -> list[str]:
        with suppress(DataError), open_container(trial) as result:
            kept = {key.lower() for key in result.metadata}
            return sorted(key for key in self._metadata if key.lower() not in kept)
        return []


def _track_of(stream: Stream) -> _Track:
    context = stream.codec_context
    codec = context.codec.canonical_name if context is not None else (getattr(stream, 'name', None) or 'unknown')
    if isinstance(stream, AttachmentStream):
        codec = stream.mimetype or 'attachment'
    disposition = '+'.join(str(flag.name) for flag in Disposition if flag in stream.disposition)
    channels = getattr(context, 'channels', 0) if stream.type == 'audio' else 0
    return _Track(stream.index, stream.type, codec, channels or 1, disposition, dict(stream.metadata))


def _is_same(track: _Track, found: _Track) -> bool:
    if track.action != 'copy':
        return track.type == found.type
    return (track.type, track.codec, track.is_cover) == (found.type, found.codec, found.is_cover)


def _lasting(metadata: dict[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in _OWN_METADATA and not key.startswith(('_STATISTICS', 'BPS', 'NUMBER_OF_', 'DURATION'))
    }


def _nut_shift(video: Path) -> Fraction:
    """Return the time at which a file of `join_segments` starts: not 0 in NUT."""
    with open_container(video) as container:
        return Fraction(container.start_time or 0, av.time_base) if container.format.name == 'nut' else Fraction(0)


def _seconds(time: Fraction) -> str:
    return f'{float(time):.6f}'

"""What arrives in the result: times, sound, subtitles, covers, chapters, metadata, display properties."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from video_clips import Copy, arrays, ffmpeg, frames_of, make_clip, packets, streams, times

from dstnet_arch.video.sources import open_source

TEXT = '1\n00:00:00,000 --> 00:00:00,400\nHello\n'


def assert_equal(a: list[Any], b: list[Any]) -> None:
    assert len(a) == len(b)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def with_sound(path: Path, codec: str, *options: object) -> Path:
    clip = make_clip(path.parent / 'video.mkv', 6, (48, 64), rate=10)
    sine = ('-f', 'lavfi', '-i', 'sine=440:sample_rate=8000:duration=0.6')
    return ffmpeg('-i', clip, *sine, '-c:v', 'copy', '-c:a', codec, *options, path)


@pytest.mark.parametrize(
    ('name', 'settings'),
    [
        ('a.mkv', {}),
        ('a.mkv', {'pix_fmt': 'yuv422p10le'}),
        ('a.mov', {'pix_fmt': 'yuv444p', 'colorspace': 1, 'color_range': 2}),
        ('a.mkv', {'codec': 'ffv1', 'pix_fmt': 'gbrp10le'}),
        ('a.mkv', {'codec': 'ffv1', 'pix_fmt': 'gray'}),
        ('a.mkv', {'codec': 'ffv1', 'pix_fmt': 'yuva420p'}),
        ('a.mkv', {'codec': 'ffv1', 'pix_fmt': 'yuv420p', 'size': (48, 32), 'colorspace': 9, 'color_range': 1}),
    ],
    ids=lambda value: '-'.join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_unchanged_samples_come_out_bit_for_bit(
    copy: Copy, tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    source = make_clip(tmp_path / 'in' / name, **settings)
    out = copy(source, 'out.mkv', codec='ffv1').path
    assert frames_of(out)[0].format.name == settings.get('pix_fmt', 'yuv420p')
    assert_equal(arrays(out), arrays(source))


@pytest.mark.parametrize('tagged', [True, False], ids=['tagged', 'untagged'])
@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv', 'a.mov', 'a.ts'])
def test_times_sound_and_tags_are_kept(copy: Copy, tmp_path: Path, name: str, tagged: bool) -> None:
    names = ('colorspace', 'color_range', 'color_primaries', 'color_trc')
    source = make_clip(
        tmp_path / 'in' / name, 12, rate=Fraction(30000, 1001), audio=True, options={'bf': '2'},
        sample_aspect_ratio=Fraction(4, 3), **dict.fromkeys(names, 1) if tagged else {},
    )  # fmt: skip
    out = copy(source, name).path
    assert [b - a for a, b in pairwise(times(out))] == [b - a for a, b in pairwise(times(source))]
    heard, before = packets(out, 'audio'), packets(source, 'audio')
    assert [data for _, data in heard] == [data for _, data in before]
    offset = times(out)[0] - times(source)[0]
    assert all(abs(a - b - offset) <= Fraction(1, 1000) for (a, _), (b, _) in zip(heard, before, strict=True))
    with av.open(str(out)) as a, av.open(str(source)) as b:
        assert a.streams.video[0].average_rate == b.streams.video[0].average_rate
        assert a.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
    tags, tags_before = ([getattr(frames_of(path)[0], name) for name in names] for path in (out, source))
    assert tags == tags_before
    assert (tags == [1, 1, 1, 1]) == tagged


@pytest.mark.parametrize('name', ['ffv1.mkv', 'ffv1.avi', 'prores_ks.mov', 'mjpeg.mov'])
def test_colours_are_those_of_the_input(copy: Copy, tmp_path: Path, name: str) -> None:
    tags = {'colorspace': 1, 'color_range': 2, 'color_primaries': 1, 'color_trc': 1}
    source = make_clip(tmp_path / 'in.mkv', 1, (48, 64), pix_fmt='yuv444p', **tags)
    out = copy(source, name, codec=name.partition('.')[0]).path
    before, after = (open_source(str(path))[0] for path in (source, out))
    assert (after - before).abs().mean() < 0.01


@pytest.mark.parametrize(
    ('unit', 'shown', 'rate'),
    [
        (Fraction(1001, 24000), list(range(9)), Fraction(24000, 1001)),
        (Fraction(1, 90000), [0, 3003, 6006, 9009], Fraction(30000, 1001)),
        (Fraction(1, 600), [0, 3, 4, 9, 30, 31, 32, 50], Fraction(600)),
        (Fraction(1, 25), [0, 1], Fraction(25)),
        (Fraction(1, 25), [0], Fraction(25)),
    ],
    ids=['24000/1001', '90 kHz', 'variable', 'two frames', 'one frame'],
)
@pytest.mark.parametrize('extension', ['mp4', 'mov', 'mkv', 'webm', 'avi'])
def test_times_and_counts_are_exact(
    copy: Copy, tmp_path: Path, unit: Fraction, shown: list[int], rate: Fraction, extension: str
) -> None:
    clip = make_clip(tmp_path / 'in.mp4', len(shown), (48, 64), times=shown, time_base=unit, options={'bf': '2'},
                     rate=rate)  # fmt: skip
    codec = {'webm': 'libvpx-vp9', 'avi': 'mpeg4'}.get(extension)
    out = copy(clip, f'out.{extension}', codec=codec).path
    tolerance = {'mkv': Fraction(1, 1999), 'webm': Fraction(1, 1999)}.get(extension, Fraction(0))
    start = times(out)[0]
    assert len(times(out)) == len(shown)
    assert all(abs(a - start - b * unit) <= tolerance for a, b in zip(times(out), shown, strict=True))
    if extension in ('mp4', 'mov'):
        with av.open(str(out)) as container:
            assert abs(Fraction(container.duration, 10**6) - open_source(str(clip)).timing.duration) < Fraction(1, 500)


def test_offset_of_sound_and_picture_is_kept(copy: Copy, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / 'video.mkv', 6, rate=10)
    sine = ('-f', 'lavfi', '-i', 'sine=440:sample_rate=8000:duration=0.6')
    late = ffmpeg('-itsoffset', 0.5, '-i', clip, *sine, '-c:v', 'copy', '-c:a', 'flac', tmp_path / 'late.mkv')
    for name in ('out.mkv', 'out.mp4'):
        out = copy(late, name).path
        assert float(times(out)[0] - packets(out, 'audio')[0][0]) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize('degrees', [90, 180, 270])
def test_rotation_is_applied(copy: Copy, tmp_path: Path, degrees: int) -> None:
    source = make_clip(tmp_path / 'in.mp4', 2, (16, 32), pix_fmt='yuv444p', rotation=degrees, options={'qp': '0'})
    turns = frames_of(source)[0].rotation // 90 % 4  # counter-clockwise
    assert turns
    out = copy(source, 'out.mkv', codec='ffv1').path
    for shown, stored in zip(frames_of(out), frames_of(source), strict=True):
        assert shown.rotation == 0
        assert np.array_equal(shown.to_ndarray(), np.rot90(stored.to_ndarray(), turns, axes=(-2, -1)))


@pytest.mark.parametrize(('extension', 'codec'), [('mkv', 'ffv1'), ('webm', 'libvpx-vp9'), ('mov', 'prores_ks')])
def test_pixel_aspect_ratio_is_kept(copy: Copy, tmp_path: Path, extension: str, codec: str) -> None:
    source = make_clip(tmp_path / 'in.mkv', 2, (48, 90), sample_aspect_ratio=Fraction(64, 45))
    with av.open(str(copy(source, f'out.{extension}', codec=codec).path)) as out:
        assert out.streams.video[0].sample_aspect_ratio == Fraction(64, 45)


def test_hdr_metadata_is_kept(copy: Copy, tmp_path: Path) -> None:
    params = (
        'log-level=none:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)'
        ':max-cll=1000,400'
    )
    source = make_clip(
        tmp_path / 'in.mkv', 2, (48, 64), codec='libx265', pix_fmt='yuv420p10le', options={'x265-params': params},
        colorspace=9, color_primaries=9, color_trc=16,
    )  # fmt: skip
    format = open_source(str(source)).format
    assert format.light_level == (1000, 400)
    again = open_source(str(copy(source, 'out.mp4').path)).format
    assert (again.mastering, again.light_level) == (format.mastering, format.light_level)
    assert b'hvc1' in (tmp_path / 'out.mp4').read_bytes()  # not hev1, which Apple's players refuse
    assert 'cannot hold HDR mastering metadata' in ''.join(copy(source, 'out.mkv', codec='libx264').warnings)


def late_sound(folder: Path) -> Path:
    clip = make_clip(folder / 'video.mkv', 6, (48, 64), rate=10)
    sine = ('-itsoffset', 0.4, '-f', 'lavfi', '-i', 'sine=440:sample_rate=8000:duration=0.2')
    return ffmpeg('-i', clip, *sine, '-c:v', 'copy', '-c:a', 'libmp3lame', folder / 'in.mkv')


LOSSES: dict[str, tuple[Callable[[Path], Path], str, dict[str, Any]]] = {
    'cannot hold alpha': (lambda p: make_clip(p / 'in.mkv', 2, codec='ffv1', pix_fmt='yuva420p'), 'out.mp4', {}),
    'libx264 with yuv420p cannot hold alpha': (  # FFmpeg's own decoder of VP9 ignores it
        lambda p: make_clip(p / 'in.webm', 2, codec='libvpx-vp9', pix_fmt='yuva420p'), 'out.mp4', {}
    ),
    'libvpx-vp9 with yuv420p cannot hold alpha': (
        lambda p: make_clip(p / 'in.webm', 2, codec='libvpx-vp9', pix_fmt='yuva420p'),
        'out.webm',
        {'codec': 'libvpx-vp9'},
    ),
    'cannot hold 10 bits (8 are kept)': (
        lambda p: make_clip(p / 'in.mkv', 2, (32, 64), codec='ffv1', pix_fmt='yuv420p10le'),
        'out.avi',
        {'codec': 'mpeg4'},
    ),
    'avi cannot delay sound: stream 1': (late_sound, 'out.avi', {}),
    '--fps changes the duration of the video': (
        lambda p: make_clip(p / 'in.mkv', 12, audio=True), 'out.mkv', {'rate': Fraction(48)}
    ),
    'avi does not keep these metadata: chapters': (lambda p: with_chapters(p), 'out.avi', {}),
}  # fmt: skip


@pytest.mark.parametrize('message', LOSSES)
def test_losses_are_named(copy: Copy, tmp_path: Path, message: str) -> None:
    make, name, options = LOSSES[message]
    assert message in ' '.join(copy(make(tmp_path), name, **options).warnings)


def test_depth_is_kept(copy: Copy, tmp_path: Path) -> None:
    deep = copy(make_clip(tmp_path / 'in.mkv', 2, (32, 64), codec='ffv1', pix_fmt='yuv420p10le'), 'deep.mp4')
    assert (frames_of(deep.path)[0].format.name, deep.warnings) == ('yuv420p10le', [])


@pytest.mark.parametrize('codec', ['pcm_alaw', 'pcm_mulaw', 'wmav2', 'adpcm_ima_wav'])
def test_sound_is_copied_or_converted(copy: Copy, tmp_path: Path, codec: str) -> None:
    source = with_sound(tmp_path / 'in.mkv', codec)
    out = copy(source, 'out.mkv')
    assert (streams(out.path)[1], out.warnings) == (('audio', codec), [])
    assert packets(out.path, 'audio') == packets(source, 'audio')
    out = copy(source, 'out.mp4')
    assert streams(out.path)[1] == ('audio', 'aac')
    assert out.warnings == [f'mp4 does not accept stream 1 (audio, {codec}): it is converted to AAC.']


def test_streams_keep_language_and_disposition(copy: Copy, tmp_path: Path) -> None:
    clip = with_sound(tmp_path / 'sound.mkv', 'aac')
    options = ('-map', '0:v', '-map', '0:a', '-map', '0:a', '-c', 'copy', '-metadata:s:a:0', 'language=eng')
    options += ('-metadata:s:a:1', 'language=deu', '-disposition:a:0', '0', '-disposition:a:1', 'default')
    source = ffmpeg('-i', clip, *options, tmp_path / 'in.mkv')
    for name in ('out.mp4', 'out.mkv'):
        with av.open(str(copy(source, name).path)) as out:
            first, second = out.streams.audio
            assert (first.metadata['language'], second.metadata['language']) == ('eng', 'deu')
            assert second.disposition & av.stream.Disposition.default
            assert not first.disposition & av.stream.Disposition.default


def test_sound_in_webm_becomes_opus(copy: Copy, tmp_path: Path) -> None:
    out = copy(with_sound(tmp_path / 'in.mkv', 'aac'), 'out.webm', codec='libvpx-vp9')
    assert streams(out.path)[1] == ('audio', 'opus')
    assert 'converted to Opus' in out.warnings[0]


def test_subtitles_are_copied_or_converted(copy: Copy, tmp_path: Path) -> None:
    (tmp_path / 'in.srt').write_text(TEXT)
    clip = make_clip(tmp_path / 'video.mkv', 12)
    options = ('-map', 0, '-map', 1, '-c', 'copy', '-metadata:s:1', 'language=ger', '-disposition:1', 'forced')
    source = ffmpeg('-i', clip, '-i', tmp_path / 'in.srt', *options, tmp_path / 'in.mkv')
    out = copy(source, 'out.mkv')
    assert (packets(out.path, 'subtitle'), out.warnings) == (packets(source, 'subtitle'), [])
    with av.open(str(out.path)) as container:
        stream = container.streams.subtitles[0]
        assert stream.metadata['language'] == 'ger'
        assert stream.disposition & av.stream.Disposition.forced
    out = copy(source, 'out.mp4')
    assert streams(out.path)[1] == ('subtitle', 'mov_text')
    assert 'converted to mov_text' in out.warnings[0]
    out = copy(source, 'out.avi')
    assert len(streams(out.path)) == 1
    assert 'stream 1 (subtitle, subrip): it is left out' in out.warnings[0]


def test_cover_pictures_are_kept(copy: Copy, tmp_path: Path) -> None:
    cover = ffmpeg('-f', 'lavfi', '-i', 'color=red:size=32x32', '-frames:v', 1, tmp_path / 'cover.jpg')
    options = ('-map', '0:v', '-map', 1, '-c', 'copy', '-disposition:v:1', 'attached_pic')
    source: Path = ffmpeg('-i', with_chapters(tmp_path), '-i', cover, *options, tmp_path / 'in.mp4')
    for name in ('out.mp4', 'out.mkv', 'again.mkv', 'again.mp4'):
        out = copy(source, name, start=1)
        assert out.warnings == []
        with av.open(str(out.path)) as container:
            picture = container.streams.video[1]
            assert picture.disposition & av.stream.Disposition.attached_pic
            assert bytes(next(p for p in container.demux(picture) if p.size)) == cover.read_bytes()
        source = out.path
    assert 'cover picture, mjpeg): it is left out' in copy(source, 'out.avi').warnings[0]


def with_chapters(folder: Path) -> Path:
    (folder / 'meta').write_text(
        ';FFMETADATA1\ntitle=Über alles\n'
        '[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=500\ntitle=A\n'
        '[CHAPTER]\nTIMEBASE=1/1000\nSTART=500\nEND=1000\ntitle=B\n'
    )
    (folder / 'notes.txt').write_text('kept')
    clip = make_clip(folder / 'video.mkv', 24)
    metadata = ('-i', folder / 'meta', '-map_metadata', 1, '-map_chapters', 1)
    attach = ('-attach', folder / 'notes.txt', '-metadata:s:t', 'mimetype=text/plain')
    return ffmpeg('-i', clip, *metadata, '-c', 'copy', *attach, folder / 'in.mkv')


def test_chapters_attachments_and_titles(copy: Copy, tmp_path: Path) -> None:
    source = with_chapters(tmp_path)

    def chapters(path: Path) -> list[tuple[float, float, str]]:
        with av.open(str(path)) as container:
            assert container.metadata['title'] == 'Über alles'
            return [
                (float(c['start'] * c['time_base']), float(c['end'] * c['time_base']), c['metadata']['title'])
                for c in container.chapters()
            ]

    out = copy(source, 'out.mkv')
    assert chapters(out.path) == [(0, 0.5, 'A'), (0.5, 1, 'B')]
    assert out.warnings == []
    with av.open(str(out.path)) as container:
        assert [(s.name, s.data) for s in container.streams if s.type == 'attachment'] == [('notes.txt', b'kept')]
    assert chapters(copy(source, 'cut.mkv', start=6, end=18).path) == [(0, 0.25, 'A'), (0.25, 0.5, 'B')]
    out = copy(source, 'out.mp4')
    assert chapters(out.path) == [(0, 0.5, 'A'), (0.5, 1, 'B')]
    assert out.warnings == ['mp4 does not accept stream 1 (attachment, text/plain): it is left out.']
    for name in ('again.mp4', 'again.mkv'):  # from an MP4 file, where chapters are a track
        again = copy(out.path, name)
        assert (chapters(again.path), again.warnings) == ([(0, 0.5, 'A'), (0.5, 1, 'B')], [])


def test_metadata_of_phones_and_cameras_are_kept(copy: Copy, tmp_path: Path) -> None:
    tags = {'com.apple.quicktime.make': 'Apple', 'com.apple.quicktime.location.ISO6709': '+48.1+011.5/', 'title': 'T'}
    options = [part for key, value in tags.items() for part in ('-metadata', f'{key}={value}')]
    clip = make_clip(tmp_path / 'video.mp4', 6)
    source = ffmpeg('-i', clip, '-c', 'copy', '-movflags', 'use_metadata_tags', *options, tmp_path / 'in.mov')
    for name in ('out.mov', 'out.mp4', 'out.mkv'):
        with av.open(str(copy(source, name).path)) as out:
            kept = {key.lower(): value for key, value in out.metadata.items()}
            assert {key: kept.get(key.lower()) for key in tags} == tags
    assert 'avi does not keep these metadata: com.apple' in copy(source, 'out.avi').warnings[0]


def test_time_code_of_cameras(copy: Copy, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / 'video.mp4', 6, rate=25)
    source = ffmpeg('-i', clip, '-c', 'copy', '-timecode', '01:00:00:00', tmp_path / 'in.mov')
    assert [kind for kind, _ in streams(source)] == ['video', 'data']
    out = copy(source, 'out.mov')
    with av.open(str(out.path)) as container:
        assert container.streams.video[0].metadata['timecode'] == '01:00:00:00'
    assert out.warnings == []
    assert 'the time code is left out' in copy(source, 'cut.mov', start=2).warnings[0]


def test_telemetry_is_kept_where_it_can_be_read_back(copy: Copy, tmp_path: Path) -> None:
    clip, source = make_clip(tmp_path / 'video.mp4', 6), tmp_path / 'in.mp4'
    with av.open(str(clip)) as before, av.open(str(source), 'w') as output:
        video = output.add_stream_from_template(before.streams.video[0], opaque=True)
        telemetry = output.add_data_stream('bin_data')
        telemetry.time_base = Fraction(1, 1000)
        data = av.Packet(b'DEVC0000')
        data.pts, data.dts, data.duration, data.time_base, data.stream = 0, 0, 240, Fraction(1, 1000), telemetry
        for packet in [*before.demux(video=0), data]:
            if packet.size:
                packet.stream = telemetry if packet is data else video
                output.mux(packet)
    out = copy(source, 'out.mp4')
    assert ([kind for kind, _ in streams(out.path)], out.warnings) == (['video', 'data'], [])
    out = copy(source, 'out.mkv')
    assert out.warnings == ['matroska does not accept stream 1 (data, bin_data): it is left out.']


@pytest.mark.parametrize('name', ['out.mkv', 'out.mp4'])
def test_start_and_end_cut_sound(copy: Copy, tmp_path: Path, name: str) -> None:
    source = make_clip(tmp_path / 'in.mkv', 24, audio=True)
    out = copy(source, name, start=2, end=9).path
    before = times(source)
    origin, end = before[2], before[9]
    kept = [(time - origin, data) for time, data in packets(source, 'audio') if origin <= time < end]
    heard = packets(out, 'audio')
    assert [data for _, data in heard] == [data for _, data in kept]
    assert all(abs(a - b) <= Fraction(1, 1000) for (a, _), (b, _) in zip(heard, kept, strict=True))
    assert times(out)[0] == 0


@pytest.mark.parametrize('container', ['ts', 'vob'])
def test_sound_continues_when_the_clock_restarts(copy: Copy, tmp_path: Path, container: str) -> None:
    clip = make_clip(tmp_path / 'in.mkv', 25, (48, 64), rate=25, audio=True, options={'bf': '2'})
    codecs = ('-c:v', 'mpeg2video', '-bf', 2, '-c:a', 'mp2', '-ar', 16000) if container == 'vob' else ('-c', 'copy')
    part = ffmpeg('-i', clip, *codecs, tmp_path / f'part.{container}').read_bytes()
    source = tmp_path / f'in.{container}'
    source.write_bytes(part + part)
    for name in ('out.mp4', 'out.mkv'):
        out = copy(source, name).path
        assert len(times(out)) == 50
        heard = [time for time, _ in packets(out, 'audio')]
        assert all(0 <= b - a < Fraction(1, 4) for a, b in pairwise(heard))
        assert float(times(out)[-1] - times(out)[0]) == pytest.approx(49 / 25, abs=0.15)

"""`VideoFile`: which frames a file has, when they are shown, and reading them in any order."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from video_clips import arrays, ffmpeg, frames_of, make_clip, picture

from dstnet_arch.errors import DataError
from dstnet_arch.video import reader
from dstnet_arch.video.frames import planes_of
from dstnet_arch.video.reader import VideoFile
from dstnet_arch.video.sources import open_source

OPEN_GOP = {'x264-params': 'keyint=8:min-keyint=8:open-gop=1:bframes=3:b-adapt=0'}

CLIPS: dict[str, dict[str, Any]] = {
    'b-frames.mp4': {'options': {'bf': '3', 'g': '8'}},
    'open-gop.mp4': {'options': OPEN_GOP},
    'open-gop.mkv': {'options': OPEN_GOP},
    'open-gop.ts': {'options': OPEN_GOP},
    'refresh.mp4': {'options': {'x264-params': 'keyint=8:intra-refresh=1'}},
    'variable.mp4': {'times': [t * t * 7 for t in range(30)], 'time_base': Fraction(1, 1000), 'options': {'bf': '2'}},
    'fragments.mp4': {'container_options': {'movflags': 'frag_keyframe+empty_moov'}},
    'mpeg2.mpg': {'codec': 'mpeg2video', 'options': {'bf': '2', 'g': '6'}, 'rate': 25},
    'mpeg4.avi': {'codec': 'mpeg4', 'options': {'bf': '2', 'g': '6'}},
    'intra.mkv': {'codec': 'ffv1'},
    'raw.h264': {'options': {'bf': '2'}},
}


def assert_equal(a: list[Any], b: list[Any]) -> None:
    assert len(a) == len(b)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize('name', CLIPS)
def test_videofile_reads_frames_in_any_order(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip(tmp_path / name, 30, **CLIPS[name])
    decoded = [planes_of(frame) for frame in frames_of(path)]
    monkeypatch.setattr(reader, '_GROUP_FRAMES', 5)
    for memory in (1 << 20, 0):  # groups in memory and in files
        monkeypatch.setattr(reader, '_MEMORY_BYTES', memory)
        file = VideoFile(path, temp_dir=str(tmp_path))
        assert len(file) == len(decoded) == 30
        for t in [*reversed(range(30)), *range(30), 11, 4, 25, 12]:
            assert_equal(file[t], decoded[t])
        file.close()
    assert os.listdir(tmp_path) == [name]


def test_videofile_does_not_trust_seeking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip(tmp_path / 'a.mp4', 20)
    decoded = [planes_of(frame) for frame in frames_of(path)]
    monkeypatch.setattr(reader, '_GROUP_FRAMES', 4)
    file = VideoFile(path)
    assert len(file._starts) > 3
    file._keys[file._starts[2]] = 0  # seeking leads to another frame
    for t in reversed(range(20)):
        assert_equal(file[t], decoded[t])
    assert file._starts == [0]


def test_videofile_reports_a_changed_file(tmp_path: Path) -> None:
    path = make_clip(tmp_path / 'a.mkv', codec='ffv1')
    file = VideoFile(path)
    make_clip(path, 2, codec='ffv1')
    with pytest.raises(DataError, match='has changed'):
        file[3]


def test_videofile_counts_frames_hidden_by_edit_list(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / 'in.mp4', 30, rate=25, options={'g': '20', 'bf': '2'})
    cut = ffmpeg('-ss', 0.4, '-i', clip, '-c', 'copy', tmp_path / 'cut.mp4')
    with av.open(str(cut)) as container:
        samples = container.streams.video[0].frames
    file = VideoFile(cut)
    assert len(file) == len(arrays(cut)) < samples
    assert file.warnings == []
    assert (file.rate, file.last_duration * file.time_base) == (25, Fraction(1, 25))


def test_videofile_leaves_out_leading_pictures_of_an_open_gop_cut(tmp_path: Path) -> None:
    options = {'x265-params': 'keyint=10:min-keyint=10:open-gop=1:bframes=3:log-level=none:scenecut=0'}
    clip = make_clip(tmp_path / 'in.ts', 30, (32, 64), codec='libx265', rate=25, options=options)
    cut = ffmpeg('-ss', 0.4, '-i', clip, '-c', 'copy', tmp_path / 'cut.mp4')
    with av.open(str(cut)) as container:
        samples = container.streams.video[0].frames
    file = VideoFile(cut)
    assert len(file) == len(arrays(cut)) < samples
    assert file.warnings == []


def test_videofile_keeps_times_between_null_frames_of_avi(tmp_path: Path) -> None:
    times = [0, 3, 4, 9, 20]
    unit = Fraction(1, 100)
    clip = make_clip(tmp_path / 'in.mkv', 5, codec='mjpeg', pix_fmt='yuvj420p', times=times, time_base=unit)
    avi = ffmpeg('-i', clip, '-c', 'copy', '-copytb', 1, tmp_path / 'null.avi')
    file = VideoFile(avi)
    assert [time * file.time_base for time in file.times] == pytest.approx([t / 100 for t in times], abs=1e-3)


def test_videofile_orders_frames_of_h264_in_avi(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / 'in.mkv', 12)
    file = VideoFile(ffmpeg('-i', clip, '-c:v', 'libx264', '-bf', 2, tmp_path / 'in.avi'))
    assert ([time - file.times[0] for time in file.times], file.warnings) == (list(range(12)), [])


def test_videofile_continues_a_clock_that_restarts(tmp_path: Path) -> None:
    part = make_clip(tmp_path / 'part.ts', 12, rate=25, audio=True, options={'bf': '2'}).read_bytes()
    (tmp_path / 'joined.ts').write_bytes(part + part)
    with closing(VideoFile(tmp_path / 'joined.ts', temp_dir=str(tmp_path))) as file:
        assert len(file) == 24
        steps = {(b - a) * file.time_base for a, b in pairwise(file.times)}
        assert all(Fraction(1, 50) < step < Fraction(2, 25) for step in steps)
        assert file.media != file.path
        assert_equal(file[13], planes_of(frames_of(tmp_path / 'part.ts')[1]))
    assert sorted(os.listdir(tmp_path)) == ['joined.ts', 'part.ts']


def test_videofile_moves_one_bad_time_stamp_only(tmp_path: Path) -> None:
    times = [20, 60, 100, 300, 300, 420]
    path = make_clip(tmp_path / 'a.mkv', 6, codec='ffv1', times=times, time_base=Fraction(1, 1000))
    file = VideoFile(path)
    assert file.times == [20, 60, 100, 300, 301, 420]
    assert 'has 1 wrong time stamp; only these were corrected' in file.warnings[0]


@pytest.mark.parametrize('declared', [60000, 1000])
def test_videofile_measures_the_rate_if_the_header_is_absurd(tmp_path: Path, declared: int) -> None:
    unit = Fraction(1, declared)
    times = [round(t * Fraction(1001, 30000) / unit) for t in range(12)]
    path = make_clip(tmp_path / 'a.mkv', 12, rate=declared, times=times, time_base=unit, options={'bf': '0'})
    assert VideoFile(path).rate == Fraction(30000, 1001)


def test_videofile_without_time_stamps_has_a_constant_rate(tmp_path: Path) -> None:
    file = VideoFile(make_clip(tmp_path / 'raw.h264', 5, rate=25, options={'bf': '2'}))
    assert (file.times, file.time_base) == ([0, 1, 2, 3, 4], Fraction(1, 25))
    assert 'has no time stamps: without --fps, 25 fps' in file.warnings[0]


def test_videofile_reads_frames_with_unknown_side_data(tmp_path: Path) -> None:
    """EXIF data, which PyAV has no name for."""
    exif = Image.Exif()
    exif[0x010F] = 'Camera'
    for t in range(3):
        Image.fromarray(picture(t, 16, 24)).save(tmp_path / f'{t}.jpg', exif=exif)
    clip = ffmpeg('-framerate', 10, '-i', tmp_path / '%d.jpg', '-c', 'copy', tmp_path / 'a.mkv')
    assert len(VideoFile(clip)) == 3


def test_videofile_scales_frames_of_another_size(tmp_path: Path) -> None:
    parts = [make_clip(tmp_path / f'{size[0]}.ts', count, size) for count, size in ((6, (16, 24)), (4, (32, 48)))]
    (tmp_path / 'in.ts').write_bytes(b''.join(part.read_bytes() for part in parts))
    with closing(open_source(str(tmp_path / 'in.ts'))) as source:
        assert (len(source), source.size) == (10, (16, 24))
        assert all(source[t].shape == (3, 16, 24) for t in (0, 5, 6, 9))
        assert 'all frames are scaled to 24x16' in ''.join(source.warnings)


def test_videofile_uses_what_is_left_of_a_cut_file(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / 'in.mp4', 48, (32, 48), container_options={'movflags': 'faststart'})
    (tmp_path / 'cut.mp4').write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    file = VideoFile(tmp_path / 'cut.mp4')
    assert 3 < len(file) < 48
    assert_equal(file[3], planes_of(frames_of(clip)[3]))
    assert 'may be incomplete' in ''.join(file.warnings)


def test_damaged_file_reads_the_same_in_both_directions(tmp_path: Path) -> None:
    path = make_clip(tmp_path / 'in.mkv', 24, codec='ffv1', options={'slicecrc': '1', 'level': '3', 'g': '1'})
    data = bytearray(path.read_bytes())
    for i in range(len(data) // 2, len(data) // 2 + 20):
        data[i] ^= 255
    path.write_bytes(data)
    source = open_source(str(path))
    backward = [source[t] for t in reversed(range(len(source)))]
    assert_equal(backward[::-1], [source[t] for t in range(len(source))])


def test_files_without_video_are_refused(tmp_path: Path) -> None:
    (tmp_path / 'empty.mp4').touch()
    (tmp_path / 'text.mp4').write_text('no video at all' * 100)
    end = make_clip(tmp_path / 'end.mp4', 24).read_bytes()
    (tmp_path / 'end.mp4').write_bytes(end[: len(end) // 2])  # its list of frames is at the end
    ffmpeg('-f', 'lavfi', '-i', 'anullsrc', '-t', 0.2, tmp_path / 'sound.mp4')
    for name, message in (
        ('empty.mp4', 'is empty'),
        ('text.mp4', 'cannot be read as a video'),
        ('end.mp4', "no list of its frames \\('moov'\\)"),
        ('sound.mp4', 'has no video in it'),
        ('nowhere.mp4', 'does not exist'),
    ):
        with pytest.raises(DataError, match=message):
            open_source(str(tmp_path / name))


def test_sources_warn_about_hdr_and_interlaced_video(tmp_path: Path) -> None:
    hdr = make_clip(
        tmp_path / 'hdr.mkv', 1, codec='ffv1', pix_fmt='yuv420p10le', colorspace=9, color_trc=16, color_primaries=9
    )
    assert any('HDR (PQ)' in warning for warning in open_source(str(hdr)).warnings)
    fields = make_clip(tmp_path / 'fields.mkv', 2, options={'x264-params': 'tff=1'})
    assert any('interlaced' in warning for warning in open_source(str(fields)).warnings)
    assert open_source(str(make_clip(tmp_path / 'plain.mp4', 2))).warnings == []


@pytest.mark.parametrize(
    ('start', 'end', 'kept'),
    [(2, 9, range(2, 9)), (Fraction(1, 4), Fraction(1, 2), range(6, 12)), (-4, -1, range(20, 23)), (None, 5, range(5))],
)
def test_start_and_end_choose_frames(tmp_path: Path, start: Any, end: Any, kept: range) -> None:
    clip = make_clip(tmp_path / 'in.mkv', 24)
    source, complete = open_source(str(clip), start, end), open_source(str(clip))
    assert source.names == [f'{t:06d}' for t in kept]
    assert_equal([source[0], source[-1 + len(kept)]], [complete[kept[0]], complete[kept[-1]]])
    before = [time - complete.timing.times[kept[0]] for time in complete.timing.times]
    offset = source.timing.times[0]
    assert [time - offset for time in source.timing.times] == [before[t] for t in kept]
    for places in ((30, None), (None, 0)):
        with pytest.raises(DataError, match='none of its frames'):
            open_source(str(clip), *places)


def test_content_decides_not_the_extension(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / 'in.mp4', 3)
    for name in ('a.png', 'b.avi', 'c', 'Über 映像 ☂.txt', "it's 100%.mkv", 'concat:x|y.mp4'):
        shutil.copy(clip, tmp_path / name)
        assert len(open_source(str(tmp_path / name))) == 3


@pytest.mark.parametrize(
    ('pix_fmt', 'planar'),
    [('nv12', 'yuv420p'), ('yuyv422', 'yuv422p'), ('rgb24', 'gbrp'), ('p010le', 'yuv420p10le')],
)
def test_planes_of_unpacks_without_loss(pix_fmt: str, planar: str) -> None:
    planes = planes_of(av.VideoFrame.from_ndarray(picture(0, 16, 24), 'rgb24').reformat(format=pix_fmt))
    frame = av.VideoFrame(24, 16, planar)
    for target, plane in zip(frame.planes, planes, strict=True):
        lines = np.frombuffer(memoryview(target), plane.dtype).reshape(-1, target.line_size // plane.itemsize)
        lines[: plane.shape[0], : plane.shape[1]] = plane
    assert_equal(planes_of(frame.reformat(format=pix_fmt)), planes)

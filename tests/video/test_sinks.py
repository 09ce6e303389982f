"""Results on disk: what is tested before the work, and runs that are interrupted."""

from __future__ import annotations

import os
import shutil
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from video_clips import Copy, arrays, ffmpeg, frames_of, make_clip, packets, times

from dstnet_arch.errors import DataError, DSTNetError, OptionsError
from dstnet_arch.video import remux, video_sink
from dstnet_arch.video.ffmpeg import FFmpegError, ffmpeg_program
from dstnet_arch.video.sinks import OutputOptions, check_output_name, is_complete, open_sink
from dstnet_arch.video.sources import open_source


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_sink, 'SEGMENT_FRAMES', 4)


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize(('stop', 'kept'), [(3, 0), (4, 4), (9, 8)])
@pytest.mark.parametrize('codec', ['ffv1', 'libx264'])
def test_videosink_resumes_at_the_last_segment(copy: Copy, tmp_path: Path, stop: int, kept: int, codec: str) -> None:
    source = make_clip(tmp_path / 'in.mkv', 11, audio=True)
    copy(source, 'complete.mkv', codec=codec)
    with pytest.raises(KeyboardInterrupt):
        copy(source, 'out.mkv', codec=codec, stop=stop)
    assert ('out.mkv.partial' in files(tmp_path)) == (kept > 0)
    assert 'out.mkv' not in files(tmp_path)
    if kept:
        with pytest.raises(OptionsError, match='with other settings \\(encoding: '):
            copy(source, 'out.mkv', codec='mpeg4', resume=True)
        with pytest.raises(OptionsError, match='An interrupted run has left'):
            copy(source, 'out.mkv', codec=codec)
    assert copy(source, 'out.mkv', codec=codec, resume=True).start == kept
    for kind in ('video', 'audio'):
        assert packets(tmp_path / 'out.mkv', kind) == packets(tmp_path / 'complete.mkv', kind)
    assert files(tmp_path) == ['complete.mkv', 'in.mkv', 'out.mkv']
    assert is_complete(tmp_path / 'out.mkv', open_source(str(source)))
    assert not is_complete(tmp_path / 'out.mkv', open_source(str(source), end=5))


def test_failed_muxing_keeps_a_playable_video(copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_clip(tmp_path / 'in.mkv', 6, audio=True)
    run = remux.run_ffmpeg

    def fails(arguments: list[str]) -> None:
        if arguments[-1].endswith('result.mp4'):
            raise FFmpegError('mp4: Packet is malformed')
        run(arguments)

    with monkeypatch.context() as patch:
        patch.setattr(remux, 'run_ffmpeg', fails)
        with pytest.raises(DataError, match=r'mp4: Packet is malformed.*restored\.mkv has the video.*--resume'):
            copy(source, 'out.mp4')
    assert len(frames_of(tmp_path / 'out.mp4.partial' / 'restored.mkv')) == 6
    assert copy(source, 'out.mp4', resume=True).start == 6
    assert len(frames_of(tmp_path / 'out.mp4')) == 6
    assert files(tmp_path) == ['in.mkv', 'out.mp4']


@pytest.mark.parametrize('name', ['x.gif', 'x.ogv', 'x.png', 'https://host/x.mp4', 'ü' * 130 + '.mp4'])
def test_check_output_name_refuses(name: str) -> None:
    with pytest.raises(OptionsError):
        check_output_name(Path(name))


def test_output_name_may_have_255_bytes(copy: Copy, tmp_path: Path) -> None:
    name = 'n' * 251 + '.mkv'
    copy(make_clip(tmp_path / 'in.mkv', 2), name)
    assert files(tmp_path) == ['in.mkv', name]


def test_wrong_options_are_found_before_the_work(copy: Copy, tmp_path: Path) -> None:
    source = make_clip(tmp_path / 'in.mp4', 1)
    for name, options, message in (
        ('out.mp4', {'codec': 'libx264x'}, 'Did you mean libx264?'),
        ('out.mp4', {'codec': 'aac'}, 'is a codec for audio'),
        ('out.webm', {'codec': 'libx264'}, 'cannot be stored in webm'),
        ('out.mp4', {'quality': 60}, '51 \\(worst\\)'),
        ('out.mkv', {'codec': 'ffv1', 'quality': 3}, 'no quality scale'),
        ('out.mp4', {'pix_fmt': 'rgb24'}, 'libx264 supports yuv420p'),
        ('out.mkv', {'container': 'nonsense'}, 'no container for nonsense'),
        ('in.mp4', {'overwrite': True}, 'this is the input'),
    ):
        with pytest.raises(OptionsError, match=message):
            copy(source, name, **options)
    assert files(tmp_path) == ['in.mp4']


def test_mxf_needs_a_constant_rate(copy: Copy, tmp_path: Path) -> None:
    source = make_clip(tmp_path / 'in.mkv', 3, (48, 64), times=[0, 40, 200], time_base=Fraction(1, 1000))
    with pytest.raises(OptionsError, match=r'constant frame rate.*--fps'):
        copy(source, 'out.mxf')
    assert len(frames_of(copy(source, 'out.mxf', rate=Fraction(25)).path)) == 3


def test_targets_that_cannot_be_written_are_refused(copy: Copy, tmp_path: Path) -> None:
    source = make_clip(tmp_path / 'in.mp4', 1)
    (tmp_path / 'there.mp4').write_text('mine')
    (tmp_path / 'folder.mp4').mkdir()
    (tmp_path / 'folder.mp4' / 'notes.txt').touch()
    places = [('there.mp4', 'exists. Give another name'), ('there.mp4/out.mp4', 'cannot be written')]
    places += [('folder.mp4', 'is not empty')]
    places += [('/proc/out.mp4', 'cannot be written')] if sys.platform == 'linux' else []
    for name, message in places:
        with pytest.raises(DSTNetError, match=message):
            copy(source, name)
    assert files(tmp_path) == ['folder.mp4', 'in.mp4', 'there.mp4']
    assert len(frames_of(copy(source, 'there.mp4', overwrite=True).path)) == 1


def test_full_disk_is_found_before_the_work(copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_clip(tmp_path / 'in.mkv', 12, (32, 48), codec='ffv1')
    usage = shutil.disk_usage(tmp_path)._replace(free=5000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(DataError, match='needs at least'):
        copy(source, 'out.mkv', codec='ffv1')
    assert files(tmp_path) == ['in.mkv']


def test_disk_that_fills_up_leaves_what_is_done(copy: Copy, tmp_path: Path) -> None:
    resource = pytest.importorskip('resource')  # POSIX only
    source = make_clip(tmp_path / 'in.mkv', 12, (64, 96), codec='ffv1')
    complete = copy(source, 'complete.mkv', codec='ffv1').path
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (complete.stat().st_size * 2 // 3, limits[1]))
    try:
        with pytest.raises(DataError):
            copy(source, 'out.mkv', codec='ffv1')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(tmp_path) == ['complete.mkv', 'in.mkv', 'out.mkv.partial']
    assert copy(source, 'out.mkv', codec='ffv1', resume=True).start == 12
    assert all(map(np.array_equal, arrays(tmp_path / 'out.mkv'), arrays(complete)))


def test_one_process_writes_a_result(tmp_path: Path) -> None:
    source = open_source(str(make_clip(tmp_path / 'in.mkv', 2)))
    sink = open_sink(tmp_path / 'out.mkv', source, OutputOptions(), {'job': 1})
    sink.write(0, source[0])
    sink.save(1, torch.zeros(1))
    with pytest.raises(DSTNetError, match=r'An interrupted run|Another process'):
        open_sink(tmp_path / 'out.mkv', source, OutputOptions(), {'job': 1})
    with pytest.raises(DataError, match='Another process is writing'):
        open_sink(tmp_path / 'out.mkv', source, OutputOptions(), {'job': 1}, resume=True)
    sink.close()


def test_fps_overrides_the_rate_of_any_input(copy: Copy, tmp_path: Path) -> None:
    source = make_clip(tmp_path / 'in.mp4', 3, times=[0, 40, 200], time_base=Fraction(1, 1000))
    assert times(copy(source, 'out.mp4', rate=Fraction(30000, 1001)).path) == [
        Fraction(1001 * t, 30000) for t in range(3)
    ]


def test_ffmpeg_program_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundled = ffmpeg_program()
    (tmp_path / 'ffmpeg').symlink_to(bundled)
    for value in (str(tmp_path / 'ffmpeg'), str(tmp_path / 'missing')):
        ffmpeg_program.cache_clear()
        monkeypatch.setenv('DSTNET_FFMPEG', value)
        if value.endswith('missing'):
            with pytest.raises(OptionsError, match='is not a program'):
                ffmpeg_program()
        else:
            assert ffmpeg_program() == value
    ffmpeg_program.cache_clear()


def test_ffmpeg_reports_its_own_reason(tmp_path: Path) -> None:
    with pytest.raises(FFmpegError, match='No such file or directory'):
        ffmpeg('-i', tmp_path / 'missing.mkv', tmp_path / 'out.mkv')


@pytest.mark.parametrize(
    ('name', 'options', 'size', 'made'),
    [
        ('a.mp4', {}, (47, 33), ('h264', 'yuv444p')),
        ('a.mp4', {'codec': 'libx265'}, (241, 321), ('hevc', 'yuv444p')),
        ('a.mkv', {'codec': 'ffv1'}, (241, 321), ('ffv1', 'yuv420p')),
        ('a.webm', {'codec': 'libvpx-vp9'}, (33, 17), ('vp9', 'yuv420p')),
        ('a.mov', {'codec': 'prores_ks'}, (33, 17), ('prores', 'yuv422p10le')),
        ('a.avi', {'codec': 'mpeg4', 'quality': 5}, (16, 24), ('mpeg4', 'yuv420p')),
        ('a.avi', {}, (16, 24), ('h264', 'yuv420p')),
        ('a.ts', {}, (16, 24), ('h264', 'yuv420p')),
        ('a.mpg', {}, (16, 32), ('mpeg2video', 'yuv420p')),
        ('a.mov', {'codec': 'mjpeg'}, (16, 24), ('mjpeg', 'yuvj420p')),
    ],
    ids=str,
)
def test_codecs_keep_size_and_number_of_frames(
    copy: Copy, tmp_path: Path, name: str, options: dict[str, Any], size: tuple[int, int], made: tuple[str, str]
) -> None:
    shown = frames_of(copy(make_clip(tmp_path / 'in.mkv', 5, size, codec='ffv1'), name, **options).path)
    assert [(frame.height, frame.width) for frame in shown] == [size] * 5
    assert (shown[0].format.name) == made[1]

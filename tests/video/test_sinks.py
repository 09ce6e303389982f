"""Results on disk: what is tested before the work, and runs that are interrupted."""

from __future__ import annotations

import shutil
import sys
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deblur_utils import files, load_all, make_frames, noise
from video_clips import Copy, arrays, frames_of, make_clip, packets, streams, times

from dstnet_arch.errors import DataError, DSTNetError, OptionsError
from dstnet_arch.video import remux, video_sink
from dstnet_arch.video.ffmpeg import FFmpegError, ffmpeg_program, run_ffmpeg
from dstnet_arch.video.sink import NonfiniteError
from dstnet_arch.video.sinks import OutputOptions, check_output_name, is_complete, open_sink
from dstnet_arch.video.sources import open_source


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_sink, 'SEGMENT_FRAMES', 4)


@pytest.mark.parametrize(('stop', 'kept'), [(3, 0), (4, 4), (9, 8)])
@pytest.mark.parametrize('codec', ['ffv1', 'libx264'])
def test_videosink_resumes_at_the_last_segment(copy: Copy, tmp_path: Path, stop: int, kept: int, codec: str) -> None:
    source = make_clip(tmp_path / 'in.mkv', 11, audio=True)
    copy(source, 'complete.mkv', codec=codec)
    with pytest.raises(KeyboardInterrupt):
        copy(source, 'out.mkv', codec=codec, stop=stop)
    assert files(tmp_path) == ['complete.mkv', 'in.mkv', *['out.mkv.partial'] * (kept > 0)]
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


def test_foldersink_resumes_where_it_stopped(copy: Copy, tmp_path: Path) -> None:
    source = make_frames(tmp_path / 'in', 6)
    with pytest.raises(KeyboardInterrupt):
        copy(source, 'out', stop=4)
    assert files(tmp_path) == ['in', 'out.partial']
    assert copy(source, 'out', resume=True).start == 4
    assert all(map(np.array_equal, load_all(tmp_path / 'out'), [noise(seed=t) for t in range(6)]))
    with pytest.raises(KeyboardInterrupt):
        copy(source, 'other', stop=4)
    assert copy(source, 'other', end=2, overwrite=True).start == 0
    assert files(tmp_path / 'other') == ['000.png', '001.png']
    assert files(tmp_path) == ['in', 'other', 'out']


@pytest.mark.parametrize('names', [['lock'], ['lock', '.job.json.incomplete']])
@pytest.mark.parametrize('flag', ['resume', 'overwrite'])
def test_run_that_was_killed_at_its_start_is_repeated(copy: Copy, tmp_path: Path, flag: str, names: list[str]) -> None:
    (tmp_path / 'out.partial').mkdir()
    for name in names:
        (tmp_path / 'out.partial' / name).touch()
    copy(make_frames(tmp_path / 'in', 2), 'out', **{flag: True})
    assert files(tmp_path) == ['in', 'out']


@pytest.mark.parametrize('names', [['job.json', 'lock', 'state.pt'], ['lock'], []])
def test_run_that_was_killed_at_its_end_is_complete(copy: Copy, tmp_path: Path, names: list[str]) -> None:
    source = make_frames(tmp_path / 'in', 2)
    copy(source, 'out')
    (tmp_path / 'out.partial').mkdir()
    for name in names:
        (tmp_path / 'out.partial' / name).touch()
    assert is_complete(tmp_path / 'out', open_source(str(source)))
    assert files(tmp_path) == ['in', 'out']


def test_failed_muxing_keeps_a_playable_video(copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_clip(tmp_path / 'in.mkv', 6, audio=True)

    def fails(arguments: list[str]) -> None:
        if arguments[-1].endswith('result.mp4'):
            raise FFmpegError('mp4: Packet is malformed')
        run_ffmpeg(arguments)

    with monkeypatch.context() as patch:
        patch.setattr(remux, 'run_ffmpeg', fails)
        with pytest.raises(DataError, match=r'mp4: Packet is malformed.*restored\.mkv has the video.*--resume'):
            copy(source, 'out.mp4')
    assert len(frames_of(tmp_path / 'out.mp4.partial' / 'restored.mkv')) == 6
    assert copy(source, 'out.mp4', resume=True).start == 6
    assert len(frames_of(tmp_path / 'out.mp4')) == 6
    assert files(tmp_path) == ['in.mkv', 'out.mp4']


@pytest.mark.parametrize('name', ['x.gif', 'x.ogv', 'x.png', 'https://host/x.mp4', 'ü' * 130 + '.mp4', '/'])
def test_check_output_name_refuses(name: str) -> None:
    with pytest.raises(OptionsError):
        check_output_name(Path(name))


def test_output_name_may_have_255_bytes(copy: Copy, tmp_path: Path) -> None:
    name = 'n' * 251 + '.mkv'
    copy(make_clip(tmp_path / 'in.mkv', 2), name)
    assert files(tmp_path) == ['in.mkv', name]


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('out.mp4', {'codec': 'libx264x'}, 'Did you mean libx264?'),
        ('out.mp4', {'codec': 'aac'}, 'is a codec for audio'),
        ('out.webm', {'codec': 'libx264'}, 'cannot be stored in webm'),
        ('out.mp4', {'quality': 60}, '51 \\(worst\\)'),
        ('out.mkv', {'codec': 'ffv1', 'quality': 3}, 'no quality scale'),
        ('out.mp4', {'pix_fmt': 'rgb24'}, 'libx264 supports yuv420p'),
        ('out.mkv', {'container': 'nonsense'}, 'no container nonsense'),
        ('out.mkv', {'container': 'hls'}, 'no container hls'),
        ('out.mov', {'codec': 'png'}, 'no supported pixel format'),  # PyAV names only packed ones, and gray
        ('out.avi', {'codec': 'utvideo'}, 'cannot be read back'),
        ('in.mp4', {'overwrite': True}, 'this is the input'),
    ],
    ids=str,
)
def test_wrong_options_are_found_before_the_work(
    copy: Copy, tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DSTNetError, match=message):
        copy(make_clip(tmp_path / 'in.mp4', 1), name, **options)
    assert files(tmp_path) == ['in.mp4']


def test_mxf_needs_a_constant_rate(copy: Copy, tmp_path: Path) -> None:
    source = make_clip(tmp_path / 'in.mkv', 3, (48, 64), times=[0, 40, 200], time_base=Fraction(1, 1000))
    with pytest.raises(OptionsError, match=r'constant frame rate.*--fps'):
        copy(source, 'out.mxf')
    assert len(frames_of(copy(source, 'out.mxf', rate=Fraction(25)).path)) == 3


def test_foreign_files_are_left_alone(copy: Copy, tmp_path: Path) -> None:
    source = make_clip(tmp_path / 'in.mp4', 1)
    (tmp_path / 'file.mp4').write_text('mine')
    for name in ('folder.mp4/notes.txt', 'foreign.partial/mine'):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / 'real').mkdir()
    (tmp_path / 'link').symlink_to('real')
    before = sorted(tmp_path.rglob('*'))
    for name, options, message in (
        ('file.mp4', {}, 'exists. Give another name'),
        ('file.mp4/out.mp4', {}, 'cannot be written'),
        ('file.mp4/out', {}, 'cannot be written'),
        ('folder.mp4', {}, 'is not empty'),
        ('folder.mp4', {'overwrite': True}, 'notes.txt in it is not an image'),
        ('link', {}, 'is a link'),
        ('foreign', {'resume': True}, 'foreign.partial exists and was not made by this command'),
        ('foreign', {'overwrite': True}, 'foreign.partial exists and was not made by this command'),
        *([('/proc/out.mp4', {}, 'cannot be written')] if sys.platform == 'linux' else []),
    ):
        with pytest.raises(DSTNetError, match=message):
            copy(source, name, **options)
    assert sorted(tmp_path.rglob('*')) == before
    assert len(frames_of(copy(source, 'file.mp4', overwrite=True).path)) == 1


def test_full_disk_is_found_before_the_work(copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_clip(tmp_path / 'in.mkv', 12, (32, 48), codec='ffv1')
    usage = shutil.disk_usage(tmp_path)._replace(free=5000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    for name, options in (('out.mkv', {'codec': 'ffv1'}), ('out', {})):
        with pytest.raises(DataError, match='needs at least'):
            copy(source, name, **options)
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


@pytest.mark.parametrize('name', ['out', 'out.mkv'])
def test_sink_refuses_values_that_are_not_finite(tmp_path: Path, name: str) -> None:
    source = open_source(str(make_clip(tmp_path / 'in.mkv', 4)))
    sink = open_sink(tmp_path / name, source, OutputOptions(), {'job': 1})
    with closing(sink), pytest.raises(NonfiniteError) as error:  # noqa: PT012
        for t in range(4):
            sink.write(t, source[t] if t != 2 else source[t] * torch.nan)
            sink.save(t + 1, torch.zeros(1))
    assert error.value.position == 2
    assert files(tmp_path) == ['in.mkv']


def test_one_process_writes_a_result(tmp_path: Path) -> None:
    source = open_source(str(make_clip(tmp_path / 'in.mkv', 2)))
    sink = open_sink(tmp_path / 'out.mkv', source, OutputOptions(), {'job': 1})
    sink.write(0, source[0])
    sink.save(1, torch.zeros(1))
    with pytest.raises(DataError, match='Another process is writing'):
        open_sink(tmp_path / 'out.mkv', source, OutputOptions(), {'job': 1}, resume=True)
    sink.close()


def test_fps_overrides_the_rate_of_any_input(copy: Copy, tmp_path: Path) -> None:
    source = make_clip(tmp_path / 'in.mp4', 3, times=[0, 40, 200], time_base=Fraction(1, 1000))
    out = copy(source, 'out.mp4', rate=Fraction(30000, 1001)).path
    assert times(out) == [Fraction(1001 * t, 30000) for t in range(3)]


def test_ffmpeg_program_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / 'ffmpeg').symlink_to(ffmpeg_program())
    for name in ('ffmpeg', 'missing'):
        ffmpeg_program.cache_clear()
        monkeypatch.setenv('DSTNET_FFMPEG', str(tmp_path / name))
        if name == 'ffmpeg':
            assert ffmpeg_program() == str(tmp_path / name)
        else:
            with pytest.raises(OptionsError, match='is not a program'):
                ffmpeg_program()
    ffmpeg_program.cache_clear()


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
        ('a.ts', {'codec': 'mpeg4'}, (16, 24), ('mpeg4', 'yuv420p')),
        ('a.mpg', {}, (16, 32), ('mpeg2video', 'yuv420p')),
        ('a.mov', {'codec': 'mjpeg'}, (16, 24), ('mjpeg', 'yuvj420p')),
    ],
    ids=str,
)
def test_codecs_keep_size_and_number_of_frames(
    copy: Copy, tmp_path: Path, name: str, options: dict[str, Any], size: tuple[int, int], made: tuple[str, str]
) -> None:
    out = copy(make_clip(tmp_path / 'in.mkv', 5, size, codec='ffv1'), name, **options).path
    shown = frames_of(out)
    assert [(frame.height, frame.width) for frame in shown] == [size] * 5
    assert (streams(out)[0][1], shown[0].format.name) == made

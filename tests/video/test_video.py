"""`dstnet deblur` for video files: what is kept, what is chosen, awkward files, and runs that are interrupted."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

av = pytest.importorskip('av')

from video_clips import arrays, frames_of, make_clip, packets, picture, times  # noqa: E402

from dstnet_arch.__main__ import main  # noqa: E402
from dstnet_arch.archs.checkpoint import load_checkpoint  # noqa: E402
from dstnet_arch.archs.dstnet_arch import DSTNet  # noqa: E402
from dstnet_arch.errors import DataError  # noqa: E402
from dstnet_arch.video import reader as video_reader  # noqa: E402
from dstnet_arch.video import video_sink  # noqa: E402
from dstnet_arch.video.encoder import choose_encoding  # noqa: E402
from dstnet_arch.video.images import read_picture  # noqa: E402
from dstnet_arch.video.reader import VideoFile, checksum, planes_of  # noqa: E402
from dstnet_arch.video.sources import open_source  # noqa: E402
from dstnet_arch.video.video_sink import VideoSink  # noqa: E402

Deblur = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two networks: one whose frames come out as they were, and one that changes them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('weights')
    net = DSTNet(num_feat=2, num_block=1, num_cwgdn=1)
    torch.save({'params': net.state_dict()}, folder / 'changes.pth')
    torch.nn.init.zeros_(net.reconstruct.weight)
    torch.nn.init.zeros_(net.reconstruct.bias)
    torch.save({'params': net.state_dict()}, folder / 'same.pth')
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture
def deblur(weights: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> Deblur:
    """Run ``dstnet deblur``: (exit status, stdout, stderr)."""

    def run(*arguments: object, net: str = 'same') -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(['deblur', *map(str, arguments), '--weights', str(weights[net]), '--device', 'cpu'])
        return status, *capsys.readouterr()

    return run


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def assert_equal(a: list[Any], b: list[Any]) -> None:
    assert len(a) == len(b)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# Reading


CLIPS: dict[str, dict[str, Any]] = {
    'b-frames.mp4': {'options': {'bf': '3', 'g': '8'}},
    'open-gop.mp4': {'options': {'x264-params': 'keyint=8:min-keyint=8:open-gop=1:bframes=3:b-adapt=0'}},
    'open-gop.mkv': {'options': {'x264-params': 'keyint=8:min-keyint=8:open-gop=1:bframes=3:b-adapt=0'}},
    'open-gop.ts': {'options': {'x264-params': 'keyint=8:min-keyint=8:open-gop=1:bframes=3:b-adapt=0'}},
    'refresh.mp4': {'options': {'x264-params': 'keyint=8:intra-refresh=1'}},
    'variable.mp4': {'times': [t * t * 7 for t in range(30)], 'time_base': Fraction(1, 1000), 'options': {'bf': '2'}},
    'fragments.mp4': {'container_options': {'movflags': 'frag_keyframe+empty_moov'}},
    'mpeg2.mpg': {'codec': 'mpeg2video', 'options': {'bf': '2', 'g': '6'}, 'rate': 25},
    'mpeg4.avi': {'codec': 'mpeg4', 'options': {'bf': '2', 'g': '6'}},
    'intra.mkv': {'codec': 'ffv1'},
    'raw.h264': {'options': {'bf': '2'}},
}


@pytest.mark.parametrize('name', CLIPS)
def test_frames_are_those_of_a_forward_decode(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backward, forward, and to and fro, with short stretches and with long ones on disk."""
    path = make_clip(tmp_path / name, 30, **CLIPS[name])
    wanted = [planes_of(frame) for frame in frames_of(path)]
    monkeypatch.setattr(video_reader, '_STRETCH_FRAMES', 5)
    for memory in (1 << 20, 0):
        monkeypatch.setattr(video_reader, '_MEMORY_BYTES', memory)
        file = VideoFile(path, temp_dir=str(tmp_path))
        assert len(file) == len(wanted) == 30
        for t in [*reversed(range(30)), *range(30), 11, 4, 25, 12]:
            assert_equal(file[t], wanted[t])
        file.close()
    assert files(tmp_path) == [name]


def test_seeking_that_lies_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip(tmp_path / 'a.mp4', 20)
    wanted = [planes_of(frame) for frame in frames_of(path)]
    monkeypatch.setattr(video_reader, '_STRETCH_FRAMES', 4)
    file = VideoFile(path)
    assert len(file._starts) > 3
    decode = file._decode_from
    begun = []

    def lies(begin: int) -> Any:
        begun.append(begin)
        return ((number + 1, frame) for number, frame in decode(begin)) if begin else decode(begin)

    monkeypatch.setattr(file, '_decode_from', lies)
    for t in reversed(range(20)):
        assert_equal(file[t], wanted[t])
    assert begun.count(0) == 1  # then once through the whole file, and no seeking any more
    assert len(begun) == 3


def test_a_file_that_changes_is_found_out(tmp_path: Path) -> None:
    path = make_clip(tmp_path / 'a.mkv', codec='ffv1')
    file = VideoFile(path)
    make_clip(path, codec='ffv1', size=(24, 16))
    with pytest.raises(DataError, match='has changed'):
        file[3]


def test_packed_formats_are_unpacked_without_loss(tmp_path: Path) -> None:
    for codec, pix_fmt, form in (
        ('rawvideo', 'nv12', 'yuv'),
        ('rawvideo', 'yuyv422', 'yuv'),
        ('qtrle', 'rgb24', 'rgb'),
        ('rawvideo', 'p010le', 'yuv'),
    ):
        frame = av.VideoFrame.from_ndarray(picture(0, 16, 24), 'rgb24').reformat(format=pix_fmt)
        planes = planes_of(frame)
        assert video_reader.sample_format(frame).family == form, codec
        planar = av.VideoFrame(
            24, 16, {'nv12': 'yuv420p', 'yuyv422': 'yuv422p', 'rgb24': 'gbrp', 'p010le': 'yuv420p10le'}[pix_fmt]
        )
        for target, plane in zip(planar.planes, planes, strict=True):
            lines = np.frombuffer(memoryview(target), plane.dtype).reshape(-1, target.line_size // plane.itemsize)
            lines[: plane.shape[0], : plane.shape[1]] = plane
        assert checksum(planes_of(planar.reformat(format=pix_fmt))) == checksum(planes)


# What is kept


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
def test_samples_that_are_not_changed_come_out_bit_for_bit(
    deblur: Deblur, tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    source = make_clip(tmp_path / 'in' / name, **settings)
    status, _, err = deblur(source, '-o', tmp_path / 'out.mkv', '--codec', 'ffv1')
    assert status == 0, err
    assert frames_of(tmp_path / 'out.mkv')[0].format.name == settings.get('pix_fmt', 'yuv420p')
    assert_equal(arrays(tmp_path / 'out.mkv'), arrays(source))
    assert files(tmp_path) == ['in', 'out.mkv']


def test_the_network_is_at_work(deblur: Deblur, weights: dict[str, Path], tmp_path: Path) -> None:
    """What comes out is what the network makes of the decoded clip, by PyTorch alone."""
    source = make_clip(tmp_path / 'in.mov', 4, codec='png', pix_fmt='rgb24')
    assert deblur(source, '-o', tmp_path / 'out', net='changes')[0] == 0
    decoded = [frame.to_ndarray(format='rgb24') for frame in frames_of(source)]
    clip = torch.stack([torch.from_numpy(frame).permute(2, 0, 1) / 255 for frame in decoded])
    with torch.no_grad():
        restored = load_checkpoint(weights['changes'])(clip[None])[0].clamp(0, 1)
    wanted = restored.mul(255).round().byte().permute(0, 2, 3, 1)
    assert files(tmp_path / 'out') == [f'{t:06d}.png' for t in range(4)]
    for t in range(4):
        difference = np.abs(read_picture(tmp_path / 'out' / f'{t:06d}.png').astype(int) - wanted[t].numpy())
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv', 'a.mov', 'a.ts'])
def test_timing_sound_tags_and_metadata_stay(deblur: Deblur, tmp_path: Path, name: str) -> None:
    source = make_clip(
        tmp_path / 'in' / name, 12, rate=Fraction(30000, 1001), audio=True, options={'bf': '2'},
        colorspace=1, color_range=1, color_primaries=1, color_trc=1, sample_aspect_ratio=Fraction(4, 3),
    )  # fmt: skip
    out = tmp_path / name
    status, said, err = deblur(source, '-o', out)
    assert status == 0, err
    assert 'libx264, yuv420p, crf 17' in said
    assert [b - a for a, b in pairwise(times(out))] == [b - a for a, b in pairwise(times(source))]
    offset = times(out)[0] - times(source)[0]
    assert offset == 0 or name == 'a.ts'
    heard, wanted = packets(out, 'audio'), packets(source, 'audio')
    assert [data for _, data in heard] == [data for _, data in wanted]
    assert all(abs(a - b - offset) < Fraction(1, 2000) for (a, _), (b, _) in zip(heard, wanted, strict=True))
    with av.open(str(out)) as a, av.open(str(source)) as b:
        assert a.streams.video[0].average_rate == b.streams.video[0].average_rate
        assert a.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        assert abs(a.duration - b.duration) < 50_000 or name == 'a.mkv'  # the padding of sound counts there
    frame = frames_of(out)[0]
    assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == (1, 1, 1, 1)


def test_untagged_stays_untagged(deblur: Deblur, tmp_path: Path) -> None:
    source = make_clip(tmp_path / 'in.mp4')
    assert deblur(source, '-o', tmp_path / 'out.mp4')[0] == 0
    frame, wanted = frames_of(tmp_path / 'out.mp4')[0], frames_of(source)[0]
    assert (frame.colorspace, frame.color_range) == (wanted.colorspace, wanted.color_range)


def test_a_variable_rate_stays(deblur: Deblur, tmp_path: Path) -> None:
    shown = [0, 3, 4, 9, 30, 31, 32, 50]
    source = make_clip(tmp_path / 'in.mp4', 8, times=shown, time_base=Fraction(1, 600), options={'bf': '2'})
    assert deblur(source, '-o', tmp_path / 'out.mp4')[0] == 0
    assert times(tmp_path / 'out.mp4') == [Fraction(t, 600) for t in shown] == times(source)


def test_subtitles_chapters_and_titles(deblur: Deblur, tmp_path: Path) -> None:
    plain = make_clip(tmp_path / 'plain.mkv', 24, subtitles=True)
    source = tmp_path / 'in.mkv'
    with av.open(str(plain)) as a, av.open(str(source), 'w') as b:
        b.metadata['title'] = 'Über alles'
        streams = {s.index: b.add_stream_from_template(s, opaque=True) for s in a.streams}
        b.add_attachment('notes.txt', 'text/plain', b'kept')
        unit = Fraction(1, 1000)
        b.set_chapters(
            [
                {'id': i, 'start': 500 * i, 'end': 500 * i + 500, 'time_base': unit, 'metadata': {'title': f'{i}'}}
                for i in range(2)
            ]
        )
        for packet in a.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                b.mux(packet)
    status, _, err = deblur(source, '-o', tmp_path / 'out.mkv')
    assert (status, 'warning' in err) == (0, False)
    assert packets(tmp_path / 'out.mkv', 'subtitle') == packets(source, 'subtitle')
    with av.open(str(tmp_path / 'out.mkv')) as out:
        assert out.metadata['title'] == 'Über alles'
        assert [(c['start'], c['end'], c['metadata']['title']) for c in out.chapters()] == [
            (0, 500_000_000, '0'),
            (500_000_000, 1_000_000_000, '1'),
        ]
        assert [(s.name, s.data) for s in out.streams if s.type == 'attachment'] == [('notes.txt', b'kept')]
    # A container that cannot hold the text says so, and takes the rest.
    status, _, err = deblur(source, '-o', tmp_path / 'out.avi')
    assert status == 0
    assert 'subtitle' in err
    assert 'is left out' in err


@pytest.mark.parametrize('degrees', [90, 180, 270])
def test_turned_videos_are_shown_the_same(deblur: Deblur, tmp_path: Path, degrees: int) -> None:
    source = make_clip(tmp_path / 'in.mp4', 2, (16, 32), pix_fmt='yuv444p', rotation=degrees, options={'qp': '0'})
    assert frames_of(source)[0].rotation % 360 != 0
    assert deblur(source, '-o', tmp_path / 'out.mkv', '--codec', 'ffv1')[0] == 0
    turns = frames_of(source)[0].rotation // 90 % 4  # FFmpeg: counterclockwise
    for shown, stored in zip(frames_of(tmp_path / 'out.mkv'), frames_of(source), strict=True):
        assert shown.rotation == 0
        assert np.array_equal(shown.to_ndarray(), np.rot90(stored.to_ndarray(), turns, axes=(-2, -1)))


@pytest.mark.parametrize(
    ('start', 'end', 'wanted'),
    [
        ('2', '9', range(2, 9)),
        ('0.25s', '00:00:00.5', range(6, 12)),
        ('-4', '-1', range(20, 23)),
        (None, '5', range(5)),
    ],
)
def test_a_part(deblur: Deblur, tmp_path: Path, start: str | None, end: str, wanted: range) -> None:
    source = make_clip(tmp_path / 'in.mkv', 24, audio=True)
    part = [f'--start={start}'] * (start is not None) + [f'--end={end}']
    assert deblur(source, '-o', tmp_path / 'out.mkv', '--codec', 'ffv1', *part)[0] == 0
    assert_equal(arrays(tmp_path / 'out.mkv'), arrays(source)[wanted.start : wanted.stop])
    shown, before = times(tmp_path / 'out.mkv'), times(source)
    assert shown == [time - before[wanted.start] for time in before[wanted.start : wanted.stop]]
    heard = packets(tmp_path / 'out.mkv', 'audio')
    origin, until = before[wanted.start], before[wanted.stop] if wanted.stop < 24 else 99
    kept = [(time - origin, data) for time, data in packets(source, 'audio') if origin <= time < until]
    assert heard == kept


# Choices


@pytest.mark.parametrize(
    ('name', 'arguments', 'size', 'made'),
    [
        ('a.mp4', [], (479, 853), ('h264', 'yuv444p')),
        ('a.mp4', ['--codec', 'libx265'], (241, 321), ('hevc', 'yuv444p')),
        ('a.mkv', ['--codec', 'ffv1'], (241, 321), ('ffv1', 'yuv420p')),
        ('a.webm', ['--codec', 'libvpx-vp9'], (33, 17), ('vp9', 'yuv420p')),
        ('a.mp4', [], (12, 16), ('h264', 'yuv420p')),
        ('a.mov', ['--codec', 'prores_ks'], (33, 17), ('prores', 'yuv422p10le')),
        ('a.avi', ['--codec', 'mpeg4', '--quality', '5'], (16, 24), ('mpeg4', 'yuv420p')),
        ('a.mov', ['--codec', 'mjpeg'], (16, 24), ('mjpeg', 'yuvj420p')),
        ('a.mp4', ['--pix-fmt', 'yuv444p'], (16, 24), ('h264', 'yuv444p')),
    ],
    ids=str,
)
def test_sizes_never_change(
    deblur: Deblur, tmp_path: Path, name: str, arguments: list[str], size: tuple[int, int], made: tuple[str, str]
) -> None:
    source = make_clip(tmp_path / 'in.mkv', 2, size, codec='ffv1')
    status, _, err = deblur(source, '-o', tmp_path / name, *arguments)
    assert status == 0, err
    with av.open(str(tmp_path / name)) as container:
        assert container.streams.video[0].codec.canonical_name == made[0]
    shown = frames_of(tmp_path / name)
    assert [(frame.height, frame.width) for frame in shown] == [size] * 2
    assert shown[0].format.name == made[1]


def test_ten_bits_stay(deblur: Deblur, tmp_path: Path) -> None:
    source = make_clip(tmp_path / 'in.mkv', 2, (32, 64), codec='ffv1', pix_fmt='yuv420p10le')
    status, _, err = deblur(source, '-o', tmp_path / 'out.mp4')
    assert (status, 'warning' in err) == (0, False)
    assert frames_of(tmp_path / 'out.mp4')[0].format.name == 'yuv420p10le'
    status, _, err = deblur(source, '-o', tmp_path / 'out.avi', '--codec', 'mpeg4')
    assert status == 0
    assert 'cannot hold 10 bits (8 are left)' in err
    assert deblur(source, '-o', tmp_path / 'frames')[0] == 0
    saved = read_picture(tmp_path / 'frames' / '000001.png')
    assert saved.dtype == np.uint16
    assert np.abs(saved.astype(int) - frames_of(source)[1].to_ndarray(format='rgb48le')).mean() < 65536 * 0.01


def test_alpha(deblur: Deblur, tmp_path: Path) -> None:
    source = make_clip(tmp_path / 'in.mkv', 2, codec='ffv1', pix_fmt='yuva420p')
    status, _, err = deblur(source, '-o', tmp_path / 'out.mp4')
    assert status == 0
    assert 'cannot hold opacity' in err
    assert deblur(source, '-o', tmp_path / 'frames')[0] == 0
    assert read_picture(tmp_path / 'frames' / '000000.png').shape == (16, 24, 4)


def test_pictures_become_a_video(deblur: Deblur, tmp_path: Path) -> None:
    for t in range(3):
        (tmp_path / 'in').mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / 'in' / f'{t}.png'), picture(t, 17, 23)[..., ::-1])
    assert deblur(tmp_path / 'in', '-o', tmp_path / 'out.mkv', '--codec', 'ffv1', '--fps', '30000/1001')[0] == 0
    for t, frame in enumerate(frames_of(tmp_path / 'out.mkv')):
        assert np.abs(frame.to_ndarray(format='rgb24').astype(int) - picture(t, 17, 23)).max() <= 1
    assert deblur(tmp_path / 'in', '-o', tmp_path / 'out.mp4', '--fps', '30000/1001')[0] == 0
    assert times(tmp_path / 'out.mp4') == [t * Fraction(1001, 30000) for t in range(3)]
    frame = frames_of(tmp_path / 'out.mp4')[2]
    assert (frame.colorspace, frame.color_range) == (6, 1)
    difference = frame.to_ndarray(format='rgb24').astype(int) - picture(2, 17, 23)
    assert np.abs(difference).mean() < 4


def test_wrong_choices(deblur: Deblur, tmp_path: Path) -> None:
    source = make_clip(tmp_path / 'in.mp4', 1)
    for arguments, message in (
        (['-o', 'out.mp4', '--codec', 'libx264x'], 'Did you mean libx264?'),
        (['-o', 'out.mp4', '--codec', 'aac'], 'is for audio'),
        (['-o', 'out.webm', '--codec', 'libx264'], 'does not go into webm'),
        (['-o', 'out.mp4', '--quality', '60'], '51 the worst'),
        (['-o', 'out.mkv', '--codec', 'ffv1', '--quality', '3'], 'no such scale'),
        (['-o', 'out.mp4', '--pix-fmt', 'rgb24'], 'libx264 has yuv420p'),
        (['-o', 'frames', '--codec', 'ffv1'], 'apply to video files only'),
        (['-o', 'out.mp4', '--fps', '25'], 'keeps its own timing'),
        (['-o', 'in.mp4', '--overwrite'], 'this is the input'),
        (['-o', '-'], 'pipes are not supported'),
        (['-o', 'out.mp4', '--start', '7'], 'of which none lies'),
    ):
        arguments[1] = arguments[1] if arguments[1] == '-' else str(tmp_path / arguments[1])
        status, _, err = deblur(source, *arguments)
        assert status == 2, arguments
        assert message in err
    for arguments in (['--start', '1:xx'], ['--end', '2.5'], ['--fps', '0'], ['--window', '0']):
        with pytest.raises(SystemExit, match='2'):
            deblur(source, '-o', tmp_path / 'out.mp4', *arguments)
    assert files(tmp_path) == ['in.mp4']


# Awkward input


def refused(deblur: Deblur, folder: Path, source: Path) -> str:
    before = files(folder)
    status, _, err = deblur(source, '-o', folder / 'out.mp4')
    assert status == 2
    assert files(folder) == before
    return err


def test_no_video_at_all(deblur: Deblur, tmp_path: Path) -> None:
    (tmp_path / 'empty.mp4').touch()
    assert 'is empty' in refused(deblur, tmp_path, tmp_path / 'empty.mp4')
    (tmp_path / 'text.mp4').write_text('no video at all' * 100)
    assert 'cannot be read as a video' in refused(deblur, tmp_path, tmp_path / 'text.mp4')
    assert 'does not exist' in refused(deblur, tmp_path, tmp_path / 'nowhere.mp4')
    with av.open(str(tmp_path / 'sound.m4a'), 'w', format='mp4') as output:
        stream = output.add_stream('aac', rate=8000, layout='mono')
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), 's16', 'mono')
        samples.sample_rate = 8000
        output.mux([*stream.encode(samples), *stream.encode(None)])
    assert 'has no video in it' in refused(deblur, tmp_path, tmp_path / 'sound.m4a')
    (tmp_path / 'folder').mkdir()
    shutil.copy(tmp_path / 'text.mp4', tmp_path / 'folder')
    assert 'There are video files in it (text.mp4)' in refused(deblur, tmp_path, tmp_path / 'folder')


def test_one_frame(deblur: Deblur, tmp_path: Path) -> None:
    source = make_clip(tmp_path / 'in.mp4', 1)
    assert deblur(source, '-o', tmp_path / 'out.mp4')[0] == 0
    assert len(frames_of(tmp_path / 'out.mp4')) == 1


def test_cut_files(deblur: Deblur, tmp_path: Path) -> None:
    whole = make_clip(tmp_path / 'whole.mp4', 48, (32, 48), container_options={'movflags': 'faststart'}).read_bytes()
    cut = tmp_path / 'cut.mp4'
    cut.write_bytes(whole[: len(whole) // 2])
    err = refused(deblur, tmp_path, cut)
    assert 'is not whole' in err
    there = int(err.split('--end ')[1].split()[0])
    assert 3 < there < 48
    assert deblur(cut, '-o', tmp_path / 'out.mkv', '--codec', 'ffv1', '--end', there - 2)[0] == 0
    assert_equal(arrays(tmp_path / 'out.mkv'), arrays(tmp_path / 'whole.mp4')[: there - 2])
    # The list of frames is at the end, and lost.
    end = make_clip(tmp_path / 'end.mp4', 24).read_bytes()
    (tmp_path / 'end.mp4').write_bytes(end[: len(end) // 2])
    assert "no list of its frames ('moov')" in refused(deblur, tmp_path, tmp_path / 'end.mp4')
    mkv = make_clip(tmp_path / 'cut.mkv', 120, (32, 48)).read_bytes()
    (tmp_path / 'cut.mkv').write_bytes(mkv[: len(mkv) // 2])
    assert 'is not whole' in refused(deblur, tmp_path, tmp_path / 'cut.mkv')


def test_without_an_index(deblur: Deblur, tmp_path: Path) -> None:
    """As from a pipe, and in fragments."""
    wanted = arrays(make_clip(tmp_path / 'in.mkv', 9))
    content = io.BytesIO()
    with av.open(str(tmp_path / 'in.mkv')) as a, av.open(content, 'w', format='matroska', options={'live': '1'}) as b:
        stream = b.add_stream_from_template(a.streams.video[0], opaque=True)
        for packet in a.demux(video=0):
            if packet.size:
                packet.stream = stream
                b.mux(packet)
    (tmp_path / 'live.mkv').write_bytes(content.getvalue())
    make_clip(tmp_path / 'fragments.mp4', 9, container_options={'movflags': 'frag_keyframe+empty_moov'})
    for name in ('live.mkv', 'fragments.mp4'):
        assert deblur(tmp_path / name, '-o', tmp_path / 'out.mkv', '--codec', 'ffv1', '--overwrite')[0] == 0
        assert_equal(arrays(tmp_path / 'out.mkv'), wanted)


def test_wrong_extensions_and_odd_names(deblur: Deblur, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / 'in.mp4', 3)
    for name in ('a.png', 'b.avi', 'c', 'Über 映像 ☂.txt', "it's 100%.mkv"):
        shutil.copy(clip, tmp_path / name)
        out = tmp_path / f'out {name}.mkv'
        status, _, err = deblur(tmp_path / name, '-o', out)
        assert status == 0, err
        assert len(frames_of(out)) == 3


def test_kinds_that_change(deblur: Deblur, tmp_path: Path) -> None:
    parts = [make_clip(tmp_path / f'{i}.ts', 5, size).read_bytes() for i, size in enumerate([(16, 24), (32, 48)])]
    (tmp_path / 'in.ts').write_bytes(b''.join(parts))
    assert 'from frame 5 on, frames are of another kind (48x32' in refused(deblur, tmp_path, tmp_path / 'in.ts')


def test_warnings(deblur: Deblur, tmp_path: Path) -> None:
    hdr = make_clip(
        tmp_path / 'hdr.mkv', 1, codec='ffv1', pix_fmt='yuv420p10le', colorspace=9, color_trc=16, color_primaries=9
    )
    assert any('HDR (PQ)' in warning for warning in open_source(str(hdr)).warnings)
    fields = make_clip(tmp_path / 'fields.mkv', 2, options={'x264-params': 'tff=1'})
    assert any('interlaced' in warning for warning in open_source(str(fields)).warnings)
    raw = make_clip(tmp_path / 'raw.h264', 3, options={'bf': '2'})
    assert any('no time stamps in order' in warning for warning in open_source(str(raw)).warnings)
    assert open_source(str(make_clip(tmp_path / 'plain.mp4', 2))).warnings == []


def test_a_damaged_file_is_read_alike_both_ways(tmp_path: Path) -> None:
    path = make_clip(tmp_path / 'in.mkv', 24, codec='ffv1', options={'slicecrc': '1', 'level': '3', 'g': '1'})
    data = bytearray(path.read_bytes())
    for i in range(len(data) // 2, len(data) // 2 + 20):
        data[i] ^= 255
    path.write_bytes(data)
    source = open_source(str(path))
    backward = [source[t] for t in reversed(range(len(source)))]
    assert_equal(backward[::-1], [source[t] for t in range(len(source))])


def test_targets_that_cannot_be(deblur: Deblur, tmp_path: Path) -> None:
    source = make_clip(tmp_path / 'in.mp4', 1)
    (tmp_path / 'there.mp4').write_text('mine')
    (tmp_path / 'folder.mp4').mkdir()
    places = [('there.mp4', 'exists. Give another name'), ('there.mp4/out.mp4', 'cannot be written')]
    places += [('/proc/out.mp4', 'cannot be written')] if sys.platform == 'linux' else []
    for name, message in places:
        status, _, err = deblur(source, '-o', tmp_path / name)
        assert status == 2
        assert message in err
    assert files(tmp_path) == ['folder.mp4', 'in.mp4', 'there.mp4']
    assert deblur(source, '-o', tmp_path / 'there.mp4', '--overwrite')[0] == 0
    assert len(frames_of(tmp_path / 'there.mp4')) == 1


def test_a_full_disk_leaves_what_is_done(deblur: Deblur, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip('resource')  # POSIX has it
    monkeypatch.setattr(video_sink, 'CHUNK_FRAMES', 4)
    source = make_clip(tmp_path / 'in.mkv', 12, (64, 96), codec='ffv1')
    whole = tmp_path / 'whole.mkv'
    assert deblur(source, '-o', whole, '--codec', 'ffv1')[0] == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole.stat().st_size * 2 // 3, limits[1]))
    try:
        status, _, err = deblur(source, '-o', tmp_path / 'out.mkv', '--codec', 'ffv1')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 2
    assert 'error: ' in err
    assert files(tmp_path) == ['in.mkv', 'out.mkv.partial', 'whole.mkv']
    status, _, err = deblur(source, '-o', tmp_path / 'out.mkv', '--codec', 'ffv1', '--resume')
    assert status == 0, err
    assert_equal(arrays(tmp_path / 'out.mkv'), arrays(whole))


# Interrupted runs


def test_an_encoder_repeats_itself(tmp_path: Path) -> None:
    """x264's kernels for AVX-512 do not, left to themselves; noise of such sizes, in turn, shows it."""
    rng = np.random.default_rng(0)
    encodings = []
    for size in ((32, 48), (32, 32)):
        with closing(open_source(str(make_clip(tmp_path / 'in.mkv', 1, size)))) as source:
            encodings.append((size, choose_encoding(tmp_path / 'out.mkv', source, 'libx264')))
    for _ in range(20):
        for (h, w), encoding in encodings:
            sizes = ((h, w), (h // 2, w // 2), (h // 2, w // 2))
            frames = [[rng.integers(0, 256, size, dtype=np.uint8) for size in sizes] for _ in range(4)]
            once = list(encoding.encode(frames))
            assert all(list(encoding.encode(frames)) == once for _ in range(20))


@pytest.mark.parametrize('at', [2, 4, 9])
@pytest.mark.parametrize('codec', ['ffv1', 'libx264'])
def test_an_interrupted_run_goes_on(
    deblur: Deblur, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, codec: str
) -> None:
    monkeypatch.setattr(video_sink, 'CHUNK_FRAMES', 4)
    source = make_clip(tmp_path / 'in.mkv', 11, audio=True)
    assert deblur(source, '-o', tmp_path / 'whole.mkv', '--codec', codec, net='changes')[0] == 0
    write = VideoSink.write

    def interrupted(self: VideoSink, t: int, make: Any) -> None:
        if t == at:
            raise KeyboardInterrupt
        write(self, t, make)

    with monkeypatch.context() as patch:
        patch.setattr(VideoSink, 'write', interrupted)
        status, _, err = deblur(source, '-o', tmp_path / 'out.mkv', '--codec', codec, net='changes')
    assert status == 130
    assert '--resume to continue' in err
    assert not (tmp_path / 'out.mkv').exists()
    status, _, err = deblur(source, '-o', tmp_path / 'out.mkv', '--codec', 'mpeg4', '--resume', net='changes')
    assert status == 2
    assert 'encoding: ' in err
    status, out, _ = deblur(source, '-o', tmp_path / 'out.mkv', '--codec', codec, '--resume', net='changes')
    assert status == 0
    assert f'Continuing after {at} frames' in out
    for kind in ('video', 'audio'):
        assert packets(tmp_path / 'out.mkv', kind) == packets(tmp_path / 'whole.mkv', kind)
    assert files(tmp_path) == ['in.mkv', 'out.mkv', 'whole.mkv']
    status, out, _ = deblur(source, '-o', tmp_path / 'out.mkv', '--codec', codec, '--resume', net='changes')
    assert (status, 'is complete' in out) == (0, True)


# Live


# Without PyAV

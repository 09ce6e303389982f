"""Encoded segments: the same packets each time, whatever the rate; and videos for comparison."""

from __future__ import annotations

from contextlib import closing
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from video_clips import frames_of, make_clip, times

from dstnet_arch.video.encoding import Encoding, OutputOptions, choose_encoding
from dstnet_arch.video.segments import SegmentWriter, count_frames, join_segments
from dstnet_arch.video.sources import open_source
from dstnet_arch.video.timing import Timing


def encode(path: Path, encoding: Encoding, frames: list[list[np.ndarray]]) -> bytes:
    writer = SegmentWriter(path, encoding)
    for planes in frames:
        writer.write(planes)
    writer.finish()
    return path.read_bytes()


def test_encoder_repeats_itself(tmp_path: Path) -> None:
    """x264's kernels for AVX-512 do not by default; noise of such sizes, in turn, shows it."""
    rng = np.random.default_rng(0)
    encodings = []
    for size in ((32, 48), (32, 32)):
        with closing(open_source(str(make_clip(tmp_path / 'in.mkv', 1, size)))) as source:
            encodings.append((size, choose_encoding(source, 'mp4', OutputOptions('libx264'))))
    for _ in range(10):
        for (h, w), encoding in encodings:
            sizes = ((h, w), (h // 2, w // 2), (h // 2, w // 2))
            frames = [[rng.integers(0, 256, size, dtype=np.uint8) for size in sizes] for _ in range(4)]
            once = encode(tmp_path / 'a', encoding, frames)
            assert all(encode(tmp_path / 'a', encoding, frames) == once for _ in range(5))


@pytest.mark.parametrize('codec', ['libx264', 'libx265', 'ffv1', 'libvpx-vp9', 'mpeg4'])
def test_join_segments_keeps_frames_and_times(tmp_path: Path, codec: str) -> None:
    with closing(open_source(str(make_clip(tmp_path / 'in.mkv', 11, (48, 64))))) as source:
        encoding = choose_encoding(source, 'mp4', OutputOptions(codec))
        frames = [encoding.planes(source[t]) for t in range(11)]
    segments = [tmp_path / f'{start}' for start in range(0, 11, 4)]
    for segment in segments:
        encode(segment, encoding, frames[int(segment.name) : int(segment.name) + 4])
    timing = Timing(Fraction(1, 90000), [3003 * t + t % 3 for t in range(11)], 3003, Fraction(30))
    for name, container in (('out.mp4', 'mp4'), ('out.mkv', 'matroska'), ('out.nut', 'nut')):
        join_segments(segments, tmp_path / name, encoding, timing, container)
        assert count_frames(tmp_path / name) == (11, (48, 64))
    shown = [frame.to_ndarray() for frame in frames_of(tmp_path / 'out.mp4')]
    separate = [frame.to_ndarray() for segment in segments for frame in frames_of(segment)]
    assert all(map(np.array_equal, shown, separate))
    assert times(tmp_path / 'out.mp4') == [Fraction(t, 90000) for t in timing.times]


def test_quality_does_not_depend_on_the_declared_rate(tmp_path: Path) -> None:
    """The header of a browser recording says 1000 frames per second."""
    encodings = []
    for rate in (1000, 25):
        unit = Fraction(1, 1000)
        clip = make_clip(tmp_path / 'in.mkv', 8, rate=rate, times=[40 * t for t in range(8)], time_base=unit)
        with closing(open_source(str(clip))) as source:
            encodings.append(choose_encoding(source, 'mp4', OutputOptions()))
    assert encodings[0] == encodings[1]


@pytest.mark.parametrize(('width', 'narrow'), [(62, True), (64, False)])
def test_x265_does_not_look_ahead_in_narrow_videos(tmp_path: Path, width: int, narrow: bool) -> None:
    """It would write beyond its memory, which ends the process some time later."""
    with closing(open_source(str(make_clip(tmp_path / 'in.mkv', 1, (48, width))))) as source:
        options = choose_encoding(source, 'mp4', OutputOptions('libx265')).options
    assert ('rc-lookahead=0' in options['x265-params']) == narrow

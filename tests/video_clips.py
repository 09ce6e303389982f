"""Small video files for tests, and what is in video files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from dstnet_arch.video.ffmpeg import run_ffmpeg

Picture = NDArray[Any]


def picture(t: int, height: int, width: int) -> Picture:
    """RGB frame t of a moving pattern, no two frames alike, whose colours a video can hold."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin((x + 3 * t) / 5), np.cos((y - 2 * t) / 4), np.sin((x + y + t) / 7)]
    noise = np.random.default_rng(t).integers(-6, 7, (height, width, 3))
    return (np.stack([128 + 50 * wave for wave in waves], axis=2) + noise).astype(np.uint8)


def make_clip(
    path: Path,
    num_frame: int = 6,
    size: tuple[int, int] = (16, 24),
    *,
    codec: str = 'libx264',
    pix_fmt: str = 'yuv420p',
    rate: Fraction | int = 24,
    times: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    options: dict[str, str] | None = None,
    audio: bool = False,
    subtitles: bool = False,
    container_options: dict[str, str] | None = None,
    rotation: int = 0,
    container: str | None = None,
    **attributes: Any,
) -> Path:
    """Write a clip of `picture`s; `times` are in `time_base`. `attributes` are the encoder's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time_base = time_base or 1 / Fraction(rate)
    with av.open(str(path), 'w', format=container, container_options=container_options or {}) as output:
        stream = output.add_stream(codec, rate=Fraction(rate), options={'g': '4', **(options or {})})
        stream.height, stream.width, stream.pix_fmt, stream.time_base = *size, pix_fmt, time_base
        stream.codec_context.time_base = time_base
        for name, value in attributes.items():
            setattr(stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        sound = output.add_stream('aac', rate=8000, layout='mono') if audio else None
        text = output.add_mux_stream('subrip') if subtitles else None
        for t in range(num_frame):
            frame = av.VideoFrame.from_ndarray(picture(t, *size), 'rgb24').reformat(format=pix_fmt)
            frame.pts, frame.time_base = times[t] if times else t, time_base
            for name in ('colorspace', 'color_range', 'color_primaries', 'color_trc'):
                if name in attributes:
                    setattr(frame, name, attributes[name])
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound is not None:
            length = int(8000 * num_frame / rate)
            wave = (8000 * np.sin(np.arange(length) / 5)).astype(np.int16)[None]
            for i in range(0, length, 1024):
                samples = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, i : i + 1024]), 's16', 'mono')
                samples.sample_rate, samples.pts, samples.time_base = 8000, i, Fraction(1, 8000)
                output.mux(sound.encode(samples))
            output.mux(sound.encode(None))
        if text is not None:
            packet = av.Packet(b'a line of text')
            packet.pts = packet.dts = 0
            packet.duration, packet.time_base, packet.stream = 100, Fraction(1, 1000), text
            output.mux(packet)
    return path


def frames_of(path: Path) -> list[av.VideoFrame]:
    """All frames, decoded in order by PyAV alone."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def arrays(path: Path) -> list[Picture]:
    """The samples of each frame, byte for byte, plane after plane."""
    return [samples(frame) for frame in frames_of(path)]


def samples(frame: av.VideoFrame) -> Picture:
    """The bytes of a frame of planes, without the padding of lines."""
    size = 1 if frame.format.components[0].bits == 8 else 2
    planes = [np.frombuffer(memoryview(p), np.uint8).reshape(-1, p.line_size) for p in frame.planes]
    return np.concatenate([a[: p.height, : p.width * size].ravel() for a, p in zip(planes, frame.planes, strict=True)])


def times(path: Path) -> list[Fraction]:
    """When frames are shown, in seconds."""
    return [frame.pts * Fraction(frame.time_base) for frame in frames_of(path)]


def packets(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    """Time and bytes of the packets of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [(p.pts * Fraction(p.time_base), bytes(p)) for p in container.demux(stream) if p.size]


def ffmpeg(*arguments: object) -> Path:
    """Run the ffmpeg program; the last argument is the output, which is returned."""
    run_ffmpeg([str(argument) for argument in arguments])
    return Path(str(arguments[-1]))


def streams(path: Path) -> list[tuple[str, str]]:
    """Type and codec of each stream."""
    with av.open(str(path)) as container:
        return [(s.type, s.codec_context.codec.canonical_name if s.codec_context else '') for s in container.streams]


class Outcome(NamedTuple):
    path: Path
    warnings: list[str]
    start: int  # first frame that was written


Copy = Callable[..., Outcome]

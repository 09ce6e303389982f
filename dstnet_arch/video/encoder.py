"""How restored frames become a video: codec, pixel format, quality and tags."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.video.codeccontext import VideoCodecContext
from torch import Tensor

from dstnet_arch.data.frame_source import size_text
from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.video.colour import Colour, Plane, SampleFormat, from_rgb
from dstnet_arch.video.sources import Source, Timing

CODECS = (
    'libx264', 'libx265', 'libsvtav1', 'libaom-av1', 'libvpx-vp9', 'ffv1', 'prores_ks', 'mpeg4', 'mpeg2video', 'mjpeg',
    'utvideo', 'h264_nvenc', 'hevc_nvenc', 'av1_nvenc',
)  # fmt: skip
"""Those that are known to work where FFmpeg has them; others are tried as they are."""


class _Quality(NamedTuple):
    """A codec's own scale: smaller numbers are better."""

    option: str
    default: int
    worst: int
    others: dict[str, str] = {}


_QUALITY = {
    # Without it, x264 on AVX-512 now and then makes other packets of the same frames, and a resumed video another one.
    'libx264': _Quality('crf', 17, 51, {'x264-params': 'cpu-independent=1'}),
    'libx265': _Quality('crf', 18, 51, {'x265-params': 'log-level=error'}),
    'libsvtav1': _Quality('crf', 22, 63),
    'libaom-av1': _Quality('crf', 20, 63),
    'libvpx-vp9': _Quality('crf', 20, 63),
    'h264_nvenc': _Quality('cq', 19, 51, {'rc': 'vbr'}),
    'hevc_nvenc': _Quality('cq', 20, 51, {'rc': 'vbr'}),
    'av1_nvenc': _Quality('cq', 24, 63, {'rc': 'vbr'}),
    'mpeg4': _Quality('qscale', 2, 31),
    'mpeg2video': _Quality('qscale', 2, 31),
    'mjpeg': _Quality('qscale', 2, 31),
}

_USUAL = {'webm': ('libsvtav1', 'libvpx-vp9'), **dict.fromkeys(('mpeg', 'vob', 'dvd'), ('mpeg2video',))}
"""Codecs by container, where not H.264 and H.265."""

_LAMBDA = 118  # FFmpeg's FF_QP2LAMBDA
_GLOBAL_HEADER = 0x400000  # AV_CODEC_FLAG_GLOBAL_HEADER
_CONTAINER_WANTS_HEADER = int(av.format.Flags.global_header.value)  # type: ignore[call-overload]
_LOSSY_DEPTH = 10  # enough for pictures of 16 bits in a lossy video, and the most that is widely played

os.environ.setdefault('SVT_LOG', '1')  # errors alone


class EncodedPacket(NamedTuple):
    """What an encoder has made of a frame."""

    number: int  # of the frame, in the order in which they are shown
    is_key: bool
    data: bytes


class Encoding(NamedTuple):
    """All that determines what an encoder makes of frames.

    Attributes:
        codec: FFmpeg's name of the encoder.
        pix_fmt: FFmpeg's name of the pixel format.
        colour: the tags.
        size: (height, width).
        rate: frames a second.
        sample_aspect: width of a pixel by its height.
        options: for the encoder.
        qscale: for codecs whose quality is a fixed quantizer.
        global_header: whether the container wants the codec's header apart from the frames.
        reorders: whether frames may be stored in another order than shown.
    """

    codec: str
    pix_fmt: str
    colour: Colour
    size: tuple[int, int]
    rate: Fraction
    sample_aspect: Fraction
    options: dict[str, str]
    qscale: int | None
    global_header: bool
    reorders: bool

    @property
    def format(self) -> SampleFormat:
        """Of the samples."""
        form = SampleFormat.parse(self.pix_fmt)
        assert form is not None
        return form

    def planes(self, source: Source, position: int, restored: Tensor) -> list[Plane]:
        """A restored frame (3, H, W), RGB in [0, 1], in the encoder's samples. Opacity is the source's."""
        form = self.format
        alpha = source.alpha(position) if form.alpha else None
        return from_rgb(restored, form, self.colour.resolved(*self.size, form.family), alpha)

    def configure(self, context: VideoCodecContext) -> None:
        """Set up an encoder that is not open yet."""
        context.height, context.width = self.size
        context.pix_fmt = self.pix_fmt
        context.time_base, context.framerate = 1 / self.rate, self.rate
        context.sample_aspect_ratio = self.sample_aspect
        context.colorspace = self.colour.matrix
        context.color_range = {None: 0, False: 1, True: 2}[self.colour.full]
        context.color_primaries, context.color_trc = self.colour.primaries, self.colour.transfer
        context.options = dict(self.options)
        if self.global_header:
            context.flags |= _GLOBAL_HEADER
        if self.qscale is not None:
            context.qscale, context.global_quality = True, self.qscale * _LAMBDA
        if not self.reorders:
            context.max_b_frames = 0

    def encode(self, frames: Iterable[Sequence[Plane]]) -> Iterator[EncodedPacket]:
        """Encode frames, in the order in which they are shown.

        Yields:
            Packets, one a frame, in the order in which they are stored.

        Raises:
            DataError: the encoder cannot.
        """
        context = av.CodecContext.create(self.codec, 'w')
        assert isinstance(context, VideoCodecContext)
        self.configure(context)
        try:
            for number, planes in enumerate(frames):
                yield from map(_packet, context.encode(self.frame(planes, number)))
            yield from map(_packet, context.encode(None))
        except av.FFmpegError as error:
            raise DataError(f'{self.codec} cannot encode: {error}. Choose another --codec.') from None

    def works(self) -> str:
        """Whether the encoder takes these settings: what it says against them, or nothing."""
        context = av.CodecContext.create(self.codec, 'w')
        assert isinstance(context, VideoCodecContext)
        self.configure(context)
        try:
            context.open()
        except (av.FFmpegError, ValueError, OverflowError) as error:
            return str(getattr(error, 'strerror', None) or error)
        return ''

    def describe(self) -> str:
        """In short, for people."""
        option = _QUALITY.get(self.codec)
        value = self.qscale if self.qscale is not None else option and self.options.get(option.option)
        return f'{self.codec}, {self.pix_fmt}' + (f', {option.option} {value}' if option and value else '')

    def losses(self, source: Source) -> list[str]:
        """What of a source this cannot hold, for its user to know."""
        wanted, form, lost = source.look.format, self.format, []
        if wanted.alpha and not form.alpha:
            lost.append('opacity')
        if min(wanted.depth, _LOSSY_DEPTH) > form.depth:
            lost.append(f'{wanted.depth} bits ({form.depth} are left)')
        if wanted.family == 'yuv' and any(a > b for a, b in zip(form.shift, wanted.shift, strict=True)):
            lost.append('a part of the resolution of colours')
        return (
            [f'{self.codec} with {self.pix_fmt} cannot hold {" and ".join(lost)}. Others can: --codec ffv1.']
            if lost
            else []
        )

    def as_job(self) -> str:
        """All settings in one line, as JSON has them."""
        return ', '.join(f'{key}={value}' for key, value in self._asdict().items())

    def frame(self, planes: Sequence[Plane], number: int) -> av.VideoFrame:
        """What the encoder takes, of samples and the number of the frame."""
        height, width = self.size
        frame = av.VideoFrame(width, height, self.pix_fmt)
        fill(frame, planes)
        frame.pts, frame.time_base = number, 1 / self.rate
        frame.colorspace, frame.color_range = self.colour.matrix, {None: 0, False: 1, True: 2}[self.colour.full]
        frame.color_primaries, frame.color_trc = self.colour.primaries, self.colour.transfer
        return frame


def fill(frame: av.VideoFrame, planes: Sequence[Plane]) -> None:
    """Copy samples into a frame of their format."""
    for target, plane in zip(frame.planes, planes, strict=True):
        lines = np.frombuffer(memoryview(target), plane.dtype).reshape(-1, target.line_size // plane.dtype.itemsize)
        lines[: plane.shape[0], : plane.shape[1]] = plane


def _packet(packet: av.Packet) -> EncodedPacket:
    assert packet.pts is not None
    return EncodedPacket(packet.pts, packet.is_keyframe, bytes(packet))


def choose_encoding(
    target: Path | str,
    source: Source,
    codec: str | None = None,
    quality: int | None = None,
    pix_fmt: str | None = None,
    container: str | None = None,
    low_delay: bool = False,
) -> Encoding:
    """What fits a source and a container best: nothing of size, depth, colour and opacity is lost that need not be.

    Args:
        target: the video file to be; its extension says which container.
        source: what is restored.
        codec: FFmpeg's name of an encoder; None: H.264 for 8 bits, H.265 for more, AV1 in WebM.
        quality: on the codec's own scale; None: hardly to be told from lossless.
        pix_fmt: FFmpeg's name of a pixel format; None: as the source's, as far as the codec has it.
        container: FFmpeg's name of a container, instead of the extension's.
        low_delay: let packets leave the encoder as soon as possible.

    Raises:
        OptionsError: there is no such container or codec, or they do not fit.
    """
    form = _container(target, container)
    look = source.look
    name = _codec_name(codec, look.format.depth, form.name)
    options, qscale = _quality_options(name, quality)
    if low_delay:
        options |= {'libx264': {'tune': 'zerolatency'}, 'libx265': {'tune': 'zerolatency'}}.get(name, {})
    known = [f.name for f in av.codec.Codec(name, 'w').video_formats or [] if SampleFormat.parse(f.name)]
    if pix_fmt is not None and pix_fmt not in known:
        raise OptionsError(f'--pix-fmt {pix_fmt}: {name} has {", ".join(known) or "none that is supported"}.')
    wanted = _wanted(look.format, name)
    candidates = [pix_fmt] if pix_fmt else sorted(known, key=lambda f: _cost(SampleFormat.parse(f), wanted))
    problem = 'it has no pixel format that is supported'
    for candidate in candidates:
        encoding = Encoding(
            codec=name,
            pix_fmt=candidate,
            colour=_tags(source, candidate),
            size=source.size,
            rate=source.timing.rate.limit_denominator(1 << 20),
            sample_aspect=look.sample_aspect,
            options=options,
            qscale=qscale,
            global_header=bool(int(form.flags) & int(_CONTAINER_WANTS_HEADER)),
            reorders=form.name != 'avi' and not low_delay,  # AVI has no time stamps to put them in order again
        )
        problem = encoding.works()
        if not problem:
            return encoding
    raise OptionsError(
        f'{name} does not take {size_text(source.size)} frames in {pix_fmt or "any of its pixel formats"}: {problem}. '
        'Choose another --codec; ffv1 takes everything, into .mkv.'
    )


def container_name(target: Path | str, container: str | None = None) -> str:
    """FFmpeg's name of the container of a video file to be.

    Args:
        target: the file.
        container: FFmpeg's name, instead of the extension's.

    Raises:
        OptionsError: there is no such container.
    """
    return _container(target, container).name


def _container(target: Path | str, name: str | None) -> av.ContainerFormat:
    try:
        with av.open(os.devnull if name else str(target), 'w', format=name) as container:
            return container.format
    except (ValueError, av.FFmpegError, OSError):
        raise OptionsError(
            f'-o {target}: FFmpeg has no container for {name or Path(target).suffix}. .mp4, .mov and .mkv are good '
            'choices; a name without extension is a folder for pictures.'
        ) from None


def _holds(container: str, codec: str) -> bool:
    with av.open(io.BytesIO(), 'w', format=container) as output:
        try:
            output.add_stream(codec)
        except ValueError:
            return False
    return True


def _codec_name(codec: str | None, depth: int, container: str) -> str:
    if codec is None:
        usual: tuple[str, ...] = ('libx265', 'libx264') if depth > 8 else ('libx264', 'libx265')
        usual = _USUAL.get(container, usual)
        for name in (*usual, 'libsvtav1', 'libvpx-vp9', 'mpeg2video', 'mpeg4', 'ffv1', 'mjpeg'):
            if name in av.codecs_available and _holds(container, name):
                return name
        raise OptionsError(f'--codec is needed for {container}: none of the usual ones goes into it.')
    try:
        found = av.codec.Codec(codec, 'w')
    except UnknownCodecError:
        there = [name for name in CODECS if name in av.codecs_available]
        near = get_close_matches(codec, there, 1)
        raise OptionsError(
            f'--codec {codec}: the FFmpeg within PyAV {av.__version__} has no such encoder. It has '
            f'{", ".join(there)} and others.' + (f' Did you mean {near[0]}?' if near else '')
        ) from None
    if found.type != 'video':
        raise OptionsError(f'--codec {codec} is for {found.type}, not for video.')
    if not _holds(container, found.name):
        raise OptionsError(f'--codec {codec} does not go into {container}. .mkv takes almost all.')
    return found.name


def _quality_options(codec: str, quality: int | None) -> tuple[dict[str, str], int | None]:
    scale = _QUALITY.get(codec)
    if scale is None:
        if quality is not None:
            raise OptionsError(
                f'--quality {quality}: {codec} has no such scale. Leave it out, or choose another codec.'
            )
        return {}, None
    value = scale.default if quality is None else quality
    least = 1 if scale.option == 'qscale' else 0
    if not least <= value <= scale.worst:
        raise OptionsError(f'--quality {value}: for {codec}, {least} is the best and {scale.worst} the worst.')
    if scale.option == 'qscale':
        return dict(scale.others), value
    return {scale.option: str(value), **scale.others}, None


def _wanted(form: SampleFormat, codec: str) -> SampleFormat:
    """What a codec should store. A lossy one stores RGB as others store video, for players to be able to show it."""
    found = av.codec.Codec(codec, 'w')
    if form.family != 'rgb' or (found.lossless and not found.lossy):
        return form
    return SampleFormat('yuv', min(form.depth, _LOSSY_DEPTH), (1, 1), form.alpha)


def _cost(form: SampleFormat | None, wanted: SampleFormat) -> tuple[Any, ...]:
    """What is lost first, then what is wasted."""
    assert form is not None
    fewer = [max(0, a - b) for a, b in zip(form.shift, wanted.shift, strict=True)]
    more = [max(0, b - a) for a, b in zip(form.shift, wanted.shift, strict=True)]
    return (
        (form.family == 'gray') > (wanted.family == 'gray'),
        max(0, wanted.depth - form.depth),
        wanted.alpha > form.alpha,
        sum(fewer),
        form.family != wanted.family,
        form.alpha > wanted.alpha,
        sum(more),
        form.depth - wanted.depth,
    )


def _tags(source: Source, pix_fmt: str) -> Colour:
    """As in the source, where its kind of samples stays; where it does not, all is said."""
    form, look = SampleFormat.parse(pix_fmt), source.look
    assert form is not None
    colour = look.colour
    if form.family == 'rgb':
        colour = colour._replace(matrix=0, full=True)
    elif form.family != look.format.family:
        told = Colour(full=None).resolved(*source.size, form.family)
        colour = colour._replace(matrix=told.matrix, full=told.full)
    return colour._replace(full=True) if pix_fmt.startswith('yuvj') else colour


class VideoWriter:
    """A visually lossless H.264 file of 8-bit RGB images, without sound.

    Args:
        path: the file, which is replaced.
        size: (height, width), both even.
        timing: times of the images.

    Raises:
        DataError: the file cannot be written.
    """

    def __init__(self, path: Path, size: tuple[int, int], timing: Timing) -> None:
        self._path, self._timing, self._count = path, timing, 0
        self._size = size
        try:
            self._output = av.open(str(path), 'w')
        except OSError as error:
            raise DataError(f'{path} cannot be written: {error}.') from None
        self._stream = self._output.add_stream('libx264', rate=timing.rate.limit_denominator(1 << 16))
        assert isinstance(self._stream, av.VideoStream)
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt, self._stream.options = 'yuv420p', {'crf': '17'}
        self._stream.codec_context.time_base = timing.time_base

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, image: np.ndarray) -> None:
        """Write the next image, (H, W, 3) uint8 RGB."""
        frame = av.VideoFrame.from_ndarray(image, 'rgb24')
        frame.pts, frame.time_base = self._timing.times[self._count], self._timing.time_base
        self._count += 1
        self._output.mux(self._stream.encode(frame))

    def __exit__(self, *error: object) -> None:
        self._output.mux(self._stream.encode(None))
        self._output.close()

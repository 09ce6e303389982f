"""Choice of codec, pixel format and quality for restored frames."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.codec.codec import UnknownCodecError
from torch import Tensor

from dstnet_arch.data.frame_source import size_text
from dstnet_arch.errors import OptionsError
from dstnet_arch.video.colour import Colour, Plane, SampleFormat, from_rgb
from dstnet_arch.video.frames import VideoFormat
from dstnet_arch.video.source import Source

CODECS = (
    'libx264', 'libx265', 'libsvtav1', 'libaom-av1', 'libvpx-vp9', 'ffv1', 'prores_ks', 'mpeg4', 'mpeg2video', 'mjpeg',
    'utvideo', 'h264_nvenc', 'hevc_nvenc', 'av1_nvenc',
)  # fmt: skip
"""Codecs that are known to work if FFmpeg has them."""


class _Quality(NamedTuple):
    """Quality scale of a codec: smaller is better."""

    option: str
    default: int
    worst: int
    others: dict[str, str] = {}


_QUALITY = {
    # Without it, x264's AVX-512 kernels sometimes make other packets of the same frames.
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

_USUAL = {'webm': ('libsvtav1', 'libvpx-vp9'), **dict.fromkeys(('mpeg', 'vob', 'dvd', 'mxf'), ('mpeg2video',))}
"""Default codecs by container, if not H.264 and H.265."""

_CONTAINERS = {'.vob': 'vob', '.m4v': 'mp4', '.mpg': 'vob', '.mpeg': 'vob'}
"""Containers by extension, if not FFmpeg's first choice."""

_LAMBDA = 118  # FF_QP2LAMBDA
_GLOBAL_HEADER = 0x400000  # AV_CODEC_FLAG_GLOBAL_HEADER
_CONTAINER_WANTS_HEADER = int(av.format.Flags.global_header.value)  # type: ignore[call-overload]
_LOSSY_DEPTH = 10  # enough for 16-bit images in a lossy video, and the most that is widely played
_RATES = (Fraction(1), Fraction(240))  # what encoders accept

os.environ.setdefault('SVT_LOG', '1')  # errors only


class Encoding(NamedTuple):
    """Everything that determines the encoded frames.

    Attributes:
        codec: FFmpeg's name of the encoder.
        pix_fmt: FFmpeg's name of the pixel format.
        colour: colour tags.
        size: (height, width).
        rate: frames per second for the encoder's rate control. The times of the result do not depend on it.
        sample_aspect: width of a pixel divided by its height.
        options: options of the encoder.
        qscale: fixed quantizer, for codecs whose quality is one.
        global_header: True if the container stores the codec's header apart from the frames.
        reorders: True if frames may be stored in another order than shown.
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
        """Sample format of the encoded frames."""
        form = SampleFormat.parse(self.pix_fmt)
        assert form is not None
        return form

    def planes(self, restored: Tensor, alpha: Tensor | None = None) -> list[Plane]:
        """Convert a restored frame (3, H, W), RGB in [0, 1], and its opacity to the encoder's samples."""
        form = self.format
        return from_rgb(restored, form, self.colour.resolved(*self.size, form.family), alpha)

    def problem(self) -> str:
        """Return why the encoder does not accept these settings; empty if it does."""
        context = av.CodecContext.create(self.codec, 'w')
        self.configure(context)
        try:
            context.open()
        except (av.FFmpegError, ValueError, OverflowError) as error:
            return str(getattr(error, 'strerror', None) or error)
        return ''

    def describe(self) -> str:
        """Return a short description such as "libx264, CRF 17, yuv420p"."""
        option = _QUALITY.get(self.codec)
        value = self.qscale if self.qscale is not None else option and self.options.get(option.option)
        quality = f', {option.option.upper()} {value}' if option and value else ''
        return f'{self.codec}{quality}, {self.pix_fmt}'

    def losses(self, source: VideoFormat) -> list[str]:
        """Describe what of a source the codec or pixel format cannot hold."""
        wanted, form, lost = source.format, self.format, []
        if wanted.alpha and not form.alpha:
            lost.append('alpha')
        if min(wanted.depth, _LOSSY_DEPTH) > form.depth:
            lost.append(f'{wanted.depth} bits ({form.depth} are kept)')
        if wanted.family == 'yuv' and any(a > b for a, b in zip(form.shift, wanted.shift, strict=True)):
            lost.append('full chroma resolution')
        warnings = []
        if lost:
            warnings.append(f'{self.codec} with {self.pix_fmt} cannot hold {" and ".join(lost)}. --codec ffv1 can.')
        if (source.mastering or source.light_level) and not _hdr_options(self.codec, source):
            warnings.append(f'{self.codec} cannot hold HDR mastering metadata. --codec libx265 can.')
        return warnings

    def configure(self, context: Any) -> None:
        """Set up an encoder that is not open yet."""
        context.height, context.width = self.size
        context.pix_fmt = self.pix_fmt
        context.time_base, context.framerate = 1 / self.rate, self.rate
        context.sample_aspect_ratio = self.sample_aspect
        context.colorspace = self.colour.matrix
        context.color_range = {None: 0, False: 1, True: 2}[self.colour.full]
        context.color_primaries, context.color_trc = self.colour.primaries, self.colour.transfer
        context.options = dict(self.options)
        context.flags = context.flags & ~_GLOBAL_HEADER | _GLOBAL_HEADER * self.global_header
        if self.qscale is not None:
            context.qscale, context.global_quality = True, self.qscale * _LAMBDA
        if not self.reorders:
            context.max_b_frames = 0


def choose_encoding(
    source: Source, container: str, codec: str | None = None, quality: int | None = None, pix_fmt: str | None = None
) -> Encoding:
    """Choose the encoding that loses least of a source.

    Args:
        source: what is restored.
        container: FFmpeg's name of the container.
        codec: FFmpeg's name of an encoder; None: H.264 for 8 bits, H.265 for more, AV1 in WebM.
        quality: value on the codec's own scale; None: visually lossless.
        pix_fmt: FFmpeg's name of a pixel format; None: as the source's, if the codec has it.

    Raises:
        OptionsError: there is no such codec or pixel format, or they do not fit.
    """
    wanted = source.format
    name = _codec_name(codec, wanted.format.depth, container)
    options, qscale = quality_options(name, quality)
    options = _merged(options, _hdr_options(name, wanted))
    known = [f.name for f in av.codec.Codec(name, 'w').video_formats or [] if SampleFormat.parse(f.name)]
    if pix_fmt is not None and pix_fmt not in known:
        raise OptionsError(f'--pix-fmt {pix_fmt}: {name} supports {", ".join(known) or "no known format"}.')
    ideal = _ideal_format(wanted.format, name)
    candidates = [pix_fmt] if pix_fmt else sorted(known, key=lambda f: _cost(SampleFormat.parse(f), ideal))
    problem = 'it has no supported pixel format'
    flags = int(av.ContainerFormat(container, 'w').flags)
    for candidate in candidates:
        encoding = Encoding(
            codec=name,
            pix_fmt=candidate,
            colour=_tags(wanted, source.size, candidate),
            size=source.size,
            rate=encoder_rate(source.timing.rate, name),
            sample_aspect=wanted.sample_aspect,
            options=options,
            qscale=qscale,
            global_header=bool(flags & _CONTAINER_WANTS_HEADER),
            reorders=container != 'avi',  # AVI has no time stamps to restore the order
        )
        problem = encoding.problem()
        if not problem:
            return encoding
    raise OptionsError(
        f'{name} does not accept {size_text(source.size)} frames in {pix_fmt or "any of its pixel formats"}: '
        f'{problem}. Choose another --codec; ffv1 in .mkv accepts all.'
    )


def container_name(output: Path, container: str | None = None) -> str:
    """Return FFmpeg's name of the container of a video file to write.

    Args:
        output: the file.
        container: FFmpeg's name; None: chosen from the extension.

    Raises:
        OptionsError: there is no such container.
    """
    container = container or _CONTAINERS.get(output.suffix.lower())
    try:
        with av.open(io.BytesIO() if container else _Named(output.name), 'w', format=container) as opened:
            return str(opened.format.name)
    except (ValueError, av.FFmpegError, OSError):
        raise OptionsError(
            f'-o {output}: FFmpeg has no container for {container or output.suffix}. Use .mp4, .mov or .mkv; a name '
            'without extension is a folder for images.'
        ) from None


class _Named(io.BytesIO):
    """Lets FFmpeg choose a container by name without touching the disk."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def first_container(codec: str, containers: Sequence[str]) -> str:
    """Return the first container that can hold a codec.

    Raises:
        OptionsError: none can.
    """
    for container in containers:
        if holds(container, codec):
            return container
    raise OptionsError(f'--codec {codec} is not supported. Use ffv1, libx264 or libx265.')


def holds(container: str, codec: str) -> bool:
    """Return True if a container can hold what an encoder makes."""
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
            if name in av.codecs_available and holds(container, name):
                return name
        raise OptionsError(f'No supported video codec can be stored in {container}. Use .mp4 or .mkv.')
    try:
        found = av.codec.Codec(codec, 'w')
    except UnknownCodecError:
        available = [name for name in CODECS if name in av.codecs_available]
        near = get_close_matches(codec, available, 1)
        raise OptionsError(
            f'--codec {codec}: PyAV {av.__version__} has no such encoder. It has {", ".join(available)} and others.'
            + (f' Did you mean {near[0]}?' if near else '')
        ) from None
    if found.type != 'video':
        raise OptionsError(f'--codec {codec} is a codec for {found.type}, not for video.')
    if not holds(container, found.name):
        raise OptionsError(f'--codec {codec} cannot be stored in {container}. Use .mkv, which takes almost all codecs.')
    return str(found.name)


def quality_options(codec: str, quality: int | None) -> tuple[dict[str, str], int | None]:
    """Return encoder options and the fixed quantizer for a quality."""
    scale = _QUALITY.get(codec)
    if scale is None:
        if quality is not None:
            raise OptionsError(f'--quality {quality}: {codec} has no quality scale. Omit it or choose another --codec.')
        return {}, None
    value = scale.default if quality is None else quality
    least = 1 if scale.option == 'qscale' else 0
    if not least <= value <= scale.worst:
        raise OptionsError(f'--quality {value}: {codec} accepts {least} (best) to {scale.worst} (worst).')
    if scale.option == 'qscale':
        return dict(scale.others), value
    return {scale.option: str(value), **scale.others}, None


def _hdr_options(codec: str, source: VideoFormat) -> dict[str, str]:
    """Options that write HDR mastering metadata into the video; empty if the source has none or the codec cannot."""
    if codec not in ('libx265', 'libsvtav1'):
        return {}
    params = []
    is_x265 = codec == 'libx265'
    if source.mastering:
        red, green, blue, white, (brightest, darkest) = source.mastering
        names = zip(('G', 'B', 'R', 'WP'), (green, blue, red, white), strict=True)
        if is_x265:  # in units of 0.00002 and 0.0001 cd/m²
            points = ''.join(f'{name}({round(x * 50000)},{round(y * 50000)})' for name, (x, y) in names)
            light = f'L({round(brightest * 10000)},{round(darkest * 10000)})'
        else:
            points = ''.join(f'{name}({float(x):.5f},{float(y):.5f})' for name, (x, y) in names)
            light = f'L({float(brightest):.4f},{float(darkest):.4f})'
        params.append(f'{"master-display" if is_x265 else "mastering-display"}={points}{light}')
    if source.light_level:
        params.append('{}={},{}'.format('max-cll' if is_x265 else 'content-light', *source.light_level))
    return {'x265-params' if is_x265 else 'svtav1-params': ':'.join(params)} if params else {}


def _merged(options: dict[str, str], more: dict[str, str]) -> dict[str, str]:
    return options | {key: ':'.join(filter(None, (options.get(key), value))) for key, value in more.items()}


def encoder_rate(rate: Fraction, codec: str) -> Fraction:
    """Return the frame rate to tell an encoder."""
    allowed: Any = av.codec.Codec(codec, 'w').frame_rates
    if allowed:  # MPEG-2 knows only some
        return min((Fraction(r) for r in allowed if r), key=lambda r: abs(r - rate))
    return min(max(rate, _RATES[0]), _RATES[1]).limit_denominator(1001)


def _ideal_format(form: SampleFormat, codec: str) -> SampleFormat:
    """Return the format a codec should store: in lossy codecs, RGB is stored as players expect it."""
    found = av.codec.Codec(codec, 'w')
    if form.family != 'rgb' or (found.lossless and not found.lossy):
        return form
    return SampleFormat('yuv', min(form.depth, _LOSSY_DEPTH), (1, 1), form.alpha)


def _cost(form: SampleFormat | None, wanted: SampleFormat) -> tuple[Any, ...]:
    """Return what is lost, then what is wasted."""
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


def _tags(source: VideoFormat, size: tuple[int, int], pix_fmt: str) -> Colour:
    """Return the source's tags, or complete ones if the kind of samples changes."""
    form = SampleFormat.parse(pix_fmt)
    assert form is not None
    colour = source.colour
    if form.family == 'rgb':
        colour = colour._replace(matrix=0, full=True)
    elif form.family != source.format.family:
        resolved = Colour().resolved(*size, form.family)
        colour = colour._replace(matrix=resolved.matrix, full=resolved.full)
    return colour._replace(full=True) if pix_fmt.startswith('yuvj') else colour

"""Choice of container, codec, pixel format and quality for restored frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.codec import PixFmtLoss, find_best_pix_fmt_of_list
from av.codec.codec import UnknownCodecError
from torch import Tensor

from dstnet_arch.data.frame_source import size_text
from dstnet_arch.errors import OptionsError
from dstnet_arch.video.colour import Colour, Plane, SampleFormat, from_rgb
from dstnet_arch.video.frames import VideoFormat
from dstnet_arch.video.source import Source

CONTAINERS = {
    '.mp4': 'mp4', '.mkv': 'matroska', '.mov': 'mov', '.avi': 'avi', '.webm': 'webm', '.m4v': 'mp4', '.ts': 'mpegts',
    '.mts': 'mpegts', '.m2ts': 'mpegts', '.mpg': 'vob', '.mpeg': 'vob', '.vob': 'vob', '.mxf': 'mxf', '.wmv': 'asf',
    '.asf': 'asf', '.flv': 'flv', '.3gp': '3gp', '.nut': 'nut',
}  # fmt: skip
"""FFmpeg's names of the containers that are written, by extension."""

_QUALITY = {
    'libx264': ('crf', 17, 51), 'libx265': ('crf', 18, 51), 'libsvtav1': ('crf', 22, 63),
    'libaom-av1': ('crf', 20, 63), 'libvpx-vp9': ('crf', 20, 63),
    'h264_nvenc': ('cq', 19, 51), 'hevc_nvenc': ('cq', 20, 51), 'av1_nvenc': ('cq', 24, 63),
    'mpeg4': ('qscale', 2, 31), 'mpeg2video': ('qscale', 2, 31), 'mjpeg': ('qscale', 2, 31),
}  # fmt: skip
"""Quality scales: the codec's option, a visually lossless value, and the worst value."""

_OPTIONS = {
    # Without it, x264's AVX-512 kernels sometimes make other packets of the same frames.
    'libx264': {'x264-params': 'cpu-independent=1'},
    'libx265': {'x265-params': 'log-level=error'},
    'h264_nvenc': {'rc': 'vbr'},
    'hevc_nvenc': {'rc': 'vbr'},
    'av1_nvenc': {'rc': 'vbr'},
}
_HDR_OPTIONS = {
    'libx265': ('x265-params', 'master-display', 'max-cll'),
    'libsvtav1': ('svtav1-params', 'mastering-display', 'content-light'),
}
_DEFAULT_CODECS = {'webm': ('libsvtav1', 'libvpx-vp9'), **dict.fromkeys(('mpeg', 'vob', 'dvd', 'mxf'), ('mpeg2video',))}
_OTHER_CODECS = ('libsvtav1', 'libvpx-vp9', 'mpeg2video', 'mpeg4', 'ffv1', 'mjpeg')
_HEADER_IN_FRAMES = ('mpeg1video', 'mpeg2video')  # the transport stream has no other place for it
_SEPARATE_ALPHA = ('libvpx', 'libvpx-vp9', 'libx265')  # alpha is outside of the frames, and would not arrive
_GLOBAL_HEADER = 0x400000  # AV_CODEC_FLAG_GLOBAL_HEADER
_SEVERAL_FILES = 0x0003  # AVFMT_NOFILE, AVFMT_NEEDNUMBER
_LEAST_WIDTH = 64  # x265's look-ahead writes beyond its memory if frames are narrower
_LAMBDA = 118  # FF_QP2LAMBDA
_LOSSY_DEPTH = 10  # enough for 16-bit images in a lossy video, and the most that is widely played
_RATES = (Fraction(1), Fraction(240))  # what encoders accept
_RANGES = {None: 0, False: 1, True: 2}

os.environ.setdefault('SVT_LOG', '1')  # errors only


@dataclass(frozen=True)
class OutputOptions:
    """How a video file is encoded.

    Attributes:
        codec: FFmpeg's name of an encoder; None: H.264 for 8 bits, H.265 for more, AV1 in WebM.
        quality: value on the codec's own scale (CRF for most); None: visually lossless.
        pix_fmt: FFmpeg's name of a pixel format; None: the input's, if the codec supports it.
        container: FFmpeg's name of a container; None: chosen from the extension.
    """

    codec: str | None = None
    quality: int | None = None
    pix_fmt: str | None = None
    container: str | None = None


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
        reorders: True if frames may be stored in another order than shown.
        quality: quality for messages, such as "CRF 17".
        losses: what of the source is lost.
    """

    codec: str
    pix_fmt: str
    colour: Colour
    size: tuple[int, int]
    rate: Fraction
    sample_aspect: Fraction
    options: dict[str, str]
    reorders: bool
    quality: str
    losses: list[str]

    @property
    def format(self) -> SampleFormat:
        """Sample format of the encoded frames."""
        form = SampleFormat.parse(self.pix_fmt)
        assert form is not None
        return form

    @property
    def description(self) -> str:
        """A short description such as "libx264, CRF 17, yuv420p"."""
        return ', '.join(filter(None, (self.codec, self.quality, self.pix_fmt)))

    def planes(self, restored: Tensor, alpha: Tensor | None = None) -> list[Plane]:
        """Convert a restored frame (3, H, W), RGB in [0, 1], and its opacity to the encoder's samples."""
        form = self.format
        return from_rgb(restored, form, self.colour.resolved(*self.size, form.family), alpha)

    def tag(self, target: Any) -> None:
        """Set the colour tags of an encoder or a frame."""
        target.colorspace, target.color_range = self.colour.matrix, _RANGES[self.colour.full]
        target.color_primaries, target.color_trc = self.colour.primaries, self.colour.transfer

    def configure(self, context: Any) -> None:
        """Set up an encoder that is not open yet."""
        context.height, context.width = self.size
        context.pix_fmt = self.pix_fmt
        context.time_base, context.framerate = 1 / self.rate, self.rate
        context.sample_aspect_ratio = self.sample_aspect
        self.tag(context)
        context.options = dict(self.options)
        context.flags = context.flags & ~_GLOBAL_HEADER | _GLOBAL_HEADER * (self.codec not in _HEADER_IN_FRAMES)
        if not self.reorders:
            context.max_b_frames = 0

    def problem(self) -> str:
        """Return why the encoder does not accept these settings; empty if it does."""
        context = av.CodecContext.create(self.codec, 'w')
        self.configure(context)
        try:
            context.open()
        except (av.FFmpegError, ValueError, OverflowError) as error:
            return str(getattr(error, 'strerror', None) or error)
        return ''


def container_name(output: Path, container: str | None = None) -> str:
    """Return FFmpeg's name of the container of a video file to write.

    Raises:
        OptionsError: there is no such container.
    """
    container = container or CONTAINERS.get(output.suffix.lower(), output.suffix)
    with suppress(ValueError):
        found = av.ContainerFormat(container, 'w')
        if not int(found.flags) & _SEVERAL_FILES:
            return found.name
    raise OptionsError(f'-o {output}: FFmpeg has no container {container} in one file. Use .mp4, .mov or .mkv.')


def first_container(codec: str, containers: Sequence[str]) -> str:
    """Return the first container that can hold what an encoder makes.

    Raises:
        OptionsError: none can.
    """
    for container in containers:
        with av.open(BytesIO(), 'w', format=container) as output:
            try:
                output.add_stream(codec)
            except ValueError:
                continue
        return container
    raise OptionsError(
        f'--codec {codec} cannot be stored in {" or ".join(containers)}. Use .mkv, which takes almost all codecs.'
    )


def choose_encoding(source: Source, container: str, options: OutputOptions) -> Encoding:
    """Choose the encoding that loses least of a source.

    Args:
        source: what is restored.
        container: FFmpeg's name of the container.
        options: what the user chooses; its container is ignored.

    Raises:
        OptionsError: there is no such codec or pixel format, or they do not fit.
    """
    wanted = source.format
    codec = _codec_name(options.codec, wanted.format.depth, container)
    encoder_options, quality = _quality(codec, options.quality)
    if codec == 'libx265' and source.size[1] < _LEAST_WIDTH:
        encoder_options['x265-params'] += ':bframes=0:rc-lookahead=0'
    losses = []
    if wanted.mastering or wanted.light_level:
        if codec in _HDR_OPTIONS:
            name, *keys = _HDR_OPTIONS[codec]
            params = [encoder_options[name]] if name in encoder_options else []
            encoder_options[name] = ':'.join([*params, *_hdr_params(wanted, *keys)])
        else:
            losses.append(f'{codec} cannot hold HDR mastering metadata. --codec libx265 can.')
    ideal = _ideal_format(wanted.format, codec)
    known = _pixel_formats(codec, wanted.format)
    if options.pix_fmt is not None:
        if options.pix_fmt not in known:
            raise OptionsError(f'--pix-fmt {options.pix_fmt}: {codec} supports {", ".join(known) or "none"}.')
        known = [options.pix_fmt]
    problem = 'it has no supported pixel format'
    while known:
        best, loss = find_best_pix_fmt_of_list(known, ideal.name, ideal.alpha)
        assert best is not None
        lost = _describe(loss, wanted.format.depth, best.components[0].bits)
        named = f'{codec} with {best.name} cannot hold {" and ".join(lost)}. --codec ffv1 can.'
        encoding = Encoding(
            codec=codec,
            pix_fmt=best.name,
            colour=_tags(wanted, source.size, best.name),
            size=source.size,
            rate=_encoder_rate(source.timing.rate, codec),
            sample_aspect=wanted.sample_aspect,
            options=encoder_options,
            reorders=container != 'avi',  # AVI has no time stamps to restore the order
            quality=quality,
            losses=[named, *losses] if lost else losses,
        )
        problem = encoding.problem()
        if not problem:
            return encoding
        known.remove(best.name)
    raise OptionsError(
        f'{codec} does not accept {size_text(source.size)} frames in {options.pix_fmt or "any of its pixel formats"}: '
        f'{problem}. Choose another --codec; ffv1 in .mkv accepts all.'
    )


def _codec_name(codec: str | None, depth: int, container: str) -> str:
    if codec is None:
        usual = ('libx265', 'libx264') if depth > 8 else ('libx264', 'libx265')
        for name in (*_DEFAULT_CODECS.get(container, usual), *_OTHER_CODECS):
            with suppress(OptionsError):
                first_container(name, [container])
                return name
        raise OptionsError(f'No supported video codec can be stored in {container}. Use .mp4 or .mkv.')
    try:
        found = av.codec.Codec(codec, 'w')
    except UnknownCodecError:
        available = [name for name in (*_QUALITY, 'ffv1', 'prores_ks') if name in av.codecs_available]
        near = get_close_matches(codec, available, 1)
        raise OptionsError(
            f'--codec {codec}: PyAV {av.__version__} has no such encoder. It has {", ".join(available)} and others.'
            + (f' Did you mean {near[0]}?' if near else '')
        ) from None
    if found.type != 'video':
        raise OptionsError(f'--codec {codec} is a codec for {found.type}, not for video.')
    first_container(found.name, [container])
    return str(found.name)


def _quality(codec: str, quality: int | None) -> tuple[dict[str, str], str]:
    """Return encoder options for a quality, and its description."""
    options = dict(_OPTIONS.get(codec, {}))
    if codec not in _QUALITY:
        if quality is not None:
            raise OptionsError(f'--quality {quality}: {codec} has no quality scale. Omit it or choose another --codec.')
        return options, ''
    option, default, worst = _QUALITY[codec]
    value = default if quality is None else quality
    best = 1 if option == 'qscale' else 0
    if not best <= value <= worst:
        raise OptionsError(f'--quality {value}: {codec} accepts {best} (best) to {worst} (worst).')
    if option == 'qscale':
        options.update({'flags': '+qscale', 'global_quality': str(value * _LAMBDA)})
    else:
        options[option] = str(value)
    return options, f'{option.upper()} {value}'


def _hdr_params(source: VideoFormat, mastering_key: str, light_key: str) -> list[str]:
    """Options of x265 or SVT-AV1 that write HDR metadata into the video."""

    def number(value: Fraction, steps: int) -> str:  # x265 has whole steps
        return str(round(value * steps)) if mastering_key == 'master-display' else f'{float(value):.5f}'

    params = []
    if source.mastering:
        red, green, blue, white, (brightest, darkest) = source.mastering
        names = {'G': green, 'B': blue, 'R': red, 'WP': white}
        points = ''.join(f'{name}({number(x, 50000)},{number(y, 50000)})' for name, (x, y) in names.items())
        params.append(f'{mastering_key}={points}L({number(brightest, 10000)},{number(darkest, 10000)})')
    if source.light_level:
        params.append('{}={},{}'.format(light_key, *source.light_level))
    return params


def _encoder_rate(rate: Fraction, codec: str) -> Fraction:
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


def _pixel_formats(codec: str, wanted: SampleFormat) -> list[str]:
    formats = {f.name: SampleFormat.parse(f.name) for f in av.codec.Codec(codec, 'w').video_formats or []}
    return [
        name
        for name, form in formats.items()
        if form is not None
        and not (form.alpha and codec in _SEPARATE_ALPHA)
        and not (form.family == 'gray' and wanted.family != 'gray')
    ]


def _describe(loss: int, wanted_depth: int, depth: int) -> list[str]:
    losses = {
        PixFmtLoss.ALPHA: 'alpha',
        PixFmtLoss.DEPTH: f'{wanted_depth} bits ({depth} are kept)',
        PixFmtLoss.RESOLUTION: 'full chroma resolution',
    }
    return [name for flag, name in losses.items() if flag & loss]


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

"""The frames of a video file by number, in any order, each proven to be the one that a decoder gives that reads the
file from its first byte to its last.

Files are not to be trusted: the frame count in a header, an index, time stamps and key frames can all be wrong. So a
file is decoded once from end to end, and of each frame the time stamp and a checksum are noted. After that, frames are
decoded in *stretches* that begin at key frames, and each is held against its checksum. Where that fails, the whole
file is decoded again, in order, and kept.
"""

from __future__ import annotations

import itertools
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video import VideoFrame, VideoStream
from torch import Tensor
from tqdm import tqdm

from dstnet_arch.errors import DataError
from dstnet_arch.streaming.state_store import TensorFile
from dstnet_arch.video.colour import Colour, Plane, SampleFormat, alpha_of, to_rgb
from dstnet_arch.video.sources import Look

_STRETCH_FRAMES = 32  # at least, so that decoders, which begin slowly, are not begun for each frame of intra-only video
_MEMORY_BYTES = 256 << 20  # of decoded frames; longer stretches wait on disk

av.logging.set_level(None)  # what matters comes as an exception, or is found by looking

Timestamp = int


class Mark(NamedTuple):
    """A frame, as it was decoded first."""

    pts: Timestamp | None
    checksum: int
    is_key: bool


class Kind(NamedTuple):
    """What all frames of a video have in common.

    Attributes:
        size: (height, width) as they are stored.
        format: of their samples, as `planes_of` gives them.
        colour: what the file says of their colours.
        matrix: of the display: (a, b, c, d) in {-1, 0, 1}, by which (x, y) is shown at (ax + cy, bx + dy).
        sample_aspect: width of a pixel by its height, as stored.
    """

    size: tuple[int, int]
    format: SampleFormat
    colour: Colour
    matrix: tuple[int, int, int, int]
    sample_aspect: Fraction

    @classmethod
    def of(cls, frame: VideoFrame, stream: VideoStream) -> Kind:
        """The kind of this frame."""
        form = sample_format(frame)
        full = {1: False, 2: True}.get(frame.color_range, True if frame.format.name.startswith('yuvj') else None)
        # RGB that FFmpeg has unpacked is RGB, whatever stands in the file.
        matrix = 0 if form.family == 'rgb' else frame.colorspace
        colour = Colour(matrix, full, frame.color_primaries, frame.color_trc)
        aspect = Fraction(stream.sample_aspect_ratio or 1) or Fraction(1)
        return cls((frame.height, frame.width), form, colour, _display_matrix(frame), aspect)

    @property
    def is_sideways(self) -> bool:
        """Whether rows are shown as columns."""
        return self.matrix[0] == 0

    @property
    def shown_size(self) -> tuple[int, int]:
        """(height, width) as it is shown."""
        return self.size[::-1] if self.is_sideways else self.size

    @property
    def look(self) -> Look:
        """Of a file that shows the same without a display matrix."""
        if not self.is_sideways:
            return Look(self.format, self.colour, self.sample_aspect)
        # Turned, an untagged video could be taken for another kind by its height.
        form = self.format._replace(shift=(self.format.shift[1], self.format.shift[0]))
        return Look(form, self._seen._replace(full=self.colour.full), 1 / self.sample_aspect)

    def frame(self, planes: Sequence[Plane]) -> Tensor:
        """What is shown: (3, H, W), RGB in [0, 1]."""
        return self._upright(to_rgb(planes, self.format, self._seen))

    def alpha(self, planes: Sequence[Plane]) -> Tensor | None:
        """Opacity (H, W) as it is shown, in [0, 1]; None where there is none."""
        alpha = alpha_of(planes, self.format)
        return None if alpha is None else self._upright(alpha)

    @property
    def _seen(self) -> Colour:
        return self.colour.resolved(*self.size, self.format.family)

    def _upright(self, x: Tensor) -> Tensor:
        a, b, c, d = self.matrix
        x = x.transpose(-1, -2) if self.is_sideways else x
        flipped = [dim for dim, sign in ((-1, a + c), (-2, b + d)) if sign < 0]
        return torch.flip(x, flipped) if flipped else x.contiguous()


class VideoFile:
    """A video file that has been decoded once.

    Args:
        path: any container that FFmpeg reads.
        enough: given the number of frames so far, and the time (s) since the first frame at which the next one is
            shown, whether that frame and all after it can be left unread.
        show_progress: a bar on standard error while the file is decoded.
        temp_dir: folder for the temporary file of long stretches.

    Attributes:
        kind: of the frames.
        time_base: unit of time stamps in seconds.
        rate: frames a second, on average or as the file declares it.
        marks: of the frames, in the order in which they are shown.
        last_duration: of the last frame, in `time_base`; None if unknown.
        whole: number of frames up to the last one that is not known to be damaged.
        damaged: number of frames and packets that the decoder complained of.
        problem: why frames at the end seem to be missing; empty where they do not.
        interlaced: whether there are frames of two fields.
        stopped: whether frames were left unread because there were `enough`.

    Raises:
        DataError: it cannot be read as a video.
    """

    def __init__(
        self,
        path: Path,
        enough: Callable[[int, Fraction], bool] = lambda count, time: False,
        show_progress: bool = False,
        temp_dir: str | None = None,
    ) -> None:
        self.path, self._temp_dir = path, temp_dir
        self.marks: list[Mark] = []
        self.whole = 0
        self.damaged, self.interlaced, self.stopped, self.problem = 0, False, False, ''
        self.last_duration: int | None = None
        self._stretches: dict[int, _Stretch] = {}
        with opened(path) as container:
            stream = picture_stream(container, path)
            self.stream_index = stream.index
            self.time_base = Fraction(stream.time_base or Fraction(1, 1000))
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            self._scan(container, stream, enough, show_progress)
        if not self.marks:
            raise DataError(f'{path} has no frames that can be decoded{self.problem and ": "}{self.problem}.')
        self._starts = self._find_starts()
        self._numbers = {mark.pts: number for number, mark in enumerate(self.marks)}

    def __len__(self) -> int:
        return len(self.marks)

    @property
    def in_order(self) -> bool:
        """Whether each frame has a time stamp, later than the one before."""
        times = [mark.pts for mark in self.marks]
        return None not in times and all(a < b for a, b in pairwise(times))  # type: ignore[operator]

    def __getitem__(self, number: int) -> list[Plane]:
        """The planes of a frame.

        Raises:
            DataError: the file has changed, or a temporary file cannot be written.
        """
        place = bisect_right(self._starts, number) - 1
        start = self._starts[place]
        if start not in self._stretches:
            while len(self._stretches) > 1:  # two, for reading goes back and forth across their border
                self._stretches.pop(next(iter(self._stretches))).close()
            stop = self._starts[place + 1] if place + 1 < len(self._starts) else len(self)
            self._stretches[start] = _Stretch(self, start, stop, self._temp_dir)
        try:
            return self._stretches[start][number]
        except _Unreliable:
            self.close()
            self._starts = [0]
            return self[number]

    def close(self) -> None:
        """Give memory and temporary files back. What is read afterwards is decoded again."""
        for stretch in self._stretches.values():
            stretch.close()
        self._stretches.clear()

    def decode(self, start: int, stop: int) -> Iterator[list[Plane]]:
        """Decode the frames `start` to `stop - 1`, and hold them against what was seen at first.

        Raises:
            _Unreliable: after seeking, other frames come.
            DataError: so they do without seeking.
        """
        earlier = self._starts[max(bisect_right(self._starts, start) - 2, 0)]
        for begin in dict.fromkeys([start, earlier]):  # some formats seek not exactly, and late
            for number, frame in self._decode_from(begin):
                if number < start:
                    continue
                planes = planes_of(frame)
                if number != start or checksum(planes) != self.marks[start].checksum:
                    break
                yield planes
                start += 1
                if start == stop:
                    return
            if not begin:
                raise DataError(f'{self.path} has changed since it was opened, or does not decode twice alike.')
        raise _Unreliable

    def _decode_from(self, begin: int) -> Iterator[tuple[int, VideoFrame]]:
        with opened(self.path) as container:
            stream = container.streams[self.stream_index]
            assert isinstance(stream, VideoStream)
            stream.thread_type = 'AUTO'
            if not begin:
                yield from enumerate(_frames(container, stream))
                return
            pts = self.marks[begin].pts
            assert pts is not None
            try:
                container.seek(pts, stream=stream)
            except av.FFmpegError:
                return
            for frame in _frames(container, stream):
                if frame.pts in self._numbers:
                    yield self._numbers[frame.pts], frame

    def _scan(
        self,
        container: InputContainer,
        stream: VideoStream,
        enough: Callable[[int, Fraction], bool],
        show_progress: bool,
    ) -> None:
        stream.thread_type = 'AUTO'
        announced = stream.frames or None
        last: VideoFrame | None = None

        broken: set[int | None] = set()  # time stamps

        def complain(error: Exception, pts: int | None) -> None:
            self.damaged += 1
            broken.add(pts)
            if isinstance(error, _Cut):
                self.problem = str(error)

        with tqdm(total=announced, desc='reading', unit='frame', disable=not show_progress, delay=1) as bar:
            for frame in _frames(container, stream, complain):
                first: int | None = self.marks[0].pts if self.marks else frame.pts
                if frame.pts is None or first is None:
                    time = len(self.marks) / self.rate
                else:
                    time = (frame.pts - first) * self.time_base
                if enough(len(self.marks), time):
                    self.stopped = True
                    break
                planes = planes_of(frame)
                if last is None:
                    self.kind = Kind.of(frame, stream)
                elif (frame.height, frame.width) != self.kind.size or sample_format(frame) != self.kind.format:
                    raise DataError(
                        f'{self.path}: from frame {len(self.marks)} on, frames are of another kind '
                        f'({frame.width}x{frame.height}, {frame.format.name}; before: {last.width}x{last.height}, '
                        f'{last.format.name}). Make files of one kind each: --end {len(self.marks)} gives the first.'
                    )
                self.marks.append(Mark(frame.pts, checksum(planes), bool(frame.key_frame)))
                self.interlaced |= frame.interlaced_frame
                self.damaged += frame.is_corrupt
                if not frame.is_corrupt and frame.pts not in broken:
                    self.whole = len(self.marks)
                last = frame
                bar.update()
            else:
                self.problem = self.problem or self._missing(container, stream, announced, last)
                if not self.problem and self.whole < len(self.marks):
                    self.problem = 'its end is damaged'
        if last is not None:
            self.last_duration = last.duration or None
            if not self.stopped and last.pts is not None and 'mov' in container.format.name and stream.duration:
                # An MP4 file tells durations in the order of storage, and in milliseconds where it ends as it is shown.
                declared = (stream.start_time or 0) + stream.duration - last.pts
                if declared > 0 and abs(declared - last.duration) * self.time_base > Fraction(1, 500):
                    self.last_duration = declared

    def _missing(
        self, container: InputContainer, stream: VideoStream, announced: int | None, last: VideoFrame | None
    ) -> str:
        """What the header promises and the file does not hold."""
        if announced and len(self.marks) < announced - 1 - self.damaged:
            return f'its header promises {announced} frames, of which {len(self.marks)} are there'
        if last is None or last.pts is None or not container.duration or 'matroska' not in container.format.name:
            return ''  # others state no duration, or frames
        ends = (last.pts * self.time_base + 1 / self.rate, *_last_times(self.path, stream.index))
        promised = Fraction(container.duration, av.time_base)
        if max(ends) < promised - max(Fraction(1), promised / 50):
            return f'its header promises {float(promised):.1f} s, and it ends after {float(max(ends)):.1f} s'
        return ''

    def _find_starts(self) -> list[int]:
        """Numbers of the frames at which stretches begin."""
        if not self.in_order:
            return [0]
        starts = [0]
        for number, mark in enumerate(self.marks):
            if mark.is_key and number - starts[-1] >= _STRETCH_FRAMES:
                starts.append(number)
        return starts


class _Unreliable(Exception):
    """Seeking leads to other frames."""


class _Cut(Exception):
    """Reading ended before the end."""


class _Stretch:
    """Some frames in a row, decoded as far as they were asked for."""

    def __init__(self, file: VideoFile, start: int, stop: int, temp_dir: str | None) -> None:
        self._start, self._source = start, file.decode(start, stop)
        self._sizes = file.kind.format.plane_sizes(*file.kind.size)
        self._dtype = file.kind.format.dtype
        count = sum(rows * columns for rows, columns in self._sizes)
        fits = count * self._dtype.itemsize * (stop - start) <= _MEMORY_BYTES
        self._kept: list[Tensor] | TensorFile = [] if fits else TensorFile(temp_dir)

    def __getitem__(self, number: int) -> list[Plane]:
        while len(self._kept) <= number - self._start:
            planes = next(self._source)
            self._kept.append(torch.from_numpy(np.concatenate([plane.reshape(-1) for plane in planes]).view(np.uint8)))
        samples = self._kept[number - self._start].numpy().view(self._dtype)
        return split_planes(samples, self._sizes)

    def close(self) -> None:
        self._source.close()  # type: ignore[attr-defined]
        if isinstance(self._kept, TensorFile):
            self._kept.close()


def split_planes(samples: np.ndarray, sizes: list[tuple[int, int]]) -> list[Plane]:
    """Planes of these sizes, which lie one after the other in a row of samples."""
    ends = list(itertools.accumulate(rows * columns for rows, columns in sizes))
    return [part.reshape(size) for part, size in zip(np.split(samples, ends[:-1]), sizes, strict=True)]


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """A container for reading.

    Raises:
        DataError: it is none.
    """
    try:
        container = av.open(str(path), metadata_errors='replace')
    except (av.FFmpegError, OSError) as error:
        raise unreadable(path, error) from None
    with container:
        yield container


def unreadable(path: Path, error: Exception) -> DataError:
    """What to say when FFmpeg cannot open a file."""
    if not path.exists():
        return DataError(f'{path} does not exist.')
    if path.stat().st_size == 0:
        return DataError(f'{path} is empty.')
    problem = getattr(error, 'strerror', None) or error
    hint = ''
    with path.open('rb') as file:
        if file.read(12)[4:8] == b'ftyp' and isinstance(error, av.error.InvalidDataError):
            hint = (
                " An MP4 or MOV file whose recording was interrupted has no list of its frames ('moov'); tools such "
                'as untrunc can rebuild it from another file of the same camera.'
            )
    return DataError(f'{path} cannot be read as a video: {problem}.{hint or " It is damaged, or no video."}')


def picture_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first video stream that is no cover picture.

    Raises:
        DataError: there is none, or none that can be decoded.
    """
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise DataError(f'{path} has no video in it. Give a video file, or a folder of pictures.')
    if streams[0].codec_context is None:
        raise DataError(f'{path}: the FFmpeg within PyAV has no decoder for its video. Convert it first.')
    return streams[0]


def sample_format(frame: VideoFrame) -> SampleFormat:
    """Of a frame's planes as `planes_of` gives them."""
    form = SampleFormat.parse(_planar_name(frame))
    assert form is not None
    return form


def planes_of(frame: VideoFrame) -> list[Plane]:
    """The samples of a frame, plane by plane. Packed formats are unpacked, without a loss up to 16 bits."""
    name = _planar_name(frame)
    if frame.format.name != name:
        frame = frame.reformat(format=name)
    form = SampleFormat.parse(name)
    assert form is not None
    planes = []
    for plane, (rows, columns) in zip(frame.planes, form.plane_sizes(frame.height, frame.width), strict=True):
        samples: Plane = np.frombuffer(memoryview(plane), form.dtype)
        lines = samples.reshape(-1, plane.line_size // form.dtype.itemsize)
        planes.append(np.ascontiguousarray(lines[:rows, :columns]))
    return planes


def _planar_name(frame: VideoFrame) -> str:
    """The pixel format whose planes hold all of a frame's samples."""
    form = frame.format
    if SampleFormat.parse(form.name):
        return form.name
    depth = max(component.bits for component in form.components)
    alpha = any(component.is_alpha for component in form.components)
    if form.has_palette or form.is_rgb or form.is_bayer or len(form.components) < 3:
        return f'gbr{"a" * (alpha or form.has_palette)}p{"" if depth <= 8 else "16le"}'
    wide, high = form.chroma_width(16), form.chroma_height(16)
    chroma = {(16, 16): '444', (16, 8): '440', (8, 16): '422', (8, 8): '420', (4, 16): '411'}.get((wide, high), '444')
    chroma = '444' if alpha else chroma
    return f'yuv{"a" * alpha}{chroma}p{"" if depth <= 8 else f"{10 if depth <= 10 else 12 if depth <= 12 else 16}le"}'


def checksum(planes: list[Plane]) -> int:
    """Of all samples."""
    value = 0
    for plane in planes:
        value = zlib.crc32(plane.data, value)
    return value


Complain = Callable[[Exception, int | None], None]
"""Called with what is wrong, and with the time stamp of the packet, if there is one."""


def _frames(
    container: InputContainer, stream: VideoStream, complain: Complain = lambda error, pts: None
) -> Iterator[VideoFrame]:
    """All frames that come; errors are passed by."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError as error:
            complain(_Cut(f'reading it stops with {error.strerror or error}'), None)
            yield from _decode(stream, None, complain)
            return
        if packet.is_corrupt:
            complain(ValueError('the packet is damaged'), packet.pts)
        yield from _decode(stream, packet, complain)


def _decode(stream: VideoStream, packet: av.Packet | None, complain: Complain) -> list[VideoFrame]:
    try:
        return stream.decode(packet)
    except av.FFmpegError as error:
        if not isinstance(error, av.error.EOFError):
            complain(error, None if packet is None else packet.pts)
        return []


def _last_times(path: Path, but: int) -> Iterator[Fraction]:
    """When the packets of the other streams end."""
    with opened(path) as container, suppress(av.FFmpegError):
        for packet in container.demux([s for s in container.streams if s.index != but]):
            if packet.pts is not None:
                yield (packet.pts + (packet.duration or 0)) * Fraction(packet.time_base)


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    upright = (1, 0, 0, 1)
    kept = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload]
    if kept is None:
        return upright
    values = np.frombuffer(memoryview(kept), '<i4')  # a, b, u, c, d, v, x, y, w; the first ones in 1/65536
    scale = max(1, int(np.abs(values[[0, 1, 3, 4]]).max()))
    a, b, c, d = (int(v) for v in np.rint(values[[0, 1, 3, 4]] / scale))
    return (a, b, c, d) if abs(a * d - b * c) == 1 and (a == d == 0 or b == c == 0) else upright

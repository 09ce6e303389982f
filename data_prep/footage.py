"""Footage for blur synthesis: video files and folders of frames, and their analysis in a first pass.

The analysis compares each frame with the previous one by the mean absolute difference of thumbnails in grey levels,
called its *difference* below.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.blur_model import MIN_FLOW_SIZE, Image, flow_to
from dstnet_arch.data.folder_layouts import image_files
from dstnet_arch.data.frame_source import size_text
from dstnet_arch.data.image_file import decode, to_8_bit
from dstnet_arch.data.lmdb_format import IMAGE_EXTENSIONS
from dstnet_arch.errors import DataError
from dstnet_arch.progress import Progress

CUT_THRESHOLD = 12.0
"""Minimum difference at a cut, in grey levels."""

_UNDECODABLE = 'cannot be decoded: it is not a video, damaged, or in a format that OpenCV does not support'
_HDR_TRANSFERS = {16: 'PQ', 18: 'HLG'}  # transfer characteristics, ITU-T H.273
_CUT_RATIO = 4.0  # minimum ratio of the difference at a cut to those around it: fast motion is large in several frames
_PAUSE = 10.0  # a gap between time stamps above this many frame intervals begins a new shot
_GHOST_STEP = 2.0  # motion between averaged frames above which edges appear as several copies, in pixels
_REPEATED_SHARE = 0.1  # share of repeated frames above which a video counts as converted from a lower rate
_REPEAT_RATIO = 0.1  # maximum ratio of a repeated frame's difference to the motion around it
_STILL = 0.4  # maximum difference of a repeated frame, caused by compression
_MOVING = 0.5  # minimum motion at which repeated frames can be recognised
_MIN_MOVING = 10  # frames with motion from which the share of repeated ones is judged
_NEIGHBOURS = 15

_THUMBNAIL = (64, 36)
_FLOW_SIZE = 480
_SAMPLES = 60


@dataclass(frozen=True)
class Footage:
    """Frames in temporal order that can be read repeatedly."""

    path: Path  # given by the user
    files: Sequence[Path] = ()  # images of a folder; empty for a video file
    listed: int = 0  # number of frames according to the file or folder; the decoder may find another number
    frame_rate: float | None = None  # frames per second according to the container
    stamps: NDArray[np.float64] | None = None  # increasing presentation times in units of `time_base`
    time_base: float = 1.0  # seconds
    hdr: str | None = None  # 'PQ' or 'HLG' for HDR video

    @property
    def name(self) -> str:
        """Name of the clips made from it."""
        return clip_name(self.path)

    def frames(self) -> Iterator[Image]:
        """Return all frames: (height, width, 3), BGR, uint8.

        Raises:
            DataError: a frame cannot be read.
        """
        return _read_images(self.files) if self.files else _decode_video(self.path)


@dataclass(frozen=True)
class Analysis:
    """Result of the first pass."""

    num_frames: int  # that can be decoded
    size: tuple[int, int]  # (height, width)
    differences: list[float]  # of frames 1, 2, ... from their predecessors
    step: float = 0.0  # motion from frame to frame in the faster parts of the footage, in pixels
    times: NDArray[np.float64] | None = None  # of the frames in nominal intervals; None if the rate is constant
    frame_rate: float | None = None  # nominal frames per second


def open_footage(path: Path) -> Footage:
    """Open a folder of images, in natural order of their names, or a video file.

    Raises:
        DataError: nothing readable exists at `path`, or no clip name can be derived from it.
    """
    clip_name(path)  # raises DataError
    if path.is_dir():
        files = image_files(path)
        if not files:
            raise DataError(f'{path} has no frames (files ending in {", ".join(IMAGE_EXTENSIONS)})')
        return Footage(path, files, len(files))
    if not path.is_file():
        raise DataError(f'{path} does not exist; pass video files or folders of frames')
    return _probe_video(path)


def clip_name(path: Path) -> str:
    """Derive the name of a video's clips: its own name with `_` for characters that LMDB keys do not allow.

    Raises:
        DataError: the name has no ASCII letter or digit.
    """
    own = path.absolute().name if path.is_dir() else path.stem
    plain = unicodedata.normalize('NFKD', own).encode('ascii', 'ignore').decode()
    name = re.sub('[^A-Za-z0-9_-]+', '_', plain).strip('_')
    if not any(character.isalnum() for character in name):
        raise DataError(f'{path}: clips are named after their video in ASCII letters and digits; rename it')
    return name


def _read_images(files: Sequence[Path]) -> Iterator[Image]:
    for file in files:
        try:
            rgb = to_8_bit(decode(np.fromfile(file, np.uint8))[0])
        except ValueError as error:
            raise DataError(f'{file} {error}. Replace or remove it') from None
        yield np.ascontiguousarray(rgb[..., ::-1])


def _probe_video(path: Path) -> Footage:
    _open_video(path).vcap.release()
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            # Without the flush packet, and without frames that the edit list hides.
            shown = [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
            stamps = np.sort(np.array(shown, np.float64))  # a missing stamp becomes nan
            return Footage(
                path,
                listed=len(shown),
                frame_rate=float(stream.average_rate or 0) or None,
                stamps=stamps if len(stamps) and np.all(np.diff(stamps) > 0) else None,
                time_base=float(stream.time_base or 1),
                hdr=_HDR_TRANSFERS.get(int(stream.codec_context.color_trc)),
            )
    except (av.FFmpegError, IndexError):
        raise DataError(f'{path} {_UNDECODABLE}') from None


def _decode_video(path: Path) -> Iterator[Image]:
    reader = _open_video(path)
    try:
        # VideoReader.read() seeks wherever time stamps and frame count disagree, so read the capture directly.
        while (frame := reader.vcap.read()[1]) is not None:
            yield frame
    finally:
        reader.vcap.release()


def _open_video(path: Path) -> Any:
    try:
        from mmcv import VideoReader
    except ImportError as error:
        raise DataError(
            f"{path} is a video file and needs mmcv ({error}). Install it: pip install 'dstnet-arch[video]'. "
            f'Or extract the frames and pass their folder: ffmpeg -i {path} -fps_mode passthrough FOLDER/%06d.png'
        ) from None
    reader = VideoReader(str(path), cache_capacity=1)
    if not reader.opened:
        raise DataError(f'{path} {_UNDECODABLE}')
    return reader


def analyse(footage: Footage) -> Analysis:
    """Read all frames once.

    Raises:
        DataError: there are no frames, or they differ in size.
    """
    # An odd interval: repeated frames often come in pairs, and the sample must not consist of these alone.
    interval = max(1, footage.listed // _SAMPLES) | 1
    size = (0, 0)
    count = 0
    differences: list[float] = []
    steps: list[float] = []
    last_thumbnail: NDArray[np.float32] | None = None
    sampled: Image | None = None
    with Progress(footage.listed, 'frame', f'analysing {footage.path.name}') as progress:
        for count, frame in enumerate(footage.frames(), start=1):
            size = size if count > 1 else (frame.shape[0], frame.shape[1])
            if frame.shape[:2] != size:
                raise DataError(
                    f'{footage.path}: frame {count} is {size_text(frame.shape[:2])}, the previous ones are '
                    f'{size_text(size)}. All frames of a video must have the same size'
                )
            thumbnail = cv2.resize(frame, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
            if last_thumbnail is not None:
                differences.append(float(np.abs(thumbnail - last_thumbnail).mean()))
            last_thumbnail = thumbnail
            if sampled is not None:
                steps.append(_fast_motion(sampled, frame))
            sampled = frame.copy() if (count - 1) % interval == 0 else None
            progress.update()
    if count == 0:
        raise DataError(f'{footage.path}: no frame can be decoded. The file is damaged or not a video')
    rate, times = footage.frame_rate, None
    if footage.stamps is not None and len(footage.stamps) == count > 1:
        typical_interval, times = frame_times(footage.stamps)
        rate = 1 / (typical_interval * footage.time_base)
    return Analysis(count, size, differences, float(np.percentile(steps, 90)) if steps else 0.0, times, rate)


def _fast_motion(first: Image, second: Image) -> float:
    """Return the motion of the fastest hundredth of the picture, in pixels; 0 if it is too small for optical flow."""
    factor = min(1.0, _FLOW_SIZE / max(first.shape[:2]))
    small = [cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) for frame in (first, second)]
    if min(small[0].shape[:2]) < MIN_FLOW_SIZE:
        return 0.0
    flow = flow_to(small[0], small[1])
    return float(np.percentile(np.linalg.norm(flow, axis=2), 99)) / factor


def frame_times(stamps: NDArray[np.float64]) -> tuple[float, NDArray[np.float64] | None]:
    """Return the mean interval and None; for a variable rate, the median interval and the times in units of it.

    The rate is variable if an interval differs from the median interval by more than a quarter and more than the unit
    of the increasing time stamps, to which they are rounded.
    """
    intervals = np.diff(stamps)
    typical = float(np.median(intervals))
    if np.all(np.abs(intervals - typical) <= max(typical / 4, 1)):
        return float(intervals.mean()), None
    return typical, (stamps - stamps[0]) / typical


def find_cuts(
    differences: Sequence[float], threshold: float = CUT_THRESHOLD, times: NDArray[np.float64] | None = None
) -> list[int]:
    """Return the first frame of each shot except the first shot.

    A frame begins a shot if its difference exceeds `threshold` (255 finds no cut) and four times the median of the four
    neighbouring differences, repeated frames not counted; or if its time is more than ten intervals after the previous
    one. Fades and dissolves are not found.
    """
    real = np.flatnonzero(~find_repeats(differences)).tolist()
    cuts = set() if times is None else {int(frame) + 1 for frame in np.flatnonzero(np.diff(times) > _PAUSE)}
    for index, position in enumerate(real):
        if differences[position] > threshold:
            neighbours = [*real[max(0, index - 2) : index], *real[index + 1 : index + 3]]
            typical = median(differences[neighbour] for neighbour in neighbours) if neighbours else 0.0
            if differences[position] > _CUT_RATIO * typical:
                cuts.add(position + 1)
    return sorted(cuts)


def find_repeats(differences: Sequence[float]) -> NDArray[np.bool_]:
    """Return for each difference whether its frame repeats the previous one while there is motion around it.

    The motion around a frame is the third largest of 31 differences, since the two largest may be cuts. This finds up
    to tenfold repetition.
    """
    values = np.asarray(differences, np.float64)
    if not len(values):
        return np.zeros(0, bool)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, _NEIGHBOURS), 2 * _NEIGHBOURS + 1)
    motion = np.partition(windows, -3, axis=1)[:, -3]
    return np.asarray((values < np.minimum(_REPEAT_RATIO * motion, _STILL)) & (motion > _MOVING))


def repeated_share(differences: Sequence[float]) -> float:
    """Return the share of repeated frames among those with motion; 0 if there are too few to judge."""
    repeats = find_repeats(differences)
    moving = np.count_nonzero(repeats | (np.asarray(differences) > _MOVING))
    return float(repeats.sum() / moving) if moving >= _MIN_MOVING else 0.0


def find_warnings(footage: Footage, analysis: Analysis, scale: float) -> list[str]:
    """Return the properties of a video that make poor pairs.

    Args:
        footage: the video.
        analysis: its analysis.
        scale: motion between averaged frames of the pairs, relative to that between frames of the video.
    """
    warnings = []
    if footage.hdr:
        warnings.append(
            f'HDR footage ({footage.hdr}) does not follow the curves of --response; convert it to SDR first'
        )
    if analysis.times is not None:
        warnings.append(
            f'variable frame rate, nominally {analysis.frame_rate:.4g} frames per second: frames are averaged by their '
            f'times, and gaps above {_PAUSE:g} frames begin a new shot'
        )
    if analysis.num_frames != footage.listed:
        warnings.append(
            f'the file lists {footage.listed} frames, but {analysis.num_frames} can be decoded, so their times are '
            'unknown and all have equal weight; convert it with ffmpeg first'
        )
    if (share := repeated_share(analysis.differences)) > _REPEATED_SHARE:
        warnings.append(
            f'{share:.0%} of the frames repeat the previous one, so the blur has gaps. Use the original, or drop them: '
            f'ffmpeg -i {shlex.quote(str(footage.path))} -vf mpdecimate -fps_mode vfr -c:v libx264 -crf 10 NEW.mp4'
        )
    if (step := scale * analysis.step) > _GHOST_STEP:
        warnings.append(
            f'fast parts move by {step:.1f} pixels between averaged frames and appear as several copies. Film at a '
            'higher rate, or use --interpolate'
        )
    return warnings

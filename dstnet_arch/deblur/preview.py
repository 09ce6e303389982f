"""Comparison and report, written from the input and the finished output.

They show what was written, including losses of the encoder, and all frames of a run that was interrupted and resumed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dstnet_arch.data.frame_source import size_text
from dstnet_arch.deblur.config import CompareMode, DeblurConfig
from dstnet_arch.deblur.report import Report
from dstnet_arch.errors import DataError
from dstnet_arch.html import RGBImage, save_page
from dstnet_arch.video.source import Source
from dstnet_arch.video.sources import ReadAhead, open_source
from dstnet_arch.video.timing import Timing

_GAP = 8  # pixels between two frames, or of the line between two halves
_WHITE = 255


def write_previews(
    config: DeblurConfig, source: Source, facts: Mapping[str, str], step: Callable[[str, int, int], None]
) -> list[Path]:
    """Write the comparison and the report that a run requests; return their paths.

    Args:
        config: settings of the run.
        source: its input.
        facts: what the report says about the run: name -> value.
        step: called after each frame with the stage, the number of frames done and that of all frames.

    Raises:
        DataError: The output does not have the frames of the input, or a file cannot be read or written.
    """
    compare_path, report_path = config.compare_path, config.report_path
    report = Report(f'{config.output.name}: before and after', source.names, facts) if report_path else None
    with ExitStack() as stack:
        restored = stack.enter_context(closing(open_source(str(config.output), temp_dir=config.temp_dir)))
        if len(source) != len(restored) or source.size != restored.size:
            raise DataError(
                f'{config.input} has {len(source)} frames of {size_text(source.size)}, but {config.output} has '
                f'{len(restored)} of {size_text(restored.size)}: one of them was changed. Restore it again.'
            )
        frames = [stack.enter_context(closing(ReadAhead(video))) for video in (source, restored)]
        write: Callable[[RGBImage], None] | None = None
        for position in range(len(source)):
            before, after = (to_image(video[position]) for video in frames)
            if compare_path and config.compare:
                picture = compose(before, after, config.compare)
                if write is None:
                    size = picture.shape[0], picture.shape[1]
                    write = stack.enter_context(open_comparison(compare_path, source.names, size, source.timing))
                write(picture)
            if report is not None:
                report.add(position, before, after)
            step('comparing', position + 1, len(source))
    if report is not None and report_path:
        save_page(report_path, report.html())
    return [path for path in (compare_path, report_path) if path]


def to_image(frame: Tensor) -> RGBImage:
    """Convert a frame (3, H, W), RGB in [0, 1], to (H, W, 3) uint8."""
    return (frame.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def label_height(height: int) -> int:
    """Return the height of the strip of labels above frames of this height, in pixels; even."""
    return max(24, height // 40 * 2)


def compose(before: RGBImage, after: RGBImage, mode: CompareMode) -> RGBImage:
    """Put a frame before and after into one picture with labels.

    Args:
        before: (H, W, 3) uint8 RGB.
        after: the same shape.
        mode: 'split': the left half of one frame and the right half of the other; 'side': both side by side.

    Returns:
        (H', W', 3) uint8 RGB with a strip of `label_height(H)` rows at the top; H' and W' are even, as video codecs
        require.
    """
    height, width = before.shape[:2]
    if mode == 'split':
        frames, second = before.copy(), width // 2
        frames[:, second:] = after[:, second:]
        frames[:, max(second - _GAP // 4, 0) : second + _GAP // 4] = _WHITE
    else:
        frames, second = np.full((height, 2 * width + _GAP, 3), _WHITE, np.uint8), width + _GAP
        frames[:, :width], frames[:, second:] = before, after
    strip = label_height(height)
    picture = np.full((strip + height + height % 2, frames.shape[1] + frames.shape[1] % 2, 3), _WHITE, np.uint8)
    picture[strip : strip + height, : frames.shape[1]] = frames
    labels = Image.fromarray(picture[:strip])
    draw, font = ImageDraw.Draw(labels), ImageFont.load_default(strip * 0.6)
    for left, text in ((0, 'before'), (second, 'after')):
        draw.text((left + strip // 4, strip // 8), text, 'black', font)
    picture[:strip] = np.asarray(labels)
    return picture


@contextmanager
def open_comparison(
    path: Path, names: Sequence[str], size: tuple[int, int], timing: Timing
) -> Iterator[Callable[[RGBImage], None]]:
    """Replace an .mp4 file by pictures or, without an extension, a folder by PNG files with these names; atomically.

    Yields:
        A function that writes the next picture.

    Raises:
        DataError: It cannot be written.
    """
    temporary = path.with_name(f'.{path.name}')
    try:
        if path.suffix == '.mp4':
            with _open_video(temporary, size, timing) as write:
                yield write
        else:
            temporary.mkdir()
            files = iter([temporary / f'{name}.png' for name in names])
            yield lambda picture: Image.fromarray(picture).save(next(files))
            _remove(path)
        os.replace(temporary, path)
    except (OSError, av.FFmpegError) as error:
        raise DataError(f'Cannot write {path}: {error}. Free some space or correct the permissions.') from None
    finally:
        _remove(temporary)


@contextmanager
def _open_video(path: Path, size: tuple[int, int], timing: Timing) -> Iterator[Callable[[RGBImage], None]]:
    """Encode pictures with H.264 in BT.709."""
    options = {'video_track_timescale': str(timing.time_base.denominator)}
    with av.open(str(path), 'w', format='mp4', options=options) as output:
        stream = output.add_stream('libx264', options={'crf': '17'})
        stream.height, stream.width = size
        stream.pix_fmt = 'yuv420p'
        context = stream.codec_context
        context.time_base, context.framerate = timing.time_base, timing.rate
        context.colorspace = context.color_range = context.color_primaries = context.color_trc = 1
        ends = [*timing.times[1:], timing.times[-1] + timing.last_duration]
        spans = iter(zip(timing.times, ends, strict=True))

        def write(picture: RGBImage) -> None:
            frame = av.VideoFrame.from_ndarray(picture, 'rgb24')
            frame = frame.reformat(format='yuv420p', dst_colorspace='ITU709', dst_color_range='MPEG')
            start, end = next(spans)
            frame.pts, frame.duration, frame.time_base = start - timing.times[0], end - start, timing.time_base
            output.mux(stream.encode(frame))

        yield write
        output.mux(stream.encode(None))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

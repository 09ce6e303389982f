"""Comparison and report, written from the input and the finished output.

They show what was written, including losses of the encoder, and all frames of a run that was interrupted and resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

from torch import Tensor

from dstnet_arch.data.frame_source import size_text
from dstnet_arch.deblur.compare import compose, open_comparison
from dstnet_arch.deblur.config import DeblurConfig
from dstnet_arch.deblur.report import Report
from dstnet_arch.errors import DataError
from dstnet_arch.html import RGBImage
from dstnet_arch.video.source import Source
from dstnet_arch.video.sources import ReadAhead, open_source


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
        report.save(report_path)
    return [path for path in (compare_path, report_path) if path]


def to_image(frame: Tensor) -> RGBImage:
    """Convert a frame (3, H, W), RGB in [0, 1], to (H, W, 3) uint8."""
    return (frame.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()

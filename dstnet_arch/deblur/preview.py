"""Looking at a result beside its source, frame by frame: what `--compare` and `--report` are made from.

Both are read from where they are when the work is done, and not shown on the way: so what is seen is what was written,
with all that an encoder has done to it, and a run that was interrupted and resumed shows all frames like any other.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from torch import Tensor
from tqdm import tqdm

from dstnet_arch.deblur.compare import MODES, Mode, compare_pictures, compare_video
from dstnet_arch.deblur.report import Report
from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.video.images import Kind, to_picture
from dstnet_arch.video.sources import PictureSource, ReadAhead, Source, open_source
from dstnet_arch.visualize.canvas import Image

if TYPE_CHECKING:
    from dstnet_arch.video.encoder import Encoding

_RGB8 = Kind(gray=False, alpha=False, dtype=np.dtype(np.uint8))


class Observer(Protocol):
    """Makes something of the frames before and after."""

    def see(self, position: int, before: Image, after: Image) -> None:
        """Take a look at a frame; they come in order.

        Args:
            position: its number, from 0.
            before: the source's, (H, W, 3) uint8 RGB.
            after: the restored one, the same shape.

        Raises:
            DataError: what is made of it cannot be written.
        """

    def finish(self) -> Path:
        """When all frames were seen: give the result its name, which is returned.

        Raises:
            DataError: it cannot be written.
        """

    def close(self) -> None:
        """End the work; what is not finished is removed."""


def look(before: Source, after: Source, observers: Sequence[Observer], show_progress: bool = True) -> list[Path]:
    """Show all frames to observers, which are closed in the end.

    Args:
        before: the blurry video.
        after: the restored one.
        observers: who looks.
        show_progress: a bar on standard error.

    Returns:
        What the observers have made.

    Raises:
        DataError: the two are not of one size and number of frames, frames cannot be read, or results not be written.
    """
    try:
        if len(before) != len(after) or before.size != after.size:
            raise DataError(
                f'The blurry video has {len(before)} frames of {before.size[1]}x{before.size[0]}, the restored one '
                f'{len(after)} of {after.size[1]}x{after.size[0]}: they cannot be compared. Was one of them changed?'
            )
        with closing(ReadAhead(before)) as blurry, closing(ReadAhead(after)) as restored:
            for position in tqdm(range(len(before)), desc='comparing', unit='frame', disable=not show_progress):
                pair = as_image(blurry[position]), as_image(restored[position])
                for observer in observers:
                    observer.see(position, *pair)
        return [observer.finish() for observer in observers]
    finally:
        for observer in observers:
            observer.close()


def as_image(frame: Tensor) -> Image:
    """(3, H, W), RGB in [0, 1] -> (H, W, 3) uint8."""
    return to_picture(frame, _RGB8)


# On the command line of `dstnet deblur`


class Wanted(NamedTuple):
    """What a user wants to look at.

    Attributes:
        compare: the video or folder with both in one picture each, or None.
        mode: how, of `compare`.
        report: the page, or None.
        overwrite: replace them.
    """

    compare: Path | None
    mode: Mode
    report: Path | None
    overwrite: bool

    @classmethod
    def of(cls, args: argparse.Namespace) -> Wanted:
        """What `args` ask for: `compare`, `report`, `output`, `overwrite`, `resume`; with the last, what is not there.

        Raises:
            OptionsError: OUTPUT is a pipe, or something is in the place of what is to be made.
        """
        output: Path = args.output
        asked = [option for option in ('compare', 'report') if getattr(args, option)]
        if asked and str(output) == '-':
            raise OptionsError(f'--{asked[0]}: what has gone into a pipe cannot be looked at. Give OUTPUT a name.')
        compare = _beside(output, 'compare', '' if output.is_dir() else output.suffix) if args.compare else None
        report = _beside(output, 'report', '.html') if args.report else None
        if args.resume:  # what is there is whole
            compare, report = (path if path and not os.path.lexists(path) else None for path in (compare, report))
        wanted = cls(compare, args.compare or MODES[0], report, args.overwrite)
        wanted.check()
        return wanted

    def check(self) -> None:
        """Raise OptionsError where something is in the place of what is to be made, and is not to be replaced."""
        for path in (self.compare, self.report):
            if path is not None and os.path.lexists(path) and not self.overwrite:
                raise OptionsError(f'{path} exists already. Move it away, or replace it with --overwrite.')

    def __bool__(self) -> bool:
        return self.compare is not None or self.report is not None


def _beside(output: Path, what: str, suffix: str) -> Path:
    output = Path(os.path.abspath(output))
    stem = output.stem if suffix and output.suffix and not output.is_dir() else output.name
    return output.with_name(f'{stem}_{what}{suffix}')


def add_look_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments that `Wanted.of` reads."""
    group = parser.add_argument_group('to look at', 'Made from INPUT and OUTPUT when that is there, and put beside it.')
    group.add_argument(
        '--compare',
        nargs='?',
        const=MODES[0],
        choices=MODES,
        metavar='MODE',
        help='OUTPUT_compare: before and after in one video or folder; MODE is split (by default) or side (by side)',
    )
    group.add_argument(
        '--report',
        action='store_true',
        help='OUTPUT_report.html, a page: frames before and after, a column over time, sharpness, settings and times',
    )


def show(
    wanted: Wanted,
    source: Source,
    output: Path,
    facts: Mapping[str, str],
    encoding: tuple[Encoding, str] | None = None,
    show_progress: bool = True,
) -> list[Path]:
    """Make what is wanted.

    Args:
        wanted: what.
        source: the blurry video.
        output: the restored one: a folder or a video file.
        facts: for the report.
        encoding: how `output` was encoded and its container; None for a folder.
        show_progress: a bar on standard error.

    Returns:
        What was made.

    Raises:
        DSTNetError: it cannot be; `output` stays.
    """
    wanted.check()  # a long time may have passed
    with ExitStack() as stack:
        restored: Source
        if encoding is None:
            restored = PictureSource([output / f'{name}.png' for name in source.names], str(output))
        else:
            restored = stack.enter_context(closing(open_source(str(output))))
        observers: list[Observer] = []
        if wanted.report is not None:
            observers.append(Report(wanted.report, source.names, facts, f'{output.name}: before and after'))
        if wanted.compare is not None and encoding is None:
            observers.append(compare_pictures(wanted.compare, source.names, wanted.mode))
        elif wanted.compare is not None and encoding is not None:
            observers.append(compare_video(wanted.compare, source, *encoding, wanted.mode))
        return look(source, restored, observers, show_progress)

"""Temporal profiles: one column (or row) of pixels over all frames of a video, as in Figure 9."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dstnet_arch.errors import OptionsError
from dstnet_arch.visualize.canvas import GAP, Image, Lettering, add_font_argument, beside, mark_line, stack
from dstnet_arch.visualize.output import add_output_arguments, check_picture, save_picture
from dstnet_arch.visualize.sources import Track, add_range_arguments, add_source_arguments, footage_of

HELP = 'show a column or row of pixels over time for several results (Figure 9)'
EXAMPLES = """\
A column's profiles stand to the right of the frame, time running to the right; a row's stand below it, time running
down. Steady video gives smooth lines, flicker gives ragged ones. No pixel is interpolated.

examples:
  dstnet visualize profile -opt options/test_DSTNet_GoPro.yml --column 400 -o profile.png
  dstnet visualize profile --column 400 --clip GOPR0384_11_00 blurry=datasets/GoPro/test_blur.lmdb \\
      restored=results/NAME/visualization/GoPro -o profile.png"""

_MOST_STRETCH = 8  # of few frames by default: broad bars are hard to read as lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet visualize profile``."""
    add_source_arguments(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument('--column', type=int, metavar='X', help='pixels from the left; by default the middle column')
    where.add_argument('--row', type=int, metavar='Y', help='pixels from the top')
    add_range_arguments(parser)
    parser.add_argument('--frame', metavar='[CLIP/]FRAME', help='the frame to mark it in; by default the middle one')
    parser.add_argument(
        '--stretch',
        type=int,
        metavar='N',
        help='pixels that a frame takes in the profiles; by default up to 8, as fits beside the frame',
    )
    add_font_argument(parser)
    add_output_arguments(parser, '.png or .jpg')
    parser.set_defaults(run=_run)


def temporal_profile(frames: Iterable[Image], column: int | None = None, row: int | None = None) -> Image:
    """Collect one column, or one row, of each frame.

    Args:
        frames: T of (H, W, 3) uint8, taken one by one.
        column, row: pixels from the left or from the top; exactly one of them.

    Returns:
        (H, T, 3) for a column, whose lines stay upright, time running to the right; (T, W, 3) for a row, time running
        down.

    Raises:
        ValueError: both or none were given, or there are no frames.
    """
    if (column is None) == (row is None):
        raise ValueError('temporal_profile: expected either column or row')
    # Copies: views would keep whole frames in memory.
    if column is not None:
        return np.stack([frame[:, column].copy() for frame in frames], axis=1)
    return np.stack([frame[row].copy() for frame in frames], axis=0)


def profile_sheet(
    frame: Image,
    profiles: Mapping[str, Image],
    column: int | None = None,
    row: int | None = None,
    *,
    titles: tuple[str, str, str] = ('', '', ''),
    stretch: int | None = None,
    font: Path | None = None,
) -> Image:
    """A frame with the column or row marked by a dotted line, and the profiles under their names.

    Args:
        frame: (H, W, 3) uint8 RGB.
        profiles: name -> what `temporal_profile` gives.
        column, row: where they were taken; exactly one of them.
        titles: to stand above the frame, below it, and below the profiles.
        stretch: pixels that a frame takes in the profiles; by default so many that they take about as much room as
            the frame, but not more than 8.
        font: a TrueType file, see `Lettering`.
    """
    height, width = frame.shape[:2]
    lettering = Lettering.beside(height, font)
    along = 0 if column is not None else 1
    position = column if column is not None else row
    assert position is not None
    time = next(iter(profiles.values())).shape[1 - along]
    if stretch is None:
        stretch = min(_MOST_STRETCH, max(1, (height if along else width) // (len(profiles) * time)))
    profiles = {name: profile.repeat(stretch, axis=1 - along) for name, profile in profiles.items()}
    above, below, times = titles
    marked = [lettering.strip(above, width), mark_line(frame, position, along), lettering.strip(below, width)]
    parts = [stack([lettering.strip(name, part.shape[1]), part]) for name, part in profiles.items()]
    if along:
        return stack([*marked, *parts, lettering.strip(times, width)])
    strips = beside(parts)
    return beside([stack(marked), stack([strips, lettering.strip(times, strips.shape[1])])], 2 * GAP)


def _read(track: Track, frames: Iterable[str], progress: tqdm) -> Iterator[Image]:
    for frame in frames:
        yield track.read(frame)
        progress.update()


def _run(args: argparse.Namespace) -> None:
    check_picture(args.output, args.overwrite)
    if args.stretch is not None and args.stretch < 1:
        raise OptionsError(f'--stretch is {args.stretch}; it can be 1 or more.')
    footage = footage_of(args)
    frames = footage.choose_frames(args.start, args.end)
    shown = frames[len(frames) // 2] if args.frame is None else footage.choose_frame(args.frame)
    first = footage.tracks[0]
    height, width = first.shape(shown)
    if args.column is None and args.row is None:
        args.column = width // 2
    for option, value, size in (('--column', args.column, width), ('--row', args.row, height)):
        if value is not None and not 0 <= value < size:
            raise OptionsError(f'{option} {value} is outside the frames of {width}x{height}: 0 to {size - 1} are in.')
    profiles = {}
    with tqdm(total=len(frames) * len(footage.tracks), desc='Reading', unit='frame', delay=1, disable=None) as progress:
        for track in footage.tracks:
            profiles[track.name] = temporal_profile(_read(track, frames, progress), args.column, args.row)
    what, direction = (
        (f'column {args.column}', 'left to right') if args.row is None else (f'row {args.row}', 'top to bottom')
    )
    titles = (
        first.name,
        f'{footage.title(shown)}, {what}',
        f'frames {frames[0]} to {frames[-1]}, {direction}',
    )
    sheet = profile_sheet(
        first.read(shown), profiles, args.column, args.row, titles=titles, stretch=args.stretch, font=args.font
    )
    save_picture(sheet, args.output, args.overwrite)
    print(f'Temporal profile, {what} of {len(frames)} frames of {footage.clip or "the clip"}: {args.output}')

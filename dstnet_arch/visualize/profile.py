"""Temporal profiles: one column or row of pixels over all frames of a video (compare Figure 9)."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from dstnet_arch.data.image_file import to_8_bit
from dstnet_arch.errors import OptionsError
from dstnet_arch.progress import Progress
from dstnet_arch.visualize.figures import COLORS, Image, add_output_arguments, check_output, save_figure
from dstnet_arch.visualize.sources import Track, add_source_arguments, open_footage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HELP = 'show a column or row of pixels over time for several results (Figure 9)'
EXAMPLES = """\
Profiles of a column are to the right of the frame and time runs to the right; profiles of a row are below it and time
runs down. Steady video gives smooth lines, flicker gives ragged ones. Pixels are not interpolated.

examples:
  dstnet visualize profile -opt options/test_DSTNet_GoPro.yml --column 400 -o profile.png
  dstnet visualize profile --column 400 --clip GOPR0384_11_00 blurry=datasets/GoPro/test_blur.lmdb \\
      restored=results/NAME/visualization/GoPro -o profile.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet visualize profile``."""
    add_source_arguments(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument('--column', type=int, metavar='X', help='pixels from the left (default: the middle column)')
    where.add_argument('--row', type=int, metavar='Y', help='pixels from the top')
    parser.add_argument('--start', metavar='FRAME', help='first frame (default: the first of the clip)')
    parser.add_argument('--end', metavar='FRAME', help='last frame, inclusive (default: the last of the clip)')
    add_output_arguments(parser, 'profile.png')
    parser.set_defaults(run=_run)


def temporal_profile(frames: Iterable[Image], column: int | None = None, row: int | None = None) -> Image:
    """Collect one column or one row of each frame.

    Args:
        frames: T frames of (H, W, 3), consumed one by one.
        column: Pixels from the left.
        row: Pixels from the top; give either `column` or `row`.

    Returns:
        (H, T, 3) for a column, time running to the right; (T, W, 3) for a row, time running down.

    Raises:
        ValueError: both or none were given, or there are no frames.
    """
    if (column is None) == (row is None):
        raise ValueError('temporal_profile: expected either column or row')
    # Copies: views would keep complete frames in memory.
    if column is not None:
        return np.stack([frame[:, column].copy() for frame in frames], axis=1)
    return np.stack([frame[row].copy() for frame in frames], axis=0)


def profile_figure(
    frame: Image,
    profiles: Mapping[str, Image],
    title: str,
    time: str,
    column: int | None = None,
    row: int | None = None,
) -> Figure:
    """Draw a frame with the column or row marked, and the profiles under their names.

    Args:
        frame: (H, W, 3), RGB, uint8 or uint16.
        profiles: Name -> result of `temporal_profile`.
        title: Title of the frame.
        time: Label of the time axis.
        column: Column of the profiles.
        row: Row of the profiles; either `column` or `row`.
    """
    from matplotlib.figure import Figure

    height, width = frame.shape[:2]
    count = len(profiles)
    size = 5.0  # height of the frame in inches, or width for a row
    if row is None:
        wide = size * width / height
        figure = Figure((2 * wide, size + 0.6), dpi=150, layout='constrained')
        axes = figure.subplots(1, count + 1, squeeze=False, width_ratios=[wide, *[wide / count] * count])[0]
        axes[0].axvline(column, color=COLORS[0], linestyle=':')
    else:
        high = size * height / width
        figure = Figure((size, high * (1 + count) + 0.4 * count), dpi=150, layout='constrained')
        axes = figure.subplots(count + 1, 1, squeeze=False)[:, 0]
        axes[0].axhline(row, color=COLORS[0], linestyle=':')
    axes[0].imshow(to_8_bit(frame))
    axes[0].set_title(title)
    for axis, (name, profile) in zip(axes[1:], profiles.items(), strict=True):
        axis.imshow(to_8_bit(profile), aspect='auto', interpolation='nearest')
        axis.set_title(name)
    if row is None:
        axes[-1].set_xlabel(time)
    else:
        axes[-1].set_ylabel(time)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure


def _read(track: Track, frames: Iterable[str], progress: Progress) -> Iterator[Image]:
    for frame in frames:
        yield track.read(frame)
        progress.update()


def _run(args: argparse.Namespace) -> None:
    check_output(args.output, args.overwrite)
    footage = open_footage(args)
    frames = footage.choose_frames(args.start, args.end)
    shown = frames[len(frames) // 2] if args.frame is None else footage.choose_frame(args.frame)
    height, width = footage.tracks[0].shape(shown)
    if args.column is None and args.row is None:
        args.column = width // 2
    for option, value, size in (('--column', args.column, width), ('--row', args.row, height)):
        if value is not None and not 0 <= value < size:
            raise OptionsError(f'{option} is {value}; in frames of {width}x{height} it must be from 0 to {size - 1}.')
    profiles = {}
    with Progress(len(frames) * len(footage.tracks), 'frame', 'reading') as progress:
        for track in footage.tracks:
            profiles[track.name] = temporal_profile(_read(track, frames, progress), args.column, args.row)
    what = f'column {args.column}' if args.row is None else f'row {args.row}'
    first = footage.tracks[0]
    title = f'{footage.title(shown)} ({first.name}), {what}'
    time = f'frames {frames[0]} to {frames[-1]}'
    figure = profile_figure(first.read(shown), profiles, title, time, args.column, args.row)
    save_figure(figure, args.output)
    print(f'Temporal profile, {what} of {len(frames)} frames of {footage.clip or "the clip"}: {args.output}')

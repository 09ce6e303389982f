"""One frame of several sources: side by side, or each of them a part of it (Figures 4 to 8 in one glance)."""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection, Mapping
from pathlib import Path

from dstnet_arch.errors import OptionsError
from dstnet_arch.metrics.psnr import psnr
from dstnet_arch.visualize.canvas import WHITE, Image, Lettering, add_font_argument, beside, grid, line_width, stack
from dstnet_arch.visualize.output import add_output_arguments, check_picture, save_picture
from dstnet_arch.visualize.sources import (
    SHARP_NAMES,
    add_frame_argument,
    add_source_arguments,
    footage_of,
    options_of_test,
)

HELP = 'show one frame before and after: blurry, restored and sharp side by side, or split'
EXAMPLES = """\
examples:
  dstnet visualize compare -opt options/test_DSTNet_GoPro.yml --frame GOPR0384_11_00/000101
  dstnet visualize compare blurry=datasets/GoPro/test_blur.lmdb restored=results/NAME/visualization/GoPro \\
      --mode split -o split.png"""

MODES = ('side', 'split')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet visualize compare``."""
    add_source_arguments(parser)
    add_frame_argument(parser)
    add_view_arguments(parser)
    add_font_argument(parser)
    add_output_arguments(
        parser, '.png or .jpg; with -opt, it is results/NAME/compare_DATASET.png if not given', required=False
    )
    parser.set_defaults(run=_run)


def add_view_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments that `view` reads."""
    parser.add_argument(
        '--mode', choices=MODES, default='side', help='whole frames, or one frame of which each source gives a part'
    )
    parser.add_argument('--columns', type=int, metavar='N', help='whole frames in a row; by default up to three')
    parser.add_argument(
        '--sharp', metavar='NAME', help=f'the ground truth, for PSNR; by default that called {", ".join(SHARP_NAMES)}'
    )


def side_by_side(
    frames: Mapping[str, Image], sharp: str | None = 'sharp', columns: int | None = None, font: Path | None = None
) -> Image:
    """Put frames of one size next to each other under their names.

    Args:
        frames: name -> (H, W, 3) uint8 RGB.
        sharp: where one is named so, the names of the others get their PSNR to it.
        columns: how many in a row; by default all where they are up to three, else as many as make a square.
        font: a TrueType file, see `Lettering`.

    Returns:
        (H + 32, n * W + (n - 1) * 8, 3) uint8 RGB for one row of n frames up to 539 pixels high; the strips of the
        names grow with higher ones.
    """
    height, width = next(iter(frames.values())).shape[:2]
    lettering = Lettering.beside(height, font)
    columns = columns or (len(frames) if len(frames) <= 3 else math.ceil(len(frames) ** 0.5))
    labels = _labels(frames, sharp)
    cells = [stack([lettering.strip(labels[name], width), frame]) for name, frame in frames.items()]
    return grid(cells, columns)


def split_view(frames: Mapping[str, Image], sharp: str | None = 'sharp', font: Path | None = None) -> Image:
    """One frame, of which each source gives an upright part, from left to right, under its name.

    Args:
        frames: name -> (H, W, 3) uint8 RGB; not more of them than there are columns of pixels.
        sharp: see `side_by_side`.
        font: a TrueType file, see `Lettering`.

    Returns:
        (H + 32, W, 3) uint8 RGB, higher where H is more than 539. The parts are as wide as each other, to a pixel,
        with white lines on their borders.
    """
    height, width = next(iter(frames.values())).shape[:2]
    lettering = Lettering.beside(height, font)
    labels = _labels(frames, sharp)
    edges = [round(width * number / len(frames)) for number in range(len(frames) + 1)]
    parts = []
    for (name, frame), left, right in zip(frames.items(), edges[:-1], edges[1:], strict=True):
        parts.append(stack([lettering.strip(labels[name], right - left), frame[:, left:right]]))
    sheet = beside(parts, gap=0).copy()
    line = line_width(height)
    for edge in edges[1:-1]:
        sheet[lettering.height() :, edge - line // 2 : edge - line // 2 + line] = WHITE
    return sheet


def view(frames: Mapping[str, Image], args: argparse.Namespace) -> Image:
    """The picture that the command line asks for, of one frame."""
    sharp = sharp_of(frames, args.sharp)
    if args.mode == 'split':
        return split_view(frames, sharp, args.font)
    return side_by_side(frames, sharp, args.columns, args.font)


def sharp_of(names: Collection[str], wanted: str | None) -> str | None:
    """The source that is the ground truth, if there is one.

    Raises:
        OptionsError: the wanted one is no source.
    """
    if wanted is not None and wanted not in names:
        raise OptionsError(f'--sharp {wanted} is no source; they are {", ".join(names)}.')
    return wanted or next((name for name in SHARP_NAMES if name in names), None)


def check_view(names: Collection[str], width: int, args: argparse.Namespace) -> None:
    """Raise OptionsError where `view` cannot work, before frames are read."""
    sharp_of(names, args.sharp)
    if len(names) < 2:
        raise OptionsError(f'There is only {", ".join(names)}: a comparison needs two sources or more.')
    if args.columns is not None and args.columns < 1:
        raise OptionsError(f'--columns is {args.columns}; it can be 1 or more.')
    if args.mode == 'split' and width < len(names):
        raise OptionsError(f'{width} columns of pixels cannot be split among {len(names)} sources. Use --mode side.')


def _labels(frames: Mapping[str, Image], sharp: str | None) -> dict[str, str]:
    target = frames.get(sharp or '')
    if target is None:
        return {name: name for name in frames}
    return {
        name: name if name == sharp else f'{name}  {score_text(psnr(frame, target))} dB'
        for name, frame in frames.items()
    }


def score_text(decibels: float) -> str:
    """PSNR with two digits; identical pictures have 'inf'."""
    return f'{decibels:.2f}'


def _run(args: argparse.Namespace) -> None:
    output = args.output
    if output is None:
        if not args.opt:
            raise OptionsError('Where to save the picture was not said. Give its name with -o.')
        dataset, results, _ = options_of_test(args.opt, args.dataset)
        output = results / f'compare_{dataset["name"]}.png'
    check_picture(output, args.overwrite)
    footage = footage_of(args)
    frame = footage.choose_frame(args.frame)
    check_view(footage.names, footage.tracks[0].shape(frame)[1], args)
    save_picture(view(footage.read(frame), args), output, args.overwrite)
    print(f'Before and after, frame {footage.title(frame)}: {output}')

"""One frame of several sources, side by side or split (compare Figures 4 to 8)."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping

import numpy as np

from dstnet_arch.data.image_file import to_8_bit
from dstnet_arch.errors import OptionsError
from dstnet_arch.visualize.figures import (
    PICTURES,
    Image,
    add_output_arguments,
    check_output,
    labels,
    save_picture,
    text_strip,
)
from dstnet_arch.visualize.sources import (
    add_frame_arguments,
    add_source_arguments,
    footage_of,
    options_of_test,
    sharp_of,
)

HELP = 'show one frame before and after: blurry, restored and sharp side by side, or split'
EXAMPLES = """\
examples:
  dstnet visualize compare -opt options/test_DSTNet_GoPro.yml --frame GOPR0384_11_00/000101
  dstnet visualize compare blurry=datasets/GoPro/test_blur.lmdb restored=results/NAME/visualization/GoPro \\
      --mode split -o split.png

For a comparison as video, use ffmpeg:
  ffmpeg -framerate 24 -pattern_type glob -i 'BLURRY/*.png' -framerate 24 -pattern_type glob -i 'RESTORED/*.png' \\
      -filter_complex hstack compared.mp4"""

_GAP = 8  # pixels between frames


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet visualize compare``."""
    add_source_arguments(parser)
    add_frame_arguments(parser)
    parser.add_argument(
        '--mode', choices=('side', 'split'), default='side', help='show full frames, or a part of each in one frame'
    )
    parser.add_argument('--columns', type=int, metavar='N', help='frames per row (default: all if up to three)')
    add_output_arguments(
        parser, '.png or .jpg file (default with -opt: results/NAME/compare_DATASET.png)', required=False
    )
    parser.set_defaults(run=_run)


def side_by_side(frames: Mapping[str, Image], sharp: str | None = 'sharp', columns: int | None = None) -> Image:
    """Put frames of the same size next to each other under their names.

    Args:
        frames: Name -> (H, W, 3), RGB, uint8 or uint16.
        sharp: Name of the ground truth, if any: the other names get their PSNR to it.
        columns: Frames per row; default: all if up to three, else a square.

    Returns:
        (L + H, n * W + (n - 1) * 8, 3) uint8 RGB for a row of n frames, with labels of the height L = max(32, H / 16).
    """
    height, width = next(iter(frames.values())).shape[:2]
    columns = min(len(frames), columns or (len(frames) if len(frames) <= 3 else math.ceil(len(frames) ** 0.5)))
    rows = math.ceil(len(frames) / columns)
    texts = labels(frames, sharp)
    cells = [
        np.concatenate([text_strip(texts[name], width, height), to_8_bit(frame)]) for name, frame in frames.items()
    ]
    cell_height = len(cells[0])
    sheet = np.full((rows * (cell_height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for number, cell in enumerate(cells):
        top, left = number // columns * (cell_height + _GAP), number % columns * (width + _GAP)
        sheet[top : top + cell_height, left : left + width] = cell
    return sheet


def split_view(frames: Mapping[str, Image], sharp: str | None = 'sharp') -> Image:
    """Show one frame of which each source fills a vertical part, under its name.

    Args:
        frames: Name -> (H, W, 3), RGB, uint8 or uint16; at most W of them.
        sharp: As for `side_by_side`.

    Returns:
        (L + H, W, 3) uint8 RGB with white lines between the parts; see `side_by_side` for L.
    """
    height, width = next(iter(frames.values())).shape[:2]
    texts = labels(frames, sharp)
    edges = [round(width * number / len(frames)) for number in range(len(frames) + 1)]
    parts = [
        np.concatenate([text_strip(texts[name], right - left, height), to_8_bit(frame[:, left:right])])
        for (name, frame), left, right in zip(frames.items(), edges[:-1], edges[1:], strict=True)
    ]
    sheet = np.concatenate(parts, axis=1)
    line = max(2, round(height / 240))
    for edge in edges[1:-1]:
        sheet[-height:, edge - line // 2 : edge - line // 2 + line] = 255
    return sheet


def _run(args: argparse.Namespace) -> None:
    output = args.output
    if output is None:
        if not args.opt:
            raise OptionsError('No output file. Give its name with -o.')
        dataset, results, _ = options_of_test(args.opt, args.dataset)
        output = results / f'compare_{dataset["name"]}.png'
    check_output(output, args.overwrite, PICTURES)
    if args.columns is not None and args.columns < 1:
        raise OptionsError(f'--columns is {args.columns}; it must be 1 or more.')
    footage = footage_of(args)
    names = [track.name for track in footage.tracks]
    sharp = sharp_of(names, args.sharp)
    frame = footage.choose_frame(args.frame)
    width = footage.tracks[0].shape(frame)[1]
    if len(names) < 2:
        raise OptionsError(f'Only one source, {names[0]}: a comparison needs two or more.')
    if args.mode == 'split' and width < len(names):
        raise OptionsError(f'{width} columns of pixels cannot be split among {len(names)} sources. Use --mode side.')
    frames = footage.read(frame)
    image = split_view(frames, sharp) if args.mode == 'split' else side_by_side(frames, sharp, args.columns)
    save_picture(image, output)
    print(f'Before and after, frame {footage.title(frame)}: {output}')

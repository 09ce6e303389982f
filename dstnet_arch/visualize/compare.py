"""One frame of several sources, side by side or split (compare Figures 4 to 8)."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping

import numpy as np

from dstnet_arch.errors import OptionsError
from dstnet_arch.visualize.figures import (
    PICTURES,
    SHARP,
    Image,
    add_output_arguments,
    check_output,
    labelled,
    save_picture,
    score,
)
from dstnet_arch.visualize.sources import add_source_arguments, open_footage

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
_WHITE = 255
_MAX_ROW = 3  # more frames are arranged in a square


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet visualize compare``."""
    add_source_arguments(parser)
    parser.add_argument(
        '--mode', choices=('side', 'split'), default='side', help='show full frames, or a part of each in one frame'
    )
    add_output_arguments(parser, 'compare.png', PICTURES)
    parser.set_defaults(run=_run)


def side_by_side(frames: Mapping[str, Image]) -> Image:
    """Put frames of the same size next to each other under their names, and their PSNR if one is called 'sharp'.

    Args:
        frames: Name -> (H, W, 3), RGB, uint8 or uint16.

    Returns:
        (L + H, n * W + (n - 1) * 8, 3) uint8 RGB for a row of n frames, with labels of the height L = max(32, H / 16).
    """
    columns = len(frames) if len(frames) <= _MAX_ROW else math.ceil(len(frames) ** 0.5)
    gap = ((0, _GAP), (0, _GAP), (0, 0))
    cells = [np.pad(labelled(frames[name], text), gap, constant_values=_WHITE) for name, text in _texts(frames)]
    cells += [np.full_like(cells[0], _WHITE)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[start : start + columns], axis=1) for start in range(0, len(cells), columns)]
    return np.concatenate(rows)[:-_GAP, :-_GAP]


def split_view(frames: Mapping[str, Image]) -> Image:
    """Show one frame of which each source fills a vertical part, under its name.

    Args:
        frames: As for `side_by_side`; at most W of them.

    Returns:
        (L + H, W, 3) uint8 RGB with white lines between the parts; see `side_by_side` for L.
    """
    height, width = next(iter(frames.values())).shape[:2]
    edges = [round(width * number / len(frames)) for number in range(len(frames) + 1)]
    parts = [
        labelled(frames[name][:, left:right], text)
        for (name, text), left, right in zip(_texts(frames), edges[:-1], edges[1:], strict=True)
    ]
    sheet = np.concatenate(parts, axis=1)
    line = max(2, round(height / 240))
    for edge in edges[1:-1]:
        sheet[:, edge - line // 2 : edge - line // 2 + line] = _WHITE
    return sheet


def _texts(frames: Mapping[str, Image]) -> list[tuple[str, str]]:
    """Label of each frame: its name and, if there is ground truth, the PSNR to it."""
    sharp = frames.get(SHARP)
    return [
        (name, name if sharp is None or name == SHARP else f'{name}  {score(frame, sharp):.2f} dB')
        for name, frame in frames.items()
    ]


def _run(args: argparse.Namespace) -> None:
    check_output(args.output, args.overwrite, PICTURES)
    footage = open_footage(args)
    if len(footage.tracks) < 2:
        raise OptionsError('A comparison needs two or more sources.')
    frame = footage.choose_frame(args.frame)
    frames = footage.read(frame)
    save_picture(split_view(frames) if args.mode == 'split' else side_by_side(frames), args.output)
    print(f'Before and after, frame {footage.title(frame)}: {args.output}')

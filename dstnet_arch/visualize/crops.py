"""Marked crops of a frame side by side, with the scores of the whole frame, as in Figures 4 to 8."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dstnet_arch.errors import OptionsError
from dstnet_arch.metrics.psnr import psnr
from dstnet_arch.visualize.canvas import (
    COLORS,
    GAP,
    Image,
    Lettering,
    add_font_argument,
    beside,
    border,
    enlarge,
    grid,
    line_width,
    mark_box,
    pad,
    resize,
    stack,
)
from dstnet_arch.visualize.compare import score_text, sharp_of
from dstnet_arch.visualize.output import add_output_arguments, check_picture, save_picture
from dstnet_arch.visualize.sources import SHARP_NAMES, add_frame_argument, add_source_arguments, footage_of

HELP = 'show marked crops of one frame side by side, with scores (Figures 4 to 8)'
EXAMPLES = """\
The scores are those of the whole frame, not of the crops.

examples:
  dstnet visualize crops -opt options/test_DSTNet_GoPro.yml --frame GOPR0384_11_00/000101 \\
      --crop 400,200,160,120 --crop 900,60,160,120 -o crops.png
  dstnet visualize crops --crop 400,200,160,120 blurry=datasets/GoPro/test_blur.lmdb \\
      DSTNet=results/NAME/visualization/GoPro sharp=datasets/GoPro/test_sharp.lmdb -o crops.png"""


class Crop(NamedTuple):
    """An area of the frame, in pixels from its upper left corner."""

    left: int
    top: int
    width: int
    height: int

    def __str__(self) -> str:
        return ','.join(map(str, self))

    def of(self, image: Image) -> Image:
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet visualize crops``."""
    add_source_arguments(parser)
    add_frame_argument(parser)
    parser.add_argument(
        '--crop',
        dest='crops',
        action='append',
        type=_crop,
        metavar='X,Y,W,H',
        help='left edge, upper edge, width and height in pixels; may be repeated; by default the place where the '
        'sources differ most',
    )
    parser.add_argument('--zoom', type=int, metavar='N', help='enlarge the crops so many times; by default what fits')
    parser.add_argument(
        '--filter', choices=('nearest', 'lanczos'), default='nearest', help='show the pixels, or interpolate'
    )
    parser.add_argument('--columns', type=int, metavar='N', help='sources in a row; by default all where they are few')
    parser.add_argument('--whole', metavar='NAME', help='the source whose whole frame is shown; by default the first')
    parser.add_argument(
        '--sharp',
        metavar='NAME',
        help=f'the ground truth, for the scores; by default that called {", ".join(SHARP_NAMES)}',
    )
    add_font_argument(parser)
    add_output_arguments(parser, '.png or .jpg')
    parser.set_defaults(run=_run)


def frame_scores(frames: Mapping[str, Image], sharp: str) -> dict[str, tuple[float, float]]:
    """PSNR in dB and SSIM-3D of each whole frame (H, W, 3), uint8 RGB, but the sharp one, to the sharp one."""
    from dstnet_arch.metrics.ssim3d import calculate_ssim3d  # only here: it needs PyTorch

    return {
        name: (psnr(frame, frames[sharp]), calculate_ssim3d(frame, frames[sharp]))
        for name, frame in frames.items()
        if name != sharp
    }


def find_crop(frames: Sequence[Image], height: int, width: int) -> Crop:
    """The area of this size where frames differ most, measured by the sum of squares over all pairs.

    Where there is but one frame, or all are the same, it is the area with the strongest edges.
    """
    energy = np.zeros(frames[0].shape[:2])
    for a, b in combinations(frames, 2):
        energy += np.square(np.subtract(a, b, dtype=np.float64)).sum(2)
    if not energy.any():
        energy = np.square(cv2.Laplacian(frames[0].astype(np.float64), cv2.CV_64F)).sum(2)
    sums = np.pad(energy.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    areas = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = np.unravel_index(areas.argmax(), areas.shape)
    return Crop(int(left), int(top), width, height)


def crops_sheet(
    frames: Mapping[str, Image],
    crops: Sequence[Crop],
    *,
    whole: str | None = None,
    captions: Mapping[str, str] | None = None,
    title: str = '',
    zoom: int | None = None,
    smooth: bool = False,
    columns: int | None = None,
    font: Path | None = None,
) -> Image:
    """A frame with coloured rectangles at the left; at the right, for each source, these areas enlarged.

    Args:
        frames: name -> (H, W, 3) uint8 RGB, of one size.
        crops: areas inside of it.
        whole: the source whose frame is shown whole, as high as the crops beside it but not more than twice or less
            than half its size; by default the first.
        captions: name -> text below the crops of this source; by default the names.
        title: text below the frame.
        zoom: how many times to enlarge the crops; by default so that they make a block about as large as the frame.
        smooth: enlarge by Lanczos' filter; by default each pixel becomes a square.
        columns: sources in a row; by default all where they are up to four, else half of them.
        font: a TrueType file, see `Lettering`.
    """
    first = whole or next(iter(frames))
    height, width = frames[first].shape[:2]
    captions = {name: name for name in frames} | dict(captions or {})
    columns = min(len(frames), columns or (len(frames) if len(frames) <= 4 else (len(frames) + 1) // 2))
    rows = -(-len(frames) // columns)
    lettering = Lettering.beside(height, font)
    line = line_width(height)
    text_height = max(map(lettering.height, (title, *captions.values())))
    if zoom is None:
        zoom = _fitting_zoom(frames[first].shape[:2], crops, rows, columns, text_height)

    cell_width = max(crop.width for crop in crops) * zoom + 2 * line
    cells = []
    for name, frame in frames.items():
        parts = [
            border(enlarge(crop.of(frame), zoom, smooth), line, COLORS[number % len(COLORS)])
            for number, crop in enumerate(crops)
        ]
        cell = stack(parts, GAP // 2)
        caption = lettering.strip(captions[name], cell_width)
        cells.append(stack([pad(cell, cell.shape[0], cell_width), pad(caption, text_height, cell_width)]))
    block = grid(cells, columns)

    shown = block.shape[0] - text_height
    scale = min(2.0, max(0.5, shown / height))
    overview = resize(frames[first], max(1, round(height * scale)), max(1, round(width * scale)))
    for number, crop in enumerate(crops):
        left, top = round(crop.left * scale), round(crop.top * scale)
        right, bottom = round((crop.left + crop.width) * scale), round((crop.top + crop.height) * scale)
        overview = mark_box(overview, left, top, right - left, bottom - top, COLORS[number % len(COLORS)], line)
    text = lettering.strip(title, overview.shape[1])
    return beside([stack([overview, pad(text, text_height, overview.shape[1])]), block], 2 * GAP)


def _fitting_zoom(frame: tuple[int, ...], crops: Sequence[Crop], rows: int, columns: int, text_height: int) -> int:
    """The largest with which the block of crops is at most as high as the frame, and half as wide again."""
    height, width = max(frame[0], 480), 1.5 * max(frame[1], 854)
    by_height = (height / rows - text_height) / sum(crop.height for crop in crops)
    by_width = width / columns / max(crop.width for crop in crops)
    return max(1, int(min(by_height, by_width)))


def _crop(text: str) -> Crop:
    if not re.fullmatch(r'\d+(,\d+){3}', text):
        raise argparse.ArgumentTypeError(f'{text!r} is no area: give LEFT,TOP,WIDTH,HEIGHT, e.g. 400,200,160,120')
    return Crop(*map(int, text.split(',')))


def _check(crops: Sequence[Crop], height: int, width: int) -> None:
    for crop in crops:
        inside = crop.left + crop.width <= width and crop.top + crop.height <= height
        if not inside or min(crop.width, crop.height) < 1:
            raise OptionsError(
                f'--crop {crop} is {"empty" if inside else "not inside the frames"}, which are {width}x{height}: '
                f'LEFT + WIDTH can be {width} at most, TOP + HEIGHT {height}, and WIDTH and HEIGHT 1 at least.'
            )


def _run(args: argparse.Namespace) -> None:
    check_picture(args.output, args.overwrite)
    for option in ('zoom', 'columns'):
        if (value := getattr(args, option)) is not None and value < 1:
            raise OptionsError(f'--{option} is {value}; it can be 1 or more.')
    footage = footage_of(args)
    frame = footage.choose_frame(args.frame)
    sharp = sharp_of(footage.names, args.sharp)
    whole = args.whole or footage.names[0]
    if whole not in footage.names:
        raise OptionsError(f'--whole {whole} is no source; they are {", ".join(footage.names)}.')
    height, width = footage.tracks[0].shape(frame)
    _check(args.crops or [], height, width)

    images = footage.read(frame)
    crops = args.crops or [find_crop(list(images.values()), max(1, height // 6), max(1, width // 6))]
    title = f'{footage.title(frame)} ({whole})'
    captions = {}
    print(f'Frame {footage.title(frame)}, crops {" ".join(map(str, crops))}')
    if sharp is not None:
        title += '\nPSNR (dB) / SSIM-3D of the whole frame'
        captions[sharp] = f'{sharp}\nPSNR / SSIM-3D'
        for name, (decibels, ssim) in frame_scores(images, sharp).items():
            scores = f'{score_text(decibels)} / {ssim:.4f}'
            captions[name] = f'{name}\n{scores}'
            print(f'  {name}: PSNR (dB) / SSIM-3D of the whole frame: {scores}')
    sheet = crops_sheet(
        images,
        crops,
        whole=whole,
        captions=captions,
        title=title,
        zoom=args.zoom,
        smooth=args.filter == 'lanczos',
        columns=args.columns,
        font=args.font,
    )
    save_picture(sheet, args.output, args.overwrite)
    print(f'Crops: {args.output}')

"""Marked crops of one frame of several sources, with the scores of the full frame (compare Figures 4 to 8)."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from dstnet_arch.data.image_file import to_8_bit
from dstnet_arch.errors import OptionsError
from dstnet_arch.visualize.figures import (
    COLORS,
    SHARP,
    Image,
    add_output_arguments,
    check_output,
    save_figure,
    score,
)
from dstnet_arch.visualize.sources import add_source_arguments, open_footage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HELP = 'show marked crops of one frame side by side, with scores (Figures 4 to 8)'
EXAMPLES = """\
The scores are those of the full frame, not of the crops.

examples:
  dstnet visualize crops -opt options/test_DSTNet_GoPro.yml --frame GOPR0384_11_00/000101 \\
      --crop 400,200,160,120 --crop 900,60,160,120 -o crops.png
  dstnet visualize crops --crop 400,200,160,120 blurry=datasets/GoPro/test_blur.lmdb \\
      DSTNet=results/NAME/visualization/GoPro sharp=datasets/GoPro/test_sharp.lmdb -o crops.pdf"""


_MAX_ROW = 4  # more sources are arranged in two rows


class Crop(NamedTuple):
    """An area of a frame, in pixels from its upper left corner."""

    left: int
    top: int
    width: int
    height: int

    def of(self, image: Image) -> Image:
        """Return this area of an image."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet visualize crops``."""
    add_source_arguments(parser)
    parser.add_argument(
        '--crop',
        dest='crops',
        action='append',
        type=_crop,
        metavar='X,Y,W,H',
        help='left, top, width and height in pixels; may be repeated (default: where the sources differ most)',
    )
    add_output_arguments(parser, 'crops.png')
    parser.set_defaults(run=_run)


def find_crop(frames: Sequence[Image], height: int, width: int) -> Crop:
    """Return the area of this size where frames differ most (sum of squared differences over all pairs).

    If all frames are equal, it is the area with the strongest edges.
    """
    energy = np.zeros(frames[0].shape[:2])
    for a, b in combinations(frames, 2):
        energy += np.square(np.subtract(a, b, dtype=np.float64)).sum(2)
    if not energy.any():
        energy = np.square(cv2.Laplacian(frames[0].astype(np.float64), cv2.CV_64F)).sum(2)
    sums = cv2.boxFilter(energy, cv2.CV_64F, (width, height), anchor=(0, 0), normalize=False)
    areas = sums[: len(sums) - height + 1, : sums.shape[1] - width + 1]
    top, left = np.unravel_index(areas.argmax(), areas.shape)
    return Crop(int(left), int(top), width, height)


def crops_figure(frames: Mapping[str, Image], crops: Sequence[Crop], captions: Mapping[str, str], title: str) -> Figure:
    """Draw the first frame with coloured rectangles on the left, and these areas of each source on the right.

    Args:
        frames: Name -> (H, W, 3), RGB, uint8 or uint16, all of the same size.
        crops: Areas of the frame.
        captions: Name -> text below the crops of this source.
        title: Text below the frame.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns = len(frames) if len(frames) <= _MAX_ROW else (len(frames) + 1) // 2
    rows = -(-len(frames) // columns)
    frame = next(iter(frames.values()))
    height, width = frame.shape[:2]

    size = 4.8  # height of the frame in inches
    wide = size * width / height
    # Width of the crops if all crops of a column have the height of the frame.
    narrow = size / rows / sum(crop.height / max(crop.width for crop in crops) for crop in crops)
    dpi = max(150, -(-height // size))
    figure = Figure((wide + columns * narrow, size + 0.4 * (rows + 1)), dpi=dpi, layout='constrained')
    grid = figure.add_gridspec(rows * len(crops), columns + 1, width_ratios=[wide, *[narrow] * columns])

    def draw(place: Any, image: Image, text: str) -> Any:
        axes = figure.add_subplot(place)
        axes.imshow(to_8_bit(image), interpolation='nearest')
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(text)
        return axes

    overview = draw(grid[:, 0], frame, title)
    for number, crop in enumerate(crops):
        color = COLORS[number % len(COLORS)]
        corner = (crop.left - 0.5, crop.top - 0.5)
        overview.add_patch(Rectangle(corner, crop.width, crop.height, fill=False, color=color, linewidth=2))
        for index, (name, image) in enumerate(frames.items()):
            place = grid[index // columns * len(crops) + number, 1 + index % columns]
            axes = draw(place, crop.of(image), captions[name] if number == len(crops) - 1 else '')
            axes.spines[:].set(color=color, linewidth=2)
    return figure


def _crop(text: str) -> Crop:
    if not re.fullmatch(r'\d+(,\d+){3}', text):
        raise argparse.ArgumentTypeError(f'{text!r} is not an area; write LEFT,TOP,WIDTH,HEIGHT, e.g. 400,200,160,120')
    return Crop(*map(int, text.split(',')))


def _run(args: argparse.Namespace) -> None:
    from dstnet_arch.metrics.ssim3d import calculate_ssim3d

    check_output(args.output, args.overwrite)
    footage = open_footage(args)
    frame = footage.choose_frame(args.frame)
    height, width = footage.tracks[0].shape(frame)
    for crop in args.crops or []:
        if crop.left + crop.width > width or crop.top + crop.height > height or min(crop.width, crop.height) < 1:
            raise OptionsError(f'--crop {",".join(map(str, crop))} is empty or exceeds the frames of {width}x{height}.')

    images = footage.read(frame)
    crops = args.crops or [
        find_crop([to_8_bit(image) for image in images.values()], max(1, height // 6), max(1, width // 6))
    ]
    print(f'Frame {footage.title(frame)}, crops {" ".join(",".join(map(str, crop)) for crop in crops)}')
    title = f'{footage.title(frame)} ({footage.tracks[0].name})'
    captions = {name: name for name in images}
    if SHARP in images:
        title += '\nPSNR (dB) / SSIM-3D of the full frame'
        sharp = images[SHARP]
        for name in [name for name in images if name != SHARP]:
            ssim = calculate_ssim3d(to_8_bit(images[name]), to_8_bit(sharp))
            captions[name] = f'{name}\n{score(images[name], sharp):.2f} / {ssim:.4f}'
        print('PSNR (dB) / SSIM-3D of the full frame:')
        for caption in captions.values():
            print('  ' + caption.replace('\n', ': '))
    save_figure(crops_figure(images, crops, captions, title), args.output)
    print(f'Crops: {args.output}')

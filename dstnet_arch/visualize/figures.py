"""The figures, drawn with matplotlib, which is imported when a figure is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dstnet_arch.data.image_file import to_8_bit
from dstnet_arch.metrics.psnr import psnr
from dstnet_arch.metrics.ssim import calculate_ssim3d

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Image = NDArray[Any]
"""(H, W, 3), RGB, uint8 or uint16."""

SHARP = 'sharp'
"""Name of the source that is the ground truth of scores."""
COLORS = ('#f0e442', '#56b4e9', '#d55e00', '#009e73', '#cc79a7', '#e69f00')
"""Distinguishable with colour vision deficiency (Okabe and Ito)."""
GAP = 8
"""Pixels between the frames of `compare_figure`."""


Crop = tuple[int, int, int, int]
"""An area of a frame: left, top, width and height in pixels."""


def scores(frames: Mapping[str, Image]) -> dict[str, str]:
    """Return the captions of frames: the name and, if there is ground truth, PSNR in dB and SSIM-3D."""
    captions = {name: name for name in frames}
    for name in captions.keys() - {SHARP} if SHARP in frames else ():
        image, sharp = frames[name], frames[SHARP]
        ssim = calculate_ssim3d(to_8_bit(image), to_8_bit(sharp))
        if image.dtype != sharp.dtype:
            image, sharp = (x if x.dtype == np.uint16 else x.astype(np.uint16) * 257 for x in (image, sharp))
        captions[name] = f'{name}: {psnr(image, sharp):.2f} dB, {ssim:.4f}'
    return captions


def compare_figure(frames: Mapping[str, Image], split: bool = False) -> Figure:
    """Show frames under their captions, pixel by pixel if saved as PNG.

    Args:
        frames: Name -> (H, W, 3), RGB, uint8 or uint16, n of the same size.
        split: Show one frame of which each source fills a vertical part, instead of all frames side by side.

    Returns:
        A figure of L + H rows, where L = max(32, H / 16) is the height of the captions, and W columns if `split`,
        else n * W + (n - 1) * `GAP`.
    """
    from matplotlib.figure import Figure

    count = len(frames)
    height, width = next(iter(frames.values())).shape[:2]
    strip = max(32, height // 16)
    edges = [round(width * number / count) for number in range(count + 1)]
    total = width if split else count * (width + GAP) - GAP
    figure = Figure(((total + 0.01) / 100, (strip + height + 0.01) / 100), dpi=100)  # matplotlib rounds down
    captions = scores(frames)
    # In points; the longest caption stays above its frame.
    size = 0.72 * min(strip / 2, 1.5 * (edges[1] if split else width) / max(map(len, captions.values())))
    for number, (name, caption) in enumerate(captions.items()):
        if split:
            left = edges[number] + (2 if number else 0)  # a white line between the parts
            part = frames[name][:, left : edges[number + 1]]
        else:
            left, part = number * (width + GAP), frames[name]
        figure.figimage(to_8_bit(part), left, 0)
        figure.text((left + 2) / total, 1 - strip / 2 / (strip + height), caption, va='center', fontsize=size)
    return figure


def find_crop(frames: Sequence[Image], width: int, height: int) -> Crop:
    """Return the area of this size in which frames differ most (variance over the frames, summed over the area)."""
    energy = np.var([to_8_bit(frame) for frame in frames], axis=0).sum(2)
    sums = cv2.boxFilter(energy, cv2.CV_64F, (width, height), anchor=(0, 0), normalize=False)
    areas = sums[: len(sums) - height + 1, : sums.shape[1] - width + 1]
    top, left = np.unravel_index(areas.argmax(), areas.shape)
    return int(left), int(top), width, height


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

    rows = 1 if len(frames) <= 4 else 2
    columns = -(-len(frames) // rows)
    frame = next(iter(frames.values()))
    height, width = frame.shape[:2]
    size = 4.8  # height of the frame in inches
    wide = size * width / height
    # Width of the crops if all crops of a column have the height of the frame.
    narrow = size / rows / sum(height / max(width for _, _, width, _ in crops) for _, _, _, height in crops)
    dpi = max(150, -(-height // size))
    figure = Figure((wide + columns * narrow, size + 0.4 * (rows + 1)), dpi=dpi, layout='constrained')
    grid = figure.add_gridspec(rows * len(crops), columns + 1, width_ratios=[wide, *[narrow] * columns])

    def draw(place: Any, image: Image, text: str) -> Any:
        axes = figure.add_subplot(place, xticks=[], yticks=[], xlabel=text)
        axes.imshow(to_8_bit(image), interpolation='nearest')
        return axes

    overview = draw(grid[:, 0], frame, title)
    for number, (left, top, crop_width, crop_height) in enumerate(crops):
        color = COLORS[number % len(COLORS)]
        mark = Rectangle((left - 0.5, top - 0.5), crop_width, crop_height, fill=False, color=color, linewidth=2)
        overview.add_patch(mark)
        for index, (name, image) in enumerate(frames.items()):
            row, column = divmod(index, columns)
            text = captions[name] if number == len(crops) - 1 else ''
            area = image[top : top + crop_height, left : left + crop_width]
            axes = draw(grid[row * len(crops) + number, 1 + column], area, text)
            axes.spines[:].set(color=color, linewidth=2)
    return figure


def temporal_profile(frames: Iterable[Image], column: int) -> Image:
    """Collect one column of T frames of (H, W, 3), which are consumed one by one: (H, T, 3)."""
    return np.stack([frame[:, column].copy() for frame in frames], axis=1)  # a view would keep the complete frame


def profile_figure(frame: Image, column: int, profiles: Mapping[str, Image], title: str) -> Figure:
    """Draw a frame with the column marked, and the profiles under their names.

    Args:
        frame: (H, W, 3), RGB, uint8 or uint16.
        column: Pixels from the left.
        profiles: Name -> result of `temporal_profile`.
        title: Title of the frame.
    """
    from matplotlib.figure import Figure

    height, width = frame.shape[:2]
    count = len(profiles)
    figure = Figure((10 * width / height, 5.6), dpi=150, layout='constrained')
    axes = figure.subplots(1, count + 1, squeeze=False, width_ratios=[count, *[1] * count])[0]
    axes[0].axvline(column, color=COLORS[0], linestyle=':')
    axes[-1].set_xlabel('time')
    axes[0].imshow(to_8_bit(frame))
    for axis, profile in zip(axes[1:], profiles.values(), strict=True):
        axis.imshow(to_8_bit(profile), aspect='auto', interpolation='nearest')
        axis.set_box_aspect(count * height / width)  # as high as the frame
    for axis, text in zip(axes, [title, *profiles], strict=True):
        axis.set(title=text, xticks=[], yticks=[])
    return figure

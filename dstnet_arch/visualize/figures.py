"""Images, labels and output files shared by all figures. matplotlib is imported when a figure is made."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dstnet_arch.data.image_file import to_8_bit
from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.files import atomic_file
from dstnet_arch.metrics.psnr import psnr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Image = NDArray[Any]
"""(H, W, 3), RGB, uint8 or uint16."""

SHARP = 'sharp'
"""Name of the source that is the ground truth of scores."""
PICTURES = ('.png', '.jpg', '.jpeg')
DRAWINGS = (*PICTURES, '.pdf', '.svg')
COLORS = ('#f0e442', '#56b4e9', '#d55e00', '#009e73', '#cc79a7', '#e69f00')
"""Distinguishable with colour vision deficiency (Okabe and Ito)."""


def add_output_arguments(parser: argparse.ArgumentParser, default: str, kinds: tuple[str, ...] = DRAWINGS) -> None:
    """Define -o, for files of these extensions, and --overwrite."""
    parser.add_argument(
        '-o',
        '--output',
        type=Path,
        default=Path(default),
        metavar='FILE',
        help=f'{", ".join(kinds)} (default: {default})',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file')


def check_output(path: Path, overwrite: bool, kinds: tuple[str, ...] = DRAWINGS) -> None:
    """Check an output file before the work.

    Raises:
        OptionsError: the extension is not one of `kinds`, or the file exists.
    """
    if path.suffix.lower() not in kinds:
        raise OptionsError(f'-o {path}: unsupported file type. Use one of {", ".join(kinds)}.')
    if path.exists() and (path.is_dir() or not overwrite):
        raise OptionsError(f'{path} exists. Give another name with -o, or replace the file with --overwrite.')


def save_picture(image: Image, path: Path) -> None:
    """Write an image as PNG or JPEG, atomically; missing folders are created.

    Raises:
        DataError: the file cannot be written.
    """
    from PIL import Image as Pillow

    kind = 'PNG' if path.suffix.lower() == '.png' else 'JPEG'
    _save(path, lambda file: Pillow.fromarray(image).save(file, kind, quality=95))


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its extension, atomically; missing folders are created.

    Raises:
        DataError: the file cannot be written.
    """
    _save(path, lambda file: figure.savefig(file, format=path.suffix[1:].lower()))


def _save(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            write(file)
    except OSError as error:
        raise DataError(f'{path} cannot be written: {error.strerror or error}.') from None


def labelled(image: Image, text: str) -> Image:
    """Put a line of text above an image, smaller or cut off if it is too long.

    Args:
        image: (H, W, 3), RGB, uint8 or uint16.
        text: The text.

    Returns:
        (max(32, H / 16) + H, W, 3), uint8.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw

    width, height = image.shape[1], max(32, image.shape[0] // 16)
    size = height * 4 // 9
    size = max(9, min(size, int(size * (width - 4) / max(1, _font(size).getlength(text)))))
    strip = Pillow.new('RGB', (width, height), 'white')
    ImageDraw.Draw(strip).text((2, height / 2), text, fill='black', font=_font(size), anchor='lm')
    return np.concatenate([np.asarray(strip), to_8_bit(image)])


@cache
def _font(size: int) -> Any:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')), size)


def score(image: Image, target: Image) -> float:
    """Return the PSNR in dB of two images, which may have different bit depths."""
    if image.dtype != target.dtype:
        image, target = (x if x.dtype == np.uint16 else x.astype(np.uint16) * 257 for x in (image, target))
    return psnr(image, target)

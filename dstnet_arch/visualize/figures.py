"""Images, labels and output files shared by all figures. matplotlib is imported when a figure is made."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
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

PICTURES = ('.png', '.jpg', '.jpeg')
DRAWINGS = (*PICTURES, '.pdf', '.svg')
COLORS = ('#f0e442', '#56b4e9', '#d55e00', '#009e73', '#cc79a7', '#e69f00')
"""Distinguishable with colour vision deficiency (Okabe and Ito)."""


def add_output_arguments(parser: argparse.ArgumentParser, help: str, required: bool = True) -> None:
    """Define -o and --overwrite."""
    parser.add_argument('-o', '--output', type=Path, metavar='FILE', required=required, help=help)
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file')


def check_output(path: Path, overwrite: bool, kinds: tuple[str, ...] = DRAWINGS) -> None:
    """Check an output file before the work.

    Raises:
        OptionsError: the extension is not one of `kinds`, the file exists, or it is a folder.
    """
    if path.suffix.lower() not in kinds:
        raise OptionsError(f'-o {path}: unsupported file type. Use one of {", ".join(kinds)}.')
    if path.is_dir():
        raise OptionsError(f'-o {path} is a folder. Give the name of a file.')
    if path.exists() and not overwrite:
        raise OptionsError(f'{path} exists. Give another name with -o, or replace it with --overwrite.')


def save_picture(image: Image, path: Path) -> None:
    """Write an image as PNG or JPEG, atomically; missing folders are created.

    Raises:
        DataError: the file cannot be written.
    """
    from PIL import Image as Pillow

    kind = 'PNG' if path.suffix.lower() == '.png' else 'JPEG'
    _save(path, lambda file: Pillow.fromarray(to_8_bit(image)).save(file, kind, quality=95))


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


def text_strip(text: str, width: int, frame_height: int) -> Image:
    """Draw black text on a white strip, centred, with a size in proportion to the frame.

    Args:
        text: One line. It is made smaller if it is too long, down to 9 pixels, and then cut off.
        width: Width of the strip in pixels.
        frame_height: Height in pixels of the frame below the strip.

    Returns:
        (max(32, frame_height / 16), width, 3).
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw

    height = max(32, frame_height // 16)
    size = height * 4 // 9
    length = _font(size).getlength(text)
    if length > width - 4:
        size = max(9, int(size * (width - 4) / length))
    strip = Pillow.new('RGB', (width, height), 'white')
    position = (max(width / 2, _font(size).getlength(text) / 2 + 2), height / 2)
    ImageDraw.Draw(strip).text(position, text, fill='black', font=_font(size), anchor='mm')
    return np.array(strip)


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


def labels(frames: Mapping[str, Image], sharp: str | None) -> dict[str, str]:
    """Return a label for each frame: its name and, if there is a frame called `sharp`, the PSNR to it."""
    target = frames.get(sharp or '')
    return {
        name: name if target is None or name == sharp else f'{name}  {score(frame, target):.2f} dB'
        for name, frame in frames.items()
    }

"""Text, marks and layout: what pictures are put together from. All pictures are (H, W, 3) uint8 RGB."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from dstnet_arch.errors import OptionsError

Image = NDArray[np.uint8]
"""(H, W, 3), RGB."""

Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

WHITE: Color = (255, 255, 255)
BLACK: Color = (0, 0, 0)

# Told apart by people who see colours differently, too (Okabe and Ito), and bright enough for dark frames.
COLORS: Sequence[Color] = ((240, 228, 66), (86, 180, 233), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0))

GAP = 8  # pixels between the parts of a picture
_SMALLEST_TEXT = 9


@dataclass(frozen=True)
class Lettering:
    """Black text on white strips.

    Attributes:
        size: of the text, in pixels.
        font: a TrueType or OpenType file; by default the font in Pillow, which has the characters of English.
    """

    size: int
    font: Path | None = None

    @classmethod
    def beside(cls, frame_height: int, font: Path | None = None) -> Lettering:
        """Text in proportion to frames of this height, and never too small to read."""
        return cls(max(14, frame_height // 36), font)

    def height(self, text: str = '') -> int:
        """Pixels that a strip with this text takes; for one line, 2.25 sizes."""
        return round(2.25 * self.size) + text.count('\n') * self._line_step

    @property
    def _line_step(self) -> int:
        return round(1.4 * self.size)

    def strip(self, text: str, width: int) -> Image:
        """Lines of text, centred: (height(text), width, 3).

        A line that is too long is made smaller, down to 9 pixels, and then cut off.

        Raises:
            OptionsError: the font cannot be read, or lacks a character.
        """
        strip = Pillow.new('RGB', (width, self.height(text)), WHITE)
        draw = ImageDraw.Draw(strip)
        for number, line in enumerate(text.split('\n')):
            fitting, font = self._fit(line, max(0, width - 4))
            center = (width / 2, self.height() / 2 + number * self._line_step)
            draw.text(center, fitting, fill=BLACK, font=font, anchor='mm')
        return np.array(strip)

    def _fit(self, line: str, width: int) -> tuple[str, Font]:
        _check_characters(line, self.font)
        font = _load(self.size, self.font)
        if (length := font.getlength(line)) > width:
            font = _load(max(_SMALLEST_TEXT, int(self.size * width / length)), self.font)
        if font.getlength(line) > width:
            kept = len(line)
            while kept and font.getlength(line[:kept] + '…') > width:
                kept -= 1
            line = line[:kept] + '…' if kept else ''
        return line, font


@cache
def _load(size: int, file: Path | None) -> Font:
    if file is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(str(file), size)
    except OSError as error:
        raise OptionsError(f'The font {file} cannot be read: {error}. Give a .ttf, .otf or .ttc file.') from None


@cache
def _has(letter: str, file: Path | None) -> bool:
    font = _load(20, file)
    drawn, missing = (bytes(font.getmask(text)) for text in (letter, '\uffff'))  # no font has the latter
    return drawn != missing


def _check_characters(text: str, file: Path | None) -> None:
    if lacking := sorted({letter for letter in text if not _has(letter, file)}):
        raise OptionsError(
            f'{file or "The built-in font"} has no {" ".join(lacking)}, which {text!r} needs. '
            'Give a font that has, with --font FILE, or choose other names.'
        )


def add_font_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--font', type=Path, metavar='FILE', help='TrueType font, for text that the built-in one cannot write'
    )


def enlarge(image: Image, factor: int, smooth: bool = False) -> Image:
    """Enlarge by a whole factor: every pixel a square of its own, or Lanczos interpolation where `smooth`."""
    if smooth:
        height, width = image.shape[:2]
        return resize(image, height * factor, width * factor)
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def resize(image: Image, height: int, width: int) -> Image:
    """Resample with Lanczos' filter, without aliasing where pixels get fewer."""
    return np.array(Pillow.fromarray(image).resize((width, height), Pillow.Resampling.LANCZOS))


def pad(image: Image, height: int, width: int, top: int = 0, left: int = 0, color: Color = WHITE) -> Image:
    """Put the image on a sheet of this size, at this place."""
    sheet = np.empty((height, width, 3), np.uint8)
    sheet[:] = color
    sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def border(image: Image, width: int, color: Color) -> Image:
    """Surround the image with a line of this width."""
    return pad(image, image.shape[0] + 2 * width, image.shape[1] + 2 * width, width, width, color)


def beside(images: Iterable[Image], gap: int = GAP) -> Image:
    """Put images next to each other on white, their upper edges in a line."""
    return stack([image.transpose(1, 0, 2) for image in images], gap).transpose(1, 0, 2)


def stack(images: Iterable[Image], gap: int = 0) -> Image:
    """Put images below each other on white, their left edges in a line."""
    images = list(images)
    width = max(image.shape[1] for image in images)
    spacer = pad(np.empty((0, 0, 3), np.uint8), gap, width)
    parts = [part for image in images for part in (spacer, pad(image, image.shape[0], width))]
    return np.concatenate(parts[1:])


def grid(images: Sequence[Image], columns: int) -> Image:
    """Put images of one size in rows of `columns`."""
    return stack([beside(images[start : start + columns]) for start in range(0, len(images), columns)], GAP)


def line_width(frame_height: int) -> int:
    """Of marks on a frame: pixels that are seen, in proportion to it."""
    return max(2, round(frame_height / 240))


def mark_line(image: Image, position: int, along: int) -> Image:
    """A copy with a dotted line on column `position` (`along` 0) or row `position` (`along` 1).

    The dots are bright and dark by turns, so that they are seen on any ground.
    """
    marked = image.copy()
    view = marked if along == 0 else marked.transpose(1, 0, 2)
    width = line_width(min(image.shape[:2]))
    first = max(0, position - (width - 1) // 2)
    dot = 2 * width
    for number, start in enumerate(range(0, len(view), dot)):
        view[start : start + dot, first : first + width] = (BLACK, COLORS[0])[number % 2]
    return marked


def mark_box(image: Image, left: int, top: int, width: int, height: int, color: Color, line: int) -> Image:
    """A copy with a rectangle drawn around an area, with a thin dark edge that sets it off from any ground.

    At the image's edges, where there is no room around the area, it is drawn inside.
    """
    marked = Pillow.fromarray(image)
    draw = ImageDraw.Draw(marked)
    for reach, ink, stroke in ((line + 1, BLACK, line + 2), (line, color, line)):
        inset = line + 1 - reach
        near = max(left - reach, inset), max(top - reach, inset)
        far = min(left + width + reach, marked.width - inset) - 1, min(top + height + reach, marked.height - inset) - 1
        draw.rectangle((near, far), outline=ink, width=stroke)
    return np.array(marked)

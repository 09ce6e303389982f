"""Reading image files: header, structure and pixels at full bit depth."""

from __future__ import annotations

from typing import Any, BinaryIO, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from dstnet_arch.data.lmdb_format import parse_raw_header

Pixels: TypeAlias = NDArray[np.unsignedinteger[Any]]
"""(H, W, 3) RGB, uint8 or uint16."""
Window: TypeAlias = tuple[slice, slice]
"""Rows and columns of an image."""

_PNG = b'\x89PNG\r\n\x1a\n'
_JPEG = b'\xff\xd8'
# Not JPEG: cameras append previews to the image.
_MULTIPLE_IMAGES = {'PNG': 'an animated PNG', 'TIFF': 'a multi-page TIFF', 'WEBP': 'an animated WebP'}
_TIFF_BITS_PER_SAMPLE = 258
_DECODE = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_ANYDEPTH


class ImageHeader(NamedTuple):
    """Size as stored (an EXIF orientation is ignored), 1 to 4 channels, and 8 or 16 bits per decoded sample."""

    height: int
    width: int
    channels: int
    bit_depth: int


def read_header(file: BinaryIO) -> ImageHeader:
    """Read the header of an image file.

    Raises:
        ValueError: the file is not an image, contains several images, or has samples of more than 16 bits. The text
            continues a sentence that begins with the file's name.
    """
    start = file.read(32)
    if not start:
        raise ValueError('is empty')
    file.seek(0)
    try:
        with Image.open(file) as image:
            width, height = image.size
            channels = 3 if image.mode == 'P' else len(image.getbands())
            several = _MULTIPLE_IMAGES.get(str(image.format))
            num_images = getattr(image, 'n_frames', 1) if several else 1
            bits = 8
            if image.format == 'PNG':
                bits = start[24]
            elif image.format == 'PPM' and b'\n65535\n' in start:
                bits = 16
            elif image.format == 'TIFF':
                bits = max(getattr(image, 'tag_v2', {}).get(_TIFF_BITS_PER_SAMPLE, (8,)))
    except UnidentifiedImageError:
        raise ValueError('is not a readable image of 8 or 16 bits per sample') from None
    except (Image.DecompressionBombError, SyntaxError, OSError) as error:
        raise ValueError(f'is not a usable image ({error})') from None
    if num_images > 1:
        raise ValueError(f'contains {num_images} images ({several}). Split it into one file per frame')
    if bits > 16:
        raise ValueError(f'has {bits} bits per sample; 8 and 16 are supported')
    return ImageHeader(height, width, channels, 16 if bits > 8 else 8)


def decode(data: NDArray[np.uint8], window: Window | None = None) -> tuple[Pixels, tuple[int, int]]:
    """Decode an image, or a window of it. Of a frame that is stored as pixels, only the window is read.

    Args:
        data: (N,) uint8, the content of the file.
        window: rows and columns inside the image; None for all of it.

    Returns:
        The pixels, contiguous and independent of `data`, and (height, width) of the complete image.

    Raises:
        ValueError: the image is truncated, damaged or of an unsupported kind.
    """
    raw = parse_raw_header(data.data)
    if raw is not None:
        samples = data[raw.start : raw.num_bytes].view(np.uint8 if raw.bit_depth == 8 else '>u2')
        image = samples.reshape(raw.height, raw.width, 3)
        dtype = np.uint8 if raw.bit_depth == 8 else np.uint16
        return np.array(image if window is None else image[window], dtype, order='C'), (raw.height, raw.width)
    check_structure(data.data)
    try:
        bgr = cv2.imdecode(data, _DECODE) if len(data) else None
    except cv2.error as error:  # for example a side that exceeds OpenCV's limit
        raise ValueError(f'cannot be decoded ({error.err or error})') from None
    if bgr is None:
        raise ValueError('cannot be decoded')
    if bgr.dtype not in (np.uint8, np.uint16):
        raise ValueError(f'has {bgr.dtype} samples; 8 and 16 bits are supported')
    rgb: Any = cv2.cvtColor(bgr if window is None else bgr[window], cv2.COLOR_BGR2RGB)
    return rgb, (bgr.shape[0], bgr.shape[1])


def check_structure(data: bytes | memoryview) -> None:
    """Check that a PNG or JPEG file is complete; other files pass.

    OpenCV before version 5 fills the rest of a truncated JPEG with gray, and allocates as many bytes as a damaged
    chunk of a PNG announces, up to 4 GB.

    Raises:
        ValueError: the file is truncated.
    """
    start = bytes(data[:8])
    if start == _PNG:
        position = len(_PNG)
        while bytes(data[position + 4 : position + 8]) != b'IEND':
            position += 12 + int.from_bytes(data[position : position + 4], 'big')
            if position + 12 > len(data):
                raise ValueError('is truncated')
    elif start.startswith(_JPEG):
        # The last scan is followed by the end marker; thumbnails in the header have scans and end markers, too.
        jpeg = bytes(data)
        last_scan = jpeg.rfind(b'\xff\xda')
        if last_scan < 0 or jpeg.find(b'\xff\xd9', last_scan) < 0:
            raise ValueError('is truncated')


def to_8_bit(image: Pixels) -> NDArray[np.uint8]:
    """Round an image of 8 or 16 bits to 8 bits."""
    if image.dtype == np.uint8:
        return image.astype(np.uint8, copy=False)
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)

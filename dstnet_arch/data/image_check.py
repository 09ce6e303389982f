"""Is an image file whole? Its size from the header alone, and the thorough check by decoding."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from dstnet_arch.data.lmdb_format import parse_raw_header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PNG = b'\x89PNG\r\n\x1a\n'
_JPEG = b'\xff\xd8'


def read_header(path: Path) -> tuple[int, int, int]:
    """(height, width, channels) of the pixels as stored, whatever an EXIF orientation says, without decoding them.

    Raises:
        ValueError: the file has no readable image header.
        OSError: the file cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            width, height = image.size
            channels = 3 if image.mode == 'P' else len(image.getbands())
    except UnidentifiedImageError:
        raise ValueError('is empty' if path.stat().st_size == 0 else 'is no readable image') from None
    except (Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f'is no usable image ({error})') from None
    return height, width, channels


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """The pixels of an image file given as bytes: (height, width, 3), BGR, 8 bits, as BasicSR reads them.

    Raises:
        ValueError: the image is truncated, damaged or of an unknown kind.
    """
    import cv2
    import numpy as np

    check_structure(data)
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise ValueError(f'cannot be decoded ({error})') from None
    if image is None:
        raise ValueError('cannot be decoded')
    return np.asarray(image, np.uint8)


def check_structure(data: bytes) -> None:
    """Check a PNG, JPEG or raw PPM file, given as bytes, by its own structure; other files pass.

    Decoders differ in how much of a damaged file they let pass: truncated JPEG files decode with a gray rest.

    Raises:
        ValueError: the file is truncated or damaged.
    """
    if data.startswith(PNG):
        check_png(memoryview(data))
    elif data.startswith(_JPEG):
        _check_jpeg(data)
    else:
        parse_raw_header(data)


def check_png(data: memoryview, checksums: bool = True) -> None:
    """Walk through the chunks of a PNG file until the end chunk: length, type, content, checksum.

    Without the checksums this costs nothing, and still keeps damaged lengths from decoders: OpenCV 4 makes room for
    what a length says, up to 4 GB, before it finds that the file is shorter.

    Raises:
        ValueError: the file is truncated or damaged.
    """
    position = len(PNG)
    kind = b''
    while kind != b'IEND':
        if position + 12 > len(data):
            raise ValueError('is truncated')
        length, kind = struct.unpack_from('>I4s', data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise ValueError('is truncated')
        if checksums and zlib.crc32(data[position + 4 : end]) != struct.unpack_from('>I', data, end)[0]:
            raise ValueError('is damaged (a checksum is wrong)')
        position = end + 4


def _check_jpeg(data: bytes) -> None:
    """The last scan must be followed by the end marker; a thumbnail in the header has its own, earlier ones."""
    last_scan = data.rfind(b'\xff\xda')
    if last_scan < 0 or data.find(b'\xff\xd9', last_scan) < 0:
        raise ValueError('is truncated')

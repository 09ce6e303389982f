"""Image files: gray, colour, alpha, 8 or 16 bits. Restored frames are saved in the same kind."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageSequence, UnidentifiedImageError
from torch import Tensor

from dstnet_arch.data.frame_source import IMAGE_EXTENSIONS
from dstnet_arch.data.image_file import check_structure
from dstnet_arch.errors import DataError
from dstnet_arch.files import atomic_file

Image = NDArray[Any]
"""(H, W) gray, (H, W, 3) RGB or (H, W, 4) RGB and alpha, uint8 or uint16."""

_ORIENTATION = 0x0112  # EXIF tag
_SIDEWAYS = range(5, 9)  # orientations that swap rows and columns
_ERRORS = (OSError, SyntaxError, ValueError, TypeError, PillowImage.DecompressionBombError)
_PAGES_AT_ONCE = 16

warnings.filterwarnings('ignore', module=r'PIL\.')  # about damaged tags


class ImageKind(NamedTuple):
    """Channels and sample type of an image."""

    gray: bool
    alpha: bool
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, image: Image) -> ImageKind:
        """Return the kind of this image."""
        return cls(image.ndim == 2, image.ndim == 3 and image.shape[2] == 4, image.dtype)


class ImageHeader(NamedTuple):
    """Properties of an image file: (height, width) as displayed, EXIF orientation 1 to 8, pages or animation frames."""

    size: tuple[int, int]
    orientation: int
    num_pages: int
    icc_profile: bytes | None


def file_type(path: Path) -> str:
    """Return 'image', 'pages' (multi-page TIFF, animated WebP) or 'video' (all else, also animated GIF and PNG)."""
    named_so = path.suffix.lower() in IMAGE_EXTENSIONS
    formats = {PillowImage.registered_extensions().get(extension) for extension in IMAGE_EXTENSIONS}
    try:
        with PillowImage.open(path) as image:
            if image.format not in formats:
                return 'image' if named_so else 'video'
            if getattr(image, 'n_frames', 1) == 1:
                return 'image'
            return 'pages' if image.format in ('TIFF', 'WEBP') else 'video'
    except _ERRORS:
        return 'image' if named_so and not _looks_like_video(path) else 'video'


def _looks_like_video(path: Path) -> bool:
    """Return True if a file begins like MP4, Matroska, MPEG or AVI."""
    with path.open('rb') as file:
        start = file.read(12)
    return start[4:8] == b'ftyp' or start[:4] in (b'\x1aE\xdf\xa3', b'\0\0\1\xba') or start[8:] == b'AVI '


def read_header(path: Path) -> ImageHeader:
    """Read the header of an image file.

    Raises:
        DataError: the file is not an image, or cannot be read.
    """
    try:
        with PillowImage.open(path) as image:
            # Without this check, Pillow would decode a whole PNG file to find EXIF data after the pixels.
            orientation = image.getexif().get(_ORIENTATION, 1) if 'exif' in image.info else 1
            size = image.size if orientation in _SIDEWAYS else image.size[::-1]
            num_pages = 1 if image.format == 'MPO' else getattr(image, 'n_frames', 1)  # a JPEG file with a preview
            return ImageHeader(size, orientation, num_pages, image.info.get('icc_profile'))
    except UnidentifiedImageError:
        raise _unreadable(path, 'it is empty' if path.stat().st_size == 0 else 'it is not an image') from None
    except _ERRORS as error:
        raise _unreadable(path, error) from None


def read_image(path: Path) -> Image:
    """Read an image (of a multi-page file, the first page) and apply its EXIF orientation.

    Raises:
        DataError: the file is damaged, not an image, or has samples of another type than 8 or 16 bits.
    """
    try:
        data = path.read_bytes()
        check_structure(data)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except (OSError, ValueError, cv2.error) as error:
        raise _unreadable(path, error) from None
    if image is None:
        raise _unreadable(path, 'it is empty' if not data else 'it is damaged or not an image')
    return _turn_upright(_from_opencv(image, path), read_header(path).orientation)


def read_pages(path: Path) -> Iterator[tuple[Image, int]]:
    """Yield the pages of a TIFF file or the frames of an animated WebP, each with its duration in ms (0: unknown).

    Raises:
        DataError: as `read_image`.
    """
    header = read_header(path)
    try:
        with PillowImage.open(path) as file:
            if file.format != 'TIFF':
                for frame in ImageSequence.Iterator(file):
                    image = np.asarray(frame.convert('RGBA' if 'A' in frame.getbands() else 'RGB'))
                    yield image, int(frame.info.get('duration', 0))
                return
        for start in range(0, header.num_pages, _PAGES_AT_ONCE):
            count = min(_PAGES_AT_ONCE, header.num_pages - start)
            complete, pages = cv2.imreadmulti(str(path), start, count, flags=cv2.IMREAD_UNCHANGED)
            if not complete or len(pages) != count:
                raise _unreadable(path, f'pages {start + len(pages)} and later are damaged')
            for page in pages:
                yield _turn_upright(_from_opencv(page, path), header.orientation), 0
    except (*_ERRORS, cv2.error) as error:
        raise _unreadable(path, error) from None


def to_frame(image: Image) -> Tensor:
    """Convert an image to the network's input: RGB (3, H, W), float32 in [0, 1], without alpha."""
    colour = image[..., :3] if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    frame = torch.from_numpy(np.ascontiguousarray(colour.transpose(2, 0, 1)).astype(np.float32))
    return frame / np.iinfo(image.dtype).max


def to_alpha(image: Image) -> Tensor | None:
    """Return the opacity (H, W) of an image, float32 in [0, 1]; None if it has none."""
    if image.ndim == 2 or image.shape[2] < 4:
        return None
    return torch.from_numpy(image[..., 3].astype(np.float32)) / np.iinfo(image.dtype).max


def to_image(frame: Tensor, kind: ImageKind) -> Image:
    """Convert a restored frame (3, H, W), RGB in [0, 1], to an image without alpha.

    Values are clipped and rounded. Gray is the mean of the three colours.
    """
    frame = frame.clamp(0, 1)
    if kind.gray:
        frame = frame.mean(dim=0, keepdim=True)
    largest = np.iinfo(kind.dtype).max
    levels = frame.mul(largest).round().to(torch.int32 if largest > 255 else torch.uint8)
    image = levels.permute(1, 2, 0).contiguous().cpu().numpy().astype(kind.dtype, copy=False)
    return image[..., 0] if kind.gray else image


def write_png(image: Image, path: Path, icc_profile: bytes | None = None) -> int:
    """Write a PNG file atomically; returns its size in bytes.

    Raises:
        OSError: it cannot be written.
    """
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    data = cv2.imencode('.png', image)[1].tobytes()
    if icc_profile:
        chunk = b'iCCPICC profile\0\0' + zlib.compress(icc_profile)
        end_of_header = 33  # signature and IHDR
        data = b''.join((
            data[:end_of_header], struct.pack('>I', len(chunk) - 4), chunk, struct.pack('>I', zlib.crc32(chunk)),
            data[end_of_header:],
        ))  # fmt: skip
    with atomic_file(path) as file:
        file.write(data)
    return len(data)


def _from_opencv(image: Any, path: Path) -> Image:
    if image.dtype not in (np.uint8, np.uint16):
        raise DataError(f'{path} has {image.dtype} samples; 8 or 16 bits are supported. Convert it first.')
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return np.asarray(image)


def _turn_upright(image: Image, orientation: int) -> Image:
    """Apply an EXIF orientation: 2 to 4 mirror, rotate by 180° or both; 5 to 8 swap rows and columns before."""
    if orientation in _SIDEWAYS:
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _unreadable(path: Path, problem: object) -> DataError:
    return DataError(f'{path} cannot be read as an image ({problem}). Replace or remove the file.')

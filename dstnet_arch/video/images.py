"""Picture files as they come: gray, colour, with alpha, 8 or 16 bits; and what was restored, in the same kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dstnet_arch.data.frame_source import IMAGE_EXTENSIONS
from dstnet_arch.data.image_file import check_structure
from dstnet_arch.errors import DataError
from dstnet_arch.files import atomic_file

Picture = NDArray[Any]
"""(H, W) gray, (H, W, 3) RGB or (H, W, 4) RGB and alpha, uint8 or uint16."""

_ORIENTATION = 0x0112  # EXIF's tag
_SIDEWAYS = range(5, 9)  # its values for pictures whose rows stand upright


class Kind(NamedTuple):
    """What a picture is made of."""

    gray: bool
    alpha: bool
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, picture: Picture) -> Kind:
        """The kind of this picture."""
        return cls(picture.ndim == 2, picture.ndim == 3 and picture.shape[2] == 4, picture.dtype)


def is_picture(path: Path) -> bool:
    """Whether a file is a picture, or is to be treated as one, because it is called so and is nothing else.

    Animations are videos.
    """
    from PIL import Image

    called_so = path.suffix.lower() in IMAGE_EXTENSIONS
    formats = {Image.registered_extensions().get(extension) for extension in IMAGE_EXTENSIONS}
    try:
        with Image.open(path) as image:
            return getattr(image, 'n_frames', 1) == 1 if image.format in formats else called_so
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return called_so and not _looks_like_video(path)


def _looks_like_video(path: Path) -> bool:
    """By how MP4, Matroska, MPEG and AVI files begin."""
    with path.open('rb') as file:
        start = file.read(12)
    return start[4:8] == b'ftyp' or start[:4] in (b'\x1aE\xdf\xa3', b'\0\0\1\xba') or start[8:] == b'AVI '


def upright_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture as it is to be seen, by the file's header.

    Raises:
        DataError: the file is no picture, or cannot be read.
    """
    height, width, orientation = _read_header(path)
    return (width, height) if orientation in _SIDEWAYS else (height, width)


def read_picture(path: Path) -> Picture:
    """Read a picture, turned upright where its EXIF data say that it is not.

    Raises:
        DataError: the file is damaged, no picture or of a kind that has no 8 or 16 bits, or cannot be read.
    """
    try:
        data = path.read_bytes()
        check_structure(data)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except (OSError, ValueError, cv2.error) as error:
        raise _unreadable(path, error) from None
    if picture is None:
        raise _unreadable(path, 'it is empty' if not data else 'it is damaged, or no picture')
    if picture.dtype not in (np.uint8, np.uint16):
        raise DataError(f'{path} holds {picture.dtype} values; pictures of 8 or 16 bits are taken. Convert it first.')
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA if picture.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return _turn_upright(np.asarray(picture), _read_header(path)[2])


def to_frame(picture: Picture) -> Tensor:
    """What the network sees of a picture: RGB (3, H, W), float32 in [0, 1]; alpha is left out."""
    colour = picture[..., :3] if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    frame = torch.from_numpy(np.ascontiguousarray(colour.transpose(2, 0, 1)).astype(np.float32))
    return frame / np.iinfo(picture.dtype).max


def to_alpha(picture: Picture) -> Tensor | None:
    """Opacity (H, W), float32 in [0, 1]; None for a picture that has none."""
    if picture.ndim == 2 or picture.shape[2] < 4:
        return None
    return torch.from_numpy(picture[..., 3].astype(np.float32)) / np.iinfo(picture.dtype).max


def to_picture(frame: Tensor, kind: Kind) -> Picture:
    """A restored frame (3, H, W), RGB in [0, 1], as a picture, clamped and rounded; without alpha.

    Gray is the mean of the three colours.
    """
    frame = frame.clamp(0, 1)
    if kind.gray:
        frame = frame.mean(dim=0, keepdim=True)
    largest = np.iinfo(kind.dtype).max
    levels = frame.mul(largest).round().to(torch.int32 if largest > 255 else torch.uint8)
    picture = levels.permute(1, 2, 0).contiguous().cpu().numpy().astype(kind.dtype, copy=False)
    return picture[..., 0] if kind.gray else picture


def write_png(picture: Picture, path: Path) -> None:
    """Write a PNG file, which appears under its name when it is whole.

    Raises:
        OSError: it cannot be written.
    """
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    data = cv2.imencode('.png', picture)[1]
    with atomic_file(path) as file:
        file.write(data.tobytes())


def _read_header(path: Path) -> tuple[int, int, int]:
    """Height and width as stored, EXIF orientation."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            # Without this check, Pillow would decode a whole PNG file in search of EXIF data after the pixels.
            orientation = image.getexif().get(_ORIENTATION, 1) if 'exif' in image.info else 1
            return image.height, image.width, orientation
    except UnidentifiedImageError:
        raise _unreadable(path, 'it is empty' if path.stat().st_size == 0 else 'it is no picture') from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from None


def _turn_upright(picture: Picture, orientation: int) -> Picture:
    """EXIF: 2 to 4 are mirrored, turned by half, both; 5 to 8 the same as 1 to 4 after swapping rows and columns."""
    if orientation in _SIDEWAYS:
        picture = picture.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def _unreadable(path: Path, problem: object) -> DataError:
    return DataError(f'{path} cannot be read as a picture: {problem}. Replace the file, or leave it out.')

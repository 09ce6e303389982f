"""Reading image files: header, structure, pixels of 8 and 16 bits."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from data_utils import encode, encode_raw, image_bytes
from PIL import Image

from dstnet_arch.data.image_file import check_structure, decode, read_header, to_8_bit

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (31, 17, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (31, 17, 3), np.uint16)


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


@pytest.mark.parametrize('image', [COLOUR, DEEP, COLOUR[..., 0], DEEP[..., 0]], ids=['8', '16', 'gray 8', 'gray 16'])
@pytest.mark.parametrize('extension', ['.png', '.tif', 'raw'])
def test_decode_keeps_values_and_depth(image: np.ndarray, extension: str) -> None:
    image = np.dstack([image] * 3) if extension == 'raw' and image.ndim == 2 else image
    data = encode_raw(image) if extension == 'raw' else encode(image, extension)
    pixels, shape = decode(array(data))
    assert shape == (31, 17)
    assert pixels.dtype == image.dtype
    np.testing.assert_array_equal(pixels, image if image.ndim == 3 else np.dstack([image] * 3))
    header = read_header(io.BytesIO(data))
    assert (header.height, header.width, header.bit_depth) == (31, 17, 8 * image.itemsize)
    assert header.channels in (image.ndim, 1 if image.ndim == 2 else 3)


def test_decode_drops_alpha_and_ignores_orientation() -> None:
    pixels, _ = decode(array(encode(np.dstack([COLOUR[..., 0], COLOUR]))))  # reversed to BGRA
    np.testing.assert_array_equal(pixels, COLOUR)
    exif = Image.Exif()
    exif[0x0112] = 6  # quarter turn for display
    stream = io.BytesIO()
    Image.new('RGB', (40, 20)).save(stream, 'jpeg', exif=exif)
    assert read_header(io.BytesIO(stream.getvalue()))[:3] == (20, 40, 3)
    assert decode(array(stream.getvalue()))[1] == (20, 40)


@pytest.mark.parametrize('kind', ['.png', '.jpg', 'raw', 'raw16'])
def test_decode_window_is_part_of_the_image(kind: str) -> None:
    data = encode_raw(COLOUR if kind == 'raw' else DEEP) if kind.startswith('raw') else encode(COLOUR, kind)
    stored = array(data)
    whole, _ = decode(stored)
    for window in [np.s_[0:31, 0:17], np.s_[3:4, 7:8], np.s_[5:31, 0:9], np.s_[0:1, 2:17]]:
        part, shape = decode(stored, window)
        assert shape == (31, 17)
        np.testing.assert_array_equal(part, whole[window])
        assert part.flags.c_contiguous
        assert part.dtype.isnative
        assert not np.shares_memory(part, stored)


@pytest.mark.parametrize('extension', ['.png', '.jpg', '.bmp', '.tif', '.webp'])
def test_decode_refuses_truncated_files(extension: str) -> None:
    data = image_bytes(3, (31, 17), extension)
    assert decode(array(data))[1] == (31, 17)
    for length in [*range(0, len(data), max(37, len(data) // 40)), len(data) - 1]:
        with pytest.raises(ValueError, match=r'truncated|decoded'):
            decode(array(data[:length]))
    if extension in ('.png', '.jpg'):
        check_structure(data + b'appended by some programs')


def test_thumbnail_does_not_hide_truncation() -> None:
    data, thumbnail = image_bytes(3, (64, 64), '.jpg'), image_bytes(4, (8, 8), '.jpg')
    complete = data[:2] + b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail + data[2:]
    assert decode(array(complete))[1] == (64, 64)
    with pytest.raises(ValueError, match='truncated'):
        decode(array(complete[:-300]))


def test_decode_refuses_png_with_a_changed_byte() -> None:
    data = image_bytes(3, (31, 17))
    for position in range(8, len(data) - 8, 61):
        changed = bytearray(data)
        changed[position] ^= 0x10
        with pytest.raises(ValueError, match=r'truncated|decoded'):
            decode(array(bytes(changed)))


@pytest.mark.parametrize('extension', ['.png', '.tif', '.webp'])
def test_read_header_refuses_several_images(extension: str) -> None:
    stream = io.BytesIO()
    pages = [Image.fromarray(COLOUR), Image.fromarray(COLOUR[::-1])]
    form = {'.tif': 'tiff'}.get(extension, extension[1:])
    pages[0].save(stream, form, save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r'contains 2 images \(an? \w+-?\w* \w+\)\. Split it into one file per frame'):
        read_header(io.BytesIO(stream.getvalue()))


def test_read_header_accepts_jpeg_with_a_preview_behind_the_image() -> None:
    stream = io.BytesIO()
    Image.fromarray(COLOUR).save(stream, 'mpo', save_all=True, append_images=[Image.new('RGB', (4, 4))])
    assert read_header(io.BytesIO(stream.getvalue()))[:2] == (31, 17)


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'', 'is empty'),
        (b'<html>404</html>', 'is not a readable image'),
        (encode(COLOUR, '.jpg')[:10], 'is not a usable image'),
        (cv2.imencode('.tif', COLOUR.astype(np.float32))[1].tobytes(), '8 or 16 bits'),
        (cv2.imencode('.tif', COLOUR[..., 0].astype(np.float32))[1].tobytes(), '32 bits per sample'),
    ],
    ids=['empty', 'text', 'start of a JPEG', 'float', 'gray float'],
)
def test_read_header_refuses(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_header(io.BytesIO(data))
    with pytest.raises(ValueError, match=r'decoded|float32|truncated'):
        decode(array(data))


def test_to_8_bit_rounds() -> None:
    values = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(to_8_bit(values), np.rint(values / 257).astype(np.uint8))
    np.testing.assert_array_equal(to_8_bit(COLOUR), COLOUR)

"""From the bytes of a picture's file to its pixels, or to a window of them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dstnet_arch.data.augment import Window
from dstnet_arch.data.image_check import PNG, check_png
from dstnet_arch.data.lmdb_format import parse_raw_header


def decode(data: NDArray[np.uint8], window: Window | None = None) -> tuple[NDArray[np.uint8], tuple[int, int]] | None:
    """Decode a picture, or cut a window out of it.

    Of a frame that is stored raw (see dstnet_arch/data/lmdb_format.py), nothing outside the window is touched: with `data`
    mapped into memory, it is not even read from the disk. Compressed pictures are decoded as a whole. The pixels are
    the same either way.

    Args:
        data: (N,) uint8, the bytes of the file.
        window: rows and columns, within the picture; None for all of it.

    Returns:
        The pixels, (H, W, 3) uint8, RGB, contiguous and independent of `data`, and (height, width) of the whole
        picture; None for what is no whole picture.
    """
    try:
        raw = parse_raw_header(data.data)
    except ValueError:
        return None
    if raw is not None:
        height, width, start = raw
        image = data[start : start + 3 * height * width].reshape(height, width, 3)
        return np.array(image if window is None else image[window], order='C'), (height, width)
    whole = _decode_whole(data)
    if whole is None:
        return None
    # Cut before the channels are put in order, which then costs the window only.
    bgr = whole if window is None else whole[window]
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8), (whole.shape[0], whole.shape[1])


def _decode_whole(data: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """(H, W, 3) BGR, or None for what is no whole picture."""
    # OpenCV before 5 fills the rest of a truncated JPEG with gray and says nothing. The end marker is in no scan.
    if data[: len(PNG)].tobytes() == PNG:
        try:
            check_png(data.data, checksums=False)
        except ValueError:
            return None
    if data[:2].tobytes() == b'\xff\xd8' and b'\xff\xd9' not in data[2:].tobytes():
        return None
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # no bytes at all, or sides beyond OpenCV's limit
        return None
    return None if image is None else np.asarray(image, np.uint8)

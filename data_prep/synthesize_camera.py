"""What a camera does to a picture besides blurring it: noise, and compression."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.blur_model import Image, Light
from dstnet_arch.errors import DataError


@dataclass(frozen=True)
class Noise:
    """Photons are counted (Poisson), and reading the count out adds an error (Gaussian).

    The light x, of which 1 is the most that can be stored, becomes shot * P(x / shot) + N(0, read²), so its mean stays
    and its variance is shot * x + read² (Foi et al., "Practical Poissonian-Gaussian noise modeling and fitting for
    single-image raw-data", IEEE TIP 2008).
    """

    read: float
    """Standard deviation of the Gaussian part."""
    shot: float
    """Variance of the Poisson part at x = 1: one over the number of photons that this light consists of."""

    def __post_init__(self) -> None:
        if 0 < self.shot < 1e-9:
            raise DataError(f'--noise: SHOT {self.shot:g} is too small to matter; take 0, or at least 1e-9')

    def add(self, light: Light, rng: np.random.Generator) -> NDArray[np.float64]:
        """Noisy light, of the same shape; not clipped."""
        noisy = self.shot * rng.poisson(light / self.shot) if self.shot > 0 else np.array(light, np.float64)
        if self.read > 0:
            noisy = noisy + self.read * rng.standard_normal(light.shape)
        return np.asarray(noisy, np.float64)


def jpeg_round_trip(picture: Image, quality: int) -> Image:
    """What is left of a picture (height, width, 3), BGR, uint8, after JPEG of a quality from 1 to 100."""
    import cv2

    data = cv2.imencode('.jpg', picture, (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


def import_av() -> Any:
    """PyAV.

    Raises:
        DataError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise DataError(f'--h264 needs PyAV ({error}). Install it: pip install av') from None
    return av


def h264_round_trip(pictures: Iterable[Image], crf: int) -> Iterator[Image]:
    """What is left of a video after H.264 (x264, 4:2:0).

    Args:
        pictures: (height, width, 3), BGR, uint8, of one size; odd ones too.
        crf: Constant rate factor, from 0 (best) to 51.

    Yields:
        As many pictures, of the same size. The coded video is held in memory.

    Raises:
        DataError: PyAV is missing, or has no x264.
    """
    av = import_av()
    coded = BytesIO()
    size: tuple[int, int] | None = None
    with av.open(coded, 'w', format='matroska') as container:
        try:
            stream = container.add_stream('libx264', rate=30)
        except Exception as error:  # what it raises differs between versions
            raise DataError(f'--h264 needs a PyAV that was built with x264 ({error}): pip install av') from None
        stream.pix_fmt = 'yuv420p'
        # The same bytes every time: one thread, and nothing that depends on the processor, of which AVX-512 is not even
        # repeatable.
        stream.options = {'crf': str(crf), 'preset': 'medium', 'threads': '1', 'x264-params': 'cpu-independent=1'}
        for picture in pictures:
            if size is None:
                size = picture.shape[:2]
                # 4:2:0 has one colour for 2x2 pixels; the last line is repeated where their number is odd.
                stream.height, stream.width = size[0] + size[0] % 2, size[1] + size[1] % 2
            padded = np.pad(picture, ((0, stream.height - size[0]), (0, stream.width - size[1]), (0, 0)), 'edge')
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_to_yuv420(padded), format='yuv420p')))
        if size is None:
            return
        container.mux(stream.encode(None))
    coded.seek(0)
    with av.open(coded, 'r', format='matroska') as container:
        for frame in container.decode(video=0):
            yield _from_yuv420(frame.to_ndarray())[: size[0], : size[1]]


# ITU-R BT.601 with Y from 16 to 235, as H.264 has it unless told otherwise: Y, Cb and Cr from B, G and R in [0, 255].
_YUV = np.array([[24.966, 128.553, 65.481], [112.0, -74.203, -37.797], [-18.214, -93.786, 112.0]], np.float32) / 255
_YUV_OFFSET = np.array([16, 128, 128], np.float32)


def _to_yuv420(picture: Image) -> Image:
    """(height, width, 3) BGR, of even size, as the three planes of 4:2:0 below each other: (height * 3 / 2, width).

    Done here since FFmpeg's own conversion, as PyAV uses it, makes pictures darker by two grey levels.
    """
    import cv2

    height, width = picture.shape[:2]
    yuv: NDArray[Any] = picture.astype(np.float32) @ _YUV.T + _YUV_OFFSET
    colour = cv2.resize(yuv[..., 1:], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    planes = [yuv[..., 0].ravel(), colour[..., 0].ravel(), colour[..., 1].ravel()]
    return np.rint(np.concatenate(planes)).clip(0, 255).astype(np.uint8).reshape(height * 3 // 2, width)


def _from_yuv420(planes: Image) -> Image:
    """The way back from `_to_yuv420`."""
    import cv2

    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    colour: NDArray[Any] = planes[height:].reshape(2, height // 2, width // 2).transpose(1, 2, 0).astype(np.float32)
    colour = cv2.resize(colour, (width, height), interpolation=cv2.INTER_LINEAR)
    yuv = np.dstack([planes[:height].astype(np.float32), colour])
    return np.rint((yuv - _YUV_OFFSET) @ np.linalg.inv(_YUV).T).clip(0, 255).astype(np.uint8)

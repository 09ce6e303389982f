"""Images for the tests of ``dstnet deblur``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from dstnet_arch.archs.checkpoint import load_checkpoint

Image = NDArray[Any]
Deblur = Callable[..., tuple[int, str, str]]


def noise(height: int = 16, width: int = 24, channels: int = 3, dtype: Any = np.uint8, seed: int = 0) -> Image:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def save(path: Path, image: Image) -> Path:
    """Write RGB, RGBA or gray values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}.get(image.shape[2] if image.ndim == 3 else 1)
    data = cv2.imencode(path.suffix, image if code is None else cv2.cvtColor(image, code))[1]
    path.write_bytes(data.tobytes())
    return path


def load(path: Path) -> Image:
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    code = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}.get(image.shape[2] if image.ndim == 3 else 1)
    return image if code is None else cv2.cvtColor(image, code)


def load_all(folder: Path) -> list[Image]:
    return [load(path) for path in sorted(folder.iterdir())]


def make_frames(folder: Path, num_frame: int = 3, name: str = '{:03d}.png', **kwargs: Any) -> Path:
    for t in range(num_frame):
        save(folder / name.format(t), noise(seed=t, **kwargs))
    return folder


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def restore_clip(weights: Path, frames: list[Image]) -> list[Image]:
    """Restore a clip by one call of the network, as 8-bit images."""
    clip = torch.stack([torch.from_numpy(frame).permute(2, 0, 1) / 255 for frame in frames])
    with torch.no_grad():
        restored = load_checkpoint(weights)(clip[None])[0]
    return [(f.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy() for f in restored]


def assert_same(images: list[Image], expected: list[Image]) -> None:
    """Assert equality except for values between two levels."""
    for a, b in zip(images, expected, strict=True):
        difference = np.abs(a.astype(int) - b.astype(int))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01

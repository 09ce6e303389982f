"""Pictures to measure with, made on the spot: of no scene, but as large, as detailed and as grainy as photographs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dstnet_arch.benchmarks.cli import Size

Picture = NDArray[np.uint8]

# (pixels from one random value to the next, standard deviation): the spectrum of photographs falls with the frequency.
_OCTAVES = ((160, 60.0), (40, 30.0), (10, 12.0), (2.5, 4.0))
_GRAIN = 0.9  # standard deviation; with it, a PNG takes as many bytes as one of a GoPro camera
_MARGIN = 64


def moving_pictures(count: int, size: Size, seed: int = 0) -> Iterator[tuple[Picture, Picture]]:
    """Frames of a camera that pans over a pattern: `count` pairs of a blurry and a sharp (H, W, 3) uint8 picture."""
    rng = np.random.default_rng(seed)
    height, width = size.height + _MARGIN, size.width + _MARGIN
    scene = np.full((height, width, 3), 128, np.float32)
    for pixels, deviation in _OCTAVES:
        cells = (max(2, round(height / pixels)), max(2, round(width / pixels)), 3)
        noise = rng.standard_normal(cells, np.float32)
        scene += deviation * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    smeared = cv2.blur(scene, (9, 3))
    for number in range(count):
        top, left = number % _MARGIN, 3 * number % _MARGIN
        window = np.s_[top : top + size.height, left : left + size.width]
        yield _grainy(smeared[window], rng), _grainy(scene[window], rng)


def _grainy(picture: NDArray[Any], rng: np.random.Generator) -> Picture:
    grain = _GRAIN * rng.standard_normal(picture.shape, np.float32)
    return (picture + grain).clip(0, 255).round().astype(np.uint8)


def write_gopro_tree(folder: Path, clips: int, frames: int, size: Size) -> list[Path]:
    """Write clips as GoPro's are distributed, ``<folder>/train/<clip>/{blur,sharp}/000001.png``; returns the files."""
    paths = []
    for clip in range(clips):
        for number, pair in enumerate(moving_pictures(frames, size, seed=clip), 1):
            for side, picture in zip(('blur', 'sharp'), pair, strict=True):
                path = folder / 'train' / f'CLIP{clip:02d}' / side / f'{number:06d}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(cv2.imencode('.png', picture)[1].tobytes())
                paths.append(path)
    return paths

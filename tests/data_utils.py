"""Images, LMDBs and miniature data sets for tests."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.__main__ import main
from data_prep.verify import verify_lmdb
from dstnet_arch.data.lmdb_format import MetaEntry, format_meta_line, raw_header

Pixels = NDArray[np.uint8]


def encode(image: NDArray, extension: str = '.png') -> bytes:
    """An RGB (or gray) image of 8 or 16 bits as a file."""
    return cv2.imencode(extension, image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def encode_raw(image: NDArray) -> bytes:
    """An RGB image of 8 or 16 bits as `--raw` stores it."""
    return raw_header(*image.shape[:2], 8 * image.itemsize) + image.astype(f'>u{image.itemsize}').tobytes()


def image_bytes(seed: int, size: tuple[int, int] = (12, 16), extension: str = '.png') -> bytes:
    return encode(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8), extension)


def put(path: Path, seed: int = 0, size: tuple[int, int] = (12, 16)) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image_bytes(seed, size, path.suffix))
    return path.read_bytes()


def seed_of(text: str) -> int:
    return zlib.crc32(text.encode())


def contents(path: Path) -> dict[str, bytes]:
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as transaction:
        return {key.decode(): bytes(value) for key, value in transaction.cursor()}


def failure(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The message of a command that must fail with status 2, in one piece and without a traceback."""
    assert main([str(argument) for argument in argv]) == 2
    error = capsys.readouterr().err
    assert error.rstrip().rpartition('\r')[2].count('error: ') == 1
    assert 'Traceback' not in error
    return error


def sound(output: Path) -> bool:
    """True if no LMDB in a folder has a fault, checked in this process."""
    return not any(verify_lmdb(path, 2).problems for path in output.glob('*.lmdb'))


def write_folder(root: Path, images: Mapping[str, NDArray], extension: str = '.png') -> Path:
    """Write `<root>/<key><extension>` for each key."""
    for key, image in images.items():
        path = root / f'{key}{extension}'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image, extension))
    return root


def write_lmdb(
    root: Path,
    images: Mapping[str, NDArray],
    also_listed: Iterable[str] = (),
    encoder: Callable[[NDArray], bytes] = encode,
) -> Path:
    """Write an LMDB folder; `also_listed` are keys in meta_info.txt without data."""
    sizes = {key: image.shape[:2] for key, image in images.items()}
    entries = [MetaEntry(key, '.png', (*sizes[key], 3)) for key in images]
    entries += [MetaEntry(key, '.png', (1, 1, 3)) for key in also_listed]
    with lmdb.open(str(root), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for key, image in images.items():
            transaction.put(key.encode(), encoder(image))
    root.joinpath('meta_info.txt').write_text('\n'.join(map(format_meta_line, entries)) + '\n')
    return root


def make_gopro(
    root: Path,
    clips: Mapping[str, tuple[int, int]] | None = None,
    pattern: str = '{split}/{clip}/{side}',
    blur: str = 'blur',
    sharp: str = 'sharp',
    extension: str = '.png',
) -> dict[str, bytes]:
    """A tree like GOPRO_Large: clips as 'split/name' -> (first number, frames). Returns the files' bytes by path."""
    files = {}
    clips = clips or {'train/A_00': (47, 4), 'train/B_00': (2481, 3), 'test/C_00': (1, 2)}
    for clip, (first, count) in clips.items():
        split, name = clip.split('/')
        for side in (blur, sharp):
            folder = root / pattern.format(split=split, clip=name, side=side)
            for number in range(first, first + count):
                path = folder / f'{number:06d}{extension}'
                files[path.relative_to(root).as_posix()] = put(path, seed=seed_of(f'{clip}{side}{number}'))
    return files


def moving(
    count: int, seed: int = 0, size: tuple[int, int] = (36, 52), step: int = 1, sigma: float = 6
) -> list[Pixels]:
    """Frames of smooth random colours that move to the left by `step` pixels; `sigma` is the size of the spots."""
    noise = np.random.default_rng(seed).standard_normal((size[0], size[1] + step * count, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma)
    picture = np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    return [picture[:, step * t : step * t + size[1]] for t in range(count)]


def write_frames(folder: Path, frames: Iterable[NDArray]) -> Path:
    """Write BGR frames 0.png, 1.png, ... to a new folder."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f'{number}.png'), frame)
    return folder

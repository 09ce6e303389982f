"""Images, and looks at what the commands of data_prep did with them."""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from data_prep.__main__ import main


def image_bytes(seed: int, size: tuple[int, int] = (12, 16), extension: str = '.png') -> bytes:
    rng = np.random.default_rng(seed)
    return cv2.imencode(extension, rng.integers(0, 256, (*size, 3), dtype=np.uint8))[1].tobytes()


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

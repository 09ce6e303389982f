"""Fixtures for data sets."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_utils import write_folder, write_lmdb
from tiny_videos import pictures_of, sharp


@pytest.fixture(params=['disk', 'lmdb'])
def roots(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The tiny videos as files and as LMDBs."""
    write, suffix = (write_folder, '') if request.param == 'disk' else (write_lmdb, '.lmdb')
    lq = pictures_of()
    gt = {key: sharp(image) for key, image in lq.items()}
    return {
        'dataroot_lq': str(write(tmp_path / f'blur{suffix}', lq)),
        'dataroot_gt': str(write(tmp_path / f'sharp{suffix}', gt)),
    }

"""Options files of the checkout, changed for tests."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
from conftest import ROOT

from dstnet_arch.errors import OptionsError
from dstnet_arch.plugin.options import read_options
from dstnet_arch.plugin.options_check import check_options

FILES = sorted((ROOT / 'options').rglob('*.yml'))
_READ = {file.relative_to(ROOT / 'options').as_posix(): read_options(file) for file in FILES}


def section_of(opt: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """Return the section that a path of keys leads to, and the last key."""
    *sections, key = path.split(':')
    for section in sections:
        opt = opt[section]
    return opt, key


def options(changes: dict[str, Any] | None = None, base: str = 'train_DSTNet_GoPro.yml') -> dict[str, Any]:
    """Return the options of a file with other values."""
    opt = copy.deepcopy(_READ[base])
    for path, value in (changes or {}).items():
        section, key = section_of(opt, path)
        section[key] = copy.deepcopy(value)
    return opt


def problems(opt: dict[str, Any], is_train: bool = True, check_paths: bool = False) -> list[str]:
    """Return the lines of the error, one per problem."""
    try:
        check_options(opt, is_train, check_paths=check_paths)
    except OptionsError as error:
        lines = str(error).splitlines()[1:-1]
        return [line.strip() for line in lines if not line.startswith('   ')]
    return []


def make_gopro(root: Path) -> None:
    """Make the LMDBs that the options files for GoPro name, with 30 frames of 320x256."""
    image = cv2.imencode('.png', np.zeros((256, 320, 3), np.uint8))[1].tobytes()
    keys = [f'a/{i:06d}' for i in range(30)]
    for split in ('train_blur', 'train_sharp', 'test_blur', 'test_sharp'):
        path = root / f'datasets/GoPro/{split}.lmdb'
        path.mkdir(parents=True)
        with lmdb.open(str(path)) as env, env.begin(write=True) as transaction:
            for key in keys:
                transaction.put(key.encode(), image)
        (path / 'meta_info.txt').write_text(''.join(f'{key}.png (256,320,3) 1\n' for key in keys))

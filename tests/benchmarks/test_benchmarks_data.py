"""`dstnet benchmark data`, and the pictures that it measures with."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import RunPython
from prep_parts import contents

from dstnet_arch.benchmarks import cli
from dstnet_arch.benchmarks.data import OURS, OURS_RAW, STOCK, make_lmdbs, prepare_loading
from dstnet_arch.benchmarks.pictures import moving_pictures, write_gopro_tree


def test_pictures_are_as_detailed_as_photographs() -> None:
    pairs = list(moving_pictures(2, cli.Size(320, 240)))
    for blurry, sharp in pairs:
        assert blurry.shape == sharp.shape == (240, 320, 3)
        assert blurry.dtype == sharp.dtype == np.uint8
        # What a decoder's time depends on. A GoPro camera's frame: 1 to 1.5 bytes a pixel.
        for picture in (blurry, sharp):
            assert 1 < len(cv2.imencode('.png', picture)[1]) / (240 * 320) < 1.9
        assert np.abs(cv2.Laplacian(sharp, cv2.CV_64F)).mean() > np.abs(cv2.Laplacian(blurry, cv2.CV_64F)).mean()
    assert not np.array_equal(pairs[0][1], pairs[1][1])
    again = list(moving_pictures(2, cli.Size(320, 240)))
    np.testing.assert_array_equal(again, pairs)


@pytest.mark.filterwarnings('ignore::ResourceWarning')
def test_what_is_compared_does_the_same(tmp_path: Path) -> None:
    files = write_gopro_tree(tmp_path / 'tree', clips=2, frames=3, size=cli.Size(48, 32))
    assert len(files) == 12
    stored = {}
    for kind in (STOCK, OURS, OURS_RAW):
        (tmp_path / kind).mkdir()
        make_lmdbs(kind, tmp_path / 'tree', tmp_path / kind)
        stored[kind] = {
            f'{side}/{key}': cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            for side in ('blur', 'sharp')
            for key, data in contents(tmp_path / kind / f'train_{side}.lmdb').items()
        }
    assert len(stored[STOCK]) == 12
    for kind in (OURS, OURS_RAW):
        assert stored[kind].keys() == stored[STOCK].keys()
        for key, image in stored[kind].items():
            np.testing.assert_array_equal(image, stored[STOCK][key])
        prepare_loading(str(tmp_path / kind), frames=2, crop=16, samples=3, workers=0)()


@pytest.mark.slow
def test_command(run_python: RunPython, tmp_path: Path) -> None:
    tiny = ['--size', '64x48', '--clips', '1', '--length', '3', '--frames', '2', '--crop', '16', '--samples', '2']
    few = ['--workers', '1', '--repeats', '2', '--warmup', '1', '--no-memory', '--no-stock', '-o', 'out']
    done = run_python('-m', 'dstnet_arch', 'benchmark', 'data', *tiny, *few, cwd=tmp_path, OMP_NUM_THREADS='1')
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / 'out').iterdir()
    content = json.loads(path.read_text())
    assert content['pictures'] == 6
    names = [(item['part'], item['name']) for item in content['results']]
    assert names == [
        *(('conversion', name) for name in ('data_prep', 'data_prep --raw')),
        *(('loading', f'{store}, {how}') for store in ('PNG', 'raw pixels') for how in ('one core', '1 workers')),
    ]
    for item in content['results']:
        assert item['failure'] is None
        assert item['ratio']['median'] > 0
        assert item['name'] in done.stdout
    assert [item['ratio']['median'] for item in content['results'][2:4]] == [1, 1]

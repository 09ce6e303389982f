"""data_prep's sample data set."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.sample import MARGIN, PLANS, SUBFRAMES, ClipPlan, _fit, _load_photograph, camera_path, film, make_sample
from data_prep.verify import verify
from dstnet_arch.data.lmdb_format import read_meta_info
from dstnet_arch.errors import DataError

pytest.importorskip('skimage')

SMALL = (
    ClipPlan('train', 'COFFEE_00', 'coffee', 47, (40, 56), 4, 5.0),
    ClipPlan('test', 'CAMERA_00', 'camera', 7, (37, 51), 3, 5.0),
)


def test_camera_path_is_smooth_and_has_the_blur_length() -> None:
    path = camera_path(np.random.default_rng(3), 24, 5.0)
    assert path.shape == (24 * SUBFRAMES, 4)
    steps = np.diff(path[:, :2], axis=0)
    assert np.hypot(*steps.T).sum() == pytest.approx(5.0 * 24, rel=1e-6)
    assert np.abs(path[:, :2]).max() <= MARGIN
    bends = np.hypot(*np.diff(steps, axis=0).T)
    assert bends.max() < 0.25 * np.hypot(*steps.T).max(), 'no corners'
    assert np.abs(np.degrees(path[:, 2])).max() < 6
    assert np.abs(path[:, 3]).max() < 0.1
    too_long = camera_path(np.random.default_rng(3), 24, 500.0)
    assert np.abs(too_long[:, :2]).max() == pytest.approx(MARGIN)


def test_film_follows_the_path() -> None:
    photograph = np.random.default_rng(1).integers(0, 256, (30, 41, 3), np.uint8)
    path = np.array([[0.0, 0, 0, 0], [3.0, -2, 0, 0]])
    still, moved = film(photograph, path, (10, 21))
    assert np.array_equal(still, photograph[10:20, 10:31])
    assert np.array_equal(moved, photograph[8:18, 13:34])
    square = photograph[:21, :21]
    (turned,) = film(square, np.array([[0.0, 0, math.pi / 2, 0]]), (11, 11))
    assert np.array_equal(turned, np.rot90(square[5:16, 5:16]))


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.fixture(scope='module')
def sample(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp('sample') / 'out'
    make_sample(output, seed=5, plans=SMALL)
    return output


def test_sample_layout_and_records(sample) -> None:
    for folder in ('blur_gamma', 'sharp'):
        names = sorted(path.name for path in (sample / 'raw/train/COFFEE_00' / folder).iterdir())
        assert names == [f'{number:06d}.png' for number in range(47, 51)]
    assert cv2.imread(str(sample / 'raw/test/CAMERA_00/sharp/000007.png')).shape == (37, 51, 3)
    entries = read_meta_info(sample / 'test_blur.lmdb')
    assert [entry[::2] for entry in entries] == [(f'CAMERA_00/{number:06d}', (37, 51, 3)) for number in (7, 8, 9)]
    assert verify(sample)
    info = json.loads((sample / 'train_blur.lmdb/dataset_info.json').read_text())
    assert (info['data_set'], info['blur']['value']) == ('Sample data', 'blur_gamma')
    recipe = json.loads((sample / 'raw/sample.json').read_text())
    assert recipe['seed'] == 5
    assert [plan['photograph'] for plan in recipe['plans']] == ['coffee', 'camera']


def test_blurry_frame_is_the_mean_light_of_the_exposures(sample) -> None:
    path = camera_path(np.random.default_rng([5, 0]), 4, 5.0)
    exposures = np.stack(list(film(_fit(_load_photograph('coffee'), (40, 56)), path, (40, 56))))
    for number in range(4):
        group = exposures[SUBFRAMES * number : SUBFRAMES * (number + 1)]
        blurry, sharp = (
            cv2.imread(str(sample / f'raw/train/COFFEE_00/{side}/{47 + number:06d}.png'))[..., ::-1]
            for side in ('blur_gamma', 'sharp')
        )
        assert np.array_equal(sharp, group[SUBFRAMES // 2])
        expected = 255 * ((group / 255.0) ** 2.2).mean(axis=0) ** (1 / 2.2)
        assert np.abs(blurry - expected).max() <= 0.5 + 1e-6


def test_sample_is_deterministic(sample, tmp_path) -> None:
    (tmp_path / 'again/raw.partial/train/OLD/sharp').mkdir(parents=True)  # left by an interrupted run
    make_sample(tmp_path / 'again', seed=5, plans=SMALL)
    assert tree(tmp_path / 'again/raw') == tree(sample / 'raw')
    make_sample(tmp_path / 'fewer', seed=5, plans=SMALL[:1])
    clip = 'raw/train/COFFEE_00'
    assert tree(tmp_path / 'fewer' / clip) == tree(sample / clip), 'a clip does not depend on the others'
    make_sample(tmp_path / 'other', seed=6, plans=SMALL)
    assert tree(tmp_path / 'other' / clip) != tree(sample / clip)


def test_finished_sample_is_kept_and_others_are_not_overwritten(sample, tmp_path, capsys) -> None:
    before = tree(sample)
    make_sample(sample, seed=5, plans=SMALL)
    assert capsys.readouterr().out.count('already complete') == 4
    (tmp_path / 'foreign/raw').mkdir(parents=True)
    for output, seed in ((sample, 6), (tmp_path / 'foreign', 5)):
        with pytest.raises(DataError, match=r'raw exists already.*choose another folder with -o'):
            make_sample(output, seed=seed, plans=SMALL)
    assert tree(sample) == before


def test_missing_photograph_is_one_clear_error(tmp_path, monkeypatch, capsys) -> None:
    import skimage.data

    def absent() -> None:
        raise ModuleNotFoundError("No module named 'pooch'")

    monkeypatch.setattr(skimage.data, 'astronaut', absent)
    assert main(['sample', '-o', str(tmp_path / 'out')]) == 2
    error = capsys.readouterr().err
    assert "the photograph 'astronaut' of scikit-image cannot be loaded" in error
    assert 'pip install' in error
    assert not (tmp_path / 'out').exists()


def test_photographs_of_test_clips_are_unseen_and_come_with_scikit_image() -> None:
    import importlib.util

    photographs = {split: {plan.photograph for plan in PLANS if plan.split == split} for split in ('train', 'test')}
    assert not photographs['train'] & photographs['test']
    assert all(side % 16 for plan in PLANS if plan.split == 'test' for side in plan.size), 'padding is tested'
    assert all(min(plan.size) >= 128 for plan in PLANS if plan.split == 'train'), 'room for crops'
    folder = Path(importlib.util.find_spec('skimage.data').origin).parent  # nothing is downloaded
    for name in set.union(*photographs.values()):
        assert list(folder.glob(f'{"motorcycle_left" if name == "stereo_motorcycle" else name}.*'))

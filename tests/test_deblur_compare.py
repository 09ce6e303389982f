"""`dstnet deblur --compare` and `--report`: what is made beside the result, and when."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.inference.compare import MODES, compare_pictures, compose
from dstnet_arch.inference.look import Wanted, look
from dstnet_arch.inference.pictures import read_picture
from dstnet_arch.inference.sources import open_source
from dstnet_arch.visualize.canvas import WHITE

Deblur = Callable[..., tuple[int, str, str]]


def picture(seed: int, height: int = 16, width: int = 160) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Folders 'blurry' and 'sharp' of three frames each."""
    for t in range(3):
        save(tmp_path / 'blurry' / f'{t}.png', picture(t))
        save(tmp_path / 'sharp' / f'{t}.png', picture(t + 10))
    return tmp_path


@pytest.mark.parametrize('size', [(16, 160), (15, 161), (1, 1), (3, 2)], ids=str)
def test_both_frames_are_in_the_picture(size: tuple[int, int]) -> None:
    before, after = picture(0, *size), picture(1, *size)
    height, width = size
    side = compose(before, after, 'side')
    assert side.shape[0] % 2 == side.shape[1] % 2 == 0
    np.testing.assert_array_equal(side[32 : 32 + height, :width], before)
    np.testing.assert_array_equal(side[32 : 32 + height, width + 8 : 2 * width + 8], after)
    if height % 2:
        assert (side[-1] == WHITE).all()
    if width < 8:
        return
    split = compose(before, after, 'split')
    assert split.shape == (32 + height + height % 2, width + width % 2, 3)
    half = width // 2
    np.testing.assert_array_equal(split[32 : 32 + height, : half - 2], before[:, : half - 2])
    np.testing.assert_array_equal(split[32 : 32 + height, half + 2 : width], after[:, half + 2 :])


@pytest.mark.parametrize('mode', MODES)
def test_a_folder_of_comparisons(videos: Path, mode: Any) -> None:
    comparison = compare_pictures(videos / 'compared', ['0', '1', '2'], mode)
    made = look(
        open_source(str(videos / 'blurry')), open_source(str(videos / 'sharp')), [comparison], show_progress=False
    )
    assert made == [videos / 'compared']
    assert files(videos) == ['blurry', 'compared', 'sharp']
    for t in range(3):
        expected = compose(picture(t), picture(t + 10), mode)
        np.testing.assert_array_equal(read_picture(videos / 'compared' / f'{t}.png'), expected)


def test_an_error_leaves_nothing(videos: Path) -> None:
    (videos / 'sharp' / '2.png').write_bytes((videos / 'sharp' / '2.png').read_bytes()[:200])
    comparison = compare_pictures(videos / 'compared', ['0', '1', '2'], 'split')
    with pytest.raises(DataError, match=r'2\.png'):
        look(open_source(str(videos / 'blurry')), open_source(str(videos / 'sharp')), [comparison], False)
    assert files(videos) == ['blurry', 'sharp']
    (videos / 'sharp' / '2.png').unlink()
    comparison = compare_pictures(videos / 'compared', ['0', '1', '2'], 'split')
    with pytest.raises(DataError, match='3 frames of 160x16, the restored one 2 of'):
        look(open_source(str(videos / 'blurry')), open_source(str(videos / 'sharp')), [comparison], False)
    assert files(videos) == ['blurry', 'sharp']


def test_where_they_are_put(tmp_path: Path) -> None:
    def wanted(output: str, **settings: Any) -> Wanted:
        given = {'compare': 'side', 'report': True, 'overwrite': False, 'resume': False, **settings}
        return Wanted.of(argparse.Namespace(output=Path(output), **given))

    os.mkdir(tmp_path / 'v1.5')
    for output, compare, report in (
        ('restored', 'restored_compare', 'restored_report.html'),
        ('v1.5', 'v1.5_compare', 'v1.5_report.html'),
        ('out.mp4', 'out_compare.mp4', 'out_report.html'),
    ):
        found = wanted(f'{tmp_path}/{output}')
        assert (found.compare, found.report) == (tmp_path / compare, tmp_path / report)
        assert found.mode == 'side'
    assert not wanted('restored', compare=None, report=False)
    with pytest.raises(OptionsError, match='--report: what has gone into a pipe'):
        wanted('-', compare=None)
    (tmp_path / 'x_report.html').write_text('mine')
    with pytest.raises(OptionsError, match=r'x_report\.html exists already'):
        wanted(f'{tmp_path}/x')
    assert wanted(f'{tmp_path}/x', overwrite=True).report is not None
    assert wanted(f'{tmp_path}/x', resume=True)[::2] == (tmp_path / 'x_compare', None)

"""The picture of a frame before and after, and what is said where it cannot be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from dstnet_arch.__main__ import main
from dstnet_arch.metrics.psnr import psnr
from dstnet_arch.visualize.compare import side_by_side

OPTIONS: dict[str, Any] = {
    'name': 'run',
    'datasets': {
        'test_1': {'name': 'one', 'dataroot_lq': 'one/blurry', 'dataroot_gt': 'one/sharp'},
        'test_2': {'name': 'two', 'dataroot_lq': 'two/blurry'},
    },
    'val': {'suffix': 'x'},
}


def picture(seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (24, 200, 3), dtype=np.uint8)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tested data sets of three frames each, the second without ground truth."""
    monkeypatch.chdir(tmp_path)
    Path('test.yml').write_text(yaml.safe_dump(OPTIONS))
    for dataset in ('one', 'two'):
        for frame in range(3):
            kinds = {
                f'{dataset}/blurry/v/{frame:03}.png': picture(frame),
                f'{dataset}/sharp/v/{frame:03}.png': picture(frame + 10),
                f'results/run/visualization/{dataset}/v/{frame:03}_x.png': picture(frame + 20),
            }
            for path, image in kinds.items():
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(path, image[..., ::-1])
    return tmp_path / 'results' / 'run'


def compare(*arguments: str) -> int:
    return main(['visualize', 'compare', '-opt', 'test.yml', *arguments])


def read(path: Path) -> Any:
    image = cv2.imread(str(path))
    assert image is not None
    return image[..., ::-1]


def test_the_middle_frame_of_the_first_data_set(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare() == 0
    assert capsys.readouterr().out.endswith('v/001: results/run/compare_one.png\n')
    sheet = read(results / 'compare_one.png')
    frames = [picture(1), picture(21), picture(11)]
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(sheet[32:, number * 208 : number * 208 + 200], frame)
    np.testing.assert_array_equal(sheet, side_by_side(dict(zip(['blurry', 'restored', 'sharp'], frames, strict=True))))
    assert list(results.glob('.*')) == []


def test_a_chosen_frame_without_ground_truth(results: Path) -> None:
    assert compare('--dataset', 'test_2', '--frame', 'v/002', '-o', 'made/here.png') == 0
    assert read(Path('made/here.png')).shape == (24 + 32, 2 * 200 + 8, 3)


def test_labels_give_the_psnr_to_the_sharp_frame() -> None:
    blurry, sharp = picture(0), picture(1)
    with_score = side_by_side({'blurry': blurry, 'sharp': sharp})
    named = side_by_side({f'blurry  {psnr(blurry, sharp):.2f} dB': blurry, ' sharp': sharp})
    np.testing.assert_array_equal(with_score[:, :200], named[:, :200])


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        (['--dataset', 'three'], 'the data sets of these options are: test_1, test_2'),
        (['--frame', 'v/009'], '--frame 009 is in none of the sources, whose frames are 000 to 002'),
        (['--frame', '009'], '--frame 009 is in none of the sources, whose frames are 000 to 002'),
        (['--frame', 'w/001'], 'There is no clip w in blurry (one/blurry), which has v'),
    ],
)
def test_a_wrong_choice(results: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    assert compare(*arguments) == 2
    assert told in capsys.readouterr().err
    assert list(results.glob('*.png')) == []


def test_missing_results(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results / 'visualization' / 'one' / 'v' / '001_x.png').unlink()
    assert compare('--frame', 'v/001') == 2
    assert '- restored (results/run/visualization/one, clip v) lacks 001\n' in capsys.readouterr().err
    results.rename(results.with_name('elsewhere'))
    assert compare() == 2
    assert 'val:save_img=true' in capsys.readouterr().err

"""Test sets as clips: stock BasicSR's data sets, 16-bit images, metrics without ground truth."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataset
from basicsr.metrics import calculate_niqe
from model_parts import Clips, loader, logged, make_model, test_options

from dstnet_arch.errors import DataError
from dstnet_arch.models.clips import as_clips, to_levels

FRAMES = {'000': 3, '001': 2}
NIQE = {'niqe': {'type': 'calculate_niqe', 'crop_border': 0, 'better': 'lower'}}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Blurry and sharp videos `{blur,sharp}/<video>/<frame>.png`."""
    rng = np.random.default_rng(0)
    for kind in ('blur', 'sharp'):
        for video, count in FRAMES.items():
            for i in range(count):
                path = tmp_path / kind / video / f'{i:08d}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), rng.integers(0, 256, (14, 18, 3), np.uint8))
    return tmp_path


def stock_options(images: Path, type_: str, below: str = '', **changes: Any) -> dict[str, Any]:
    """Options of a stock data set; `below` is a folder in the data roots."""
    roots = {'dataroot_lq': str(images / 'blur' / below), 'dataroot_gt': str(images / 'sharp' / below)}
    opt = {'name': 'REDS4', 'type': type_, **roots, 'io_backend': {'type': 'disk'}, 'phase': 'test', 'scale': 1}
    return opt | {'cache_data': True, 'num_frame': 3, 'padding': 'reflection'} | changes


def frame(images: Path, kind: str, video: str, i: int) -> torch.Tensor:
    image = cv2.imread(str(images / kind / video / f'{i:08d}.png'))[..., ::-1]
    return torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)


def test_videorecurrenttestdataset_yields_complete_videos(images: Path) -> None:
    clips = as_clips(build_dataset(stock_options(images, 'VideoRecurrentTestDataset', num_frame=-1)))
    assert (len(clips), clips.num_frames, clips.has_gt) == (2, 5, True)
    assert clips.videos == {'000': ['00000000', '00000001', '00000002'], '001': ['00000000', '00000001']}
    clip = clips[1]
    assert (clip['video'], clip['frames'], clip['keep']) == ('001', ['00000000', '00000001'], (0, 2))
    assert torch.equal(clip['gt'][1], frame(images, 'sharp', '001', 1))


@pytest.mark.parametrize('cached', [True, False])
def test_videotestdataset_counts_the_middle_frame_of_each_window(images: Path, cached: bool) -> None:
    clips = as_clips(build_dataset(stock_options(images, 'VideoTestDataset', cache_data=cached)))
    assert (len(clips), clips.num_frames) == (5, 5)
    clip = clips[1]
    kept = slice(*clip['keep'])
    assert (clip['video'], clip['frames'][kept]) == ('000', ['00000001'])
    for key, kind in {'lq': 'blur', 'gt': 'sharp'}.items():
        assert clip[key].shape[0] == 3
        assert torch.equal(clip[key][kept][0], frame(images, kind, '000', 1))


@pytest.mark.parametrize('type_', ['PairedImageDataset', 'SingleImageDataset'])
def test_image_data_sets_yield_clips_of_one_frame(images: Path, type_: str) -> None:
    clips = as_clips(build_dataset(stock_options(images, type_, below='000')))
    assert (len(clips), list(clips.videos)) == (3, ['000'])
    assert sorted(clips.videos['000']) == ['00000000', '00000001', '00000002']
    clip = clips[2]
    assert torch.equal(clip['lq'], frame(images, 'blur', '000', int(clip['frames'][0]))[None])
    assert clips.has_gt is ('gt' in clip) is (type_ == 'PairedImageDataset')


@pytest.mark.parametrize(
    ('type_', 'below', 'frames'),
    [
        ('VideoRecurrentTestDataset', '', 5),
        ('VideoTestDataset', '', 5),
        ('PairedImageDataset', '000', 3),
        ('SingleImageDataset', '000', 3),
    ],
)
def test_model_tests_stock_data_sets(images: Path, type_: str, below: str, frames: int) -> None:
    model = make_model(test_options(images))
    model.validation(loader(build_dataset(stock_options(images, type_, below))), 'tiny', None, save_img=True)
    results = images / 'results/tiny'
    saved = sorted(path.relative_to(results / 'visualization') for path in results.rglob('*.png'))
    assert len(saved) == frames
    assert saved[0] == Path('REDS4/000/00000000.png')
    if type_ == 'SingleImageDataset':  # no ground truth, and no metric that works without
        assert not list(results.rglob('*.csv'))
        return
    with (results / 'REDS4_frames.csv').open() as file:
        row = list(csv.DictReader(file))[1]
    blurry, sharp = (frame(images, kind, '000', 1).double() * 255 for kind in ('blur', 'sharp'))
    expected = 10 * math.log10(255**2 / (blurry - sharp).square().mean())
    assert float(row['input_psnr']) == pytest.approx(expected, abs=1e-4)


def test_other_data_sets_are_named() -> None:
    with pytest.raises(DataError, match=r'list is not supported .*VideoRecurrentDeblurTestDataset, or .*of stock'):
        as_clips([])


# 16-bit images


def test_to_levels_of_16_bits() -> None:
    values = torch.tensor([-1.0, 0.5 / 65535, 0.9999 / 65535, 2.6 / 65535, 1.0, 3.0])
    assert to_levels(values, 16).tolist() == [0, 0, 1, 3, 65535, 65535]
    assert to_levels(values, 16, truncate=True).tolist() == [0, 0, 0, 2, 65535, 65535]
    assert to_levels(values).dtype == torch.uint8


def test_16_bit_images_keep_their_depth_in_scores_and_results(tmp_path: Path) -> None:
    y, x = np.mgrid[:20, :24]
    for kind, offset in {'blur': 0, 'sharp': 120}.items():
        (tmp_path / kind / 'c').mkdir(parents=True)
        for i in range(3):
            image = np.repeat((((x + y + i) % 200) * 256 + offset)[..., None], 3, 2).astype(np.uint16)
            cv2.imwrite(str(tmp_path / kind / 'c' / f'{i}.png'), image)
    roots = {'dataroot_lq': str(tmp_path / 'blur'), 'dataroot_gt': str(tmp_path / 'sharp')}
    dataset = build_dataset({'name': 'c', 'type': 'VideoRecurrentDeblurTestDataset', **roots})
    metrics = {
        'psnr': {'type': 'calculate_psnr', 'crop_border': 0},
        'psnr_y': {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_channel': True},  # by stock's function
        'ssim': {'type': 'calculate_ssim', 'crop_border': 0},
    }
    model = make_model(test_options(tmp_path, metrics=metrics))
    model.restore = lambda lq: lq + 1 / 65535
    with logged() as lines:
        model.validation(loader(dataset), 'tiny', None, save_img=True)
    assert sum('c: 16-bit images; scores and saved images keep 16 bits' in line for line in lines) == 1
    summary = json.loads((tmp_path / 'results/tiny/c_summary.json').read_text())
    assert summary['bit_depth'] == 16
    means = summary['mean_over_frames']
    assert means['input']['psnr'] == pytest.approx(20 * math.log10(65535 / 120), abs=1e-4)  # 54.75 dB
    assert means['restored']['psnr'] == pytest.approx(20 * math.log10(65535 / 119), abs=1e-4)
    assert math.isfinite(means['input']['psnr_y'])
    assert 0.9 < means['input']['ssim'] < 1
    saved = cv2.imread(str(tmp_path / 'results/tiny/visualization/c/c/1.png'), cv2.IMREAD_UNCHANGED)
    original = cv2.imread(str(tmp_path / 'blur/c/1.png'), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(saved, original + 1)


# Metrics without ground truth


@pytest.mark.parametrize('has_gt', [True, False])
@pytest.mark.parametrize('protocol', ['dstnet', 'cdvd'])
def test_niqe_is_computed_with_and_without_ground_truth(tmp_path: Path, has_gt: bool, protocol: str) -> None:
    psnr = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}
    model = make_model(test_options(tmp_path, metrics=psnr | NIQE, protocol=protocol))
    model.restore = lambda lq: lq
    clips = Clips('GoPro', {'a': 5}, has_gt=has_gt, size=200)
    model.validation(loader(clips), 'tiny', None)
    results = tmp_path / 'results/tiny'
    means = json.loads((results / 'GoPro_summary.json').read_text())['mean_over_frames']['restored']
    assert list(means) == [*(['psnr'] * has_gt), *(['ssim'] * (has_gt and protocol == 'cdvd')), 'niqe']
    frames = [clips.clips[0]['lq'][2]] if protocol == 'cdvd' else [*clips.clips[0]['lq'], *clips.clips[1]['lq'][1:]]
    images = [to_levels(frame).numpy().transpose(1, 2, 0)[..., ::-1] for frame in frames]
    assert means['niqe'] == pytest.approx(np.mean([calculate_niqe(image, 0) for image in images]))
    assert (results / 'GoPro_table.md').exists() is (has_gt and protocol == 'dstnet')

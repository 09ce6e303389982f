"""`python -m basicsr.test` with released weights on a set in GoPro's layout gives the released protocol's scores."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import RunPython
from naive_metrics import naive_psnr, naive_ssim2d, naive_ssim3d

from dstnet_arch.archs.checkpoint import load_checkpoint

DATA = Path(__file__).parents[1] / 'data'
# The released test code restores clips of 30 frames; the last one ends at the last frame of its video, and frames that
# it repeats count once. Here, clips have 3 frames: (video, frames of the clip, frames that count).
VIDEOS = {'GOPR0384_11_00': range(1, 5), 'GOPR0385_11_01': range(47, 50)}
CLIPS = [
    ('GOPR0384_11_00', [1, 2, 3], [1, 2, 3]),
    ('GOPR0384_11_00', [2, 3, 4], [4]),
    ('GOPR0385_11_01', [47, 48, 49], [47, 48, 49]),
]


def image_file(root: Path, kind: str, video: str, frame: int) -> Path:
    return root / 'GOPRO_Large/test' / video / kind / f'{frame:06}.png'


def released_weights(name: str) -> dict[str, torch.Tensor]:
    with np.load(DATA / f'released_{name}.npz') as recorded:
        return {k.removeprefix('weights/'): torch.from_numpy(recorded[k]) for k in recorded if k.startswith('weights/')}


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set in GoPro's own layout."""
    root = tmp_path_factory.mktemp('project')
    rng = np.random.default_rng(0)
    for video, frames in VIDEOS.items():
        for frame in frames:
            sharp = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
            for kind, image in {'sharp': sharp, 'blur': cv2.blur(sharp, (5, 1))}.items():
                path = image_file(root, kind, video, frame)
                path.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(path), image)
    return root


def options(weights: str) -> dict[str, Any]:
    network = load_checkpoint(released_weights(weights))
    roots = {'dataroot_lq': 'GOPRO_Large', 'dataroot_gt': 'GOPRO_Large'}
    return {
        'name': weights,
        'model_type': 'VideoRecurrentDeblurModel',
        'num_gpu': 0,
        'datasets': {
            'test': {'name': 'GoPro', 'type': 'VideoRecurrentDeblurTestDataset', **roots, 'clip_length': 3},
        },
        'network_g': {'type': type(network).__name__, **network.config},
        'path': {'pretrain_network_g': f'{weights}.pth'},
        'val': {
            'save_img': True,
            'metrics': {
                'psnr': {'type': 'calculate_psnr', 'crop_border': 0},
                'ssim3d': {'type': 'calculate_ssim3d'},
                'ssim': {'type': 'calculate_ssim', 'crop_border': 0},
            },
        },
    }


def restore_directly(project: Path, weights: str) -> dict[tuple[str, int], np.ndarray]:
    """(video, frame) -> (H, W, 3) uint8 BGR, computed by the network alone."""
    net = load_checkpoint(released_weights(weights))
    frames = {}
    for video, clip, counting in CLIPS:
        images = [cv2.imread(str(image_file(project, 'blur', video, i))) for i in clip]
        lq = torch.from_numpy(np.stack(images)[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255)
        with torch.no_grad():
            output = net(lq[None])[0].numpy()
        levels = np.rint(output.clip(0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)[..., ::-1]
        frames.update({(video, i): levels[i - clip[0]] for i in counting})
    return frames


@pytest.mark.slow
@pytest.mark.parametrize('weights', ['base_f4b2', 'large_f4b2', 'plus_f4k2b2'])
def test_basicsr_test_with_released_weights(project: Path, run_python: RunPython, weights: str) -> None:
    torch.save({'params': released_weights(weights)}, project / f'{weights}.pth')
    opt = options(weights)
    (project / f'{weights}.yml').write_text(yaml.safe_dump(opt))
    done = run_python('-m', 'basicsr.test', '-opt', f'{weights}.yml', cwd=project)
    assert done.returncode == 0, done.stderr

    scores: dict[str, list[tuple[float, float, float]]] = {'input': [], 'restored': []}
    for (video, i), image in restore_directly(project, weights).items():
        sharp, blurry = (cv2.imread(str(image_file(project, kind, video, i))) for kind in ('sharp', 'blur'))
        for row, candidate in {'input': blurry, 'restored': image}.items():
            scores[row].append(tuple(score(candidate, sharp) for score in (naive_psnr, naive_ssim3d, naive_ssim2d)))
        saved = cv2.imread(str(project / f'results/{weights}/visualization/GoPro/{video}/{i:06}.png'))
        np.testing.assert_array_equal(saved, image)
    summary = json.loads((project / f'results/{weights}/GoPro_summary.json').read_text())
    assert (summary['frames'], summary['videos'], summary['protocol']) == (7, 2, 'dstnet')
    assert (summary['precision'], summary['bit_depth']) == ('fp32', 8)
    means = {row: np.mean(values, axis=0) for row, values in scores.items()}
    for row, mean in means.items():
        expected = dict(zip(('psnr', 'ssim3d', 'ssim'), mean, strict=True))
        assert summary['mean_over_frames'][row] == pytest.approx(expected, abs=1e-7)
    assert abs(means['restored'][0] - means['input'][0]) > 0.1

    # The paper's table contains the scores, on the terminal and on disk.
    table = (project / f'results/{weights}/GoPro_table.md').read_text()
    assert table in done.stderr
    (row,) = re.findall(rf'.* \*\*{weights}\*\* .*', table)
    assert [cell.strip() for cell in row.split('|')[3:7]] == [
        f'{means["restored"][0]:.2f}',
        f'{means["restored"][1]:.4f}',
        'measured',
        f'{summary["date"]}, 7 frames of GoPro, {opt["network_g"]["type"]}, {weights}.pth',
    ]

"""BasicSR's own test on the authors' weights, and on videos without ground truth: the whole way, in one process."""

from __future__ import annotations

import json
import re
import subprocess
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
VIDEOS = {'a': 4, 'b': 3}
CLIPS = [('a', range(3), [0, 1, 2]), ('a', range(1, 4), [3]), ('b', range(3), [0, 1, 2])]  # of 3 frames; which count
CODE = """
import sys
from basicsr.test import test_pipeline
for name in sys.argv[1:]:
    sys.argv = ['test.py', '-opt', f'{name}.yml']
    test_pipeline('.')
    print('end of', name, file=sys.stderr)
"""


def released_weights(name: str) -> dict[str, torch.Tensor]:
    with np.load(DATA / f'released_{name}_f4b2.npz') as recorded:
        return {k.removeprefix('weights/'): torch.from_numpy(recorded[k]) for k in recorded if k.startswith('weights/')}


def options(name: str, weights: str, **changes: Any) -> dict[str, Any]:
    network = load_checkpoint(released_weights(weights))
    return {
        'name': name,
        'model_type': 'VideoRecurrentDeblurModel',
        'num_gpu': 0,
        'datasets': {
            'test': {
                'name': 'GoPro',
                'type': 'VideoRecurrentDeblurTestDataset',
                'dataroot_lq': 'data/blurry',
                'dataroot_gt': 'data/sharp',
                'clip_length': 3,
                **changes,
            },
        },
        'network_g': {'type': type(network).__name__, **network.config},
        'path': {'pretrain_network_g': f'{weights}.pth'},
        'val': {
            'save_img': name != 'idle',
            'metrics': {
                'psnr': {'type': 'calculate_psnr', 'crop_border': 0},
                'ssim3d': {'type': 'calculate_ssim3d'},
                'ssim': {'type': 'calculate_ssim', 'crop_border': 0},
            },
        },
    }


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with videos, weights as the authors released them, and options."""
    root = tmp_path_factory.mktemp('project')
    rng = np.random.default_rng(0)
    for video, length in VIDEOS.items():
        for frame in range(length):
            sharp = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
            for kind, image in {'sharp': sharp, 'blurry': cv2.blur(sharp, (5, 1))}.items():
                path = root / 'data' / kind / video / f'{frame:03}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(path), image)
    runs = [options('base', 'base'), options('large', 'large'), options('null', 'base', dataroot_gt=None)]
    runs += [options('absent', 'base'), options('idle', 'base', dataroot_gt=None)]
    del runs[3]['datasets']['test']['dataroot_gt']
    for opt in runs:
        (root / f'{opt["name"]}.yml').write_text(yaml.safe_dump(opt))
    for weights in ('base', 'large'):
        torch.save({'params': released_weights(weights)}, root / f'{weights}.pth')
    return root


@pytest.fixture(scope='module')
def done(run_python: RunPython, project: Path) -> subprocess.CompletedProcess[str]:
    names = ('base', 'large', 'null', 'absent', 'idle')
    done = run_python('-c', CODE, *names, cwd=project)
    assert done.returncode == 0, done.stderr
    return done


def restored(project: Path, weights: str) -> dict[tuple[str, int], np.ndarray]:
    """(video, frame) -> (H, W, 3) uint8 BGR, computed by the network alone."""
    net = load_checkpoint(project / f'{weights}.pth')
    frames = {}
    for video, clip, counting in CLIPS:
        images = [cv2.imread(str(project / 'data/blurry' / video / f'{i:03}.png')) for i in clip]
        lq = torch.from_numpy(np.stack(images)[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255)
        with torch.no_grad():
            output = net(lq[None])[0].numpy()
        levels = np.rint(output.clip(0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)[..., ::-1]
        frames.update({(video, i): levels[i - clip[0]] for i in counting})
    return frames


@pytest.mark.parametrize('weights', ['base', 'large'])
def test_released_weights_give_the_scores_of_a_direct_computation(
    project: Path, done: subprocess.CompletedProcess[str], weights: str
) -> None:
    scores: dict[str, list[tuple[float, float, float]]] = {'input': [], 'restored': []}
    for (video, i), image in restored(project, weights).items():
        sharp, blurry = (
            cv2.imread(str(project / 'data' / kind / video / f'{i:03}.png')) for kind in ('sharp', 'blurry')
        )
        for row, candidate in {'input': blurry, 'restored': image}.items():
            scores[row].append(tuple(score(candidate, sharp) for score in (naive_psnr, naive_ssim3d, naive_ssim2d)))
        saved = cv2.imread(str(project / f'results/{weights}/visualization/GoPro/{video}/{i:03}.png'))
        np.testing.assert_array_equal(saved, image)
    summary = json.loads((project / f'results/{weights}/GoPro_summary.json').read_text())
    assert (summary['frames'], summary['videos'], summary['protocol']) == (7, 2, 'dstnet')
    assert summary['weights'].endswith(f'{weights}.pth')
    means = {row: np.mean(values, axis=0) for row, values in scores.items()}
    for row, mean in means.items():
        expected = dict(zip(('psnr', 'ssim3d', 'ssim'), mean, strict=True))
        assert summary['mean_over_frames'][row] == pytest.approx(expected, abs=1e-7)
    assert abs(means['restored'][0] - means['input'][0]) > 0.1

    # The same scores stand in the paper's table, on screen and on disk.
    row = re.search(rf'^\* .* {weights} .*$', done.stderr, re.MULTILINE)
    assert row is not None
    assert f'{means["restored"][0]:.2f}  {means["restored"][1]:.4f}  measured' in row[0]
    assert f'7 frames of GoPro, DSTNet, {weights}.pth' in row[0]
    for suffix in ('md', 'csv'):
        assert f'{weights}.pth' in (project / f'results/{weights}/GoPro_table.{suffix}').read_text()


@pytest.mark.parametrize('name', ['null', 'absent'])
def test_videos_without_ground_truth_are_restored_and_saved(
    project: Path, done: subprocess.CompletedProcess[str], name: str
) -> None:
    for (video, i), image in restored(project, 'base').items():
        saved = cv2.imread(str(project / f'results/{name}/visualization/GoPro/{video}/{i:03}.png'))
        np.testing.assert_array_equal(saved, image)
    made = [path for path in (project / 'results' / name).rglob('*') if path.is_file() and path.suffix != '.log']
    assert len(made) == 7
    log = log_of(done, name)
    assert 'GoPro: 7 frames restored' in log
    assert not re.search('scores of|warn|error|traceback', log, re.IGNORECASE)


def test_nothing_to_do_is_said(project: Path, done: subprocess.CompletedProcess[str]) -> None:
    assert 'no pictures (val:save_img) wanted' in log_of(done, 'idle')
    assert not (project / 'results/idle/visualization/GoPro').exists()


def log_of(done: subprocess.CompletedProcess[str], name: str) -> str:
    """What the run printed on stderr from the making of its network on; before that, BasicSR shows the options."""
    whole = done.stderr.split(f'end of {name}\n')[0].rsplit('end of ', 1)[-1]
    return whole[whole.index('Network DSTNet') :]

"""What a SIGKILL at the worst moment leaves, step by step; tests/soak kills real processes at many more."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.inference.deblur import command

# deblur


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A folder with the frames of a video, and weights beside it."""
    (tmp_path / 'blurry').mkdir()
    for t in range(2):
        image = np.random.default_rng(t).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / 'blurry' / f'{t}.png'), image)
    torch.manual_seed(0)
    torch.save({'params': DSTNet(num_feat=2, num_block=1, num_cwgdn=1).state_dict()}, tmp_path / 'net.pth')
    return tmp_path


def _deblur(folder: Path, *flags: str) -> None:
    weights = ('--weights', str(folder / 'net.pth'), '--device', 'cpu')
    command([str(folder / 'blurry'), '-o', str(folder / 'sharp'), *weights, *flags])


@pytest.mark.parametrize('flag', ['--resume', '--overwrite'])
@pytest.mark.parametrize('names', [['lock'], ['lock', '.job.json.incomplete']])
def test_deblur_killed_before_its_job_was_noted(video: Path, flag: str, names: list[str]) -> None:
    (video / 'sharp.partial').mkdir()
    for name in names:
        (video / 'sharp.partial' / name).touch()
    _deblur(video, flag)
    assert sorted(path.name for path in (video / 'sharp').iterdir()) == ['0.png', '1.png']
    assert not (video / 'sharp.partial').exists()


@pytest.mark.parametrize('names', [['job.json', 'lock', 'state.pt'], ['job.json'], ['lock'], []])
def test_deblur_killed_while_it_tidied_up(video: Path, names: list[str]) -> None:
    _deblur(video)
    (video / 'sharp.partial').mkdir()
    for name in names:
        (video / 'sharp.partial' / name).touch()
    _deblur(video, '--resume')
    assert not (video / 'sharp.partial').exists()


def test_the_job_is_the_last_to_be_removed(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    unlink = Path.unlink

    def note(self: Path, missing_ok: bool = False) -> None:
        if self.parent.name == 'sharp.partial' and self.exists():
            assert (self.parent / 'job.json').exists()
            removed.append(self.name)
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, 'unlink', note)
    _deblur(video)
    assert 'lock' in removed
    assert not (video / 'sharp.partial').exists()

"""Self-ensemble: the mean over quarter turns and both directions of time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from model_parts import Clips, loader, logged, make_model, test_options
from torch import Tensor
from torch.nn.functional import conv3d

from dstnet_arch.models.self_ensemble import RESTORATIONS, self_ensemble


def clip(batch: int = 2, frames: int = 3) -> Tensor:
    return torch.rand(batch, frames, 3, 6, 9, generator=torch.Generator().manual_seed(0))


def network(kernel: Tensor, x: Tensor) -> Tensor:
    """A convolution over time, rows and columns, zeros beyond the borders."""
    return conv3d(x.transpose(1, 2), kernel, padding=1).transpose(1, 2)


def random_kernel() -> Tensor:
    return torch.randn(3, 3, 3, 3, 3, generator=torch.Generator().manual_seed(1))


def explicit_mean(kernel: Tensor, x: Tensor) -> np.ndarray:
    """The eight, one by one, turned with NumPy; axes 3 and 4 are rows and columns, axis 1 is time."""

    def restore(array: np.ndarray) -> np.ndarray:
        return network(kernel, torch.from_numpy(array.copy())).numpy()

    original = x.numpy()
    results = []
    for turns in (0, 1, 2, 3):
        results.append(np.rot90(restore(np.rot90(original, turns, (3, 4))), 4 - turns, (3, 4)))
        backwards = np.rot90(original[:, ::-1], turns, (3, 4))
        results.append(np.rot90(restore(backwards), 4 - turns, (3, 4))[:, ::-1])
    assert len(results) == RESTORATIONS
    return np.mean(np.stack(results).astype(np.float64), axis=0)


@pytest.mark.parametrize('frames', [1, 2, 3])
def test_self_ensemble_equals_an_explicit_mean(frames: int) -> None:
    x, kernel = clip(frames=frames), random_kernel()
    result = self_ensemble(lambda lq: network(kernel, lq), x)
    assert result.shape == x.shape
    np.testing.assert_allclose(result.numpy(), explicit_mean(kernel, x), rtol=0, atol=1e-5)
    assert not torch.allclose(result, network(kernel, x), atol=0.1)


def test_self_ensemble_does_not_change_its_input() -> None:
    x = clip()
    before = x.clone()
    result = self_ensemble(lambda lq: lq, x)  # it returns the very tensor that it was given
    torch.testing.assert_close(result, before, rtol=0, atol=1e-6)
    assert torch.equal(x, before)


def test_val_self_ensemble_changes_restore_and_summary(tmp_path: Path) -> None:
    clips = Clips('set', {'a': 4})
    plain = make_model(test_options(tmp_path / 'plain'))
    model = make_model(test_options(tmp_path / 'mean', self_ensemble=True))
    lq = clips.clips[0]['lq'][None]
    torch.testing.assert_close(model.restore(lq), self_ensemble(plain.restore, lq), rtol=0, atol=1e-6)
    assert not torch.equal(model.restore(lq), plain.restore(lq))
    psnr = []
    for of, wanted in ((plain, False), (model, True)):
        with logged() as lines:
            of.validation(loader(clips), 'tiny', None)
        assert any('Self-ensemble: the mean of 8' in line for line in lines) is wanted
        summary = json.loads(Path(of.opt['path']['results_root'], 'set_summary.json').read_text())
        assert summary['self_ensemble'] is wanted
        psnr.append(summary['mean_over_frames']['restored']['psnr'])
    assert psnr[0] != psnr[1]

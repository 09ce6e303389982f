"""30 training steps from the released code's start weights reproduce its losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from basicsr.losses import build_loss
from model_parts import make_model, train_options
from torch import Tensor

from dstnet_arch.archs.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def curve() -> dict[str, Any]:
    """The recorded run: start weights, clips (steps, 1, T, 3, H, W) in [0, 1], losses of each step, final norms."""
    with np.load(ROOT / 'tests/data/released_curve_f8b2.npz') as recorded:
        weights = {key.removeprefix('weights/'): recorded[key] for key in recorded if key.startswith('weights/')}
        clips = {key: torch.from_numpy(recorded[key]).permute(0, 1, 2, 5, 3, 4).double() / 255 for key in ('lq', 'gt')}
        results = {key: recorded[key] for key in ('loss_pix', 'loss_freq', 'last_norms')}
    return {'weights': {key: torch.from_numpy(value) for key, value in weights.items()}, **clips, **results}


@pytest.fixture
def train_opt() -> dict[str, Any]:
    """The section `train` of the options file, with the frequency loss of the released code."""
    opt: dict[str, Any] = yaml.safe_load((ROOT / 'options/train_DSTNet_GoPro.yml').read_text())['train']
    opt['frequency_opt']['form'] = 'modulus'
    return opt


def norms(net: torch.nn.Module) -> list[float]:
    return sorted(parameter.detach().double().norm().item() for parameter in net.parameters())


@pytest.mark.slow
def test_losses_in_float64_equal_the_recorded_ones(curve: dict[str, Any], train_opt: dict[str, Any]) -> None:
    net = load_checkpoint(curve['weights']).double().train()
    losses = [build_loss(train_opt[key]) for key in ('pixel_opt', 'frequency_opt')]
    settings = dict(train_opt['optim_g'])
    optimizer = getattr(torch.optim, settings.pop('type'))(net.parameters(), **settings)
    for step, (lq, gt) in enumerate(zip(curve['lq'], curve['gt'], strict=True)):
        optimizer.zero_grad()
        output = net(lq)
        values: list[Tensor] = [loss(output, gt) for loss in losses]
        sum(values, torch.zeros(())).backward()
        optimizer.step()
        expected = [curve['loss_pix'][step], curve['loss_freq'][step]]
        assert [value.item() for value in values] == pytest.approx(expected, abs=1e-9), f'step {step}'
    assert norms(net) == pytest.approx(curve['last_norms'].tolist(), abs=1e-8)


def test_losses_of_the_model_in_float32_equal_the_recorded_ones(
    curve: dict[str, Any], train_opt: dict[str, Any], tmp_path: Path
) -> None:
    torch.save({'params': curve['weights']}, tmp_path / 'released.pth')
    net = load_checkpoint(curve['weights'])
    opt = train_options(tmp_path)
    opt |= {'train': train_opt, 'network_g': {'type': type(net).__name__, **net.config}}
    opt['path']['pretrain_network_g'] = str(tmp_path / 'released.pth')
    model = make_model(opt)
    for step, (lq, gt) in enumerate(zip(curve['lq'], curve['gt'], strict=True)):
        model.update_learning_rate(step + 1)
        model.feed_data({'lq': lq.float(), 'gt': gt.float()})
        model.optimize_parameters(step + 1)
        expected = {'l_pix': curve['loss_pix'][step], 'l_freq': curve['loss_freq'][step]}
        assert model.get_current_log() == pytest.approx(expected, rel=1e-3), f'step {step}'
    assert norms(model.net_g) == pytest.approx(curve['last_norms'].tolist(), rel=1e-3)

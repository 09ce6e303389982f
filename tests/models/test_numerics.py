"""The first non-finite value is located; extreme frames stay finite."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from model_parts import assert_equal, batch, make_model, train_options, weights
from torch import Tensor, nn

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.errors import TrainingError
from dstnet_arch.losses.frequency_loss import FrequencyLoss
from dstnet_arch.nonfinite import NonFiniteWatch, first_nonfinite
from dstnet_arch.streaming.streamer import Streamer

NETWORKS = {
    'DSTNet': lambda: DSTNet(num_feat=8, num_block=1, num_cwgdn=1),
    'DSTNetPlus': lambda: DSTNetPlus(num_feat=8, num_kernel_block=1, num_block=1),
}


@pytest.fixture(params=NETWORKS)
def net(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[request.param]()


def break_layer(module: nn.Module, value: float = float('nan')) -> None:
    """Make a layer return one non-finite value."""

    def hook(module: nn.Module, given: Any, made: Tensor) -> Tensor:
        made = made.clone(memory_format=torch.contiguous_format)
        made.view(-1)[3] = value
        return made

    module.register_forward_hook(hook)


@pytest.mark.parametrize('value', [float('nan'), -float('inf')])
def test_first_nonfinite_names_every_layer(net: nn.Module, value: float) -> None:
    clip = torch.rand(1, 2, 3, 16, 16)
    called: list[str] = []
    probe = copy.deepcopy(net)
    for name, module in probe.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    probe(clip)
    for name in sorted(set(called))[::5]:
        broken = copy.deepcopy(net)
        break_layer(broken.get_submodule(name), value)
        kind = type(broken.get_submodule(name)).__name__
        found = first_nonfinite(broken, lambda broken=broken: broken(clip))
        assert found is not None
        assert found.startswith(f'the output of {name} ({kind}), 1 of ')
        assert found.endswith(' in float32')


def test_first_nonfinite_names_frames_weights_and_inputs(net: nn.Module) -> None:
    clip = torch.rand(1, 2, 3, 16, 16)
    assert first_nonfinite(net, lambda: net(clip)) is None
    damaged = clip.clone()
    damaged[0, 1, 2, 3, 4] = float('inf')
    assert first_nonfinite(net, lambda: net(damaged)) == 'the frames, 1 of 1536 values in float32'

    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x) / 0)

    between = Between()
    found = first_nonfinite(between, lambda: between(torch.ones(1, 2)))
    assert found == 'the input of second (Linear), 2 of 2 values in float32'

    name, parameter = list(net.named_parameters())[5]
    parameter.data.view(-1)[0] = float('nan')
    found = first_nonfinite(net, lambda: net(clip))
    assert found == f'the weights {name}, 1 of {parameter.numel()} values in float32'


def test_nonfinitewatch_removes_its_hooks_and_changes_nothing(net: nn.Module) -> None:
    clip = torch.rand(1, 1, 3, 16, 16)
    with torch.no_grad():
        before = net(clip)
        with NonFiniteWatch().network(net):
            watched = net(clip)
    assert torch.equal(watched, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


# Training


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        ({}, r'l_pix is nan.*find_nonfinite=true'),
        ({'find_nonfinite': True}, r'iteration 7\. .*: the output of second \(Conv3d\), 1 of \d+ values in float32\.'),
        ({'find_nonfinite': True, 'accum_iter': 2, 'ema_decay': 0.9}, r'the output of second \(Conv3d\)'),
    ],
)
def test_find_nonfinite_names_the_layer(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    model = make_model(train_options(tmp_path, **options))
    break_layer(model.net_g.second)
    before = weights(model.net_g)
    model.feed_data(batch(7))
    with pytest.raises(TrainingError, match=told):
        model.optimize_parameters(7)
    assert_equal(weights(model.net_g), before)


@pytest.mark.parametrize(('key', 'told'), [('lq', 'the frames, 1 of'), ('gt', 'the sharp frames, 1 of')])
def test_find_nonfinite_names_damaged_frames(tmp_path: Path, key: str, told: str) -> None:
    model = make_model(train_options(tmp_path, find_nonfinite=True))
    data = batch(1)
    data[key][0, 0, 0, 0, 0] = float('nan')
    model.feed_data(data)
    with pytest.raises(TrainingError, match=f'{told}.*data_prep verify'):
        model.optimize_parameters(1)


def test_find_nonfinite_names_gradients(tmp_path: Path) -> None:
    model = make_model(train_options(tmp_path, find_nonfinite=True))
    model.net_g.first.weight.register_hook(lambda gradient: gradient * float('inf'))
    model.feed_data(batch(1))
    with pytest.raises(TrainingError, match=r'the gradient of first\.weight'):
        model.optimize_parameters(1)


# Extremes

CHECKS = ((torch.arange(18)[:, None] + torch.arange(21)) % 2).float().expand(1, 3, 3, 18, 21)
EXTREMES = {
    'black': torch.zeros(1, 2, 3, 16, 16),
    'white': torch.ones(1, 2, 3, 16, 16),
    'beyond': torch.full((1, 2, 3, 16, 16), 3.0),
    'negative': torch.full((1, 2, 3, 16, 16), -3.0),
    'subnormal': torch.full((1, 2, 3, 16, 16), 1e-42),
    'checks': CHECKS,
    'one pixel': torch.full((1, 1, 3, 1, 1), 0.5),
    'one row': torch.full((1, 2, 3, 1, 33), 0.5),
    'flashing': torch.arange(4).remainder(2).float().view(1, 4, 1, 1, 1).expand(1, 4, 3, 16, 16),
}


@pytest.mark.parametrize('name', EXTREMES)
def test_networks_keep_extreme_frames_finite(net: nn.Module, name: str) -> None:
    clip = EXTREMES[name]
    with torch.no_grad():
        streamed = torch.stack(list(Streamer(net)(clip[0])))
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert net(clip).isfinite().all()
    restored = net(clip)
    assert restored.shape == clip.shape
    scale = max(1.0, float(clip.abs().max()))
    torch.testing.assert_close(streamed / scale, restored[0].detach() / scale, rtol=1e-4, atol=1e-5)
    loss = (restored - clip).square().add(1e-12).sqrt().mean() + FrequencyLoss(0.1)(restored, clip)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.slow
def test_long_videos_stay_finite(net: nn.Module) -> None:
    """Values that grow with each step of the propagation would overflow in 500 frames."""
    torch.manual_seed(1)
    restored = torch.stack(list(Streamer(net)(torch.rand(500, 3, 16, 16))))
    assert restored.isfinite().all()
    assert restored.abs().max() < 100

"""Networks of stock BasicSR as networks for clips: SlidingWindow, and the peers of options/peers in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from model_parts import make_model, train_options, weights
from torch import Tensor, nn

from dstnet_arch.archs.sliding_window_arch import SlidingWindow
from dstnet_arch.errors import CheckpointError, OptionsError
from dstnet_arch.plugin.options import read_options

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings('ignore:torch.meshgrid')  # as stock BasicSR calls it


class WeightedSum(nn.Module):
    """Middle frame of a window: a sum of its frames with different weights. A picture: times one weight."""

    def __init__(self, num_frame: int = 3, scale: int = 1) -> None:
        super().__init__()
        self.factors = nn.Parameter(2.0 ** torch.arange(num_frame))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        y = (x * self.factors[:, None, None, None]).sum(1) if x.dim() == 5 else x * self.factors
        return y.repeat_interleave(self.scale, -1)


class EvenSides(nn.Module):
    """Refuses odd sides, as many networks do, and marks the size it was given."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] % 4 == x.shape[-2] % 4 == 0
        return x + x.shape[-1]


for net in (WeightedSum, EvenSides):
    if net.__name__ not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(net)


def wrapped(num_frame: int, **arguments: Any) -> SlidingWindow:
    return SlidingWindow({'type': 'WeightedSum', 'num_frame': num_frame}, num_frame, **arguments)


# SlidingWindow


@pytest.mark.parametrize('ends', ['reflect', 'replicate'])
@pytest.mark.parametrize(('num_frame', 'length'), [(1, 2), (3, 1), (3, 8), (5, 2), (7, 3), (7, 8)])
def test_each_frame_is_the_middle_of_its_window(num_frame: int, length: int, ends: str) -> None:
    net = wrapped(num_frame, ends=ends)
    clip = torch.rand(2, 3, length, 5, 7, dtype=torch.float64).transpose(1, 2)  # not contiguous
    reach = num_frame // 2
    beyond = {'reflect': 'reflect', 'replicate': 'edge'}[ends]
    long = np.pad(clip.numpy(), [(0, 0), (reach, reach), (0, 0), (0, 0), (0, 0)], mode=beyond)
    expected = np.stack(
        [sum(2.0**k * long[:, t + k] for k in range(num_frame)) for t in range(length)],
        axis=1,
    )
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            restored = net(clip)
        assert restored.shape == clip.shape
        np.testing.assert_allclose(restored.detach().numpy(), expected, rtol=1e-12)


def test_without_gradients_few_windows_are_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    net = wrapped(3)
    clip = torch.rand(2, 9, 3, 8, 8)
    whole = net(clip)
    made: list[int] = []
    net.network.register_forward_pre_hook(lambda module, inputs: made.append(len(inputs[0])))
    monkeypatch.setattr('dstnet_arch.archs.video_net._CHUNK_PIXELS_CPU', 4 * 2 * 64)  # four frames of both clips
    with torch.no_grad():
        torch.testing.assert_close(net(clip), whole)
    assert made == [8, 8, 2]


def test_recomputing_gives_the_same_gradients() -> None:
    net = wrapped(5)
    clip = torch.rand(1, 4, 3, 8, 8)
    gradients = []
    for net.gradient_checkpointing in (False, True):
        net.zero_grad()
        net(clip).square().mean().backward()
        gradients.append(net.network.factors.grad)
    torch.testing.assert_close(*gradients)


def test_frames_of_any_size_are_padded_and_cropped() -> None:
    clip = torch.rand(1, 2, 3, 5, 7)
    net = SlidingWindow({'type': 'EvenSides'}, num_frame=1, size_multiple=4)
    torch.testing.assert_close(net(clip), clip + 8)


@pytest.mark.parametrize(('num_frame', 'inside'), [(0, 0), (4, 4), (5, 3)])
def test_wrong_windows_are_refused(num_frame: int, inside: int) -> None:
    with pytest.raises(OptionsError, match=f'num_frame is {num_frame}, and that of the network inside {inside}'):
        SlidingWindow({'type': 'WeightedSum', 'num_frame': inside}, num_frame)
    for wrong in ({'ends': 'mirror'}, {'size_multiple': 0}):
        with pytest.raises(OptionsError, match=f'got .*{next(iter(wrong))}='):
            SlidingWindow({'type': 'WeightedSum', 'num_frame': 3}, 3, **wrong)


def test_a_network_that_changes_the_size_is_refused() -> None:
    net = SlidingWindow({'type': 'WeightedSum', 'num_frame': 3, 'scale': 2}, 3)
    with pytest.raises(OptionsError, match=r'WeightedSum makes \(4, 3, 8, 16\) of \(4, 3, 3, 8, 8\)'):
        net(torch.rand(1, 4, 3, 8, 8))


def test_checkpoints_with_and_without_the_wrapper(tmp_path: Path) -> None:
    opt = train_options(tmp_path)
    opt['network_g'] = {'type': 'SlidingWindow', 'num_frame': 3, 'network': {'type': 'WeightedSum', 'num_frame': 3}}
    model = make_model(opt)
    for name in ('factors', 'network.factors'):
        torch.save({'params': {name: torch.tensor([7.0, 8.0, 9.0])}}, tmp_path / f'{name}.pth')
        model.load_network(model.net_g, str(tmp_path / f'{name}.pth'))
        assert model.net_g.network.factors.tolist() == [7, 8, 9]
    assert list(model.net_g.state_dict()) == ['network.factors']
    torch.save({'params': {'factor': torch.zeros(3)}}, tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match=r'network\.factor'):
        model.load_network(model.net_g, str(tmp_path / 'other.pth'))


STOCK = {
    'TOFlow': (7, {}),
    'RIDNet': (1, {'in_channels': 3, 'mid_channels': 16, 'out_channels': 3, 'num_block': 1}),
    'SwinIR': (1, {'upscale': 1, 'window_size': 8, 'embed_dim': 12, 'depths': [2], 'num_heads': [2]}),
    'RRDBNet': (1, {'num_in_ch': 3, 'num_out_ch': 3, 'scale': 1, 'num_feat': 8, 'num_block': 1, 'num_grow_ch': 4}),
    'EDSR': (1, {'num_in_ch': 3, 'num_out_ch': 3, 'upscale': 1, 'num_feat': 8, 'num_block': 1}),
    'RCAN': (1, {'num_in_ch': 3, 'num_out_ch': 3, 'upscale': 1, 'num_feat': 16, 'num_group': 1, 'num_block': 1}),
}


@pytest.mark.parametrize('name', STOCK)
def test_networks_that_the_docstring_names(name: str) -> None:
    num_frame, arguments = STOCK[name]
    assert name in (SlidingWindow.__doc__ or '')
    net = SlidingWindow({'type': name, **arguments}, num_frame, size_multiple=16)
    clip = torch.rand(1, 1, 3, 14, 16)
    restored = net(clip)
    assert restored.shape == clip.shape
    restored.mean().backward()


# Peers in training


@pytest.mark.parametrize(
    ('name', 'arguments', 'size'),
    [
        ('EDVR', {'num_feat': 8, 'num_extract_block': 1, 'num_reconstruct_block': 1}, 16),
        ('BasicVSRPP', {'mid_channels': 8, 'num_blocks': 1}, 256),  # less is too small for it
    ],
)
def test_peers_of_the_options_files_train(
    name: str, arguments: dict[str, int], size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opt = train_options(tmp_path)
    read = read_options(ROOT / f'options/peers/train_{name}_GoPro.yml')
    opt['network_g'], opt['train'] = read['network_g'], read['train']
    opt['network_g'].get('network', opt['network_g']).update(arguments)
    with monkeypatch.context() as patch:
        # With a GPU, BasicVSR++ has its alignment, whose operator of torchvision runs on the CPU as well.
        patch.setattr(torch.cuda, 'is_available', lambda: True)
        model = make_model(opt)
    if name == 'EDVR':
        assert type(model.net_g) is SlidingWindow
        assert model.net_g.gradient_checkpointing
    torch.manual_seed(0)
    before = weights(model.net_g)
    gt = torch.rand(1, 2, 3, size, size)
    clips = {'lq': (gt + 0.1 * torch.randn(gt.shape)).clamp(0, 1), 'gt': gt}
    losses = []
    for i in range(1, 3):
        model.update_learning_rate(i, warmup_iter=-1)
        model.feed_data(clips)
        model.optimize_parameters(i)
        losses.append(model.get_current_log()['l_pix'])
    after = weights(model.net_g)
    assert not [key for key, _ in model.net_g.named_parameters() if torch.equal(before[key], after[key])]
    assert losses[-1] < losses[0]

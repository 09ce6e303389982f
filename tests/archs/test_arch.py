"""The network against the released one's recorded outputs and the paper's equations; sizes, gradients, memory."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dstnet_arch.archs import dstnet_arch, video_net
from dstnet_arch.archs.ablations import GMLP, BlendFusion
from dstnet_arch.archs.checkpoint import load_checkpoint
from dstnet_arch.archs.derived_weights import derive
from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.archs.dtff import DTFF
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.benchmarks.plain import PlainDSTNet

DATA = Path(__file__).parents[1] / 'data'
PACKAGE = Path(dstnet_arch.__file__).parent.parent


def randomize(net: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that reach every parameter: PyTorch's defaults leave biases and the filters' influence near nothing."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
        scale = 1 / fan_in**0.5 if parameter.dim() > 1 else 0.2
        parameter.data = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return net.eval()


def small_net(**kwargs: Any) -> DSTNet:
    net = randomize(DSTNet(**{'num_feat': 2, 'num_block': 1, 'num_cwgdn': 1, **kwargs}))
    assert isinstance(net, DSTNet)
    return net


def small_plus() -> DSTNetPlus:
    net = randomize(DSTNetPlus(num_feat=2, num_kernel_block=1, num_block=1))
    assert isinstance(net, DSTNetPlus)
    return net


def clip(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights(net: nn.Module) -> naive.Weights:
    return {k: v.detach().numpy() for k, v in net.named_parameters()}


def frames_of(x: Tensor) -> list[naive.Array]:
    return list(x.detach().numpy())


# The released network


@pytest.mark.parametrize('name', ['base_f4b2', 'large_f4b2', 'plus_f4k2b2', 'plus_f4k2b2_odd'])
@pytest.mark.parametrize(
    ('dtype', 'key', 'tolerance'),
    [(torch.float64, 'output', 2e-6), (torch.float32, 'output', 1e-5), (torch.float32, 'output_float32', 1e-5)],
)
def test_recorded_outputs(name: str, dtype: torch.dtype, key: str, tolerance: float) -> None:
    recorded = np.load(DATA / f'released_{name}.npz')
    state_dict = {
        k.removeprefix('weights/'): torch.from_numpy(recorded[k]).to(dtype)
        for k in recorded
        if k.startswith('weights/')
    }
    net = load_checkpoint(state_dict)
    x = torch.from_numpy(recorded['input']).to(dtype)
    with torch.no_grad():
        inferred = net(x)
    for out in (inferred, net(x).detach()):  # with and without gradients
        np.testing.assert_allclose(out, recorded[key], rtol=0, atol=tolerance)


def test_each_equation_has_its_place() -> None:
    found: list[str] = []
    for file in [*PACKAGE.glob('archs/*.py'), *PACKAGE.glob('ops/*.py')]:
        code = file.read_text(encoding='utf-8')
        found += re.findall(r'#.*?Eq\. \((\d+)\)', code)
    assert sorted(map(int, found)) == [1, 2, 3, 4, 7, 8, 9, 10, 11]  # (5) and (6) are DTFF itself
    index = dstnet_arch.__doc__ or ''
    assert [int(n) for n in re.findall(r'^    Eq\. \((\d+)\)', index, re.M)] == list(range(1, 12))
    assert 'Eqs. (5) and (6)' in (DTFF.__doc__ or '')


# Against the equations


@pytest.mark.parametrize('boundary', ['zeros', 'paper'])
@pytest.mark.parametrize('kwargs', [{}, {'prop_feat': 3, 'num_block': 2, 'num_cwgdn': 2}], ids=['base', 'large'])
@pytest.mark.parametrize('num_frame', [1, 2, 3])
def test_network_against_the_paper(boundary: str, kwargs: dict[str, Any], num_frame: int) -> None:
    net, x = small_net(boundary=boundary, **kwargs), clip(1, num_frame, 3, 16, 32)
    expected = naive.dstnet(frames_of(x[0]), weights(net), boundary)
    np.testing.assert_allclose(net(x)[0].detach(), expected, atol=1e-11)


@pytest.mark.parametrize('kwargs', [{}, {'prop_feat': 3, 'num_block': 2, 'num_cwgdn': 2, 'boundary': 'paper'}])
def test_network_equals_its_plain_schedule(kwargs: dict[str, Any]) -> None:
    net, x = small_net(**kwargs), clip(2, 3, 3, 32, 48).requires_grad_()
    plain = PlainDSTNet(**net.config).double()
    plain.load_state_dict(net.state_dict())
    results = []
    for each in (net, plain):
        out = each(x)
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), [x, *each.parameters()])])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


# Ablations

ABLATIONS: list[dict[str, Any]] = [
    {'spatial': 'gmlp'},
    {'spatial': 'none'},
    {'fusion': 'blend'},
    {'fusion': 'none'},
    {'pixel_filter': False},
    {'propagation': 'none'},
    {'propagation': 'bilinear'},
]


@pytest.mark.parametrize('ablation', ABLATIONS, ids=str)
def test_ablation_trains_and_survives_its_checkpoint(ablation: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net, x = DSTNet(num_feat=4, num_block=1, num_cwgdn=1, **ablation).double(), clip(2, 3, 3, 21, 40)
    sharp, losses = 0.5 * x + 0.2, []
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(5):
        loss = (net(x) - sharp).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    assert losses[-1] < 0.9 * losses[0]
    randomize(net)
    out = net(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(net(x), out, rtol=1e-9, atol=1e-11)  # in chunks
        full = DSTNet(num_feat=4, num_block=1, num_cwgdn=1)
        assert (out - randomize(full)(x)).abs().max() > 1e-3
        again = load_checkpoint(net.state_dict())
        assert again.config == net.config
        assert torch.equal(again(x), net(x))
    with pytest.raises(ValueError, match='full network only'):
        PlainDSTNet(**net.config)


def test_gmlp_against_its_definition() -> None:
    net, z, w = randomize(GMLP(1)), clip(1, 4, 12, 8), weights(randomize(GMLP(1)))
    own = z[0].numpy()
    normed = (own - own.mean(axis=0)) / np.sqrt(own.var(axis=0) + 1e-5)
    normed = normed * w['gate_norm.weight'][:, None, None] + w['gate_norm.bias'][:, None, None]
    padded = np.pad(normed, ((0, 0), (0, 4), (0, 0)), mode='reflect')
    expected = np.zeros_like(padded)
    for c in range(4):
        for top in (0, 8):
            tokens = padded[c, top : top + 8].reshape(64)
            expected[c, top : top + 8] = (w['mix.weight'] @ tokens + w['mix.bias']).reshape(8, 8)
    assert isinstance(net, GMLP)
    np.testing.assert_allclose(net.make_gate(z)[0].detach(), expected[:, :12], atol=1e-12)


def test_blend_fusion_against_the_paper() -> None:
    net, x, y = randomize(BlendFusion(2)), clip(1, 2, 5, 4), clip(1, 2, 5, 4, seed=1)
    w = weights(net)
    features = naive.lrelu(naive.conv(np.concatenate([x[0].numpy(), y[0].numpy()]), naive.sub(w, 'conv')))
    gate1, gate2 = (
        naive.sigmoid(naive.conv(half, naive.sub(w, name)))
        for half, name in zip(np.split(features, 2), ('gate1', 'gate2'), strict=True)
    )
    np.testing.assert_allclose(net(x, y)[0].detach(), x[0].numpy() * gate1 + y[0].numpy() * gate2, atol=1e-12)


# Properties


NETS = pytest.mark.parametrize(
    'make_net',
    [small_net, partial(small_net, prop_feat=3), partial(small_net, boundary='paper'), small_plus],
    ids=['base', 'large', 'paper', 'plus'],
)


@NETS
@pytest.mark.parametrize(('height', 'width'), [(1, 1), (2, 40), (15, 16), (16, 16), (37, 51)])
def test_any_size_is_padded_by_reflection_and_clips_do_not_mix(
    make_net: Callable[[], VideoNet], height: int, width: int
) -> None:
    net, x = make_net(), clip(2, 2, 3, height, width)
    with torch.no_grad():
        out = net(x)
        h, w = net.padded_side(height), net.padded_side(width)
        padded = np.pad(x.numpy(), ((0, 0),) * 3 + ((0, h - height), (0, w - width)), mode='reflect')
        expected = torch.cat([net(torch.from_numpy(one[None])) for one in padded])[..., :height, :width]
    assert out.shape == x.shape
    assert out.is_contiguous()
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-11)


def test_non_contiguous_input_is_read_right_and_left_alone() -> None:
    net, x = small_net(), clip(2, 3, 3, 20, 16)
    strided = x.transpose(1, 4).contiguous().transpose(1, 4)
    with torch.no_grad():
        torch.testing.assert_close(net(strided), net(x), rtol=0, atol=1e-12)
    assert torch.equal(strided, x)


def test_chunked_inference_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x = clip(2, 5, 3, 96, 16)
    for net in (small_net(num_cwgdn=2), small_net(propagation='bilinear'), small_plus()):
        whole = net(x).detach()
        for pixels in (1, 48 * 16, 3 * 96 * 16, 10**9):  # strips, larger strips, a few frames, all
            monkeypatch.setattr(video_net, '_CHUNK_PIXELS_CPU', pixels)
            with torch.no_grad():
                assert (net(x) - whole).abs().max() < 1e-11 * whole.abs().max()


@pytest.mark.parametrize(
    'x',
    [
        torch.rand(2, 3, 16, 16),
        torch.rand(1, 2, 4, 16, 16),
        torch.rand(1, 0, 3, 16, 16),
        torch.zeros(1, 2, 3, 16, 16, dtype=torch.uint8),
    ],
    ids=['rank', 'channels', 'no frames', 'integers'],
)
def test_wrong_input_is_named(x: Tensor) -> None:
    with pytest.raises(ValueError, match=re.escape(f'got {tuple(x.shape)} of {x.dtype}')):
        small_net()(x)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'num_feat': 0}, 'num_feat=0'),
        ({'num_block': -1}, 'num_block=-1'),
        ({'boundary': 'zero'}, "zeros, paper; got 'zero'"),
        ({'spatial': 'mlp'}, "cwgdn, gmlp, none; got 'mlp'"),
        ({'fusion': 'gate'}, "gated, blend, none; got 'gate'"),
        ({'propagation': 'wavelet'}, "haar, none, bilinear; got 'wavelet'"),
    ],
)
def test_wrong_arguments_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DSTNet(**kwargs)


@NETS
def test_gradients_of_the_whole_network(make_net: Callable[[], VideoNet]) -> None:
    net, x = make_net(), clip(1, 2, 3, 16, 16).requires_grad_()
    direction = clip(1, 2, 3, 16, 16, seed=1) - 0.5
    (net(x) * direction).sum().backward()
    assert [k for k, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    eps = 1e-6
    with torch.no_grad():
        numeric = ((net(x + eps * direction) - net(x - eps * direction)) * direction).sum() / (2 * eps)
    assert x.grad is not None
    torch.testing.assert_close((x.grad * direction).sum(), numeric, rtol=1e-6, atol=0)


def test_gradient_checkpointing_changes_memory_only() -> None:
    net, x = small_net(num_block=2), clip(1, 3, 3, 32, 32)
    results, saved = [], []
    for checkpointing in (False, True):
        net.gradient_checkpointing = checkpointing
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: (kept.append(t.numel()), t)[1], lambda t: t):
            out = net(x)
        saved.append(sum(kept))
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), list(net.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert saved[1] < 0.6 * saved[0]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_trains(dtype: torch.dtype) -> None:
    net, x = small_net().float(), clip(1, 3, 3, 32, 32).float()
    exact = net(x).detach()
    with torch.autocast('cpu', dtype=dtype):
        out = net(x)
    out.square().mean().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in net.parameters()
    )
    assert (out - exact).abs().max() < 0.1 * (exact - x).abs().max()


def test_initialisation_of_the_residual_blocks() -> None:
    torch.manual_seed(0)
    net = DSTNet(num_feat=32, num_block=4)
    for direction in (net.backward_dtff, net.forward_dtff):
        for name, parameter in direction.refine.named_parameters():
            if name.endswith('bias'):
                assert not parameter.any()
            else:  # kaiming-normal, gain sqrt(2), fan-in, times 0.1
                assert parameter.std().item() == pytest.approx(0.1 * (2 / (32 * 9)) ** 0.5, rel=0.05)
        inside = direction.filter_net.stage1[0].conv1.weight  # type: ignore[union-attr]
        assert inside.abs().max().item() <= (1 / (32 * 9)) ** 0.5  # PyTorch's default: uniform in +-1/sqrt(fan-in)


# Derived weights


@pytest.mark.parametrize('autocast', [None, torch.bfloat16], ids=str)
def test_derived_weights_do_not_outlive_a_call(autocast: torch.dtype | None) -> None:
    net, x = small_net().float(), clip(1, 2, 3, 16, 16).float()
    with torch.no_grad(), torch.autocast('cpu', autocast, enabled=autocast is not None):
        before = net(x)
        for parameter in net.parameters():  # like BasicSR's moving average
            parameter.data.mul_(1.5)
        after = net(x)
        assert not torch.equal(before, after)
        assert torch.equal(after, copy.deepcopy(net)(x))


def test_derived_weights_are_computed_once_in_their_context() -> None:
    net, made = small_net(), []
    x = torch.zeros(1, 3, 16, 16, dtype=torch.float64)

    def make() -> Tensor:
        made.append(1)
        return net.extract.weight + 0

    weights = net.derived_weights()
    for _ in range(2):
        with torch.no_grad(), weights, net.derived_weights():
            assert torch.equal(derive(net, 'name', make, x), net.extract.weight)
    assert len(made) == 1
    derive(net, 'name', make, x)
    assert len(made) == 2


# Other ways to run a step of the propagation


@pytest.mark.parametrize(
    'net', [small_net(), small_plus(), small_net(propagation='none')], ids=['base', 'plus', 'w/o propagation']
)
def test_compiled_steps_are_traced_whole_and_give_the_same(net: DSTNet | DSTNetPlus) -> None:
    x = clip(1, 3, 3, 32, 16)
    with torch.no_grad():
        expected = net(x)
        net.compile_steps(backend='eager', fullgraph=True)  # PyTorch traces as it always does, and makes no code
        assert (net(x) - expected).abs().max() < 1e-12

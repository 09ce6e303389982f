"""VideoRecurrentDeblurModel: building, training steps and restoring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.utils.registry import LOSS_REGISTRY
from model_parts import (
    Clips,
    TinyVideoNet,
    assert_equal,
    batch,
    loader,
    logged,
    make_model,
    test_options,
    train,
    train_options,
    weights,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from dstnet_arch.errors import CheckpointError, OptionsError, TrainingError


def gradients(opt: dict[str, Any], data: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Gradients and log of one iteration."""
    model = make_model(opt)
    assert model.get_current_log() == {}
    model.feed_data(data)
    model.optimize_parameters(1)
    return {name: p.grad for name, p in model.net_g.named_parameters()}, model.get_current_log()


def test_optimize_parameters_equals_plain_pytorch(tmp_path: Path) -> None:
    model = make_model(train_options(tmp_path, frequency_opt=None))
    torch.manual_seed(0)
    net = TinyVideoNet()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=1e-4, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=1e-7)
    for i in range(1, 5):
        train(model, range(i, i + 1))
        data = batch(i)
        optimizer.zero_grad()
        loss = ((net(data['lq']) - data['gt']) ** 2 + 1e-12).sqrt().mean()
        loss.backward()
        optimizer.step()
        assert model.get_current_log() == pytest.approx({'l_pix': loss.item()}, rel=1e-5)
        assert model.get_current_learning_rate() == pytest.approx([optimizer.param_groups[0]['lr']])
        schedule.step()
    for a, b in zip(model.net_g.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('parts', [2, 4])
def test_accum_iter_gives_the_gradients_and_losses_of_the_full_batch(tmp_path: Path, parts: int) -> None:
    full, full_log = gradients(train_options(tmp_path), batch(1))
    split, split_log = gradients(train_options(tmp_path, accum_iter=parts), batch(1))
    assert list(full_log) == ['l_pix', 'l_freq']
    assert split_log == pytest.approx(full_log, rel=1e-5)
    for name in full:
        torch.testing.assert_close(split[name], full[name], rtol=0, atol=1e-6)
        assert full[name].abs().max() > 1e-4


def test_ema_decay_averages_weights_and_restores_with_them(tmp_path: Path) -> None:
    opt = train_options(tmp_path, ema_decay=0.9)
    opt['network_g']['norm'] = True
    model = make_model(opt)
    average = weights(model.net_g)
    for i in (1, 2, 3):
        train(model, range(i, i + 1))
        for name, value in weights(model.net_g).items():
            is_parameter = name in dict(model.net_g.named_parameters())
            average[name] = 0.9 * average[name] + 0.1 * value if is_parameter else value
    for name, value in model.net_g_ema.state_dict().items():
        torch.testing.assert_close(value, average[name])

    model.feed_data(batch(9))
    model.test()
    net = TinyVideoNet(norm=True).eval()
    net.load_state_dict(model.net_g_ema.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model.output, net(batch(9)['lq']))
    assert set(model.get_current_visuals()) == {'lq', 'gt', 'result'}
    assert model.net_g.training
    assert not model.net_g_ema.training


def test_grad_clip_limits_the_norm_of_gradients(tmp_path: Path) -> None:
    opt = train_options(tmp_path, grad_clip=0.01, optim_g={'type': 'SGD', 'lr': 1.0})
    model = make_model(opt)
    before = weights(model.net_g)
    train(model, range(1, 2))
    after = weights(model.net_g)
    norm = torch.stack([(after[name] - before[name]).norm() for name in before]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize('amp', ['bf16', 'fp16'])
def test_autocast_covers_the_network_but_not_the_losses(tmp_path: Path, amp: str) -> None:
    model = make_model(train_options(tmp_path, amp=amp))
    seen: list[Any] = []

    def loss(pred: Tensor, target: Tensor) -> Tensor:
        seen.extend([pred.dtype, target.dtype, torch.is_autocast_enabled('cpu')])
        return (pred - target).abs().mean()

    model.training.criteria = {'l_pix': loss}
    model.net_g.second.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    before = weights(model.net_g)
    train(model, range(1, 3))
    reduced = torch.bfloat16 if amp == 'bf16' else torch.float16
    assert seen == [reduced, torch.float32, torch.float32, False] * 2
    assert all(p.dtype == torch.float32 for p in model.net_g.parameters())
    assert not torch.equal(model.net_g.first.weight, before['first.weight'])


def test_val_precision_and_amp_select_the_precision_of_restore(tmp_path: Path) -> None:
    opt = test_options(tmp_path, amp='bf16')
    reduced = make_model(opt).restore(batch(1)['lq'])
    opt['val']['amp'] = None  # what --force_yml makes of `none`
    exact = make_model(opt).restore(batch(1)['lq'])
    assert reduced.dtype == torch.float32
    assert 0 < (reduced - exact).abs().max() < 0.05
    opt['val']['precision'] = 'bf16'
    assert torch.equal(make_model(opt).restore(batch(1)['lq']), reduced)
    for precision, message in {'half': "val:precision is 'half'; allowed: fp32", 'tf32': 'needs an NVIDIA GPU'}.items():
        opt['val']['precision'] = precision
        with pytest.raises(OptionsError, match=message):
            make_model(opt)


def test_fp16_skips_overflowing_steps_and_stops_if_all_overflow(tmp_path: Path) -> None:
    model = make_model(train_options(tmp_path, amp='fp16', grad_clip=1.0))
    before = weights(model.net_g)
    handle = model.net_g.second.bias.register_hook(lambda grad: grad * float('inf'))
    train(model, range(1, 3))
    assert_equal(weights(model.net_g), before)
    assert model.training.scaler.get_scale() == 2.0**14
    model.get_current_log()
    handle.remove()
    train(model, range(3, 4))
    assert not torch.equal(model.net_g.first.weight, before['first.weight'])
    model.training.scaler.update(1e-9)
    with pytest.raises(TrainingError, match='train:precision=bf16'):
        model.get_current_log()


def test_nonfinite_loss_stops_before_the_weights_change(tmp_path: Path) -> None:
    model = make_model(train_options(tmp_path, ema_decay=0.5))
    train(model, range(1, 3))
    before, average = weights(model.net_g), weights(model.net_g_ema)
    data = batch(3)
    data['gt'][0, 0, 0, 0, 0] = float('nan')
    model.feed_data(data)
    with pytest.raises(TrainingError, match=r'iteration 3: l_pix is nan, l_freq is nan.*grad_clip'):
        model.optimize_parameters(3)
    assert_equal(weights(model.net_g), before)
    assert_equal(weights(model.net_g_ema), average)
    for late in (model.get_current_log, lambda: model.save(0, 3)):
        with pytest.raises(TrainingError, match='iteration 3'):
            late()
    assert not list(tmp_path.rglob('*.pth'))


def test_save_refuses_nonfinite_weights(tmp_path: Path) -> None:
    model = make_model(train_options(tmp_path))
    with torch.no_grad():
        model.net_g.second.weight[0, 0] = float('inf')
    with pytest.raises(TrainingError, match=r'second\.weight'):
        model.save(0, 1)
    assert not list(tmp_path.rglob('*.pth'))


def test_gradient_checkpointing_keeps_gradients_and_needs_support(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match='TinyVideoNet does not support it'):
        make_model(train_options(tmp_path, gradient_checkpointing=True))
    network = {'type': 'DSTNet', 'num_feat': 4, 'num_block': 1}
    plain, checkpointed = (
        gradients({**train_options(tmp_path, gradient_checkpointing=on), 'network_g': network}, batch(1, size=2))[0]
        for on in (False, True)
    )
    for name, gradient in checkpointed.items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ('network', 'train_compile', 'val_compile', 'ema_decay', 'expected'),
    [
        ('DSTNet', True, True, 0, ['DTFF', 'DTFF']),
        ('DSTNet', False, True, 0.9, ['DTFF', 'DTFF']),
        ('TinyVideoNet', True, True, 0.9, ['TinyVideoNet', 'TinyVideoNet']),
        ('TinyVideoNet', False, False, 0.9, []),
    ],
)
def test_compile_compiles_the_steps_of_the_propagation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    network: str,
    train_compile: bool,
    val_compile: bool,
    ema_decay: float,
    expected: list[str],
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(nn.Module, 'compile', lambda self, **options: compiled.append(type(self).__name__))
    opt = train_options(tmp_path, compile=train_compile, ema_decay=ema_decay)
    opt['network_g'] = {'type': network, 'num_feat': 4}
    opt['val']['compile'] = val_compile
    make_model(opt)
    assert compiled == expected


def test_training_continues_after_restore(tmp_path: Path) -> None:
    """Whatever a network keeps from inference mode must not get into training."""
    model = make_model({**train_options(tmp_path), 'network_g': {'type': 'DSTNet', 'num_feat': 4, 'num_block': 1}})
    model.restore(batch(1, size=1)['lq'])
    before = weights(model.net_g)
    train(model, range(1, 2), size=1)
    assert not torch.equal(weights(model.net_g)['extract.weight'], before['extract.weight'])


class ToyPerceptualLoss(nn.Module):
    """Has the interface of stock PerceptualLoss: pictures in, two losses out."""

    def forward(self, x: Tensor, gt: Tensor) -> tuple[Tensor, None]:
        assert x.dim() == gt.dim() == 4
        return (x - gt).square().mean(), None


def test_options_select_the_losses(tmp_path: Path) -> None:
    if 'ToyPerceptualLoss' not in LOSS_REGISTRY:
        LOSS_REGISTRY.register(ToyPerceptualLoss)
    losses: dict[str, Any] = {'pixel_opt': None, 'frequency_opt': None}
    losses['frequency_opt'] = {'type': 'FrequencyLoss'}
    losses['perceptual_opt'] = {'type': 'ToyPerceptualLoss'}
    model = make_model(train_options(tmp_path, **losses))
    train(model, range(1, 2))
    assert list(model.get_current_log()) == ['l_freq', 'l_percep']


def test_network_that_changes_the_shape_is_refused(tmp_path: Path) -> None:
    opt = train_options(tmp_path)
    opt['network_g'] = {'type': 'TwiceAsLarge'}
    model = make_model(opt)
    model.feed_data(batch(1))
    with pytest.raises(OptionsError, match=r'TwiceAsLarge maps .* to .*32\), .*keeps the shape'):
        model.optimize_parameters(1)


def test_load_network_reads_pth_and_safetensors(tmp_path: Path) -> None:
    net, average = TinyVideoNet(), TinyVideoNet()
    path = tmp_path / 'net.pth'
    torch.save({'params': net.state_dict(), 'params_ema': average.state_dict()}, path)
    opt = test_options(tmp_path)
    opt['path'].update(pretrain_network_g=str(path))
    assert_equal(weights(make_model(opt).net_g), net.state_dict())
    opt['path'].update(param_key_g='params_ema')
    assert_equal(weights(make_model(opt).net_g), average.state_dict())
    save_file(net.state_dict(), tmp_path / 'net.safetensors')
    opt['path'].update(pretrain_network_g=str(tmp_path / 'net.safetensors'))
    assert_equal(weights(make_model(opt).net_g), net.state_dict())

    opt = train_options(tmp_path, ema_decay=0.9)
    opt['path'].update(pretrain_network_g=str(path))
    model = make_model(opt)
    assert_equal(weights(model.net_g), net.state_dict())
    assert_equal(weights(model.net_g_ema), average.state_dict())


def test_load_network_names_keys_that_do_not_fit(tmp_path: Path) -> None:
    state = TinyVideoNet().state_dict()
    del state['first.bias']
    state.update({f'extra.{i}': torch.zeros(1) for i in range(40)}, **{'second.bias': torch.zeros(7)})
    path = tmp_path / 'net.pth'
    torch.save({'params': state}, path)
    opt = test_options(tmp_path)
    opt['path'].update(pretrain_network_g=str(path))
    with pytest.raises(CheckpointError) as caught:
        make_model(opt)
    for part in ('first.bias', 'extra.0', '[...]', 'size mismatch for second.bias', 'strict_load_g=false'):
        assert part in str(caught.value)
    assert 'extra.39' not in str(caught.value)

    opt['path'].update(strict_load_g=False)
    with logged() as lines:
        model = make_model(opt)
    assert torch.equal(model.net_g.first.weight, state['first.weight'])
    assert any('first.bias' in line for line in lines)


def test_out_of_memory_is_translated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(train_options(tmp_path))

    def fail(x: Tensor) -> Tensor:
        assert not model.net_g.training
        raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 3 GiB\nPages\nof advice')

    monkeypatch.setattr(model.net_g, 'forward', fail)
    with pytest.raises(TrainingError, match=r'clip_length.*\[CUDA out of memory. Tried to allocate 3 GiB\]$'):
        model.restore(batch(1)['lq'])
    assert model.net_g.training
    monkeypatch.setattr(model.net_g, 'forward', lambda x: torch.empty(2**50))
    with pytest.raises(TrainingError, match=r'accum_iter.*DefaultCPUAllocator'):
        train(model, range(1, 2))
    monkeypatch.setattr(model.net_g, 'forward', lambda x: x @ torch.ones(3, 3))
    with pytest.raises(RuntimeError, match='shapes'):
        model.restore(batch(1)['lq'])


def test_step_and_restore_draw_no_random_numbers(tmp_path: Path) -> None:
    model = make_model(train_options(tmp_path, ema_decay=0.9, grad_clip=1.0))
    state = torch.get_rng_state()
    train(model, range(1, 3))
    model.restore(batch(1)['lq'])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')
def test_steps_as_a_cuda_graph_equal_single_launches(tmp_path: Path) -> None:
    weights = []
    for graph in (True, False):
        opt = {**train_options(tmp_path / str(graph), cuda_graph=graph, precision='fp32'), 'num_gpu': 1}
        opt['network_g'] = {'type': 'DSTNet', 'num_feat': 4, 'num_block': 1, 'num_cwgdn': 1}
        model = make_model(opt)
        train(model, range(1, 8))
        weights.append(torch.cat([p.detach().flatten() for p in model.net_g.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')
def test_training_on_a_gpu(tmp_path: Path) -> None:
    """What differs there: losses are checked one iteration late, optimisers are fused, states come back on the GPU."""
    opt = {**train_options(tmp_path, amp='fp16', ema_decay=0.9, accum_iter=2), 'num_gpu': 1}
    model = make_model(opt)
    train(model, range(1, 4))
    assert all(0 < value < 1 for value in model.get_current_log().values())
    assert model.restore(batch(1)['lq']).is_cuda
    model.validation(loader(Clips('val', {'a': 5})), 3, None, save_img=True)
    assert 5 < model.metric_results['psnr'] < 50
    model.save(0, 3)
    path = tmp_path / 'experiments/tiny/training_states/3.state'
    model.resume_training(torch.load(path, map_location='cuda', weights_only=True))
    train(model, range(4, 5))

    data = batch(5)
    data['gt'][0] = float('nan')
    model.feed_data(data)
    model.optimize_parameters(5)
    model.feed_data(batch(6))
    with pytest.raises(TrainingError, match='iteration 5'):
        model.optimize_parameters(6)
    with pytest.raises(TrainingError):
        model.save(0, 6)

"""Loading weights: released key names, all kinds of files, wrappers and prefixes, and errors for other files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dstnet_arch.archs.checkpoint import load_checkpoint, read_state_dict
from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.archs.released_keys import from_released, to_released
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.errors import CheckpointError

DATA = Path(__file__).parents[1] / 'data'

StateDict = dict[str, Tensor]


def make_net(**kwargs: Any) -> DSTNet:
    torch.manual_seed(1)
    return DSTNet(**{'num_feat': 4, 'num_block': 2, 'prop_feat': 6, 'num_cwgdn': 3, **kwargs})


def released(net: VideoNet) -> StateDict:
    return to_released(net.released_keys, net.state_dict())


def save(content: Any, path: Path) -> Path:
    if path.suffix == '.safetensors':
        save_file({k: v.contiguous() for k, v in content.items()}, path)
    else:
        torch.save(content, path)
    return path


def assert_same(loaded: torch.nn.Module, net: VideoNet) -> None:
    assert type(loaded) is type(net)
    assert loaded.config == net.config
    expected = net.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(v, expected[k]) for k, v in loaded.state_dict().items())


@pytest.mark.parametrize(
    ('name', 'architecture', 'kwargs'),
    [
        ('base', DSTNet, {}),
        ('large', DSTNet, {'prop_feat': 96, 'num_block': 30}),
        ('plus_base', DSTNetPlus, {}),
        ('plus_large', DSTNetPlus, {'num_feat': 96, 'num_kernel_block': 5, 'num_block': 25}),
    ],
)
def test_released_keys_and_shapes_both_ways(name: str, architecture: type[VideoNet], kwargs: dict[str, Any]) -> None:
    table = architecture.released_keys
    listed = {}
    for line in (DATA / f'checkpoint_keys_{name}.txt').read_text().splitlines():
        key, shape = re.fullmatch(r'(\S+) \(([^)]*)\) float32', line).groups()  # type: ignore[union-attr]
        listed[key] = tuple(int(n) for n in shape.split(',') if n.strip())
    net = architecture(**kwargs)
    assert {k: tuple(v.shape) for k, v in released(net).items()} == listed
    ours = {k: v for k, v in net.state_dict().items() if k != '_extra_state'}
    back = from_released(table, released(net))
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[k], ours[k]) for k in ours)


# Files


@pytest.mark.parametrize('name', ['net.pth', 'net.safetensors'])
@pytest.mark.parametrize(
    'net', [make_net(), make_net(boundary='paper'), DSTNetPlus(4, 2, 1)], ids=['', 'paper', 'plus']
)
def test_load_checkpoint_builds_the_network_of_a_file(tmp_path: Path, net: VideoNet, name: str) -> None:
    loaded = load_checkpoint(save(net.state_dict(), tmp_path / name))
    assert not loaded.training
    assert_same(loaded, net)
    if net.config.get('boundary') != 'paper':  # released files store no configuration
        assert_same(load_checkpoint(save(released(net), tmp_path / name)), net)


def prefixed(prefix: str, state_dict: StateDict) -> StateDict:
    return {prefix + k: v for k, v in state_dict.items()}


WRAPPERS: dict[str, Callable[[StateDict], Any]] = {
    'params': lambda s: {'params': s},
    'params_ema': lambda s: {'params_ema': s, 'params': {k: v + 1 for k, v in s.items()}},
    'state_dict': lambda s: {'state_dict': s, 'epoch': 3},
    'model': lambda s: {'model': s, 'optimizer': {'param_groups': []}},
    'nested': lambda s: {'model': {'params': s, 'iter': 5}},
    'DataParallel': lambda s: prefixed('module.', s),
    'torch.compile': lambda s: {'params': prefixed('_orig_mod.', s)},
    'compiled part': lambda s: {k.replace('_dtff.', '_dtff._orig_mod.'): v for k, v in s.items()},
    'net_g': lambda s: {'state_dict': {**prefixed('net_g.', s), 'net_d.conv.weight': torch.zeros(1)}},
    'Lightning': lambda s: {'state_dict': {**prefixed('model.', s), 'loss.vgg.weight': torch.zeros(1)}},
    'averaged model': lambda s: {'n_averaged': torch.tensor(3), **prefixed('module.', s)},
    'combined': lambda s: {'model': {'state_dict': prefixed('module._orig_mod.generator.', s)}},
    'mmengine': lambda s: {
        'state_dict': {
            **prefixed('generator.', {k: torch.zeros_like(v) for k, v in s.items()}),
            **prefixed('generator_ema.', s),
            'step_counter': torch.tensor(7),
        }
    },
}


@pytest.mark.parametrize('name', WRAPPERS)
def test_load_checkpoint_unwraps(tmp_path: Path, name: str) -> None:
    for net, state_dict in ((n := make_net(boundary='paper'), dict(n.state_dict())), (n := make_net(), released(n))):
        assert_same(load_checkpoint(save(WRAPPERS[name](state_dict), tmp_path / 'net.pth')), net)


def test_read_state_dict_removes_prefixes_of_other_networks(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3))
    path = save({'state_dict': prefixed('model.', net.state_dict())}, tmp_path / 'net.pth')
    assert list(read_state_dict(path, expected=net.state_dict())) == ['0.weight', '0.bias']
    own = torch.nn.ModuleDict({'model': net})  # here the prefix is a name of the network
    save({'params': own.state_dict()}, path)
    for expected in (own.state_dict(), ()):
        assert list(read_state_dict(path, expected=expected)) == list(own.state_dict())


def test_read_state_dict_param_key_chooses_the_weights(tmp_path: Path) -> None:
    plain = make_net().state_dict()
    both = {'params': plain, 'params_ema': {k: v + 1 for k, v in plain.items()}}
    path = save(both, tmp_path / 'net.pth')
    assert torch.equal(read_state_dict(path, param_key='params')['extract.weight'], plain['extract.weight'])
    save({'params': plain}, path)
    with pytest.warns(UserWarning, match='has no params_ema: its params are used'):
        assert torch.equal(read_state_dict(path, param_key='params_ema')['extract.weight'], plain['extract.weight'])


# Values


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_halved_checkpoint_loads_in_float32_with_its_configuration(dtype: torch.dtype) -> None:
    halved = {k: v.to(dtype) for k, v in make_net(boundary='paper').state_dict().items()}
    other = make_net(boundary='paper')
    other.load_state_dict(halved)
    loaded = load_checkpoint(halved)
    assert_same(loaded, other)
    assert all(torch.equal(value, halved[key].float()) for key, value in loaded.named_parameters())


def test_averaged_checkpoints_load_with_their_configuration() -> None:
    first = make_net(boundary='paper').state_dict()
    second = {k: v if k == '_extra_state' else v + 1 for k, v in first.items()}
    averaged = {k: 0.3 * first[k] + 0.7 * second[k] for k in first}
    loaded = load_checkpoint({'params': averaged})
    assert loaded.config == make_net(boundary='paper').config
    assert torch.equal(loaded.extract.weight, averaged['extract.weight'])


@pytest.mark.parametrize(
    'extra_state',
    [
        None,
        'text',
        {'a': 1},
        torch.linspace(0.1, 0.9, 9).double(),
        torch.tensor(5.0),
        torch.full((4,), torch.nan),
        torch.tensor([91, 93]),
    ],
    ids=str,
)
def test_damaged_configuration_is_ignored(extra_state: Any) -> None:
    net = make_net()
    state_dict = {**net.state_dict(), '_extra_state': extra_state}
    loaded = load_checkpoint(state_dict)
    assert loaded.extract.weight.dtype == torch.float32
    assert_same(loaded, net)
    make_net().load_state_dict(state_dict)


def test_load_checkpoint_copies_and_keeps_float64() -> None:
    net = make_net().double()
    net.extract.weight.data += 1e-12
    loaded = load_checkpoint(net.state_dict())
    assert_same(loaded, net)
    net.extract.weight.data += 1
    assert not torch.equal(loaded.extract.weight, net.extract.weight)


def test_load_state_dict_accepts_released_names_also_of_a_nested_network() -> None:
    net = make_net()
    outer = torch.nn.ModuleDict({name: make_net() for name in ('net', 'other')})
    for parameter in outer.parameters():
        parameter.data += 1
    outer['other'].load_state_dict(released(net), strict=True)
    outer.load_state_dict(prefixed('net.', released(net)), strict=False)
    for module in outer.values():
        assert_same(module, net)


# Errors


def test_load_state_dict_refuses_another_boundary() -> None:
    with pytest.raises(RuntimeError, match="boundary='paper'; this one was built with boundary='zeros'"):
        make_net().load_state_dict(make_net(boundary='paper').state_dict())


def test_load_checkpoint_names_keys_that_do_not_fit() -> None:
    state_dict = {**make_net(num_feat=5).state_dict(), '_extra_state': make_net().get_extra_state()}
    del state_dict['reconstruct.bias']
    state_dict['extra'] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(state_dict)
    for part in (
        'The state dict does not fit DSTNet(num_feat=4',
        'missing: reconstruct.bias;',
        'unknown: extra;',
        'extract.weight is (5, 3, 3, 3), not (4, 3, 3, 3)',
        'more',
    ):
        assert part in str(caught.value)


class Malicious:
    """Calls a function when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path('executed'),))


def test_load_checkpoint_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save({'params': {'extract.weight': Malicious()}}, Path('net.pth'))
    with pytest.raises(CheckpointError, match=r'more than tensors \(GLOBAL \w+\)\. It was not loaded') as caught:
        load_checkpoint('net.pth')
    assert 'weights_only' not in str(caught.value)  # PyTorch recommends to set it to False
    assert not Path('executed').exists()


@pytest.mark.parametrize('name', ['net.pth', 'net.safetensors'])
@pytest.mark.parametrize('length', [0, 10, 2000])
def test_load_checkpoint_refuses_damaged_files(tmp_path: Path, name: str, length: int) -> None:
    path = save(make_net().state_dict(), tmp_path / name)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RuntimeError, match='device'):
        load_checkpoint(path, 'no such device')  # not the file's fault
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_checkpoint(path)


def test_load_checkpoint_refuses_other_content() -> None:
    half_a_wavelet = released(make_net())
    half_a_wavelet['wave.haar_weights'] = half_a_wavelet['wave.haar_weights'] / 2
    for content, message in (
        ({'epoch': 3, 'iter': 5}, 'holds no weights.*found keys epoch, iter'),
        ({}, 'holds no weights'),
        (
            {'params': {'conv.weight': torch.zeros(1)}},
            'not a checkpoint of DSTNet or DSTNetPlus: it holds conv.weight, …, but DSTNet has a extract.weight',
        ),
        (half_a_wavelet, 'Haar filters'),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(content)
    with pytest.raises(CheckpointError, match=r'nowhere\.pth does not exist'):
        load_checkpoint('nowhere.pth')

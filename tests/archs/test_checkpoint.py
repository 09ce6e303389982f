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
from dstnet_arch.archs.released_keys import DSTNET, from_released, to_released
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.errors import CheckpointError

DATA = Path(__file__).parents[1] / 'data'
KWARGS: dict[str, Any] = {'num_feat': 4, 'num_block': 2, 'prop_feat': 6, 'num_cwgdn': 3}


def make_net(**kwargs: Any) -> DSTNet:
    torch.manual_seed(1)
    return DSTNet(**{**KWARGS, **kwargs})


def assert_same_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    expected = b.state_dict()
    assert a.state_dict().keys() == expected.keys()
    assert all(torch.equal(v, expected[k]) for k, v in a.state_dict().items())


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
    ours = {k: v for k, v in architecture(**kwargs).state_dict().items() if k != '_extra_state'}
    released = to_released(table, ours)
    assert {k: tuple(v.shape) for k, v in released.items()} == listed
    back = from_released(table, released)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[k], ours[k]) for k in ours)


@pytest.mark.parametrize('name', ['net.pth', 'net.safetensors'])
@pytest.mark.parametrize(('released', 'boundary'), [(False, 'zeros'), (False, 'paper'), (True, 'zeros')])
def test_load_checkpoint_builds_the_network_of_a_file(tmp_path: Path, boundary: str, name: str, released: bool) -> None:
    net = make_net(boundary=boundary)
    state_dict = to_released(DSTNET, net.state_dict()) if released else dict(net.state_dict())
    if name.endswith('safetensors'):
        save_file({k: v.contiguous() for k, v in state_dict.items()}, tmp_path / name)
    else:
        torch.save(state_dict, tmp_path / name)
    loaded = load_checkpoint(tmp_path / name)
    assert loaded.config == net.config
    assert not loaded.training
    assert_same_weights(loaded, net)


WRAPPERS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    'params': lambda s: {'params': s},
    'params_ema': lambda s: {'params_ema': s},
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


def prefixed(prefix: str, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + k: v for k, v in state_dict.items()}


@pytest.mark.parametrize('released', [False, True])
@pytest.mark.parametrize('name', WRAPPERS)
def test_load_checkpoint_unwraps(tmp_path: Path, name: str, released: bool) -> None:
    net = make_net(boundary='zeros' if released else 'paper')
    state_dict = to_released(DSTNET, net.state_dict()) if released else dict(net.state_dict())
    torch.save(WRAPPERS[name](state_dict), tmp_path / 'net.pth')
    loaded = load_checkpoint(tmp_path / 'net.pth')
    assert loaded.config == net.config
    assert_same_weights(loaded, net)


def test_read_state_dict_removes_prefixes_of_other_networks(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3))
    torch.save({'state_dict': prefixed('model.', net.state_dict())}, tmp_path / 'net.pth')
    assert list(read_state_dict(tmp_path / 'net.pth', expected=net.state_dict())) == ['0.weight', '0.bias']
    own = torch.nn.ModuleDict({'model': net})  # here the prefix is a name of the network
    torch.save({'params': own.state_dict()}, tmp_path / 'net.pth')
    assert list(read_state_dict(tmp_path / 'net.pth', expected=own.state_dict())) == list(own.state_dict())
    assert list(read_state_dict(tmp_path / 'net.pth')) == list(own.state_dict())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_halved_checkpoint_loads_in_float32_with_its_configuration(dtype: torch.dtype) -> None:
    net = make_net(boundary='paper')
    halved = {k: v.to(dtype) for k, v in net.state_dict().items()}
    loaded = load_checkpoint(halved)
    assert loaded.config == net.config
    for key, value in loaded.named_parameters():
        assert torch.equal(value, halved[key].float())
    other = make_net(boundary='paper')
    other.load_state_dict(halved)
    assert_same_weights(other, loaded)


def test_averaged_checkpoints_load_with_their_configuration() -> None:
    a, b = make_net(boundary='paper'), make_net(boundary='paper')
    with torch.no_grad():
        b.extract.weight += 1
    first, second = a.state_dict(), b.state_dict()
    averaged = {k: 0.3 * first[k] + 0.7 * second[k] for k in first}
    loaded = load_checkpoint({'params': averaged})
    assert loaded.config == a.config
    assert torch.equal(loaded.extract.weight, averaged['extract.weight'])


@pytest.mark.parametrize(
    'extra_state',
    [
        None,
        'text',
        {'a': 1},
        [1],
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
    assert_same_weights(loaded, net)
    make_net().load_state_dict(state_dict)


def test_params_ema_is_preferred_and_param_key_chooses(tmp_path: Path) -> None:
    plain, averaged = make_net(), make_net()
    averaged.extract.weight.data += 1
    torch.save({'params': plain.state_dict(), 'params_ema': averaged.state_dict()}, tmp_path / 'net.pth')
    assert_same_weights(load_checkpoint(tmp_path / 'net.pth'), averaged)
    chosen = read_state_dict(tmp_path / 'net.pth', param_key='params')
    assert torch.equal(chosen['extract.weight'], plain.extract.weight)
    torch.save({'params': plain.state_dict()}, tmp_path / 'plain.pth')
    fallback = read_state_dict(tmp_path / 'plain.pth', param_key='params_ema')
    assert torch.equal(fallback['extract.weight'], plain.extract.weight)


def test_load_checkpoint_copies_and_keeps_float64() -> None:
    net = make_net().double()
    net.extract.weight.data += 1e-12
    loaded = load_checkpoint(net.state_dict())
    assert_same_weights(loaded, net)
    net.extract.weight.data += 1
    assert not torch.equal(loaded.extract.weight, net.extract.weight)


def test_load_state_dict_accepts_released_names_also_of_a_nested_network() -> None:
    net, outer = make_net(), torch.nn.ModuleDict({'net': make_net(), 'other': make_net()})
    released = to_released(DSTNET, net.state_dict())
    with torch.no_grad():
        for parameter in outer.parameters():
            parameter += 1
    outer['other'].load_state_dict(released, strict=True)
    outer.load_state_dict({f'net.{k}': v for k, v in released.items()}, strict=False)
    for module in outer.values():
        assert_same_weights(module, net)


def test_load_checkpoint_recognises_the_architecture(tmp_path: Path) -> None:
    net = DSTNetPlus(num_feat=4, num_kernel_block=2, num_block=1)
    torch.save({'params': net.state_dict()}, tmp_path / 'net.pth')
    for source in (tmp_path / 'net.pth', to_released(net.released_keys, net.state_dict())):
        loaded = load_checkpoint(source)
        assert isinstance(loaded, DSTNetPlus)
        assert loaded.config == net.config
        assert_same_weights(loaded, net)
    bare = {k: v for k, v in net.state_dict().items() if k != '_extra_state'}
    assert isinstance(load_checkpoint(bare), DSTNetPlus)


def test_load_state_dict_refuses_another_boundary() -> None:
    state_dict = make_net(boundary='paper').state_dict()
    with pytest.raises(RuntimeError, match="boundary='paper'; this one was built with boundary='zeros'"):
        make_net().load_state_dict(state_dict)
    assert load_checkpoint(state_dict).config['boundary'] == 'paper'


def test_load_checkpoint_names_keys_that_do_not_fit() -> None:
    state_dict = {**make_net(num_feat=5).state_dict(), '_extra_state': make_net().get_extra_state()}
    del state_dict['reconstruct.bias']
    state_dict['extra'] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(state_dict)
    message = str(caught.value)
    assert 'The state dict does not fit DSTNet(num_feat=4' in message
    assert 'missing: reconstruct.bias;' in message
    assert 'unknown: extra;' in message
    assert 'extract.weight is (5, 3, 3, 3), not (4, 3, 3, 3)' in message
    assert 'more' in message


class Malicious:
    """Calls a function when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path('executed'),))


def test_load_checkpoint_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({'params': {'extract.weight': Malicious()}}, 'net.pth')
    with pytest.raises(CheckpointError, match=r'more than tensors \(GLOBAL \w+\)\. It was not loaded') as caught:
        load_checkpoint('net.pth')
    assert 'weights_only' not in str(caught.value)  # PyTorch recommends to set it to False
    assert not Path('executed').exists()


@pytest.mark.parametrize('name', ['net.pth', 'net.safetensors'])
@pytest.mark.parametrize('length', [0, 10, 2000])
def test_load_checkpoint_refuses_damaged_files(tmp_path: Path, name: str, length: int) -> None:
    path = tmp_path / name
    if name.endswith('pth'):
        torch.save({'params': make_net().state_dict()}, path)
    else:
        save_file(make_net().state_dict(), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'epoch': 3, 'iter': 5}, 'holds no weights.*found keys epoch, iter'),
        ([1, 2], 'holds no weights.*found list'),
        ({}, 'holds no weights'),
        (
            {'params': {'conv.weight': torch.zeros(1)}},
            'not a checkpoint of DSTNet or DSTNetPlus: it holds conv.weight, …, but DSTNet has a extract.weight',
        ),
    ],
    ids=['training state', 'list', 'empty', 'another network'],
)
def test_load_checkpoint_refuses_other_files(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / 'net.pth')
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / 'net.pth')


def test_load_checkpoint_refuses_missing_files_and_foreign_haar_filters() -> None:
    with pytest.raises(CheckpointError, match=r'nowhere\.pth does not exist'):
        load_checkpoint('nowhere.pth')
    released = to_released(DSTNET, make_net().state_dict())
    released['wave.haar_weights'] = released['wave.haar_weights'] / 2
    with pytest.raises(CheckpointError, match='Haar filters'):
        load_checkpoint(released)

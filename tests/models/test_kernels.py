"""A resumed run uses the CPU kernels it began with. Ranks are tested in test_distributed.py."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from model_parts import assert_equal, logged, make_model, train, train_options, weights

from dstnet_arch.models.distributed import Ranks
from dstnet_arch.models.kernels import choose_kernels
from dstnet_arch.ops import native


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start with the compiled kernels enabled, as without a setting in the environment."""
    monkeypatch.delenv(native.VARIABLE, raising=False)
    with native.native(True):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', native.NativeWarning)
            if not native.available():
                pytest.skip('no C compiler')
        yield


def options(root: Path, iteration: int | None = None) -> dict[str, Any]:
    opt = train_options(root)
    opt['network_g'] = {'type': 'DSTNet', 'num_feat': 32, 'num_block': 1, 'num_cwgdn': 1}
    if iteration is not None:
        opt['path']['pretrain_network_g'] = str(Path(opt['path']['models'], f'net_g_{iteration}.pth'))
    return opt


def resume(root: Path) -> tuple[Any, list[str]]:
    state = torch.load(root / 'experiments/tiny/training_states/2.state', weights_only=True)
    model = make_model(options(root, 2), seed=1)
    with logged() as lines:
        model.resume_training(state)
    return model, lines


def first_steps(root: Path) -> Any:
    """Train, save after the second of three steps, and return the model."""
    model = make_model(options(root))
    train(model, range(1, 3), size=1, frames=2)
    model.save(0, 2)
    train(model, range(3, 4), size=1, frames=2)
    return model


def last_step(model: Any) -> dict[str, torch.Tensor]:
    train(model, range(3, 4), size=1, frames=2)
    return weights(model.net_g)


@pytest.mark.parametrize('enabled', [True, False], ids=['native', 'pytorch'])
def test_resumed_run_uses_the_kernels_it_began_with(tmp_path: Path, enabled: bool) -> None:
    native.set_native(enabled)  # as DSTNET_NATIVE does at the start of a process
    expected = weights(first_steps(tmp_path).net_g)
    native.set_native(True)
    model, lines = resume(tmp_path)
    assert native.available() == enabled
    assert [line for line in lines if "PyTorch's operations, with which it began" in line] == lines
    assert len(lines) == (not enabled)
    assert_equal(last_step(model), expected)


@pytest.mark.parametrize('value', ['0', '1'])
def test_environment_decides_over_the_training_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    native.set_native(value == '0')
    first = first_steps(tmp_path)
    monkeypatch.setenv(native.VARIABLE, value)
    native.set_native(value == '1')
    model, lines = resume(tmp_path)
    assert native.available() == (value == '1')
    assert len(lines) == 1
    assert 'DSTNET_NATIVE is set' in lines[0]
    assert 'differ in rounding' in lines[0]
    for name, got in last_step(model).items():
        torch.testing.assert_close(got, weights(first.net_g)[name], rtol=0, atol=1e-2)
    model.save(0, 3)
    state = torch.load(tmp_path / 'experiments/tiny/training_states/3.state', weights_only=True)
    assert state['kernels'] == ('native' if value == '1' else 'pytorch')


def test_run_that_loses_its_compiler_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_steps(tmp_path)
    monkeypatch.setattr(native, '_library', lambda: None)
    _, lines = resume(tmp_path)
    assert len(lines) == 1
    assert 'the compiled CPU kernels, but they are not available here' in lines[0]


@pytest.mark.parametrize('kernels', [None, [1], 'other'])
def test_states_that_do_not_name_kernels_change_nothing(tmp_path: Path, kernels: Any) -> None:
    model = make_model(options(tmp_path))
    train(model, range(1, 2), size=1, frames=2)
    model.save(0, 2)
    path = tmp_path / 'experiments/tiny/training_states/2.state'
    torch.save({**torch.load(path, weights_only=True), 'kernels': kernels}, path)
    _, lines = resume(tmp_path)
    assert lines == []
    assert native.available()


def test_other_devices_have_no_choice() -> None:
    assert choose_kernels(Ranks(0, 1, False), torch.device('cuda')) is None

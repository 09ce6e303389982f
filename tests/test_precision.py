"""Precision policy: names, validation against GPUs, and PyTorch's TF32 switches in both interfaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

import pytest
import torch

from dstnet_arch.errors import OptionsError
from dstnet_arch.precision import resolve_precision, tf32

NEW = hasattr(torch.backends.cuda.matmul, 'fp32_precision')


def read(name: str) -> Any:
    """A setting of `torch.backends`, 'mixed' if PyTorch refuses to tell."""
    try:
        return attrgetter(name)(torch.backends)
    except RuntimeError:
        return 'mixed'


def switches() -> dict[str, Any]:
    """Everything that can be read of PyTorch's TF32 settings."""
    names = ['cudnn.allow_tf32', 'cuda.matmul.allow_tf32']
    if NEW:
        names += ['fp32_precision', 'cudnn.conv.fp32_precision', 'cuda.matmul.fp32_precision']
    return {name: read(name) for name in names}


def allowed() -> tuple[bool, bool]:
    """Whether convolutions and matrix products may use TF32."""
    if NEW:
        return read('cudnn.conv.fp32_precision') == 'tf32', read('cuda.matmul.fp32_precision') == 'tf32'
    return read('cudnn.allow_tf32'), read('cuda.matmul.allow_tf32')


def old(cudnn: bool, matmul: bool) -> None:
    torch.backends.cudnn.allow_tf32 = cudnn
    torch.backends.cuda.matmul.allow_tf32 = matmul


def new(name: str, value: str) -> None:
    owner: Any = {
        'all': torch.backends,
        'conv': torch.backends.cudnn.conv,
        'matmul': torch.backends.cuda.matmul,
        'rnn': torch.backends.cudnn.rnn,
    }[name]
    owner.fp32_precision = value


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    if NEW:
        for name in ('all', 'conv', 'matmul', 'rnn'):
            new(name, 'none')
    old(True, False)
    torch.set_float32_matmul_precision('highest')


CALLERS: dict[str, Callable[[], Any]] = {
    'default': lambda: None,
    'old, all on': lambda: old(True, True),
    'old, all off': lambda: old(False, False),
    'medium': lambda: torch.set_float32_matmul_precision('medium'),
}
if NEW:
    CALLERS |= {
        'new, process-wide ieee': lambda: new('all', 'ieee'),
        'new, process-wide tf32': lambda: new('all', 'tf32'),
        'new, convolutions ieee': lambda: new('conv', 'ieee'),
        'new, matmul tf32': lambda: new('matmul', 'tf32'),
    }


@pytest.mark.parametrize('caller', CALLERS)
@pytest.mark.parametrize('wanted', [True, False])
def test_tf32_is_set_and_restored(caller: str, wanted: bool) -> None:
    CALLERS[caller]()
    before = switches()
    with tf32(wanted):
        assert allowed() == (wanted, wanted)
        with tf32(not wanted):
            assert allowed() == (not wanted, not wanted)
        with pytest.raises(ZeroDivisionError), tf32(not wanted):
            1 / 0  # noqa: B018
        assert allowed() == (wanted, wanted)
    assert switches() == before


@pytest.mark.skipif(not NEW, reason='PyTorch before 2.9 has no fp32_precision')
def test_inherited_precision_stays_inherited() -> None:
    new('all', 'tf32')
    new('conv', 'none')
    with tf32(False):
        pass
    new('all', 'ieee')
    assert allowed() == (False, False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    def pretend(major: int, minor: int) -> None:
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device=None: (major, minor))
        monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device=None: f'GPU {major}.{minor}')

    return pretend


@pytest.mark.parametrize(('capability', 'default'), [((9, 0), 'tf32'), ((8, 0), 'tf32'), ((7, 5), 'fp32')])
def test_default_on_a_gpu(gpu: Callable[[int, int], None], capability: tuple[int, int], default: str) -> None:
    gpu(*capability)
    assert resolve_precision(None, 'cuda:1').name == resolve_precision('none', 'cuda').name == default
    for name in (default, 'fp16'):
        with resolve_precision(name, 'cuda').step():
            assert allowed() == (name == 'tf32',) * 2


def test_default_on_a_cpu_is_fp32() -> None:
    precision = resolve_precision(None, 'cpu')
    assert (str(precision), precision.autocast_dtype) == ('fp32 (float32)', None)


@pytest.mark.parametrize(('name', 'dtype'), [('bf16', torch.bfloat16), ('fp16', torch.float16)])
def test_autocast(gpu: Callable[[int, int], None], name: str, dtype: torch.dtype) -> None:
    gpu(8, 6)
    assert resolve_precision(name, 'cuda').autocast_dtype == dtype
    with resolve_precision(name, 'cpu').autocast():
        assert torch.mm(torch.ones(1, 1), torch.ones(1, 1)).dtype == dtype
    with resolve_precision('fp32', 'cpu').autocast():
        assert not torch.is_autocast_enabled('cpu')


@pytest.mark.parametrize(
    ('name', 'device', 'message'),
    [
        ('int8', 'cpu', "val:precision is 'int8'; allowed: fp32, tf32, bf16, fp16"),
        ('tf32', 'cpu', 'val:precision tf32 needs an NVIDIA GPU, but the device is cpu. Use fp32'),
        ('bf16', 'cuda', r'bf16 needs a GPU of compute capability 8.0 .*GPU 7.5 has 7.5. Use fp16'),
        ('tf32', 'cuda', r'tf32 needs a GPU of compute capability 8.0 .*GPU 7.5 has 7.5. Use fp32'),
    ],
)
def test_unsupported_precision(gpu: Callable[[int, int], None], name: str, device: str, message: str) -> None:
    gpu(7, 5)
    with pytest.raises(OptionsError, match=message):
        resolve_precision(name, device, 'val:precision')

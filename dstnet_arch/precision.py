"""The device and the number format that networks compute in: one policy for all commands, training and validation.

=====  =====================================================================================================
fp32   float32; TF32 is off.
tf32   float32, but convolutions and matrix products round their inputs to TF32 (10 bits of mantissa).
bf16   convolutions and matrix products run in bfloat16 under `torch.autocast`.
fp16   convolutions and matrix products run in float16 under `torch.autocast`.
=====  =====================================================================================================

PyTorch allows TF32 in convolutions by default, forbids it in matrix products, and has only process-wide switches for
both. The backward pass runs outside the scope of the forward pass. So commands and models set the switches around
whole steps, with `Precision.step`; a bare network follows PyTorch's switches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from dstnet_arch.errors import OptionsError, first_line

PRECISIONS = ('fp32', 'tf32', 'bf16', 'fp16')

_AUTOCAST_DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}
_AMPERE = (8, 0)  # compute capability of the first GPUs with TF32 and bfloat16
_DESCRIPTIONS = {
    'fp32': 'float32',
    'tf32': 'float32 with TF32 convolutions and matrix products',
    'bf16': 'bfloat16 autocast',
    'fp16': 'float16 autocast',
}


def choose_device(name: str | None) -> torch.device:
    """Return the device that ``--device`` names, and make it PyTorch's current one.

    Args:
        name: 'cpu', 'cuda' or 'cuda:N'; None: a GPU if there is one.

    Raises:
        OptionsError: the name is unknown, or the device cannot be used.
    """
    name = name or ('cuda' if torch.cuda.is_available() else 'cpu')
    if not re.fullmatch(r'cpu|cuda(:\d+)?', name):
        raise OptionsError(f'--device {name} is not supported. Use cpu, cuda or cuda:N.')
    try:
        device = torch.device(name)
        if device.type == 'cuda':
            device = torch.device('cuda', torch.cuda.current_device() if device.index is None else device.index)
            torch.cuda.set_device(device)
            torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # an AssertionError if PyTorch is built without CUDA
        raise OptionsError(f'--device {name} cannot be used: {first_line(error)}. Use --device cpu.') from None
    return device


@dataclass(frozen=True)
class Precision:
    """A precision that a device supports; see `resolve_precision`.

    Attributes:
        name: one of `PRECISIONS`, for options, logs and results.
        device: the device that computes.
    """

    name: str
    device: torch.device

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The type for `torch.autocast`; None without autocast."""
        return _AUTOCAST_DTYPES.get(self.name)

    def autocast(self) -> AbstractContextManager[Any]:
        """`torch.autocast` for the forward pass; does nothing for fp32 and tf32."""
        dtype = self.autocast_dtype
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def step(self) -> AbstractContextManager[None]:
        """Set TF32 for a whole step, forward and backward, and restore the caller's setting afterwards."""
        return tf32(self.name == 'tf32')

    def __str__(self) -> str:
        return f'{self.name} ({_DESCRIPTIONS[self.name]})'


def resolve_precision(name: str | None, device: torch.device | str, option: str = 'precision') -> Precision:
    """Return the precision to compute with on a device.

    Args:
        name: one of `PRECISIONS`; None or 'none': tf32 on GPUs that have it, fp32 elsewhere.
        device: the device that computes; it must exist.
        option: name of the option, for the error message.

    Raises:
        OptionsError: the name is unknown, or the device does not support this precision.
    """
    device = torch.device(device)
    if name in (None, 'none'):
        return Precision('tf32' if _is_ampere(device) else 'fp32', device)
    if name not in PRECISIONS:
        raise OptionsError(f'{option} is {name!r}; allowed: {", ".join(PRECISIONS)}.')
    if name == 'tf32' and device.type != 'cuda':
        raise OptionsError(f'{option} tf32 needs an NVIDIA GPU, but the device is {device}. Use fp32.')
    if name in ('tf32', 'bf16') and device.type == 'cuda' and not _is_ampere(device):
        major, minor = torch.cuda.get_device_capability(device)
        raise OptionsError(
            f'{option} {name} needs a GPU of compute capability 8.0 or higher (A100, RTX 30 or newer), but '
            f'{torch.cuda.get_device_name(device)} has {major}.{minor}. Use {"fp32" if name == "tf32" else "fp16"}.'
        )
    return Precision(name, device)


def _is_ampere(device: torch.device) -> bool:
    if device.type != 'cuda':
        return False
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= _AMPERE


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in convolutions and matrix products, and restore the caller's setting afterwards.

    PyTorch has two interfaces for this: `allow_tf32` and, since 2.9, `fp32_precision`. Reading the old one raises an
    error if the caller has used the new one; then only the new one is used.
    """
    before = _state()
    try:
        if any(is_allowed != allowed for is_allowed in before.allowed):
            _set(before, allowed)
        yield
    finally:
        if _state() != before:
            _restore(before)


@dataclass(frozen=True)
class _State:
    """TF32 settings of convolutions and matrix products.

    Attributes:
        cudnn: `torch.backends.cudnn.allow_tf32`; None if it cannot be read.
        matmul: `torch.get_float32_matmul_precision()` ('high' and 'medium' allow TF32); None if it cannot be read.
        precisions: `fp32_precision` of each of `_switches`; empty before PyTorch 2.9.
    """

    cudnn: bool | None
    matmul: str | None
    precisions: tuple[str, ...]

    @property
    def allowed(self) -> tuple[bool, bool]:
        if self.precisions:
            return self.precisions[0] == 'tf32', self.precisions[1] == 'tf32'
        return bool(self.cudnn), self.matmul != 'highest'


def _switches() -> tuple[Any, ...]:
    """The objects of the new interface: convolutions, matrix products, and RNNs, which cuDNN's old switch includes."""
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, 'fp32_precision'):
        return ()
    return torch.backends.cudnn.conv, matmul, torch.backends.cudnn.rnn  # type: ignore[attr-defined]


def _state() -> _State:
    cudnn: bool | None = None
    matmul: str | None = None
    try:
        cudnn = torch.backends.cudnn.allow_tf32
        matmul = torch.get_float32_matmul_precision()
    except RuntimeError:  # the caller has used the new interface
        cudnn = matmul = None
    return _State(cudnn, matmul, tuple(switch.fp32_precision for switch in _switches()))


def _set(before: _State, allowed: bool) -> None:
    if before.cudnn is not None:
        torch.backends.cudnn.allow_tf32 = allowed
        torch.backends.cuda.matmul.allow_tf32 = allowed
    for switch in _switches():  # also where the process-wide `torch.backends.fp32_precision` says otherwise
        switch.fp32_precision = 'tf32' if allowed else 'ieee'


def _restore(before: _State) -> None:
    if before.cudnn is not None:
        torch.backends.cudnn.allow_tf32 = before.cudnn
        torch.backends.cuda.matmul.allow_tf32 = before.matmul != 'highest'
        if before.matmul == 'medium':
            torch.set_float32_matmul_precision('medium')
    for switch, precision in zip(_switches(), before.precisions, strict=True):
        switch.fp32_precision = 'none'  # inherit cuDNN's or the process-wide setting
        if switch.fp32_precision != precision:
            switch.fp32_precision = precision

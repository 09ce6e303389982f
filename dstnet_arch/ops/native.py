"""Kernels in C for CPUs (native.c): less than half the time of PyTorch's convolutions, for those who ask for them.

They are compiled when they are first wanted, with the C compiler of the system (about two seconds), and kept in the
user's cache folder. Where that does not work, a warning says why, once, and PyTorch's operations do the work.

Ask for them with the environment variable ``DSTNET_NATIVE=1`` or with `set_native`. They are no default: results differ
from those of PyTorch's convolutions in rounding (both are within 2e-5 of the recorded outputs of the released network).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from dstnet_arch.files import incomplete_path
from dstnet_arch.ops.filter_cells import to_cells

VARIABLE = 'DSTNET_NATIVE'
_SOURCE = Path(__file__).with_name('native.c')
_FLAGS = ('-O3', '-march=native', '-fopenmp', '-fPIC', '-shared', '-Wno-psabi')
_wanted = os.environ.get(VARIABLE, '0') not in ('', '0')


class NativeWarning(UserWarning):
    """The compiled kernels were asked for and cannot be had."""


def set_native(wanted: bool) -> None:
    """Use the compiled kernels from now on, where they can be used; or do not."""
    global _wanted
    _wanted = wanted


@contextmanager
def native(wanted: bool) -> Iterator[None]:
    """`set_native` for a block of code."""
    before = _wanted
    set_native(wanted)
    try:
        yield
    finally:
        set_native(before)


def usable(x: Tensor, *channels: int) -> bool:
    """Whether the compiled kernels are wanted, can be had, and can take `x` and these numbers of channels.

    Float32 on a CPU, outside of autocast, tracing and compilation; the channels are multiples of 16 (without AVX-512;
    with it, of 32).
    """
    if not _wanted or x.device.type != 'cpu' or x.dtype != torch.float32 or not x.numel():
        return False
    if type(x) not in (Tensor, torch.nn.Parameter) or torch.is_autocast_enabled('cpu'):
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    library = _library()
    return library is not None and not any(c % library.channel_multiple() for c in channels)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor, slope: float, residual: Tensor | None) -> Tensor:
    """leaky(convolution of x + bias) + residual; all float32 on a CPU, see `usable`.

    Args:
        x: (N, C_in, H, W).
        weight: (C_out, C_in, 3, 3).
        bias: (C_out,).
        slope: of the leaky ReLU; 1 for none.
        residual: (N, C_out, H, W) or None.

    Returns:
        (N, C_out, H, W), channels-last.
    """
    (n, c_in, h, w), c_out = x.shape, weight.shape[0]
    x = x.contiguous(memory_format=torch.channels_last)
    points = _transform(weight)
    bias = bias.contiguous()
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    out = torch.empty((n, c_out, h, w), dtype=x.dtype, memory_format=torch.channels_last)
    inputs = (x, points, bias, residual, out)
    _call('conv3x3', *map(_address, inputs), *map(ctypes.c_long, (n, h, w, c_in, c_out)), ctypes.c_float(slope))
    return out


def conv3x3_weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the weight of `conv3x3`, given its input and the gradient of the convolution's result.

    Args:
        x: (N, C_in, H, W).
        grad: (N, C_out, H, W).

    Returns:
        (C_out, C_in, 3, 3).
    """
    (n, c_in, h, w), c_out = x.shape, grad.shape[1]
    x, grad = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad))
    points = torch.empty(36, c_in, c_out)
    _call('conv3x3_weight_gradient', *map(_address, (x, grad, points)), *map(ctypes.c_long, (n, h, w, c_in, c_out)))
    return (_transform_2d().t() @ points.view(36, -1)).view(3, 3, c_in, c_out).permute(3, 2, 0, 1).contiguous()


def pixel_filter(features: Tensor, *filters: Tensor) -> Tensor:
    """As `dstnet_arch.ops.pixel_filter.pixel_filter`, for float32 on a CPU, see `usable`."""
    n, c, h, w = features.shape
    features = features.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(features)
    for k, low in enumerate(filters):
        cells = to_cells(low)
        numbers = (n, h, w, c, *low.shape[-2:])
        _call('pixel_filter', *map(_address, (features, cells, out)), *map(ctypes.c_long, numbers), ctypes.c_int(k > 0))
    return out


def transform_matrix() -> Tensor:
    """G of Winograd's F(4, 3) for the points 0, ±5/8, ±3/2 and infinity, as in native.c: (6, 3), float64."""
    points = (0.0, 0.625, -0.625, 1.5, -1.5)
    rows = []
    for p in points:
        scale = torch.tensor([p - q for q in points if q != p], dtype=torch.float64).prod()
        rows.append(torch.tensor([1.0, p, p * p], dtype=torch.float64) / scale)
    return torch.stack([*rows, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)])


@cache
def _transform_2d() -> Tensor:
    g = transform_matrix()
    return torch.kron(g, g).float()


def _transform(weight: Tensor) -> Tensor:
    """(C_out, C_in, 3, 3) -> (36, C_in, C_out)."""
    c_out, c_in = weight.shape[:2]
    return (_transform_2d() @ weight.permute(2, 3, 1, 0).reshape(9, c_in * c_out)).view(36, c_in, c_out)


def _address(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def _call(name: str, *arguments: ctypes._SimpleCData) -> None:
    library = _library()
    assert library is not None
    if getattr(library, name)(*arguments, ctypes.c_int(torch.get_num_threads())):
        raise MemoryError(f'not enough memory for the working space of {name}')


@cache
def _library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(_compiled()))
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, 'stderr', None) or str(error)
        warnings.warn(
            f'The compiled kernels ({VARIABLE}) cannot be had: {output.strip().splitlines()[-1]}. PyTorch does their '
            'work. They need a C compiler (gcc or clang), and a cache folder of your own (XDG_CACHE_HOME).',
            NativeWarning,
            stacklevel=2,
        )
        return None


def _compiled() -> Path:
    """The compiled library, made now or earlier.

    Raises:
        OSError: there is no compiler, or no folder to keep it in.
        subprocess.SubprocessError: the compiler failed.
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get('CC', 'cc'), 'gcc', 'clang'))), None)
    if compiler is None:
        raise OSError('no C compiler was found')
    version = subprocess.run([compiler, '--version'], capture_output=True, text=True, timeout=60, check=True).stdout
    made_of = (_SOURCE.read_text('utf-8'), *_FLAGS, compiler, version, platform.platform(), _processor())
    digest = hashlib.sha256('\0'.join(made_of).encode()).hexdigest()[:16]
    path = _cache_folder() / f'native-{digest}.so'
    if not path.exists():
        target = incomplete_path(path).with_suffix(f'.{os.getpid()}')
        try:
            command = [compiler, *_FLAGS, '-o', str(target), str(_SOURCE)]
            subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
            os.replace(target, path)
        finally:
            target.unlink(missing_ok=True)
    return path


def _processor() -> str:
    """What -march=native depends on: a home folder may be shared by several machines."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    return '\n'.join(sorted({line for line in lines if line.startswith(('model name', 'flags', 'Features'))}))


def _cache_folder() -> Path:
    """A folder that nobody else can write to: what lies in it is run.

    Raises:
        OSError: there is none.
    """
    base = os.environ.get('XDG_CACHE_HOME') or (Path.home() / '.cache' if os.name == 'posix' else tempfile.gettempdir())
    folder = Path(base) / 'dstnet_arch'
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if os.name == 'posix' and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise OSError(f'{folder} can be written to by others')
    return folder

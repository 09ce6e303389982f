"""Compilation of the CPU kernels (native.c) with the system's C compiler, once for each source, compiler and CPU."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from dstnet_arch.files import incomplete_path

_SOURCE = Path(__file__).with_name('native.c')
# GCC's tuning for some AMD processors splits fused multiply-adds, at a third of the speed of AVX2: hence `generic`.
_FLAGS = ('-O3', '-march=native', '-mtune=generic', '-fPIC', '-shared', '-Wno-psabi')


class NoCompilerError(OSError):
    """No C compiler was found."""


def compiled_library() -> Path:
    """Return the compiled library, from the cache if possible.

    Raises:
        NoCompilerError: there is no C compiler.
        OSError: there is no folder to keep the library in.
        subprocess.SubprocessError: the compiler failed.
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get('CC', 'cc'), 'gcc', 'clang'))), None)
    if compiler is None:
        raise NoCompilerError('no C compiler was found')
    flags = [*_FLAGS, *_isa_flags()]
    version = subprocess.run([compiler, '--version'], capture_output=True, text=True, timeout=60, check=True).stdout
    made_of = (_SOURCE.read_text('utf-8'), *flags, compiler, version, platform.platform(), _processor())
    digest = hashlib.sha256('\0'.join(made_of).encode()).hexdigest()[:16]
    path = _cache_folder() / f'native-{digest}.so'
    if not path.exists():
        print('dstnet_arch: compiling the CPU kernels (once, a few seconds)', file=sys.stderr)
        target = incomplete_path(path).with_suffix(f'.{os.getpid()}')
        try:
            command = [compiler, *flags, '-o', str(target), str(_SOURCE)]
            try:
                subprocess.run([*command, '-fopenmp'], capture_output=True, text=True, timeout=300, check=True)
            except subprocess.CalledProcessError:  # Apple's Clang has no OpenMP
                subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
            os.replace(target, path)
        finally:
            target.unlink(missing_ok=True)
    return path


def _isa_flags() -> list[str]:
    """Compile for AVX2 where PyTorch uses no AVX-512, for instance because of ``ATEN_CPU_CAPABILITY=avx2``."""
    return ['-mno-avx512f'] if torch.backends.cpu.get_cpu_capability() == 'AVX2' else []


def _processor() -> str:
    """The CPU that -march=native compiles for; several machines may share a home folder."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    return '\n'.join(sorted({line for line in lines if line.startswith(('model name', 'flags', 'Features'))}))


def _cache_folder() -> Path:
    """A folder that nobody else can write to, because its files are executed.

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

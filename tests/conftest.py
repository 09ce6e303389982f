"""Settings and fixtures of all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

# Small tensors gain nothing from threads, and with one thread sums are the same everywhere.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest
import torch
from hypothesis import settings

# The GPU kernels are tested without a GPU, too. Triton reads this variable when it is imported.
if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile('dstnet', deadline=None, derandomize=True)  # results do not depend on timing or chance
settings.load_profile('dstnet')

RunPython = Callable[..., 'subprocess.CompletedProcess[str]']


@pytest.fixture(scope='session')
def root() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope='session')
def run_python() -> RunPython:
    """Run Python in a new process: ``run_python('-c', 'print(1)', cwd=tmp_path)``.

    The exit status is not checked. PYTHONPATH is removed: only what is installed can be imported.
    """
    try:
        distribution('dstnet-arch')
    except PackageNotFoundError:
        pytest.fail("dstnet-arch is not installed here; run: pip install --no-build-isolation -e '.[test,dev]'")

    def run(*arguments: object, cwd: Path, timeout: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(('PYTHON', 'COV_'))}
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run

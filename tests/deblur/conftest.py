"""Weights of a tiny network, and calls of ``dstnet deblur`` with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dstnet_arch.__main__ import main
from dstnet_arch.archs.dstnet_arch import DSTNet

Deblur = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope='session')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    torch.save({'params': DSTNet(num_feat=2, num_block=1, num_cwgdn=1).state_dict()}, path)
    return path


@pytest.fixture
def deblur(weights: Path, capsys: pytest.CaptureFixture[str]) -> Deblur:
    """Run the command on the CPU: (exit status, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(['deblur', *map(str, arguments), '--weights', str(weights), '--device', 'cpu'])
        return status, *capsys.readouterr()

    return run

"""Weights for, and calls of, `dstnet deblur` in tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dstnet_arch.__main__ import main
from dstnet_arch.archs.dstnet_arch import DSTNet

Deblur = Callable[..., tuple[int, str, str]]
"""The command, with weights and device given: (exit status, stdout, stderr)."""


def make_weights(folder: Path) -> Path:
    """A file with the weights of a tiny network."""
    torch.manual_seed(0)
    path = folder / 'tiny.pth'
    torch.save({'params': DSTNet(num_feat=2, num_block=1, num_cwgdn=1).state_dict()}, path)
    return path


def deblur_with(weights: Path, capsys: pytest.CaptureFixture[str]) -> Deblur:
    """Run ``dstnet deblur`` with these weights."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(['deblur', *map(str, arguments), '--weights', str(weights), '--device', 'cpu'])
        return status, *capsys.readouterr()

    return run

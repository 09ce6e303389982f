"""Networks of next to no size under the names of the real ones."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.benchmarks import networks
from dstnet_arch.benchmarks.networks import Network
from dstnet_arch.benchmarks.plain import PlainDSTNet

TINY: dict[str, Any] = {'num_feat': 4, 'prop_feat': 6, 'num_block': 2, 'num_cwgdn': 1}


def _fail() -> nn.Module:
    raise RuntimeError('no such\noperator')


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tiny networks, and a peer that fails; every peak of memory is 3 MiB."""
    table = (
        Network('DSTNet', 'ours', lambda: DSTNet(**TINY), 'DSTNet'),
        Network('PlainDSTNet', 'plain', lambda: PlainDSTNet(**TINY), 'DSTNet, plain'),
        Network('EDVR', 'peers', _fail, 'EDVR'),
    )
    for module in ('networks', 'compare'):
        monkeypatch.setattr(f'dstnet_arch.benchmarks.{module}.NETWORKS', table)
    monkeypatch.setattr(networks, 'NETWORKS', table)
    monkeypatch.setattr('dstnet_arch.benchmarks.harness.peak_memory', lambda *_: 3 * 2**20)

"""Which device and which process group are used, with stubs in place of CUDA and NCCL."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import distributed as dist

from dstnet_arch.models.distributed import Ranks
from dstnet_arch.precision import choose_device


def test_device_is_set_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'set_device', lambda device: calls.append(('set', device)))
    monkeypatch.setattr(torch, 'empty', lambda *_, device: calls.append(('use', device)))
    assert choose_device('cuda:1') == torch.device('cuda', 1)
    assert calls == [('set', torch.device('cuda', 1)), ('use', torch.device('cuda', 1))]
    assert choose_device(None) == choose_device('cuda') == torch.device('cuda', 2)


def test_results_are_gathered_without_nccl_and_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[dict[str, Any]] = []

    def gather(results: list[Any], own: Any, group: Any) -> None:
        assert group == 'group'
        results[:] = [own] * len(results)

    monkeypatch.setattr(dist, 'new_group', lambda **settings: groups.append(settings) or 'group')
    monkeypatch.setattr(dist, 'all_gather_object', gather)
    ranks = Ranks(0, 2, distributed=True)
    assert ranks.gather(lambda: 3) == [3, 3]
    assert [settings['backend'] for settings in groups] == ['gloo']
    assert groups[0]['timeout'] >= timedelta(days=1)

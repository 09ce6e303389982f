"""`val.streaming`: validation frame by frame."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from model_parts import Clips, loader, logged, make_model, test_options, train_options
from torch import nn

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.errors import OptionsError

NETWORK = {'type': 'DSTNet', 'num_feat': 4, 'num_block': 1, 'num_cwgdn': 2}
SCORES = ('input_psnr', 'restored_psnr', 'input_ssim', 'restored_ssim')


def options(root: Path, **val: Any) -> dict[str, Any]:
    return {**test_options(root, **val), 'network_g': dict(NETWORK)}


def never(*_: Any) -> None:
    raise AssertionError('the network was given the whole clip')


@pytest.mark.parametrize('self_ensemble', [False, True])
def test_val_streaming_gives_the_same_scores(
    self_ensemble: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, summaries, tables = [], [], []
    for streaming in (False, True):
        model = make_model(options(tmp_path / str(streaming), streaming=streaming, self_ensemble=self_ensemble))
        if streaming:
            monkeypatch.setattr(DSTNet, 'forward', never)
        with logged() as lines:
            model.validation(loader(Clips('set', {'a': 4, 'b': 2})), 'tiny', None)
        folder = Path(model.opt['path']['results_root'])
        with (folder / 'set_frames.csv').open() as file:
            scores.append(list(csv.DictReader(file)))
        summaries.append(json.loads((folder / 'set_summary.json').read_text()))
        tables.append(next(line for line in lines if 'frames of 2 videos' in line).replace(str(folder), ''))
    plain, streamed = (torch.tensor([[float(row[name]) for name in SCORES] for row in part]) for part in scores)
    assert len(plain) == 6
    torch.testing.assert_close(streamed, plain, rtol=0, atol=1e-5)
    assert tables[1] == tables[0]
    assert [summary.pop('streaming') for summary in summaries] == [False, True]
    assert summaries[1].keys() == summaries[0].keys()


def test_val_streaming_in_bf16(tmp_path: Path) -> None:
    lq = torch.rand(2, 3, 3, 20, 18, generator=torch.Generator().manual_seed(0))
    plain, streamed = (
        make_model(options(tmp_path, streaming=streaming, amp='bf16')).restore(lq) for streaming in (False, True)
    )
    assert streamed.dtype == torch.float32
    assert streamed.shape == lq.shape
    exact = make_model(options(tmp_path)).restore(lq)
    assert (plain - exact).abs().mean() > 0
    assert (streamed - plain).abs().mean() < 0.5 * (plain - exact).abs().mean()


def test_val_streaming_uses_averaged_weights(tmp_path: Path) -> None:
    opt = train_options(tmp_path, ema_decay=0.5)
    opt['network_g'], opt['val']['streaming'] = dict(NETWORK), True
    model = make_model(opt)
    nn.init.constant_(model.net_g_ema.reconstruct.bias, 0.25)
    lq = torch.rand(1, 3, 3, 16, 16)
    with torch.no_grad():
        expected = model.net_g_ema(lq)
    torch.testing.assert_close(model.restore(lq), expected, rtol=0, atol=1e-5)
    assert model.net_g.training


def test_val_streaming_refuses_other_networks(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=r'val:streaming is true, but: .*DSTNet and DSTNetPlus; got TinyVideoNet'):
        make_model(test_options(tmp_path, streaming=True))

"""`dstnet benchmark precision`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.benchmarks import command
from dstnet_arch.benchmarks.precision import compare
from dstnet_arch.errors import DataError

NET = {'num_feat': 8, 'num_block': 1, 'num_cwgdn': 1}


def write_pictures(folder: Path, num_frame: int, seed: int) -> None:
    folder.mkdir()
    for t, picture in enumerate(np.random.default_rng(seed).integers(0, 256, (num_frame, 18, 32, 3), np.uint8)):
        cv2.imwrite(str(folder / f'{t:03d}.png'), picture)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    torch.save(DSTNet(**NET).state_dict(), tmp_path / 'net.pth')
    write_pictures(tmp_path / 'blur', 3, 0)
    write_pictures(tmp_path / 'sharp', 3, 1)
    arguments = ['--weights', str(tmp_path / 'net.pth'), '--device', 'cpu', '-o', str(tmp_path / 'out')]
    command(['precision', str(tmp_path / 'blur'), '--sharp', str(tmp_path / 'sharp'), '--end', '2', *arguments])
    shown = capsys.readouterr().out
    assert '2 frames of 32x18' in shown
    content = json.loads(next((tmp_path / 'out').iterdir()).read_text())
    exact, *reduced = content['results']
    assert exact['name'] == 'fp32'
    assert exact['psnr_to_fp32'] is None
    assert exact['largest_difference'] == 0
    assert [item['name'] for item in reduced] == ['bf16', 'fp16']
    for item in reduced:
        assert 30 < item['psnr_to_fp32_worst'] <= item['psnr_to_fp32'] < 120
        assert item['change'] == pytest.approx(item['psnr_to_sharp'] - exact['psnr_to_sharp'])
    with pytest.raises(DataError, match='they are to be the same frames'):
        command(['precision', str(tmp_path / 'blur'), '--sharp', str(tmp_path / 'sharp' / '*0.png'), *arguments])


def test_figures() -> None:
    torch.manual_seed(0)
    net, frames = DSTNet(**NET).eval(), list(torch.rand(2, 3, 16, 32))
    found = {item['name']: item for item in compare(net, frames, None, ['bf16'])}
    clip = torch.stack(frames)[None]
    with torch.no_grad():
        exact = net(clip)[0]
        with torch.autocast('cpu', torch.bfloat16):
            reduced = net(clip)[0].float()
    errors = (exact.clamp(0, 1) - reduced.clamp(0, 1)).square().flatten(1).mean(1)
    assert found['bf16']['psnr_to_fp32'] == pytest.approx(-10 * math.log10(errors.mean()), abs=0.5)
    assert found['bf16']['psnr_to_fp32_worst'] == pytest.approx(-10 * math.log10(errors.max()), abs=0.5)
    assert found['bf16']['psnr_to_sharp'] is None

"""`dstnet complexity`: counts against formulas by hand and known totals, the table, the JSON file, the figure."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.benchmarks import complexity
from dstnet_arch.benchmarks.complexity import QUOTED, count
from dstnet_arch.benchmarks.networks import NETWORKS, find
from dstnet_arch.benchmarks.plain import PlainDSTNet

C, P, BLOCKS = 4, 6, 2
H, W, T = 32, 48, 3
TINY: dict[str, Any] = {'num_feat': C, 'prop_feat': P, 'num_block': BLOCKS, 'num_cwgdn': 1}


def conv(c_in: int, c_out: int, side: int, pixels: int, groups: int = 1) -> int:
    return c_in * c_out * side**2 // groups * pixels


def tiny_common() -> int:
    """Multiply-adds a frame of what both schedules of DSTNet(**TINY) have in common: all but the ends and the Haar."""
    half, quarter = H * W // 4, H * W // 16
    high_bands = conv(3 * C, 3 * C, 1, half + quarter, groups=3)  # the second convolution of N_h
    cwgdn = 3 * C * 8 * C * quarter + 3 * 4 * C * C * quarter
    channel_filters = 3 * 9 * 4 * C * (quarter // 4) + 3 * 9 * 4 * C * (quarter // 16) + conv(4 * C, 9 * 4 * C, 1, 1)
    widths = conv(C, P, 1, half) + conv(P, C, 1, half)
    fusion = conv(2 * P, 2 * P, 3, half) + 2 * conv(P, P, 3, half)
    pixel_filters = 6 * conv(P, P, 3, half // 16) + 6 * conv(P, P, 3, half // 64) + conv(P, 9 * P, 1, half // 64)
    refine = 2 * BLOCKS * conv(P, P, 3, half)
    return high_bands + cwgdn + channel_filters + widths + 2 * (fusion + pixel_filters + refine)


def haar(c: int, h: int, w: int) -> int:
    """Analysis and synthesis over both levels as convolutions: four 2x2 patterns for each channel and 2x2 block."""
    return 2 * c * 4 * 4 * (h * w // 4 + h * w // 16)


def test_plain_schedule_against_formulas() -> None:
    counted, by_formula = count(PlainDSTNet(**TINY), (1, T, 3, H, W))
    ends = conv(3, C, 3, H * W) + conv(C, 3, 3, H * W) + conv(3 * C, 3 * C, 1, (H * W // 4) + (H * W // 16), groups=3)
    assert counted == T * (tiny_common() + ends + haar(C, H, W))
    assert by_formula == {
        'channel filter': T * 9 * 4 * C * (H * W // 16),
        'pixel filter': T * 2 * 9 * P * (H * W // 4),
        'filter resizing': T * 2 * 4 * 9 * P * (H * W // 4),
    }


def test_merged_schedule_against_formulas() -> None:
    (two, _), (more, by_formula) = (count(DSTNet(**TINY), (1, frames, 3, H, W)) for frames in (2, 2 + T))
    half, quarter = H * W // 4, H * W // 16
    # 6x6 convolutions of stride 4 to all four bands, 4x4 ones of stride 2 to three, 3x3 from 4C to 12 at half size. The
    # first convolution of N_h is part of them.
    ends = 4 * C * 3 * 36 * quarter + 3 * C * 3 * 16 * half + conv(4 * C, 12, 3, half)
    channel_filter = 9 * 4 * C * quarter  # a convolution here, so the counter sees it
    # In the difference only the frames count: the weights are merged once a call.
    assert more - two == T * (tiny_common() + ends + channel_filter)
    assert two > 2 * (tiny_common() + ends + channel_filter)
    steps = 2 * (2 + T)  # of the propagation
    assert by_formula == {'pixel filter': steps * 9 * P * half, 'filter resizing': steps * 4 * 9 * P * half}


@pytest.mark.parametrize(
    ('name', 'width', 'height', 'gmacs'),
    [
        ('PlainDSTNet', 256, 256, 47.87),
        ('PlainDSTNet', 1280, 720, 673.1),
        ('PlainDSTNet-L', 256, 256, 184.7),
        ('PlainDSTNet-L', 1280, 720, 2597.3),
    ],
)
def test_known_totals(name: str, width: int, height: int, gmacs: float) -> None:
    # They count the convolutions with learnt weights: without those by +1 and -1.
    found = count(find(name).build(), (1, 1, 3, height, width))[0] - haar(64, height, width)
    assert found / 1e9 == pytest.approx(gmacs, abs=0.005 if gmacs < 100 else 0.06)


def test_work_that_the_counter_cannot_see() -> None:
    class Warp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.mean() > 0:  # answered without values
                raise AssertionError
            return F.grid_sample(x, torch.zeros(2, 5, 7, 2, device=x.device), align_corners=False)

    assert count(Warp(), (2, 3, 8, 8))[1] == {'warping': 4 * 2 * 3 * 5 * 7}

    deform_conv2d = pytest.importorskip('torchvision.ops').deform_conv2d

    class Deform(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            weight, offset = (torch.zeros(shape, device=x.device) for shape in ((10, 6, 3, 3), (2, 18, 8, 8)))
            return deform_conv2d(x, offset, weight, padding=1)

    assert count(Deform(), (2, 6, 8, 8)) == (0, {'deformable convolution': 2 * 64 * (10 * 6 * 9 + 4 * 6 * 9)})


@pytest.mark.parametrize('name', ['DSTNet', 'DSTNet-L', 'DSTNetPlus', 'DSTNetPlus-L'])
def test_parameters_are_the_quoted_ones(name: str) -> None:
    network = find(name)
    parameters = sum(p.numel() for p in network.build().parameters())
    assert parameters / 1e6 == pytest.approx(QUOTED[network.label][0], abs=0.01)


def test_every_ablation_can_be_measured() -> None:
    hints = get_type_hints(DSTNet.__init__)
    defaults = {name: p.default for name, p in inspect.signature(DSTNet).parameters.items()}
    axes = ('spatial', 'fusion', 'pixel_filter', 'propagation')
    wanted = {(a, v) for a in axes for v in get_args(hints[a]) or (True, False) if v != defaults[a]}
    configs = [network.build().config for network in NETWORKS if network.group == 'ablations']
    assert {(a, config[a]) for config in configs for a in axes if config[a] != defaults[a]} == wanted
    assert len(configs) == len(wanted)


def test_peers_are_complete() -> None:
    pytest.importorskip('basicsr')
    edvr, basicvsr = find('EDVR').build(), find('BasicVSR++').build()
    assert sum(p.numel() for p in edvr.parameters()) / 1e6 == pytest.approx(23.60, abs=0.01)
    assert len(basicvsr.deform_align) == 4  # with its alignment, which stock leaves out on a machine without CUDA
    assert set(count(basicvsr, (1, 2, 3, 256, 256))[1]) == {'warping', 'deformable convolution'}


@pytest.mark.usefixtures('tiny')
def test_complexity_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    complexity.command(['--size', '48x32', '--frames', '2', '-o', str(tmp_path / 'out')])
    shown = capsys.readouterr().out
    assert re.search(r'\| DSTNet +\| +0\.02 \|', shown)  # million parameters
    assert 'EDVR: RuntimeError: no such' in shown
    (path,) = (tmp_path / 'out').iterdir()
    assert path.name.endswith('_complexity_cpu.json')
    ours, plain, edvr = json.loads(path.read_text())['results']
    assert ours['quoted'] == [7.45, 47.9]
    assert plain['quoted'] is None
    assert plain['parameters'] == ours['parameters'] == sum(p.numel() for p in DSTNet(**TINY).parameters())
    assert plain['macs_per_frame'] == count(PlainDSTNet(**TINY), (1, 1, 3, 32, 48))[0]
    assert edvr['failure'] == 'RuntimeError: no such'


@pytest.mark.usefixtures('tiny')
def test_complexity_plot(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match='2'):
        complexity.command(['--plot', '--size', '16x16', '-o', str(tmp_path)])
    complexity.command(['--plot', '--networks', 'DSTNet', '-o', str(tmp_path)])
    (figure,) = tmp_path.glob('*.png')
    assert figure.read_bytes().startswith(b'\x89PNG')

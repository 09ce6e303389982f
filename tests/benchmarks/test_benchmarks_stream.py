"""`dstnet benchmark stream` and `dstnet benchmark latency`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from test_stream import small_net, video, whole

from dstnet_arch.benchmarks import command, latency, stream
from dstnet_arch.errors import DataError
from dstnet_arch.streaming.live import LiveStreamer


def write_pictures(folder: Path, levels: np.ndarray) -> None:
    folder.mkdir()
    for t, picture in enumerate(levels):
        cv2.imwrite(str(folder / f'{t:03d}.png'), picture)


def test_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[dict[str, Any]] = []

    def peak(run: Any, prepare: Any, arguments: dict[str, Any], device: Any) -> int:
        json.dumps(arguments)  # another process gets them so
        prepare(**arguments)()
        ran.append(arguments)
        return 100 * arguments['num_frame'] if arguments['way'] == 'host' else 7000

    monkeypatch.setattr(stream, 'peak_memory', peak)
    options = ['--clip-frames', '2', '--frames', '6', '3', '--ways', 'host', 'sqrt', '--size', '40x16', '--reduced']
    command(['stream', *options, '--tile', '32x32', '--device', 'cpu', '-o', str(tmp_path)])
    shown = capsys.readouterr().out
    content = json.loads(next(tmp_path.iterdir()).read_text())
    results = content['results']
    assert [(item['way'], item['frames']) for item in results] == [
        ('whole clip', 2), ('host', 3), ('host', 6), ('sqrt', 3), ('sqrt', 6),
    ]  # fmt: skip
    assert [item['peak_ratio'] for item in results] == [1, 1, 2, 1, 1]
    assert all(item['seconds_per_frame'] > 0 for item in results)
    assert ran[0]['num_frame'] == 2
    assert ran[4]['interval'] == 'sqrt'
    assert ran[4]['tile'] == [32, 32]
    assert content['network'] == stream.REDUCED
    assert 'DSTNet, num_feat=8, num_block=1, num_cwgdn=1, frames of 40x16, in tiles of 32x32' in shown


def test_a_stream_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> int:
        raise MemoryError('not enough memory')

    monkeypatch.setattr(stream, 'peak_memory', fail)
    options = ['--clip-frames', '--frames', '3', '--ways', 'device', '--device', 'cpu', '-o', str(tmp_path)]
    command(['stream', *options])
    (item,) = json.loads(next(tmp_path.iterdir()).read_text())['results']
    assert item['failure'] == 'not enough memory'
    assert item['peak_ratio'] is item['seconds_per_frame'] is None


def test_live_against_the_whole_clip() -> None:
    net, frames = small_net().float(), video(7).float()
    expected = whole(net, frames).clamp(0, 1)
    first, live, all_frames = latency.compare(net, list(frames), list(frames), [(2, 1), (1, 7)])
    assert (first['psnr_to_whole_clip'], first['delay_frames']) == (None, None)
    assert (live['window'], live['lookahead'], live['delay_frames']) == (2, 1, 2)
    restored = torch.stack(list(LiveStreamer(net, 2, 1)(frames))).clamp(0, 1)
    psnr = -10 * math.log10(float((restored - expected).square().mean()))
    assert live['psnr_to_whole_clip'] == pytest.approx(psnr, abs=1e-3)
    assert all_frames['psnr_to_whole_clip'] is None or all_frames['psnr_to_whole_clip'] > 90
    assert live['gain'] is None  # the blurry frames are the sharp ones here
    levels = ((x * 255).round() for x in (restored, frames))
    a, b = (x.numpy() for x in levels)
    errors = ((a - b) ** 2).reshape(7, -1).mean(1)
    assert live['psnr_to_sharp'] == pytest.approx(np.mean(10 * np.log10(255**2 / errors)), abs=1e-3)


def test_latency(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (4, 18, 20, 3), dtype=np.uint8)
    write_pictures(tmp_path / 'sharp', levels)
    write_pictures(tmp_path / 'blurry', levels // 2 + 60)
    torch.save(small_net().float().state_dict(), tmp_path / 'net.pth')
    options = ['--weights', str(tmp_path / 'net.pth'), '--windows', '2', '--lookaheads', '0', '1', '--device', 'cpu']
    arguments = ['latency', str(tmp_path / 'blurry'), *options, '-o', str(tmp_path / 'out')]
    command([*arguments, '--sharp', str(tmp_path / 'sharp')])
    content = json.loads(next((tmp_path / 'out').iterdir()).read_text())
    assert (content['frames'], content['size']) == (4, '20x18')
    names = ['whole clip', 'window 2, lookahead 0', 'window 2, lookahead 1']
    assert [item['name'] for item in content['results']] == names
    assert all(math.isfinite(item['gain']) for item in content['results'])
    assert 'gain on blurry' in capsys.readouterr().out
    (tmp_path / 'sharp' / '003.png').unlink()
    with pytest.raises(DataError, match='3 frames'):
        command([*arguments, '--sharp', str(tmp_path / 'sharp')])

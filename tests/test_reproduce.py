"""`dstnet reproduce`, from a miniature data set and a local server in place of the weights' host."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from dstnet_arch import reproduce
from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.errors import CheckpointError, DataError, OptionsError
from dstnet_arch.reproduce import Reproduction
from dstnet_arch.weights import released, store
from dstnet_arch.weights.released import git_blob_id

DATA = Path(__file__).parent / 'data'
SMALL = ['--force_yml', 'network_g:num_feat=4', 'network_g:num_block=2', 'num_gpu=0']


def write_gopro(root: Path) -> None:
    """Two test clips in GoPro's layout."""
    rng = np.random.default_rng(0)
    for clip, first in (('GOPR0384_11_00', 1), ('GOPR0410_11_00', 47)):
        for number in range(first, first + 3):
            for kind in ('sharp', 'blur'):
                path = root / 'test' / clip / kind / f'{number:06d}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), rng.integers(0, 256, (24, 40, 3), dtype=np.uint8))


@pytest.fixture
def released_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server with small released-format weights as GOPRO.pth, which are declared to be the released ones."""
    folder = tmp_path / 'server'
    folder.mkdir()
    with np.load(DATA / 'released_base_f4b2.npz') as recorded:
        state = {
            k.removeprefix('weights/'): torch.from_numpy(recorded[k]) for k in recorded if k.startswith('weights/')
        }
    torch.save({'params': state}, folder / 'GOPRO.pth')
    declared = [
        replace(r, blob_id=git_blob_id(folder / 'GOPRO.pth')) if r.name == 'GoPro' else r for r in released.RELEASED
    ]
    monkeypatch.setattr(released, 'RELEASED', tuple(declared))
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(store, '_SOURCES', [f'http://127.0.0.1:{server.server_port}'])
        yield
        server.shutdown()


@pytest.mark.slow
def test_reproduce_downloads_tests_and_reports(
    tmp_path: Path, released_weights: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_gopro(tmp_path / 'GOPRO_Large')
    monkeypatch.chdir(tmp_path)
    arguments = ['gopro', '--data', 'GOPRO_Large', *SMALL]
    assert reproduce.command(arguments) == 1  # 6 frames are not GoPro's test set
    folder = tmp_path / 'results' / 'reproduce' / 'reproduce_DSTNet_GoPro_released'
    report = json.loads((folder / 'report.json').read_text())
    assert 'Not comparable: 6 frames were scored, the printed scores are of 1111.' in (folder / 'report.md').read_text()
    assert (tmp_path / 'weights' / 'GOPRO.pth').is_file()
    scores = json.loads((tmp_path / f'results/{folder.name}/GoPro_summary.json').read_text())
    assert report['measured']['psnr'] == scores['mean_over_frames']['restored']['psnr']
    assert report['difference']['psnr'] == pytest.approx(report['measured']['psnr'] - 34.16)

    capfd.readouterr()
    assert reproduce.command(arguments) == 1
    assert 'The test has already run' in capfd.readouterr().out
    assert json.loads((folder / 'report.json').read_text())['measured'] == report['measured']


def summary(psnr: float, ssim: float, frames: int = 1111) -> dict[str, Any]:
    metrics = {
        'psnr': {'type': 'calculate_psnr', 'crop_border': 0},
        'ssim3d': {'type': 'calculate_ssim3d', 'crop_border': 0},
    }
    means = {'restored': {'psnr': psnr, 'ssim3d': ssim}}
    return {
        'dataset': 'GoPro', 'protocol': 'dstnet', 'frames': frames, 'mean_over_frames': means, 'metrics': metrics,
        'run': 'r', 'network': {'type': 'DSTNet'}, 'weights': 'GOPRO.pth', 'date': '2026-01-01', 'precision': 'fp32',
    }  # fmt: skip


@pytest.mark.parametrize(
    ('scores', 'reproduced', 'verdict'),
    [
        ((34.165, 0.9680), True, 'Reproduced within 0.02 dB and 0.0005.'),
        ((34.10, 0.9680), False, 'Not reproduced within'),
        ((34.16, 0.9600), False, 'Not reproduced within'),
        ((34.16, 0.9679, 1110), False, 'Not comparable: 1110 frames'),
    ],
)
def test_verdict_compares_with_the_printed_row(scores: tuple[Any, ...], reproduced: bool, verdict: str) -> None:
    task = Reproduction('gopro', Path('data'))
    report = reproduce._compare(task, summary(*scores), Path('w.pth'))
    assert report['reproduced'] is reproduced
    text = reproduce._markdown(task, report)
    assert verdict in text
    assert '| DSTNet, printed | 34.16 | 0.9679 |' in text


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        (['gopro', '--data', 'missing'], DataError, 'missing is not a folder'),
        (['gopro', '--data', '.', '--network', 'DSTNetPlus'], OptionsError, 'no weights of DSTNetPlus for GoPro'),
        (['dvd', '--data', '.', '--weights', 'w.pth'], CheckpointError, 'w.pth do not exist'),
    ],
)
def test_wrong_arguments_fail_before_any_work(
    arguments: list[str], error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        reproduce.command(arguments)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_network_are_refused_before_a_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, '_run', lambda *_: pytest.fail('the conversion began'))
    torch.save({'params': DSTNet(num_feat=4, num_cwgdn=1).state_dict()}, 'small.pth')
    with pytest.raises(
        OptionsError, match=r'num_feat=4, num_cwgdn=1; DSTNet has num_feat=64, num_cwgdn=5.*--force_yml'
    ):
        reproduce.command(['dvd', '--data', '.', '--weights', 'small.pth'])


def test_dvd_and_bsd_are_converted_first(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(reproduce, '_run', lambda module, what: ran.append(module))
    roots = reproduce._data(Reproduction('bsd', Path('BSD'), exposure='2ms16ms'))
    assert ran == [['data_prep', 'bsd', 'BSD', '-o', 'datasets/BSD_2ms16ms', '--exposure', '2ms16ms']]
    assert roots['dataroot_lq'].endswith('BSD_2ms16ms/test_blur.lmdb')


def test_data_of_another_variant_are_never_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an earlier conversion instead of --data, nor a converted folder of another exposure."""
    monkeypatch.chdir(tmp_path)
    for kind in ('blur', 'sharp'):
        Path(f'datasets/GoPro/test_{kind}.lmdb').mkdir(parents=True)
    assert reproduce._data(Reproduction('gopro', Path('GOPRO_Large'), blur='blur_gamma')) == {
        'dataroot_lq': 'GOPRO_Large', 'dataroot_gt': 'GOPRO_Large', 'blur': 'blur_gamma',
    }  # fmt: skip
    Path('datasets/GoPro/test_blur.lmdb/dataset_info.json').write_text('{"exposure": {"value": "1ms8ms"}}')
    with pytest.raises(DataError, match='converted with --exposure 1ms8ms'):
        reproduce.command(['bsd', '--data', 'datasets/GoPro', '--exposure', '2ms16ms', '--weights', 'w.pth'])

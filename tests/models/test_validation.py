"""VideoRecurrentDeblurModel: validation and tests of data sets. Ranks are tested in test_distributed.py."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataset
from basicsr.metrics import calculate_niqe
from basicsr.utils.registry import METRIC_REGISTRY
from model_parts import Clips, loader, logged, make_model, test_options, train, train_options
from naive_metrics import Image, naive_psnr, naive_ssim2d, naive_ssim3d
from torch import Tensor, nn
from torch.nn.functional import conv3d

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.metrics.protocols import PROTOCOLS
from dstnet_arch.models.clips import to_levels
from dstnet_arch.models.self_ensemble import self_ensemble

PSNR = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}
NIQE = {'niqe': {'type': 'calculate_niqe', 'crop_border': 0, 'better': 'lower'}}
SSIM_3D = {'ssim': {'type': 'calculate_ssim3d', 'crop_border': 0}}


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


# ---- protocols


class Rule(NamedTuple):
    """A protocol as in the papers' code."""

    border: int
    quantise: Callable[[Image], Image]
    crop: int
    ssim: Callable[[Image, Image], float]
    over_clips: bool


RULES = {
    'dstnet': Rule(0, np.rint, 0, naive_ssim3d, False),
    'basicsr': Rule(0, np.rint, 0, naive_ssim2d, True),
    'cdvd': Rule(2, np.rint, 4, naive_ssim2d, False),
    'estrnn': Rule(2, np.trunc, 0, naive_ssim2d, False),
}
VIDEOS = {'a': 11, 'b': 5, 'short': 4}  # in clips of three frames, the last ones shifted


def restored(lq: Tensor) -> Tensor:
    """Values between and beyond the 8-bit levels."""
    return lq * 1.1 - 0.0503


def levels(frame: Tensor, quantise: Callable[[Image], Image]) -> Image:
    pixels = frame.numpy().clip(0, 1) * np.float32(255)
    return quantise(pixels).astype(np.uint8).transpose(1, 2, 0)


@pytest.mark.parametrize('name', RULES)
def test_protocol_scores_every_frame_as_defined(tmp_path: Path, name: str) -> None:
    rule = RULES[name]
    model = make_model(test_options(tmp_path, protocol=name, metrics=PSNR | SSIM_3D))
    model.restore = restored
    clips = Clips('set', VIDEOS, size=12 + 2 * rule.crop)
    with logged() as lines:
        model.validation(loader(clips), 'tiny', None, save_img=True)
    results = tmp_path / 'results/tiny'

    pairs = {(c['video'], f): (c['lq'][t], c['gt'][t]) for c in clips.clips for t, f in enumerate(c['frames'])}
    expected: dict[str, list[list[float]]] = {}
    rows = {(row['video'], row['frame']): row for row in read_csv(results / 'set_frames.csv')}
    for video, frames in clips.videos.items():
        for frame in frames[rule.border : len(frames) - rule.border]:
            lq, gt = pairs[video, frame]
            images = [levels(lq, np.rint), levels(restored(lq), rule.quantise), levels(gt, np.rint)]
            height, width = images[0].shape[:2]
            inner = slice(rule.crop, height - rule.crop), slice(rule.crop, width - rule.crop)
            *both, sharp = (image[inner] for image in images)
            scores = [score(image, sharp) for score in (naive_psnr, rule.ssim) for image in both]
            row = rows.pop((video, frame))
            assert row['protocol'] == name
            columns = ('input_psnr', 'restored_psnr', 'input_ssim', 'restored_ssim')
            assert [float(row[column]) for column in columns] == pytest.approx(scores, abs=1e-9)
            expected.setdefault(video, []).append(scores)
    assert not rows

    of_clips = [np.mean(scores, axis=0) for scores in expected.values()]
    mean = np.mean(of_clips if rule.over_clips else np.concatenate(list(expected.values())), axis=0)
    summary = json.loads((results / 'set_summary.json').read_text())
    counted = sum(map(len, expected.values()))
    assert (summary['protocol'], summary['frames'], summary['frames_restored']) == (name, counted, 20)
    assert summary['mean_over'] == ('clips' if rule.over_clips else 'frames')
    means = summary[f'mean_over_{summary["mean_over"]}']
    for row, scores in {'input': mean[0::2], 'restored': mean[1::2]}.items():
        assert list(means[row].values()) == pytest.approx(list(scores))
    assert list(model.metric_results.values()) == pytest.approx(mean[1::2])

    report = lines[-1].splitlines()
    assert report[0] == f'### set: {counted} frames of {len(expected)} videos'
    assert report[5].strip('| ').split(' | ') == ['restored    ', f'{mean[1]:9.2f}', f'{mean[3]:10.4f}']
    assert f'Protocol {PROTOCOLS[name]}' in report

    # All frames are saved, quantised as they were scored.
    assert len(list((results / 'visualization/set').rglob('*.png'))) == 20
    for (video, frame), (lq, _) in pairs.items():
        saved = cv2.imread(str(results / f'visualization/set/{video}/{frame}.png'))[..., ::-1]
        np.testing.assert_array_equal(saved, levels(restored(lq), rule.quantise))


def test_protocol_with_own_metrics_is_logged(tmp_path: Path) -> None:
    with logged() as lines:
        make_model(test_options(tmp_path, protocol='basicsr'))
    assert sum('val:metrics that need ground truth are ignored' in line for line in lines) == 1
    with logged() as lines:
        assert make_model(test_options(tmp_path)).validator.protocol.name == 'dstnet'
        make_model(test_options(tmp_path, protocol='basicsr', metrics=None))
    assert not any('val:metrics' in line for line in lines)


def test_protocol_warns_about_short_videos(tmp_path: Path) -> None:
    model = make_model(test_options(tmp_path, protocol='estrnn'))
    with logged() as lines:
        model.validation(loader(Clips('set', {'a': 5, 'v0': 4, 'v1': 4})), 'tiny', None)
    assert lines[0].endswith('no scores for v0, v1.')
    with pytest.raises(DataError, match='no video has more than 4 frames'):
        model.validator.check(Clips('set', {'a': 4, 'b': 1}))  # before a training


@pytest.mark.parametrize('metrics', [None, PSNR])
def test_best_scores_are_reset_when_the_protocol_changes(tmp_path: Path, metrics: dict[str, Any] | None) -> None:
    def model(protocol: str) -> Any:
        opt = train_options(tmp_path)
        opt['val'] |= {'protocol': protocol, 'metrics': metrics}
        return make_model(opt)

    first = model('basicsr')
    train(first, range(1, 2))
    first.validation(loader(Clips('val', {'a': 7, 'b': 5})), 1, None)
    first.save(0, 1)
    best = first.best_metric_results
    summary = json.loads((tmp_path / 'experiments/tiny/scores/val_1_summary.json').read_text())
    assert best['val']['psnr']['val'] == summary['mean_over_clips']['restored']['psnr']
    state = torch.load(tmp_path / 'experiments/tiny/training_states/1.state', weights_only=True)
    for protocol, expected in {'basicsr': best, 'estrnn': {}}.items():
        resumed = model(protocol)
        resumed.resume_training(state)
        assert getattr(resumed, 'best_metric_results', {}) == expected


# ---- validation during training


class Board:
    """In place of TensorBoard's writer."""

    def __init__(self) -> None:
        self.scalars: dict[tuple[str, int], float] = {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[name, step] = value


def test_validation_in_training_scores_inputs_once_and_keeps_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def toy_count(img: np.ndarray, img2: np.ndarray, **kwargs: Any) -> float:
        calls.append(1)
        return float(np.abs(img.astype(int) - img2).mean())

    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'toy_count', toy_count)
    opt = train_options(tmp_path, ema_decay=0.5)
    opt['val']['metrics'] = {'mae': {'type': 'toy_count', 'better': 'lower'}}
    model = make_model(opt)
    clips, board = Clips('val', {'a': 4}), Board()
    for i in (1, 2):
        train(model, range(i, i + 1))
        model.validation(loader(clips), i, board)
        assert len(calls) == 4 + 4 * i  # the inputs once, the results each time
        summary = json.loads((tmp_path / f'experiments/tiny/scores/val_{i}_summary.json').read_text())
        assert summary['mean_over_frames']['input'].keys() == {'mae'}
        assert board.scalars['metrics/val/mae', i] == summary['mean_over_frames']['restored']['mae']
    assert model.best_metric_results['val']['mae']['val'] == min(board.scalars.values())
    assert model.metric_results == {'mae': board.scalars['metrics/val/mae', 2]}


def test_best_scores_of_sets_without_ground_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'toy_mean', lambda img, **_: float(img.mean()))
    opt = train_options(tmp_path)
    opt['val']['metrics'] = PSNR | {'mean': {'type': 'toy_mean'}}
    with logged() as lines:
        make_model(opt).validation(loader(Clips('val', {'a': 3}, has_gt=False)), 1, None)
    assert 'Best mean: ' in lines[-1]
    assert 'psnr' not in lines[-1]


def test_validation_runs_once_for_the_last_iteration(tmp_path: Path) -> None:
    model = make_model(train_options(tmp_path, total_iter=2))
    clips = Clips('val', {'a': 3})
    model.validation(loader(clips), 4, None)  # BasicSR's counter after the last of 2 iterations
    files = sorted((tmp_path / 'experiments/tiny/scores').iterdir())
    assert [path.name for path in files] == ['val_2_clips.csv', 'val_2_frames.csv', 'val_2_summary.json']
    files[1].unlink()
    model.validation(loader(clips), 3, None)
    assert not files[1].exists()


def test_identical_frames_have_infinite_psnr_and_stay_the_best(tmp_path: Path) -> None:
    model = make_model(train_options(tmp_path))
    clips = Clips('val', {'a': 3})
    model.restore = lambda lq: clips.clips[0]['gt'][None]
    model.validation(loader(clips), 1, None)
    assert model.best_metric_results['val']['psnr'] == {'better': 'higher', 'val': float('inf'), 'iter': 1}
    summary = json.loads((tmp_path / 'experiments/tiny/scores/val_1_summary.json').read_text())
    assert summary['mean_over_frames']['restored'] == {'psnr': None, 'ssim': pytest.approx(1)}


# ---- tests without ground truth, several sets, and errors


def test_scores_computed_between_clips_equal_those_of_threads(tmp_path: Path) -> None:
    scores = []
    for device in (None, torch.device('cpu')):  # in place of a GPU
        model = make_model(test_options(tmp_path, protocol='estrnn'))
        model.validator._score_device = device
        model.validation(loader(Clips('val', {'a': 8, 'b': 5})), 'tiny', None, save_img=device is not None)
        scores.append((tmp_path / 'results/tiny/val_frames.csv').read_bytes())
    assert scores[0] == scores[1]
    assert len(list(tmp_path.rglob('*.png'))) == 13


@pytest.mark.parametrize('suffix', [None, 'tiny'])
def test_save_img_uses_the_names_of_the_source(tmp_path: Path, suffix: str | None) -> None:
    model = make_model(test_options(tmp_path, suffix=suffix, metrics=None))
    with logged() as lines:
        for name in ('GoPro', 'other'):
            clips = Clips(name, {'GOPR0384_11_00': 4}, has_gt=False)
            model.validation(loader(clips), 'tiny', None, save_img=True)
    ending = '_tiny.png' if suffix else '.png'
    for name, line in zip(('GoPro', 'other'), lines, strict=True):
        folder = tmp_path / 'results/tiny/visualization' / name / 'GOPR0384_11_00'
        assert sorted(path.name for path in folder.iterdir()) == [f'0000{i}{ending}' for i in (47, 48, 49, 50)]
        assert f'{name}: 4 frames restored' in line
    assert not list(tmp_path.rglob('*.csv'))


def test_validation_without_ground_truth_and_images_does_nothing(tmp_path: Path) -> None:
    model = make_model(test_options(tmp_path))
    model.restore = lambda lq: pytest.fail('restored for nothing')
    with logged() as lines:
        model.validation(loader(Clips('GoPro', {'a': 3}, has_gt=False)), 'tiny', None)
    assert len(lines) == 1


@pytest.mark.parametrize('has_gt', [True, False])
@pytest.mark.parametrize('protocol', ['dstnet', 'cdvd'])
def test_niqe_is_computed_with_and_without_ground_truth(tmp_path: Path, has_gt: bool, protocol: str) -> None:
    model = make_model(test_options(tmp_path, metrics=PSNR | NIQE, protocol=protocol))
    model.restore = lambda lq: lq
    clips = Clips('GoPro', {'a': 5}, has_gt=has_gt, size=200)
    model.validation(loader(clips), 'tiny', None)
    results = tmp_path / 'results/tiny'
    means = json.loads((results / 'GoPro_summary.json').read_text())['mean_over_frames']['restored']
    assert list(means) == [*(['psnr'] * has_gt), *(['ssim'] * (has_gt and protocol == 'cdvd')), 'niqe']
    frames = [clips.clips[0]['lq'][2]] if protocol == 'cdvd' else [*clips.clips[0]['lq'], *clips.clips[1]['lq'][1:]]
    images = [levels(frame, np.rint)[..., ::-1] for frame in frames]
    assert means['niqe'] == pytest.approx(np.mean([calculate_niqe(image, 0) for image in images]))
    assert (results / 'GoPro_table.md').exists() is (has_gt and protocol == 'dstnet')


def test_validation_errors_name_their_cause(tmp_path: Path) -> None:
    def run(clips: Clips, save_img: bool = False, **settings: Any) -> None:
        metrics = {'psnr': {**PSNR['psnr'], **settings}}
        make_model(test_options(tmp_path, metrics=metrics)).validation(loader(clips), 'tiny', None, save_img)

    class Broken(Clips):
        def __getitem__(self, index: int) -> dict[str, Any]:
            if index == 1:
                raise DataError('frame 7 is damaged')
            return super().__getitem__(index)

    with pytest.raises(DataError, match='frame 7 is damaged'):
        run(Broken('GoPro', {'a': 3, 'b': 3}))
    with pytest.raises(DataError, match=r'list is not supported .*VideoRecurrentDeblurTestDataset, or .*of stock'):
        make_model(test_options(tmp_path)).validator.run([], tmp_path, restored, False)
    clips = Clips('GoPro', {'a': 3})
    clips.clips[0]['gt'] = clips.clips[0]['gt'][..., :-1]
    with pytest.raises(DataError, match='Frames of 14x12 cannot be scored against ground truth of 13x12'):
        run(clips)
    with pytest.raises(DataError, match=r'Frame 000047 of a cannot be scored: ValueError: Wrong input_order'):
        run(Clips('GoPro', {'a': 3}), input_order='WHC')
    clips = Clips('GoPro', {'a': 3})
    clips.clips[0]['lq'][1] = float('nan')
    with pytest.raises(DataError, match=r'Frame 000047 of a: .* non-finite values'):  # its neighbour sees the NaN, too
        run(clips)
    folder = tmp_path / 'results/tiny/visualization'
    folder.mkdir(parents=True)
    (folder / 'GoPro').write_text('a file where a folder should be')
    with pytest.raises(DataError, match=r'000047\.png cannot be written'):
        run(Clips('GoPro', {'a': 3}), save_img=True)


# ---- stock data sets, 16-bit images


@pytest.mark.parametrize(
    ('type_', 'settings'),
    [
        ('VideoRecurrentTestDataset', {'num_frame': -1}),
        ('VideoTestDataset', {}),
        ('VideoTestDataset', {'cache_data': False}),
        ('PairedImageDataset', {}),
        ('SingleImageDataset', {}),
    ],
)
def test_stock_data_sets_are_restored_scored_and_saved(tmp_path: Path, type_: str, settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    videos = {'000': 3} if 'Image' in type_ else {'000': 3, '001': 2}
    images = {
        (kind, video, f'{i:08d}'): rng.integers(0, 256, (14, 18, 3), np.uint8)
        for kind in ('blur', 'sharp')
        for video, count in videos.items()
        for i in range(count)
    }
    for place, image in images.items():
        path = tmp_path.joinpath(*place).with_suffix('.png')
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
    below = '000' if 'Image' in type_ else ''
    opt = {'name': 'REDS4', 'type': type_, 'io_backend': {'type': 'disk'}, 'phase': 'test', 'scale': 1}
    opt |= {'cache_data': True, 'num_frame': 3, 'padding': 'reflection', **settings}
    opt |= {f'dataroot_{key}': str(tmp_path / kind / below) for key, kind in {'lq': 'blur', 'gt': 'sharp'}.items()}
    model = make_model(test_options(tmp_path))
    model.restore = lambda lq: lq
    model.validation(loader(build_dataset(opt)), 'tiny', None, save_img=True)
    results = tmp_path / 'results/tiny'
    saved = {path.relative_to(results / 'visualization').as_posix() for path in results.rglob('*.png')}
    assert saved == {f'REDS4/{video}/{frame}.png' for _, video, frame in images}
    for kind, video, frame in images:
        if kind == 'blur':
            written = cv2.imread(str(results / f'visualization/REDS4/{video}/{frame}.png'))
            np.testing.assert_array_equal(written, images[kind, video, frame])
    if type_ == 'SingleImageDataset':  # no ground truth, and no metric that works without
        assert not list(results.rglob('*.csv'))
        return
    rows = read_csv(results / 'REDS4_frames.csv')
    assert len(rows) == len(saved)
    for row in rows:
        pair = (images[kind, row['video'], row['frame']] for kind in ('blur', 'sharp'))
        assert float(row['input_psnr']) == pytest.approx(naive_psnr(*pair), abs=1e-9)


def test_to_levels_of_16_bits() -> None:
    values = torch.tensor([-1.0, 0.5 / 65535, 0.9999 / 65535, 2.6 / 65535, 1.0, 3.0])
    assert to_levels(values, 16).tolist() == [0, 0, 1, 3, 65535, 65535]
    assert to_levels(values, 16, truncate=True).tolist() == [0, 0, 0, 2, 65535, 65535]
    assert to_levels(values).dtype == torch.uint8


def test_16_bit_images_keep_their_depth_in_scores_and_results(tmp_path: Path) -> None:
    y, x = np.mgrid[:20, :24]
    for kind, offset in {'blur': 0, 'sharp': 120}.items():
        (tmp_path / kind / 'c').mkdir(parents=True)
        for i in range(3):
            image = np.repeat((((x + y + i) % 200) * 256 + offset)[..., None], 3, 2).astype(np.uint16)
            cv2.imwrite(str(tmp_path / kind / 'c' / f'{i}.png'), image)
    roots = {'dataroot_lq': str(tmp_path / 'blur'), 'dataroot_gt': str(tmp_path / 'sharp')}
    dataset = build_dataset({'name': 'c', 'type': 'VideoRecurrentDeblurTestDataset', **roots})
    stock = {'psnr_y': {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_channel': True}}  # by stock's function
    ssim = {'ssim': {'type': 'calculate_ssim', 'crop_border': 0}}
    model = make_model(test_options(tmp_path, metrics=PSNR | stock | ssim))
    model.restore = lambda lq: lq + 1 / 65535
    model.validation(loader(dataset), 'tiny', None, save_img=True)
    summary = json.loads((tmp_path / 'results/tiny/c_summary.json').read_text())
    assert summary['bit_depth'] == 16
    means = summary['mean_over_frames']
    assert means['input']['psnr'] == pytest.approx(20 * math.log10(65535 / 120), abs=1e-4)  # 54.75 dB
    assert means['restored']['psnr'] == pytest.approx(20 * math.log10(65535 / 119), abs=1e-4)
    assert math.isfinite(means['input']['psnr_y'])
    assert 0.9 < means['input']['ssim'] < 1
    saved = cv2.imread(str(tmp_path / 'results/tiny/visualization/c/c/1.png'), cv2.IMREAD_UNCHANGED)
    original = cv2.imread(str(tmp_path / 'blur/c/1.png'), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(saved, original + 1)


# ---- self-ensemble and streaming

DSTNET = {'type': 'DSTNet', 'num_feat': 4, 'num_block': 1, 'num_cwgdn': 2}


@pytest.mark.parametrize('frames', [1, 2, 3])
def test_self_ensemble_equals_an_explicit_mean(frames: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, kernel = (torch.randn(size, generator=generator) for size in ((2, frames, 3, 6, 9), (3, 3, 3, 3, 3)))

    def restore(lq: Tensor) -> Tensor:
        return conv3d(lq.transpose(1, 2), kernel, padding=1).transpose(1, 2)

    results = []
    for turns in (0, 1, 2, 3):  # turned with NumPy; axes 3 and 4 are rows and columns, axis 1 is time
        for backwards in (slice(None), slice(None, None, -1)):
            turned = torch.from_numpy(np.rot90(x.numpy()[:, backwards], turns, (3, 4)).copy())
            results.append(np.rot90(restore(turned).numpy(), 4 - turns, (3, 4))[:, backwards])
    before = x.clone()
    np.testing.assert_allclose(self_ensemble(restore, x).numpy(), np.mean(results, axis=0), rtol=0, atol=1e-4)
    torch.testing.assert_close(self_ensemble(lambda lq: lq, x), before, rtol=0, atol=1e-6)
    assert torch.equal(x, before)


def test_val_self_ensemble_changes_restore_and_summary(tmp_path: Path) -> None:
    plain = make_model(test_options(tmp_path))
    model = make_model(test_options(tmp_path, self_ensemble=True))
    clips = Clips('set', {'a': 4})
    lq = clips.clips[0]['lq'][None]
    torch.testing.assert_close(model.restore(lq), self_ensemble(plain.restore, lq), rtol=0, atol=1e-6)
    assert not torch.equal(model.restore(lq), plain.restore(lq))
    with logged() as lines:
        model.validation(loader(clips), 'tiny', None)
    assert 'Self-ensemble: the mean of 8' in lines[-1]
    assert json.loads((tmp_path / 'results/tiny/set_summary.json').read_text())['self_ensemble']


@pytest.mark.parametrize('ensemble', [False, True])
def test_val_streaming_gives_the_same_scores(ensemble: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, flags = [], []
    for streaming in (False, True):
        opt = test_options(tmp_path, streaming=streaming, self_ensemble=ensemble)
        model = make_model({**opt, 'network_g': dict(DSTNET)})
        if streaming:
            monkeypatch.setattr(DSTNet, 'forward', lambda *_: pytest.fail('the network was given the whole clip'))
        model.validation(loader(Clips('set', {'a': 4, 'b': 2})), 'tiny', None)
        flags.append(json.loads((tmp_path / 'results/tiny/set_summary.json').read_text())['streaming'])
        rows.append([list(row.values()) for row in read_csv(tmp_path / 'results/tiny/set_frames.csv')])
    assert flags == [False, True]
    assert len(rows[0]) == 6
    plain, streamed = (torch.tensor([[float(cell) for cell in row[2:-1]] for row in part]) for part in rows)
    torch.testing.assert_close(streamed, plain, rtol=0, atol=1e-5)


def test_val_streaming_in_bf16(tmp_path: Path) -> None:
    lq = torch.rand(2, 3, 3, 20, 18, generator=torch.Generator().manual_seed(0))
    exact, plain, streamed = (
        make_model({**test_options(tmp_path, **val), 'network_g': dict(DSTNET)}).restore(lq)
        for val in ({}, {'amp': 'bf16'}, {'amp': 'bf16', 'streaming': True})
    )
    assert streamed.dtype == torch.float32
    assert streamed.shape == lq.shape
    assert 0 < (streamed - plain).abs().mean() < 0.5 * (plain - exact).abs().mean()


def test_val_streaming_uses_averaged_weights(tmp_path: Path) -> None:
    opt = {**train_options(tmp_path, ema_decay=0.5), 'network_g': dict(DSTNET)}
    opt['val']['streaming'] = True
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

"""Protocols: scores of all frames compared with naive computations, and the log."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import skimage.metrics
import torch
from basicsr.metrics import calculate_ssim
from model_parts import Clips, loader, logged, make_model, test_options, train, train_options
from naive_metrics import Image, naive_psnr, naive_ssim2d, naive_ssim3d
from torch import Tensor

from dstnet_arch.errors import DataError
from dstnet_arch.metrics.protocols import PROTOCOLS

VIDEOS = {'a': 11, 'b': 5, 'short': 4}  # in clips of three frames, the last ones shifted


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
OPTIONS_METRICS = {
    'psnr': {'type': 'calculate_psnr', 'crop_border': 0},
    'ssim': {'type': 'calculate_ssim3d', 'crop_border': 0},
}


def restored(lq: Tensor) -> Tensor:
    """Values between and beyond the 8-bit levels."""
    return lq * 1.1 - 0.0503


def levels(frame: Tensor, quantise: Callable[[Image], Image]) -> Image:
    pixels = frame.numpy().clip(0, 1) * np.float32(255)
    return quantise(pixels).astype(np.uint8).transpose(1, 2, 0)


def naive_scores(clips: Clips, rule: Rule) -> dict[tuple[str, str], tuple[float, ...]]:
    """(video, frame) -> PSNR of input and result, SSIM of input and result."""
    pairs = {
        (clip['video'], frame): (clip['lq'][t], clip['gt'][t])
        for clip in clips.clips
        for t, frame in enumerate(clip['frames'])
    }
    scores = {}
    for video, length in VIDEOS.items():
        for i in range(rule.border, length - rule.border):
            lq, gt = pairs[video, f'{47 + i:06d}']
            images = [levels(lq, np.rint), levels(restored(lq), rule.quantise), levels(gt, np.rint)]
            blurry, result, sharp = (
                image[rule.crop : image.shape[0] - rule.crop, rule.crop : image.shape[1] - rule.crop]
                for image in images
            )
            scores[video, f'{47 + i:06d}'] = (
                naive_psnr(blurry, sharp),
                naive_psnr(result, sharp),
                rule.ssim(blurry, sharp),
                rule.ssim(result, sharp),
            )
    return scores


@pytest.mark.parametrize('name', RULES)
def test_protocol_scores_every_frame_as_defined(tmp_path: Path, name: str) -> None:
    rule = RULES[name]
    model = make_model(test_options(tmp_path, protocol=name, metrics=OPTIONS_METRICS))
    model.restore = restored
    clips = Clips('set', VIDEOS, size=12 + 2 * rule.crop)
    with logged() as lines:
        model.validation(loader(clips), 'tiny', None, save_img=True)
    results = tmp_path / 'results/tiny'

    expected = naive_scores(clips, rule)
    with (results / 'set_frames.csv').open() as file:
        rows = list(csv.DictReader(file))
    columns = ('input_psnr', 'restored_psnr', 'input_ssim', 'restored_ssim')
    measured = {(row['video'], row['frame']): tuple(float(row[column]) for column in columns) for row in rows}
    assert measured.keys() == expected.keys()
    for key, scores in expected.items():
        assert measured[key] == pytest.approx(scores, abs=1e-9), key
    assert {row['protocol'] for row in rows} == {name}

    by_video: dict[str, list[tuple[float, ...]]] = {}
    for (video, _), scores in expected.items():
        by_video.setdefault(video, []).append(scores)
    mean = np.mean(list(expected.values()), axis=0)
    if rule.over_clips:
        mean = np.mean([np.mean(scores, axis=0) for scores in by_video.values()], axis=0)
    summary = json.loads((results / 'set_summary.json').read_text())
    counted = sum(max(0, length - 2 * rule.border) for length in VIDEOS.values())
    assert (summary['protocol'], summary['frames'], summary['frames_restored']) == (name, counted, 20)
    assert summary['mean_over'] == ('clips' if rule.over_clips else 'frames')
    for row, scores in {'input': mean[0::2], 'restored': mean[1::2]}.items():
        assert summary[f'mean_over_{summary["mean_over"]}'][row] == pytest.approx(
            dict(zip(('psnr', 'ssim'), scores, strict=True))
        )
    assert list(model.metric_results.values()) == pytest.approx(mean[1::2])

    title = f'set: {counted} frames of {len(by_video)} videos'
    table = next(line for line in lines if line.startswith(title)).splitlines()
    assert table[3].split()[1:] == [f'{mean[1]:.2f}', f'{mean[3]:.4f}']
    assert f'Protocol {PROTOCOLS[name]}' in table

    # All frames are saved, quantised as they were scored.
    saved = {path: cv2.imread(str(path))[..., ::-1] for path in (results / 'visualization/set').rglob('*.png')}
    assert len(saved) == 20
    for clip in clips.clips:
        for t, frame in enumerate(clip['frames']):
            path = results / 'visualization/set' / clip['video'] / f'{frame}.png'
            np.testing.assert_array_equal(saved[path], levels(restored(clip['lq'][t]), rule.quantise))


def test_ssim_of_estrnn_equals_that_of_basicsr() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 24, 31, 3), dtype=np.uint8)
    b = (a // 2 + b // 2).astype(np.uint8)
    expected = skimage.metrics.structural_similarity(
        a, b, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert calculate_ssim(a, b, 0) == pytest.approx(expected, abs=1e-12)


def test_protocol_description() -> None:
    assert [str(protocol) for protocol in PROTOCOLS.values()] == [
        'dstnet: all frames, rounded to the bit depth of the data, mean over all frames',
        "basicsr: all frames, rounded to the bit depth of the data, full frames, mean over the videos' means",
        'cdvd: without the first 2 and the last 2 frames of each video, rounded to the bit depth of the data, without '
        '4 pixels at each edge, mean over all frames',
        'estrnn: without the first 2 and the last 2 frames of each video, truncated to the bit depth of the data, full '
        'frames, mean over all frames',
    ]


def test_protocol_with_own_metrics_is_logged(tmp_path: Path) -> None:
    with logged() as lines:
        make_model(test_options(tmp_path, protocol='basicsr', metrics=OPTIONS_METRICS))
    assert sum('val:metrics that need ground truth are ignored' in line for line in lines) == 1
    with logged() as lines:
        assert make_model(test_options(tmp_path, metrics=OPTIONS_METRICS)).validator.protocol.name == 'dstnet'
        make_model(test_options(tmp_path, protocol='basicsr', metrics=None))
    assert not any('val:metrics' in line for line in lines)


def test_protocol_warns_about_short_videos(tmp_path: Path) -> None:
    model = make_model(test_options(tmp_path, protocol='estrnn'))
    with logged() as lines:
        model.validation(loader(Clips('set', {'a': 5, **{f'v{i}': 4 for i in range(3)}})), 'tiny', None)
    assert lines[0].endswith('no scores for v0, v1, v2.')
    model.restore = lambda lq: pytest.fail('restored for nothing')
    with pytest.raises(DataError, match='no video has more than 4 frames'):
        model.validation(loader(Clips('set', {'a': 4, 'b': 1})), 'tiny', None)


@pytest.mark.parametrize('metrics', [None, {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}])
def test_best_scores_are_reset_when_the_protocol_changes(tmp_path: Path, metrics: dict[str, Any] | None) -> None:
    def model(protocol: str) -> Any:
        opt = train_options(tmp_path)
        opt['val'] |= {'protocol': protocol, 'metrics': metrics}
        return make_model(opt)

    clips = Clips('val', {'a': 7, 'b': 5})
    first = model('basicsr')
    train(first, range(1, 2))
    first.validation(loader(clips), 1, None)
    first.save(0, 1)
    best = first.best_metric_results
    assert best['val'].keys() == {'psnr', 'ssim'}
    summary = json.loads((tmp_path / 'experiments/tiny/scores/val_1_summary.json').read_text())
    assert best['val']['psnr']['val'] == summary['mean_over_clips']['restored']['psnr']
    assert best['val']['psnr']['val'] != summary['mean_over_frames']['restored']['psnr']

    state = torch.load(tmp_path / 'experiments/tiny/training_states/1.state', weights_only=True)
    for protocol, expected in {'basicsr': best, 'estrnn': {}}.items():
        resumed = model(protocol)
        resumed.resume_training(state)
        assert getattr(resumed, 'best_metric_results', {}) == expected

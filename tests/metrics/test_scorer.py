"""Scorer: the entries of `val.metrics` in batches and by registered functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.utils.registry import METRIC_REGISTRY
from model_parts import METRICS
from torch import Tensor

from dstnet_arch.errors import DataError
from dstnet_arch.metrics.scorer import Scorer, to_picture
from dstnet_arch.metrics.ssim import calculate_ssim3d


def pairs(height: int, width: int, count: int) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) uint8: random images, and the same with noise."""
    generator = torch.Generator().manual_seed(height * width)
    sharp = torch.randint(0, 256, (count, 3, height, width), generator=generator)
    restored = (sharp + 20 * torch.randn(sharp.shape, generator=generator)).clamp(0, 255)
    return restored.to(torch.uint8), sharp.to(torch.uint8)


@pytest.mark.parametrize(
    ('name', 'border', 'least'), [('ssim', 0, 11), ('ssim', 1, 13), ('psnr', 2, 5), ('niqe', 0, 96)]
)
def test_scorer_refuses_small_frames(name: str, border: int, least: int) -> None:
    scorer = Scorer({'x': {'type': f'calculate_{name}', 'crop_border': border}})
    assert np.isfinite(scorer(*pairs(least, 200, 1))[0][0])
    with pytest.raises(DataError, match=f'200x{least - 1} are too small for calculate_{name}, .* {least} pixels'):
        scorer(*pairs(least - 1, 200, 1))


@pytest.mark.parametrize('border', [0, 3])
def test_scorer_equals_the_registered_functions(border: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def toy_blue(img: np.ndarray, img2: np.ndarray, **_: Any) -> float:
        return float(img[..., 0].mean())  # BGR

    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'toy_blue', toy_blue)
    functions = {'calculate_ssim': calculate_ssim, 'calculate_psnr': calculate_psnr, 'toy_blue': toy_blue}
    functions['calculate_ssim3d'] = calculate_ssim3d
    options = [{'type': type_, 'crop_border': border, 'better': 'higher'} for type_ in functions]
    options.append({'type': 'calculate_psnr', 'crop_border': border, 'test_y_channel': True})
    scorer = Scorer({str(i): opt for i, opt in enumerate(options)})
    assert not scorer.on_any_device
    restored, sharp = pairs(30, 35, count=3)
    for row, image, target in zip(scorer(restored, sharp), restored, sharp, strict=True):
        arguments = [{k: v for k, v in opt.items() if k not in ('type', 'better')} for opt in options]
        expected = [
            functions[str(opt['type'])](to_picture(image), to_picture(target), **kwargs)
            for opt, kwargs in zip(options, arguments, strict=True)
        ]
        assert row == pytest.approx(expected, abs=1e-10)
        assert row[2] == image[2, :, :].double().mean().item()


@pytest.mark.parametrize(
    ('opt', 'everywhere'),
    [
        ({'type': 'calculate_psnr', 'crop_border': 0}, True),
        ({'type': 'calculate_ssim3d', 'crop_border': 4, 'better': 'higher'}, True),
        ({'type': 'calculate_ssim', 'crop_border': 0, 'test_y_channel': True}, False),
        ({'type': 'calculate_ssim', 'crop_border': 0, 'input_order': 'CHW'}, False),
        ({'type': 'calculate_psnr'}, False),  # BasicSR's function refuses: it has no default
        ({'type': 'calculate_niqe', 'crop_border': 0}, False),
    ],
)
def test_scorer_on_any_device(opt: dict[str, Any], everywhere: bool) -> None:
    assert Scorer({'a': METRICS['psnr'], 'b': opt}).on_any_device is everywhere


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_scores_on_the_gpu() -> None:
    metrics = {**METRICS, 'ssim3d': {'type': 'calculate_ssim3d', 'crop_border': 2}}
    restored, sharp = pairs(130, 75, count=3)
    expected = Scorer(metrics)(restored, sharp)
    with torch.autocast('cuda', dtype=torch.bfloat16):
        scores = Scorer(metrics)(restored.cuda(), sharp.cuda())
    for mine, theirs in zip(scores, expected, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-10)

"""Scores in batches equal those of stock BasicSR and the definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.utils.registry import METRIC_REGISTRY
from model_parts import METRICS, Clips, TinyVideoNet
from naive_metrics import naive_psnr, naive_ssim2d
from torch import Tensor

from dstnet_arch.errors import DataError
from dstnet_arch.metrics import ssim as ssim_module
from dstnet_arch.metrics.psnr import batch_psnr
from dstnet_arch.metrics.scorer import Scorer, to_picture
from dstnet_arch.metrics.ssim import convolve_axis, filter_planes, ssim
from dstnet_arch.metrics.ssim3d import calculate_ssim3d
from dstnet_arch.models.evaluation import evaluate

SIZES = [(11, 11), (11, 40), (37, 12), (50, 61)]


def pairs(height: int, width: int, count: int = 2, noise: float = 20) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) uint8: random images, and the same with noise."""
    generator = torch.Generator().manual_seed(height * width)
    sharp = torch.randint(0, 256, (count, 3, height, width), generator=generator)
    sharp[:, :, : height // 2] //= 8  # dark and nearly flat, too
    restored = (sharp + noise * torch.randn(sharp.shape, generator=generator)).clamp(0, 255)
    return restored.to(torch.uint8), sharp.to(torch.uint8)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('noise', [1, 60])
def test_batched_scores_equal_those_of_stock_basicsr(size: tuple[int, int], noise: float) -> None:
    restored, sharp = pairs(*size, noise=noise)
    for score, stock, naive in ((ssim, calculate_ssim, naive_ssim2d), (batch_psnr, calculate_psnr, naive_psnr)):
        scores = score(restored, sharp)
        assert scores.dtype == torch.float64
        for i, pictures in enumerate(zip(map(to_picture, restored), map(to_picture, sharp), strict=True)):
            assert scores[i].item() == pytest.approx(stock(*pictures, crop_border=0), abs=1e-10)
            assert scores[i].item() == pytest.approx(naive(*pictures), abs=1e-10)


def test_scores_of_identical_and_opposite_images() -> None:
    black = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    assert ssim(black, black).item() == 1
    assert batch_psnr(black, black).item() == math.inf
    assert batch_psnr(black, 255 - black).item() == 0
    assert ssim(*pairs(20, 20)).equal(ssim(*reversed(pairs(20, 20))))


def test_ssim_of_floats_and_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    restored, sharp = pairs(50, 61)
    expected = ssim(restored, sharp)
    assert torch.equal(ssim(restored.double(), sharp.double()), expected)
    for rows in (1, 39, 40, 41):
        monkeypatch.setattr(ssim_module, 'CPU_STRIP_ROWS', rows)
        assert ssim(restored, sharp).tolist() == pytest.approx(expected.tolist(), abs=1e-12)


def test_blur_by_opencv_equals_convolution() -> None:
    x = torch.rand(4, 3, 24, 31, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul_(255)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        convolved = convolve_axis(convolve_axis(x, -2), -1)
    assert convolved.shape == (4, 3, 14, 21)
    torch.testing.assert_close(filter_planes(x), convolved, rtol=0, atol=1e-11)


def test_ssim_and_psnr_refuse_wrong_inputs() -> None:
    assert ssim(*pairs(10, 40)).isnan().all()
    with pytest.raises(ValueError, match=r'ssim: expected two batches'):
        ssim(torch.zeros(1, 3, 20, 20), torch.zeros(1, 3, 20, 21))
    with pytest.raises(TypeError, match='int64'):
        ssim(*(image.long() for image in pairs(20, 20)))
    with pytest.raises(TypeError, match='float32'):
        batch_psnr(*(image.float() for image in pairs(20, 20)))
    with pytest.raises(ValueError, match='batch_psnr'):
        batch_psnr(pairs(20, 20)[0], pairs(20, 21)[0])


@pytest.mark.parametrize(
    ('name', 'border', 'least'), [('ssim', 0, 11), ('ssim', 1, 13), ('psnr', 2, 5), ('niqe', 0, 96)]
)
def test_scorer_refuses_small_frames(name: str, border: int, least: int) -> None:
    scorer = Scorer({'x': {'type': f'calculate_{name}', 'crop_border': border}})
    assert math.isfinite(scorer(*pairs(least, 200))[0][0])
    with pytest.raises(DataError, match=f'200x{least - 1} are too small for calculate_{name}, .* {least} pixels'):
        scorer(*pairs(least - 1, 200))


@pytest.mark.parametrize('border', [0, 3])
def test_scorer_equals_the_registered_functions(border: int) -> None:
    def toy_blue(img: np.ndarray, img2: np.ndarray, **_: Any) -> float:
        return float(img[..., 0].mean())  # BGR

    METRIC_REGISTRY._obj_map['toy_blue'] = toy_blue
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
    assert Scorer({'a': opt}).on_any_device is everywhere
    assert Scorer({'a': METRICS['psnr'], 'b': opt}).on_any_device is everywhere


def test_evaluate_scores_equally_on_a_device_and_in_threads() -> None:
    torch.manual_seed(0)
    net, clips = TinyVideoNet().eval(), Clips('val', {'a': 5, 'b': 2, 'c': 3})
    unscored = {('a', '000049'), ('b', '000047'), ('b', '000048')}
    found = {
        device: evaluate(
            clips,
            lambda lq: net(lq).detach(),
            scorer=Scorer(METRICS),
            score_device=device,
            unscored=unscored,
        )
        for device in (None, torch.device('cpu'))
    }
    in_threads, on_device = (sorted(result.records) for result in found.values())
    assert len(in_threads) == 2 * (10 - 3)
    assert not unscored & {record[1:3] for record in on_device}
    for mine, theirs in zip(on_device, in_threads, strict=True):
        assert mine[:3] == theirs[:3]
        assert mine[3] == pytest.approx(theirs[3], abs=1e-12)


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

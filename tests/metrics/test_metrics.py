"""PSNR, SSIM and SSIM-3D: their definitions, the released code's scores, stock BasicSR's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from basicsr.metrics import calculate_psnr, calculate_ssim
from naive_metrics import Image, naive_psnr, naive_ssim2d, naive_ssim3d
from torch import Tensor

from dstnet_arch.metrics import ssim as ssim_module
from dstnet_arch.metrics.psnr import batch_psnr, psnr
from dstnet_arch.metrics.ssim import blur_with_convolutions, blur_with_opencv, calculate_ssim3d, ssim, ssim3d

GOLDEN = Path(__file__).parents[1] / 'data' / 'ssim3d.npz'


def image_pair(height: int, width: int, noise: float = 10.0) -> tuple[Image, Image]:
    """(H, W, 3) uint8: smooth content, half of it dark, and the same with noise."""
    rng = np.random.default_rng(0)
    content = scipy.ndimage.gaussian_filter(rng.uniform(-600, 850, (height, width, 3)), (2, 2, 0))
    content[: height // 2] /= 8
    clean = content.clip(0, 255).round().astype(np.uint8)
    noisy = (clean + rng.normal(0, noise, clean.shape)).clip(0, 255).round().astype(np.uint8)
    return clean, noisy


def to_tensor(*images: Image) -> Tensor:
    """(N, 3, H, W) RGB."""
    return torch.stack([torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy()) for image in images])


@pytest.mark.parametrize('pair', [0, 1, 2])
def test_scores_equal_those_of_the_released_code(pair: int) -> None:
    with np.load(GOLDEN) as golden:
        a, b = golden[f'a{pair}'], golden[f'b{pair}']
        assert calculate_ssim3d(a, b) == pytest.approx(float(golden[f'ssim3d_{pair}']), abs=2e-5)
        assert psnr(a, b) == pytest.approx(float(golden[f'psnr_{pair}']), abs=1e-9)


# SSIM-3D


@pytest.mark.parametrize('size', [(40, 52), (11, 11), (5, 7), (1, 1), (1, 30), (64, 3), (130, 20)])
@pytest.mark.parametrize('noise', [1, 60])
def test_ssim3d_equals_the_definition(size: tuple[int, int], noise: float) -> None:
    a, b = image_pair(*size, noise=noise)
    assert calculate_ssim3d(a, b) == pytest.approx(naive_ssim3d(a, b), abs=1e-12)
    assert ssim3d(to_tensor(a), to_tensor(a)).item() == 1


def test_ssim3d_depends_on_the_order_of_channels() -> None:
    a, b = image_pair(20, 24)
    order = [1, 0, 2]
    expected = naive_ssim3d(a[..., order], b[..., order])
    assert abs(expected - naive_ssim3d(a, b)) > 1e-4
    assert calculate_ssim3d(a[..., order], b[..., order]) == pytest.approx(expected, abs=1e-12)
    assert calculate_ssim3d(a[..., ::-1], b[..., ::-1]) == pytest.approx(calculate_ssim3d(a, b), abs=1e-12)


def test_ssim3d_does_not_change_its_inputs() -> None:
    a, b = (to_tensor(image).float().transpose(-1, -2) for image in image_pair(24, 18))
    copies = a.clone(), b.clone()
    score = ssim3d(a.requires_grad_(), b)
    assert not score.requires_grad
    assert torch.equal(a, copies[0])
    assert torch.equal(b, copies[1])
    assert torch.equal(score, ssim3d(*copies))


@pytest.mark.parametrize('border', [0, 4])
def test_calculate_ssim3d_has_the_signature_of_basicsr(border: int) -> None:
    a, b = image_pair(30, 22)
    score = calculate_ssim3d(img=a, img2=b, crop_border=border, better='higher')
    assert isinstance(score, float)
    inner = [image[border : 30 - border, border : 22 - border] for image in (a, b)]
    assert score == pytest.approx(naive_ssim3d(*inner), abs=1e-12)
    assert calculate_ssim3d(a.astype(np.float32), b.astype(np.float64), border) == score
    # Views and read-only arrays, as image readers give them.
    b.setflags(write=False)
    assert calculate_ssim3d(a[::-1, ::-1], b[::-1, ::-1], border) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'test_y_channel': True}, 'test_y_channel'),
        ({'img2': np.zeros((8, 12, 3), np.uint8)}, r'got \(12, 8, 3\) and \(8, 12, 3\)'),
        ({'img': np.zeros((12, 8)), 'img2': np.zeros((12, 8))}, 'two colour images'),
    ],
)
def test_calculate_ssim3d_refuses_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    image = np.zeros((12, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=message):
        calculate_ssim3d(**{'img': image, 'img2': image, **arguments})


# SSIM and PSNR


@pytest.mark.parametrize('size', [(11, 11), (11, 40), (50, 61)])
@pytest.mark.parametrize('noise', [1, 60])
def test_batched_scores_equal_those_of_stock_basicsr(size: tuple[int, int], noise: float) -> None:
    a, b = image_pair(*size, noise=noise)
    batches = to_tensor(a, a[::-1]), to_tensor(b, b[::-1])
    for score, stock, naive in ((ssim, calculate_ssim, naive_ssim2d), (batch_psnr, calculate_psnr, naive_psnr)):
        scores = score(*batches)
        assert scores.dtype == torch.float64
        for value, pair in zip(scores.tolist(), ((a, b), (a[::-1], b[::-1])), strict=True):
            assert value == pytest.approx(stock(*pair, crop_border=0), abs=1e-10)
            assert value == pytest.approx(naive(*pair), abs=1e-10)
    assert psnr(a, b) == pytest.approx(naive_psnr(a, b), abs=1e-9)


def test_scores_of_identical_and_opposite_images() -> None:
    black = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    assert ssim(black, black).item() == 1
    assert batch_psnr(black, black).item() == psnr(black.numpy(), black.numpy()) == math.inf
    assert batch_psnr(black, 255 - black).item() == psnr(black.numpy(), 255 - black.numpy()) == 0


def test_strips_do_not_change_ssim(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = map(to_tensor, image_pair(50, 61))
    expected = ssim(a, b).item(), ssim3d(a, b).item()
    assert ssim(a.double(), b.double()).item() == expected[0]
    for rows in (1, 39, 40, 49, 50):
        monkeypatch.setattr(ssim_module, 'CPU_STRIP_ROWS', rows)
        assert (ssim(a, b).item(), ssim3d(a, b).item()) == pytest.approx(expected, abs=1e-12)


def test_blur_by_opencv_equals_convolution() -> None:
    x = torch.rand(4, 3, 24, 31, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul_(255)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        convolved = blur_with_convolutions(x)
    assert convolved.shape == (4, 3, 14, 21)
    torch.testing.assert_close(blur_with_opencv(x), convolved, rtol=0, atol=1e-11)


def test_psnr_of_16_bit_images_has_their_peak() -> None:
    a = np.arange(60, dtype=np.uint16).reshape(4, 5, 3) * 1000
    assert psnr(a, a + np.uint16(120)) == pytest.approx(20 * np.log10(65535 / 120), abs=1e-12)  # 54.75 dB
    values = (torch.from_numpy(x.astype(np.float64)).permute(2, 0, 1)[None] / 257 for x in (a, a + np.uint16(120)))
    assert batch_psnr(*values).item() == pytest.approx(20 * np.log10(65535 / 120), abs=1e-9)

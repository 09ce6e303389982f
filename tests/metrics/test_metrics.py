from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import skimage.metrics
import torch
from naive_metrics import naive_ssim3d

from dstnet_arch.metrics import ssim as ssim_module
from dstnet_arch.metrics.psnr import batch_psnr, psnr
from dstnet_arch.metrics.ssim3d import calculate_ssim3d, ssim3d

GOLDEN = Path(__file__).parents[1] / 'data' / 'ssim3d.npz'
SIZES = [(40, 52), (33, 29), (11, 11), (5, 7), (1, 1), (1, 30), (64, 3), (130, 20)]


def image_pair(height, width, noise=10.0, seed=0):
    """(H, W, 3) uint8: smooth content, and the same with noise."""
    rng = np.random.default_rng(seed)
    content = scipy.ndimage.gaussian_filter(rng.uniform(-600, 850, (height, width, 3)), (2, 2, 0))
    clean = content.clip(0, 255).round().astype(np.uint8)
    noisy = (clean + rng.normal(0, noise, clean.shape)).clip(0, 255).round().astype(np.uint8)
    return clean, noisy


def to_tensor(*images):
    return torch.stack([torch.from_numpy(image.transpose(2, 0, 1).copy()) for image in images])


@pytest.mark.parametrize('pair', [0, 1, 2])
def test_scores_equal_those_of_the_released_code(pair):
    with np.load(GOLDEN) as golden:
        a, b = golden[f'a{pair}'], golden[f'b{pair}']
        assert calculate_ssim3d(a, b) == pytest.approx(float(golden[f'ssim3d_{pair}']), abs=2e-5)
        assert psnr(a, b) == pytest.approx(float(golden[f'psnr_{pair}']), abs=1e-9)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('noise', [1, 10, 60])
def test_ssim3d_equals_the_definition(size, noise):
    a, b = image_pair(*size, noise=noise)
    expected = naive_ssim3d(a, b)
    assert calculate_ssim3d(a, b) == pytest.approx(expected, abs=1e-12)


def test_ssim3d_depends_on_the_order_of_channels():
    a, b = image_pair(20, 24)
    order = [1, 0, 2]
    expected = naive_ssim3d(a[..., order], b[..., order])
    assert abs(expected - naive_ssim3d(a, b)) > 1e-4
    assert calculate_ssim3d(a[..., order], b[..., order]) == pytest.approx(expected, abs=1e-12)
    assert calculate_ssim3d(a[..., ::-1], b[..., ::-1]) == pytest.approx(calculate_ssim3d(a, b), abs=1e-12)


@pytest.mark.parametrize('level', [0, 1, 77, 128, 255])
def test_ssim3d_of_flat_images(level):
    a = np.full((9, 12, 3), level, np.uint8)
    b = np.full((9, 12, 3), 200, np.uint8)
    # No variance: what remains is the comparison of the means.
    expected = (2 * level * 200.0 + 6.5025) / (level**2 + 200.0**2 + 6.5025)
    assert calculate_ssim3d(a, b) == pytest.approx(expected, abs=1e-12)
    assert calculate_ssim3d(a, a) == 1


@pytest.mark.parametrize('size', [(1, 1), (5, 7), (70, 30)])
def test_ssim3d_of_identical_images_is_one(size):
    a = to_tensor(*image_pair(*size))
    assert ssim3d(a, a.clone()).tolist() == [1, 1]


def test_ssim3d_in_strips(monkeypatch):
    a, b = image_pair(45, 16)
    expected = naive_ssim3d(a, b)
    for rows in (1, 7, 44, 45, 46):
        monkeypatch.setattr(ssim_module, 'CPU_STRIP_ROWS', rows)
        assert ssim3d(to_tensor(a), to_tensor(b)).item() == pytest.approx(expected, abs=1e-12)


def test_ssim3d_does_not_change_its_inputs():
    a, b = (to_tensor(image).float().transpose(-1, -2) for image in image_pair(24, 18))
    copies = a.clone(), b.clone()
    score = ssim3d(a.requires_grad_(), b)
    assert not score.requires_grad
    assert torch.equal(a, copies[0])
    assert torch.equal(b, copies[1])
    assert torch.equal(score, ssim3d(*copies))


def test_calculate_ssim3d_has_the_signature_of_basicsr():
    a, b = image_pair(30, 22)
    score = calculate_ssim3d(img=a, img2=b, crop_border=0, better='higher')
    assert isinstance(score, float)
    chw = [image.transpose(2, 0, 1) for image in (a, b)]
    assert calculate_ssim3d(*chw, 0, input_order='CHW') == score
    assert calculate_ssim3d(a.astype(np.float32), b.astype(np.float64)) == score
    # Views and read-only arrays, as image readers give them.
    b.setflags(write=False)
    assert calculate_ssim3d(a[::-1, ::-1], b[::-1, ::-1]) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize('border', [1, 4])
def test_calculate_ssim3d_crop_border(border):
    a, b = image_pair(21, 26)
    inner = [image[border:-border, border:-border] for image in (a, b)]
    expected = naive_ssim3d(*inner)
    assert calculate_ssim3d(a, b, crop_border=border) == pytest.approx(expected, abs=1e-12)
    chw = [image.transpose(2, 0, 1) for image in (a, b)]
    assert calculate_ssim3d(*chw, crop_border=border, input_order='CHW') == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'test_y_channel': True}, 'test_y_channel'),
        ({'input_order': 'WHC'}, "'WHC'.*'HWC' or 'CHW'"),
        ({'crop_border': 4}, 'crop_border is 4.*12x8'),
        ({'crop_border': -1}, 'crop_border is -1'),
        ({'img2': np.zeros((8, 12, 3), np.uint8)}, r'\(H, W, 3\), got \(12, 8, 3\) and \(8, 12, 3\)'),
        ({'input_order': 'CHW'}, r'\(3, H, W\)'),
    ],
)
def test_calculate_ssim3d_refuses_wrong_arguments(arguments, message):
    image = np.zeros((12, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=message):
        calculate_ssim3d(**{'img': image, 'img2': image, **arguments})


def test_ssim3d_refuses_grey_images_and_other_types():
    for shape in [(12, 8), (12, 8, 1), (12, 8, 4), (0, 8, 3)]:
        with pytest.raises(ValueError):
            calculate_ssim3d(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))
    for dtype in (np.int32, np.uint16, bool, complex):
        with pytest.raises(TypeError, match='uint8 or floating'):
            calculate_ssim3d(np.zeros((4, 4, 3), dtype), np.zeros((4, 4, 3), dtype))
    with pytest.raises(TypeError, match=r'torch\.int64'):
        ssim3d(torch.zeros(1, 3, 4, 4, dtype=torch.int64), torch.zeros(1, 3, 4, 4))
    for shape in [(3, 4, 4), (1, 1, 4, 4), (0, 3, 4, 4), (1, 3, 0, 4)]:
        with pytest.raises(ValueError, match='N, 3, H, W'):
            ssim3d(torch.zeros(shape), torch.zeros(shape))
    with pytest.raises(ValueError, match=r'\(1, 3, 4, 4\) and \(2, 3, 4, 4\)'):
        ssim3d(torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 4, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_ssim3d_on_the_gpu():
    a, b = (to_tensor(image) for image in image_pair(130, 75))
    with torch.autocast('cuda', dtype=torch.bfloat16):
        score = ssim3d(a.cuda(), b.cuda())
    assert score.is_cuda
    assert score.item() == pytest.approx(ssim3d(a, b).item(), abs=1e-12)


@pytest.mark.parametrize('size', [(40, 52), (1, 1), (5, 7)])
@pytest.mark.parametrize('noise', [1, 60])
def test_psnr_equals_skimage(size, noise):
    a, b = image_pair(*size, noise=noise)
    b[0, 0, 0] = a[0, 0, 0] ^ 255  # never identical
    expected = skimage.metrics.peak_signal_noise_ratio(a, b, data_range=255)
    assert psnr(a, b) == pytest.approx(expected, abs=1e-9)
    assert psnr(b[..., ::-1], a[..., ::-1]) == psnr(a, b)


def test_psnr_extremes():
    black, white = np.zeros((4, 5, 3), np.uint8), np.full((4, 5, 3), 255, np.uint8)
    assert psnr(black, white) == 0
    assert psnr(white, white.copy()) == float('inf')


def test_psnr_of_16_bit_images_has_their_peak():
    a = np.arange(60, dtype=np.uint16).reshape(4, 5, 3) * 1000
    assert psnr(a, a + np.uint16(120)) == pytest.approx(20 * np.log10(65535 / 120), abs=1e-12)  # 54.75 dB
    values = (torch.from_numpy(x.astype(np.float64)).permute(2, 0, 1)[None] / 257 for x in (a, a + np.uint16(120)))
    assert batch_psnr(*values).item() == pytest.approx(20 * np.log10(65535 / 120), abs=1e-9)


def test_psnr_refuses_floats_and_different_shapes():
    image = np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(TypeError, match=r'float32.*clip'):
        psnr(image, image.astype(np.float32))
    with pytest.raises(ValueError, match=r'\(4, 5, 3\) and \(5, 4, 3\)'):
        psnr(image, image.reshape(5, 4, 3))
    with pytest.raises(ValueError):
        psnr(image[:0], image[:0])

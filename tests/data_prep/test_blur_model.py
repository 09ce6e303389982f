"""Camera responses and interpolation against independent computations."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.blur_model import RESPONSES, SRGB, Response, light_between, load_response, mean_light
from data_prep.synthesize import Frame
from dstnet_arch.errors import DataError

VALUES = np.arange(256, dtype=np.uint8)


def naive_srgb(value: int) -> float:
    stored = value / 255
    return stored / 12.92 if stored <= 0.04045 else ((stored + 0.055) / 1.055) ** 2.4


@pytest.mark.parametrize('name', sorted(RESPONSES))
def test_curves_go_there_and_back(name: str) -> None:
    response = load_response(name)
    assert np.array_equal(response.image(response.light(VALUES)), VALUES)
    assert response.light(VALUES)[[0, 255]] == pytest.approx([0, 1])
    assert response.image(np.array([-0.5, 2.0])).tolist() == [0, 255], 'clipped'


def test_measured_curve_ignores_unit_and_black_level(tmp_path) -> None:
    (tmp_path / 'curve.txt').write_text(', '.join(str(7 + 300 * (value / 255) ** 1.8) for value in range(256)))
    measured, expected = load_response(str(tmp_path / 'curve.txt')), Response('', lambda stored: stored**1.8)
    assert measured.light(VALUES) == pytest.approx(expected.light(VALUES))
    light = np.linspace(0, 1, 1000)
    assert np.abs(measured.image(light).astype(int) - expected.image(light)).max() <= 1


@pytest.mark.parametrize('content', [b'1 2 three', b'1 2 3', b'\xff\xfe\x00', b'1 ' * 256, None])
def test_load_response_errors(tmp_path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / 'curve.txt').write_bytes(content)
    with pytest.raises(DataError, match=r'curve\.txt: .*Use srgb, gamma2.2, linear, or a text file'):
        load_response(str(tmp_path / 'curve.txt'))


def test_mean_light_is_weighted() -> None:
    lights = (np.full((2, 3), value, np.float32) for value in (0.1, 0.4, 0.7))
    assert mean_light(lights, [1, 2, 0.5]) == pytest.approx((0.1 + 0.8 + 0.35) / 3.5)


def test_interpolation_is_in_linear_light() -> None:
    """A picture that brightens without motion: the light half-way is the mean of the light."""
    frame = Frame(0, np.full((40, 48, 3), 60, np.uint8), Frame(1, np.full((40, 48, 3), 200, np.uint8)))
    assert frame.light(SRGB, 0.25) == pytest.approx(0.75 * naive_srgb(60) + 0.25 * naive_srgb(200), abs=1e-5)
    assert frame.light(SRGB) == pytest.approx(naive_srgb(60))


def test_what_comes_into_the_picture_is_taken_from_the_frame_that_shows_it() -> None:
    flow = np.zeros((40, 40, 2), np.float32)
    flow[..., 0] = 10  # to the right: the leftmost columns are new in the second frame
    first, second = np.full((40, 40, 3), 0.25, np.float32), np.full((40, 40, 3), 0.75, np.float32)
    between = light_between(first, second, flow, -flow, 0.5)
    assert between[:, 5:35] == pytest.approx(0.5)
    assert between[:, :4] == pytest.approx(0.75, abs=1e-4), 'the first frame has not seen it'
    assert between[:, 36:] == pytest.approx(0.25, abs=1e-4), 'the second one does not see it any more'

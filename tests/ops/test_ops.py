"""Each operation against its reference in the package, against an independent one, and in its gradients."""

from __future__ import annotations

from collections.abc import Callable

import naive
import numpy as np
import pytest
import pywt
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from dstnet_arch.ops import channel_filter as channel
from dstnet_arch.ops import haar, haar_conv, temporal_conv
from dstnet_arch.ops.conv3x3 import conv3x3
from dstnet_arch.ops.dense_gradient import cat_channels
from dstnet_arch.ops.pack_filters import taps_first
from dstnet_arch.ops.pixel_filter import pixel_filter, pixel_filter_reference
from dstnet_arch.ops.pool_half import pool_half, pool_half_reference
from dstnet_arch.ops.reflect_pad import reflect_pad

# What one rounding may cost, relative to outputs of order one.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 6e-2}

Layout = Callable[[Tensor], Tensor]


def rand(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def as_channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def as_slice(x: Tensor) -> Tensor:
    """The same values, strided in memory."""
    return torch.stack([x, -x], dim=-1)[..., 0]


LAYOUTS = pytest.mark.parametrize('layout', [torch.clone, as_channels_last, as_slice])
DTYPES = pytest.mark.parametrize('dtype', list(TOLERANCE), ids=str)


def assert_same(fast: Callable[..., Tensor], reference: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Outputs, gradients of every input, and that the inputs are left alone."""
    before = [x.clone() for x in inputs]
    results = []
    for function in (fast, reference):
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = function(*leaves)
        grads = torch.autograd.grad(out, leaves, rand(*out.shape, dtype=out.dtype, seed=99))
        results.append([out.detach(), *grads])
    for position, expected in enumerate(results[0][1:]):  # one gradient at a time
        leaves = [x.detach().requires_grad_(index == position) for index, x in enumerate(inputs)]
        out = fast(*leaves)
        (grad,) = torch.autograd.grad(out, leaves[position], rand(*out.shape, dtype=out.dtype, seed=99))
        assert torch.equal(grad, expected)
    with torch.no_grad():
        results[0].append(fast(*inputs))  # the path without gradients may be another one
        results[1].append(results[1][0])
    tolerance = TOLERANCE[inputs[0].dtype]
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, b.abs().max().item()))
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


# Against the references


@LAYOUTS
@DTYPES
def test_haar_synthesis_equals_its_convolution(layout: Layout, dtype: torch.dtype) -> None:
    low, high = layout(rand(2, 3, 3, 5, dtype=dtype)), layout(rand(2, 9, 3, 5, dtype=dtype, seed=1))
    assert_same(haar.haar_synthesis, haar.haar_synthesis_reference, low, high)


@LAYOUTS
@DTYPES
@pytest.mark.parametrize(
    ('size', 'filter_sizes'),
    [((16, 24), [(2, 3)]), ((1, 1), [(1, 1)]), ((3, 4), [(6, 8)]), ((9, 7), [(4, 3), (2, 1), (9, 7)])],
)
def test_pixel_filter_equals_reference(
    layout: Layout, dtype: torch.dtype, size: tuple[int, int], filter_sizes: list[tuple[int, int]]
) -> None:
    features = layout(rand(2, 3, *size, dtype=dtype))
    filters = [layout(rand(2, 27, *size, dtype=dtype, seed=1 + i)) for i, size in enumerate(filter_sizes)]
    assert_same(pixel_filter, pixel_filter_reference, features, *filters)


@LAYOUTS
@DTYPES
def test_channel_filter_equals_reference(layout: Layout, dtype: torch.dtype) -> None:
    features = layout(rand(2, 3, 7, 5, dtype=dtype))
    others = rand(2, 3, 3, 3, dtype=dtype), rand(3, dtype=dtype)
    assert_same(channel.channel_filter, channel.channel_filter_reference, features, *others)


@LAYOUTS
@DTYPES
@pytest.mark.parametrize(('c_in', 'c_out'), [(2, 5), (5, 2)])
@pytest.mark.parametrize(('num_frame', 'batch'), [(1, 2), (2, 1), (4, 3)])
def test_temporal_conv_equals_conv3d(
    layout: Layout, dtype: torch.dtype, c_in: int, c_out: int, num_frame: int, batch: int
) -> None:
    x, weight = layout(rand(num_frame * batch, c_in, 3, 4, dtype=dtype)), rand(c_out, c_in, 3, dtype=dtype, seed=1)
    assert_same(
        lambda x, w: temporal_conv.temporal_conv(x, w, num_frame),
        lambda x, w: temporal_conv.temporal_conv_reference(x, w, num_frame),
        x,
        weight,
    )


@LAYOUTS
@DTYPES
@pytest.mark.parametrize('level', [1, 2])
def test_conv_haar_equals_its_steps(layout: Layout, dtype: torch.dtype, level: int) -> None:
    x, weight = layout(rand(2, 3, 8, 12, dtype=dtype)), rand(5, 3, 3, 3, dtype=dtype, seed=1)
    bias, mix_bias = rand(5, dtype=dtype, seed=2), rand(15, dtype=dtype, seed=4)
    mix = rand(15, 5, 1, 1, dtype=dtype, seed=3)

    def high(x: Tensor, w: Tensor) -> Tensor:
        return haar_conv.conv_haar_reference(x, w, bias, level)[1]

    assert_same(
        lambda x, w, b: haar_conv.conv_haar(x, haar_conv.merge_conv_haar(w, level, 0), b, level),
        lambda x, w, b: haar_conv.conv_haar_reference(x, w, b, level)[0],
        *(x, weight, bias),
    )
    assert_same(
        lambda x, w, m, b: haar_conv.conv_haar(x, haar_conv.merge_conv_haar_high(w, level, m), b, level, slope=0.1),
        lambda x, w, m, b: F.leaky_relu(F.conv2d(high(x, w), m, b, groups=3), 0.1),
        *(x, weight, mix, mix_bias),
    )


@LAYOUTS
@DTYPES
def test_haar_conv_equals_its_steps(layout: Layout, dtype: torch.dtype) -> None:
    def merged(low: Tensor, high: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return haar_conv.haar_conv(low, high, *haar_conv.merge_haar_conv(w).split([5, 15], 1), b.repeat_interleave(4))

    low, high = layout(rand(2, 5, 4, 3, dtype=dtype)), layout(rand(2, 15, 4, 3, dtype=dtype, seed=1))
    weight, bias = rand(2, 5, 3, 3, dtype=dtype, seed=2), rand(2, dtype=dtype, seed=3)
    assert_same(merged, haar_conv.haar_conv_reference, low, high, weight, bias)


@LAYOUTS
@DTYPES
def test_pool_half_equals_slicing(layout: Layout, dtype: torch.dtype) -> None:
    def run(pool: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Callable[[Tensor], Tensor]:
        def apply(z: Tensor) -> Tensor:
            pooled, z = pool(z)
            return torch.cat([pooled.flatten(), (2 * z).flatten()])

        return apply

    assert_same(run(pool_half), run(pool_half_reference), layout(rand(2, 6, 5, 8, dtype=dtype)))


# Against independent computations


def test_haar_against_pywavelets_and_its_inverse() -> None:
    x = rand(2, 3, 8, 6)
    low, high = haar.haar_analysis(x)
    expected_low, (horizontal, vertical, diagonal) = pywt.dwt2(x.numpy(), 'haar')
    # PyWavelets' filters are orthonormal: each level is twice ours.
    np.testing.assert_allclose(2 * low, expected_low, atol=1e-12)
    np.testing.assert_allclose(2 * high, np.concatenate([vertical, horizontal, diagonal], axis=1), atol=1e-12)
    torch.testing.assert_close(haar.haar_synthesis(low, high), x, rtol=0, atol=1e-14)


@pytest.mark.parametrize(('size', 'filter_size'), [((16, 24), (2, 3)), ((9, 6), (2, 5))])
def test_pixel_filter_against_the_equation(size: tuple[int, int], filter_size: tuple[int, int]) -> None:
    features, filters = rand(1, 2, *size), rand(1, 18, *filter_size, seed=1)
    expected = naive.filter_pixels(features[0].numpy(), filters[0].numpy())
    np.testing.assert_allclose(pixel_filter(features, taps_first(filters[0])[None])[0], expected, atol=1e-12)


def test_channel_filter_against_scipy() -> None:
    features, filters, bias = rand(1, 3, 7, 5), rand(1, 3, 3, 3, seed=1), rand(3, seed=2)
    for c, out in enumerate(channel.channel_filter(features, filters, bias)[0]):
        expected = ndimage.correlate(features[0, c].numpy(), filters[0, c].numpy(), mode='constant')
        np.testing.assert_allclose(out, expected + bias[c].item(), atol=1e-12)


@pytest.mark.parametrize(
    ('size', 'to'), [((5, 7), (8, 8)), ((1, 1), (16, 16)), ((2, 3), (16, 16)), ((9, 16), (16, 16))]
)
def test_reflect_pad_against_numpy(size: tuple[int, int], to: tuple[int, int]) -> None:
    x = rand(2, 3, *size)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (0, to[0] - size[0]), (0, to[1] - size[1])), mode='reflect')
    np.testing.assert_array_equal(reflect_pad(x, *to), expected)
    assert reflect_pad(x, *size) is x


# Memory, layout and errors


def test_pixel_filter_keeps_no_full_size_filters_for_backward() -> None:
    saved: list[int] = []
    features, filters = rand(1, 4, 64, 64).requires_grad_(), rand(1, 36, 8, 8).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.numel()), t)[1], lambda t: t):
        pixel_filter(features, filters)
    assert sum(saved) == features.numel() + filters.numel()


def test_gradients_of_concatenated_channels_are_dense() -> None:
    tensors = [as_channels_last(rand(2, c, 4, 6)).requires_grad_() for c in (3, 5)]
    dense: list[bool] = []
    for x in tensors:
        x.register_hook(lambda g: dense.append(g.is_contiguous(memory_format=torch.channels_last)))
    weight = rand(2, 8, 4, 6, seed=1)
    (cat_channels(*tensors) * weight).sum().backward()
    assert dense == [True, True]
    for x, expected in zip(tensors, weight.split([3, 5], dim=1), strict=True):
        assert torch.equal(x.grad, expected)


@pytest.mark.parametrize(
    ('operation', 'shapes', 'message'),
    [
        (haar.haar_analysis, [(1, 2, 5, 4)], r'even height and width.*\(1, 2, 5, 4\)'),
        (pixel_filter, [(1, 3, 4, 4), (1, 26, 2, 2)], r'need filters of shape \(1, 27, h, w\), got'),
        (pixel_filter, [(1, 3, 4, 4), (1, 27, 2, 2), (2, 27, 2, 2)], r'need filters of shape \(1, 27, h, w\), got'),
        (pixel_filter, [(1, 3, 4, 4)], r'need filters of shape'),
        (lambda *t: conv3x3(*t, 0.1, t[0]), [(1, 2, 4, 4), (2, 2, 3, 3), (2,)], r'slope or a residual; got both'),
        (
            channel.channel_filter,
            [(2, 3, 4, 4), (2, 4, 3, 3), (3,)],
            r'need filters \(2, 3, 3, 3\), got \(2, 4, 3, 3\)',
        ),
    ],
)
def test_wrong_shapes_are_named(operation: Callable[..., Tensor], shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        operation(*(rand(*shape) for shape in shapes))


def test_layout_of_a_single_frame_is_kept_while_gradients_are_recorded() -> None:
    x = rand(1, 4, 6, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    for out in (cat_channels(x, x), *pool_half(x)):
        assert out.is_contiguous(memory_format=torch.channels_last)
        # What operations decide by; a batch of one has any stride.
        assert torch.cat([out, out], dim=1).is_contiguous(memory_format=torch.channels_last)

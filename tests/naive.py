"""The paper's equations written out naively: no sharing of work, no batching of frames, weights passed one by one.

Independent of the package on purpose: nothing here imports it. Frames are lists of (C, H, W) float64 arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = dict[str, Array]


def sub(weights: Weights, prefix: str) -> Weights:
    return {k[len(prefix) + 1 :]: v for k, v in weights.items() if k.startswith(prefix + '.')}


def lrelu(x: Array) -> Array:
    return np.where(x >= 0, x, 0.1 * x)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def correlate(x: Array, w: Array, b: Array | float = 0.0) -> Array:
    """Zero-padded cross-correlation of one frame: (C, H, W), (O, C, k, k) -> (O, H, W)."""
    k = w.shape[-1]
    r = k // 2
    h, wd = x.shape[1:]
    padded = np.pad(x, ((0, 0), (r, r), (r, r)))
    out = np.zeros((w.shape[0], h, wd))
    for i in range(k):
        for j in range(k):
            out += np.einsum('oc,chw->ohw', w[:, :, i, j], padded[:, i : i + h, j : j + wd])
    return out + np.reshape(b, (-1, 1, 1))


def conv(x: Array, weights: Weights) -> Array:
    return correlate(x, weights['weight'], weights.get('bias', 0.0))


def depthwise(x: Array, w: Array, b: Array) -> Array:
    """(C, H, W), (C, 3, 3), (C,) -> (C, H, W)."""
    return np.concatenate([correlate(x[c : c + 1], w[c].reshape(1, 1, 3, 3), b[c]) for c in range(len(x))])


def pool(x: Array, k: int, how: Any) -> Array:
    c, h, w = x.shape
    return how(x.reshape(c, h // k, k, w // k, k), axis=(2, 4))


def resize(x: Array, h: int, w: int) -> Array:
    """Bilinear, half-pixel centres, edges repeated: (C, h', w') -> (C, h, w)."""

    def positions(n_in: int, n_out: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
        p = np.clip((np.arange(n_out) + 0.5) * n_in / n_out - 0.5, 0, None)
        lo = np.floor(p).astype(int)
        return lo, np.minimum(lo + 1, n_in - 1), p - lo

    y0, y1, fy = positions(x.shape[1], h)
    x0, x1, fx = positions(x.shape[2], w)
    rows = x[:, y0] * (1 - fy)[:, None] + x[:, y1] * fy[:, None]
    return rows[:, :, x0] * (1 - fx) + rows[:, :, x1] * fx


def haar(x: Array) -> tuple[Array, list[Array]]:
    a, b, c, d = x[:, ::2, ::2], x[:, ::2, 1::2], x[:, 1::2, ::2], x[:, 1::2, 1::2]
    return (a + b + c + d) / 4, [(a - b + c - d) / 4, (a + b - c - d) / 4, (a - b - c + d) / 4]


def inverse_haar(low: Array, bands: list[Array]) -> Array:
    b1, b2, b3 = bands
    out = np.zeros((low.shape[0], 2 * low.shape[1], 2 * low.shape[2]))
    out[:, ::2, ::2] = low + b1 + b2 + b3
    out[:, ::2, 1::2] = low - b1 + b2 - b3
    out[:, 1::2, ::2] = low + b1 - b2 - b3
    out[:, 1::2, 1::2] = low - b1 - b2 + b3
    return out


def high_bands(bands: list[Array], weights: Weights) -> list[Array]:
    """N_h, band by band."""
    out = []
    for k, band in enumerate(bands):
        c = len(band)
        part = slice(k * c, (k + 1) * c)
        x = lrelu(correlate(band, weights['conv1.weight'][part], weights['conv1.bias'][part]))
        out.append(correlate(x, weights['conv2.weight'][part], weights['conv2.bias'][part]))
    return out


def over_time(frames: list[Array], w: Array) -> list[Array]:
    """3x1x1 convolution, zeros before the first and after the last frame; w (O, C, 3)."""
    zero = np.zeros_like(frames[0])
    padded = [zero, *frames, zero]
    return [sum(np.einsum('oc,chw->ohw', w[:, :, k], padded[t + k]) for k in range(3)) for t in range(len(frames))]


def channel_filters(z: Array, weights: Weights) -> Array:
    """D_c: (C, H, W) -> (C, 3, 3)."""
    x = pool(z, 2, np.mean)
    for i in range(3):
        x = depthwise(x, weights[f'stage1.{i}.weight'][:, 0], weights[f'stage1.{i}.bias'])
    x = pool(x, 2, np.max)
    for i in range(3):
        x = depthwise(x, weights[f'stage2.{i}.weight'][:, 0], weights[f'stage2.{i}.bias'])
    flat = weights['to_filter.weight'][:, :, 0, 0] @ x.mean(axis=(1, 2)) + weights['to_filter.bias']
    return flat.reshape(-1, 3, 3)


def cwgdn(frames: list[Array], weights: Weights) -> list[Array]:
    """One block over a clip: Eqs. (1) and (2) between two temporal convolutions."""

    def norm(y: Array) -> Array:
        scaled = (y - y.mean(axis=0)) / np.sqrt(y.var(axis=0) + 1e-5)
        return scaled * weights['norm.weight'][:, None, None] + weights['norm.bias'][:, None, None]

    enhanced = []
    for z in over_time([norm(y) for y in frames], weights['project_in.weight']):
        z1, z2 = np.split(z, 2)
        enhanced.append(depthwise(z1, channel_filters(z1, sub(weights, 'filter_net')), weights['filter_bias']) * z2)
    return [y + r for y, r in zip(frames, over_time(enhanced, weights['project_out.weight']), strict=True)]


def residual_block(x: Array, weights: Weights) -> Array:
    return x + conv(lrelu(conv(x, sub(weights, 'conv1'))), sub(weights, 'conv2'))


def residual_chain(x: Array, weights: Weights) -> Array:
    for i in range(1 + max((int(k.split('.')[0]) for k in weights), default=-1)):
        x = residual_block(x, sub(weights, str(i)))
    return x


def fuse(current: Array, neighbour: Array, weights: Weights) -> Array:
    """Eq. (3)."""
    x = lrelu(conv(np.concatenate([current, neighbour]), sub(weights, 'conv')))
    x1, x2 = np.split(x, 2)
    return x1 * sigmoid(conv(x1, sub(weights, 'gate1'))) + x2 * sigmoid(conv(x2, sub(weights, 'gate2')))


def filter_pixels(v: Array, filters: Array) -> Array:
    """Eq. (4), pixel by pixel: filters (9C, h, w) at any size."""
    c, h, w = v.shape
    f = resize(filters, h, w).reshape(c, 3, 3, h, w)
    padded = np.pad(v, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros_like(v)
    for y in range(h):
        for x in range(w):
            out[:, y, x] = (f[..., y, x] * padded[:, y : y + 3, x : x + 3]).sum(axis=(1, 2))
    return out


def dtff(current: Array, neighbour: Array, weights: Weights) -> Array:
    """F of Eqs. (5) and (6)."""
    v = fuse(current, neighbour, sub(weights, 'fusion'))
    d = residual_chain(pool(v, 4, np.mean), sub(weights, 'filter_net.stage1'))
    d = residual_chain(pool(d, 2, np.max), sub(weights, 'filter_net.stage2'))
    return residual_chain(filter_pixels(v, conv(d, sub(weights, 'filter_net.to_filter'))), sub(weights, 'refine'))


def dstnet(blurry: list[Array], weights: Weights, boundary: str = 'zeros') -> list[Array]:
    """The whole network on frames (3, H, W) whose sides are multiples of 16."""
    level1 = [haar(conv(b, sub(weights, 'extract'))) for b in blurry]
    level2 = [haar(low) for low, _ in level1]
    y = [low for low, _ in level2]
    for i in range(1 + max((int(k.split('.')[1]) for k in weights if k.startswith('cwgdn.')), default=-1)):
        y = cwgdn(y, sub(weights, f'cwgdn.{i}'))
    x = [
        inverse_haar(low, high_bands(bands, sub(weights, 'high_band2')))
        for low, (_, bands) in zip(y, level2, strict=True)
    ]
    if 'widen.weight' in weights:
        x = [conv(f, sub(weights, 'widen')) for f in x]

    # Eqs. (7) and (8), with the paper's indices 1..N.
    n = len(x)
    backward: dict[int, Array] = {}
    forward: dict[int, Array] = {}
    zero = np.zeros_like(x[0])
    back, forth = sub(weights, 'backward_dtff'), sub(weights, 'forward_dtff')
    backward[n] = x[n - 1] if boundary == 'paper' else dtff(x[n - 1], zero, back)
    for i in range(n, 1, -1):
        backward[i - 1] = dtff(x[i - 2], backward[i], back)
    forward[1] = backward[1] if boundary == 'paper' else dtff(backward[1], zero, forth)
    for i in range(1, n):
        forward[i + 1] = dtff(backward[i + 1], forward[i], forth)

    restored = []
    for i in range(1, n + 1):
        f = conv(forward[i], sub(weights, 'narrow')) if 'narrow.weight' in weights else forward[i]
        high = high_bands(level1[i - 1][1], sub(weights, 'high_band1'))
        restored.append(conv(inverse_haar(f, high), sub(weights, 'reconstruct')) + blurry[i - 1])  # Eqs. (9), (10)
    return restored

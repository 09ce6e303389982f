"""Names of parameters in the authors' released files, and ours.

In templates, `{i}` and `{j}` are numbers, `{p}` is `weight` or `bias`. Released convolutions over a clip,
(O, C, 1, 3, 3) and (O, C, 3, 1, 1), are here 2-D convolutions of a frame and 1-D ones over time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dstnet_arch.errors import CheckpointError
from dstnet_arch.ops.haar import haar_filters

HAAR_KEY = 'wave.haar_weights'  # frozen filters among the released parameters; here the Haar transform has none

Pairs = tuple[tuple[str, str], ...]
"""Templates of names: (released, ours)."""


@dataclass(frozen=True)
class KeyTable:
    """How one released architecture names its parameters.

    Attributes:
        marker: a released key that no other architecture's file has.
        pairs: templates of all names.
        frame_convs: our names of weights (O, C, k, k) that the released file holds as (O, C, 1, k, k).
    """

    marker: str
    pairs: Pairs
    frame_convs: tuple[str, ...] = ()


def _directions(*pairs: tuple[str, str]) -> Pairs:
    return tuple(
        (f'{direction}_propagation.{released}', f'{direction}_dtff.{ours}')
        for direction in ('backward', 'forward')
        for released, ours in pairs
    )


def _common(*pairs: tuple[str, str]) -> Pairs:
    """Pairs of one network, after those that all networks of the family have."""
    return (
        ('feat_extractor.{p}', 'extract.{p}'),
        ('recons.{p}', 'reconstruct.{p}'),
        ('x_wave_{i}_conv{j}.{p}', 'high_band{i}.conv{j}.{p}'),
        *_directions(
            ('kernel_conv_pixel.Block1.{i}.conv{j}.{p}', 'filter_net.stage1.{i}.conv{j}.{p}'),
            ('kernel_conv_pixel.Block2.{i}.conv{j}.{p}', 'filter_net.stage2.{i}.conv{j}.{p}'),
            ('kernel_conv_pixel.tokernel.{p}', 'filter_net.to_filter.{p}'),
            ('resblock_bcakward2d.main.0.{i}.conv{j}.{p}', 'refine.{i}.conv{j}.{p}'),  # spelt so in both directions
        ),
        *pairs,
    )


_CWGDN = 'transformer_scale4.{i}.0.'

DSTNET = KeyTable(
    marker='x_wave_1_conv1.weight',
    pairs=_common(
        (_CWGDN + 'norm2.body.{p}', 'cwgdn.{i}.norm.{p}'),
        (_CWGDN + 'ffn.project_in.weight', 'cwgdn.{i}.project_in.weight'),
        (_CWGDN + 'ffn.project_out.weight', 'cwgdn.{i}.project_out.weight'),
        (_CWGDN + 'ffn.kerner_conv_channel.Block1.{j}.{p}', 'cwgdn.{i}.filter_net.stage1.{j}.{p}'),
        (_CWGDN + 'ffn.kerner_conv_channel.Block2.{j}.{p}', 'cwgdn.{i}.filter_net.stage2.{j}.{p}'),
        (_CWGDN + 'ffn.kerner_conv_channel.tokernel.{p}', 'cwgdn.{i}.filter_net.to_filter.{p}'),
        (_CWGDN + 'ffn.kerner_conv_channel.bias', 'cwgdn.{i}.filter_bias'),
        ('up.{p}', 'widen.{p}'),
        ('down.{p}', 'narrow.{p}'),
        *_directions(
            ('conv1.{p}', 'fusion.conv.{p}'),
            ('conv2.{p}', 'fusion.gate1.{p}'),
            ('conv3.{p}', 'fusion.gate2.{p}'),
        ),
    ),
    frame_convs=('extract.weight', 'reconstruct.weight'),
)

DSTNET_PLUS = KeyTable(
    marker='forward_propagation.fusion.conv0.weight',
    pairs=_common(
        *_directions(
            ('fusion.conv0.{p}', 'fusion.compare.{p}'),
            ('fusion.conv1.{p}', 'fusion.conv.{p}'),
            ('kernel_conv_pixel.Block3.{i}.conv{j}.{p}', 'filter_net.stage3.{i}.conv{j}.{p}'),
        )
    ),
)


def from_released(table: KeyTable, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a released state dict to our names and shapes.

    Other state dicts come back unchanged; unknown keys keep their names, so that loading reports them.

    Raises:
        CheckpointError: the frozen Haar filters are not the ones that this network computes with.
    """
    if table.marker not in state_dict:
        return dict(state_dict)
    translate = _translator(table.pairs)
    ours: dict[str, Any] = {}
    for released, value in state_dict.items():
        if released == HAAR_KEY:
            _check_haar(value)
            continue
        if isinstance(value, Tensor) and value.dim() == 5:
            value = value.squeeze(2) if value.shape[2] == 1 else value.squeeze(4).squeeze(3)
        ours[translate(released)] = value
    return ours


def to_released(table: KeyTable, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate one of our state dicts to the released names and shapes, the frozen Haar filters included."""
    translate = _translator(tuple(pair[::-1] for pair in table.pairs))
    released: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if key == '_extra_state':
            continue
        if key in table.frame_convs:
            value = value.unsqueeze(2)
        elif value.dim() == 3:
            value = value[..., None, None]
        released[translate(key)] = value
    num_feat = state_dict['extract.weight'].shape[0]
    released[HAAR_KEY] = haar_filters().repeat(num_feat, 1, 1, 1)
    return released


def count_modules(state_dict: Mapping[str, Any], prefix: str) -> int:
    """Number of modules `prefix.0`, `prefix.1`, … in a state dict."""
    numbers = {int(m[1]) for k in state_dict if (m := re.match(re.escape(prefix) + r'\.(\d+)\.', k))}
    return max(numbers, default=-1) + 1


def _translator(pairs: Pairs) -> Callable[[str], str]:
    patterns = []
    for source, target in pairs:
        pattern = re.escape(source).replace(r'\{i\}', r'(?P<i>\d+)').replace(r'\{j\}', r'(?P<j>\d+)')
        patterns.append((re.compile(pattern.replace(r'\{p\}', '(?P<p>weight|bias)')), target))

    def translate(key: str) -> str:
        for pattern, target in patterns:
            if match := pattern.fullmatch(key):
                return target.format(**match.groupdict())
        return key

    return translate


def _check_haar(value: Tensor) -> None:
    expected = haar_filters(value.dtype, value.device).repeat(value.shape[:1].numel() // 4, 1, 1, 1)
    if not torch.equal(value, expected):
        raise CheckpointError(
            f'{HAAR_KEY} does not hold the Haar filters that DSTNet computes with: not a file of this network.'
        )

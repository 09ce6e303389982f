"""The networks that can be measured, by name: ours, the paper's ablations, the plain schedule, stock BasicSR's.

A peer is measured as stock BasicSR ships it, in the configuration that its authors used for deblurring where there is
one, on random weights: time, memory and work do not depend on them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import Any

from torch import nn

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.archs.reference import PlainDSTNet
from dstnet_arch.archs.sliding_window_arch import SlidingWindow
from dstnet_arch.errors import DSTNetError, OptionsError

GROUPS = ('ours', 'ablations', 'plain', 'peers')


class Unavailable(DSTNetError):
    """A network cannot be built here; the message is the reason, as a table shows it."""


@dataclass(frozen=True)
class Network:
    """A network to measure.

    Attributes:
        name: on the command line.
        group: one of `GROUPS`.
        build: makes it on the CPU, float32, with random weights. May raise Unavailable.
        title: in tables, as papers call it; by default the name.
    """

    name: str
    group: str
    build: Callable[[], nn.Module] = field(repr=False)
    title: str = ''

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.title or self.name


def find(name: str) -> Network:
    """The network of this name, whatever the case.

    Raises:
        OptionsError: there is none.
    """
    return select([name])[0]


def select(names: Iterable[str]) -> list[Network]:
    """The networks of these names and groups ('all': every one), each once, in the order of `NETWORKS`.

    Raises:
        OptionsError: a name is neither.
    """
    wanted = {name.lower(): name for name in names}
    known = {name.lower(): name for name in ('all', *GROUPS, *(network.name for network in NETWORKS))}
    for key, name in wanted.items():
        if key not in known:
            near = get_close_matches(key, known, 1, 0.5)
            hint = f' Did you mean {known[near[0]]}?' if near else ''
            raise OptionsError(
                f'There is no network {name}.{hint} Networks: {", ".join(network.name for network in NETWORKS)}; '
                f'groups: all, {", ".join(GROUPS)}.'
            )
    return [n for n in NETWORKS if {'all', n.group, n.name.lower()} & wanted.keys()]


def _peer(build: Callable[[], nn.Module]) -> nn.Module:
    """A network of stock BasicSR, built without what BasicSR says while doing so."""
    disabled = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            net = build()
    except ImportError as error:
        raise Unavailable(f'BasicSR cannot be imported: {" ".join(str(error).split())}') from error
    finally:
        logging.disable(disabled)
    # For stock BasicSR's `flow_warp`, each time that it runs.
    warnings.filterwarnings('ignore', 'torch.meshgrid: in an upcoming release', UserWarning)
    return net


def _sliding(num_frame: int, size_multiple: int, **network: Any) -> nn.Module:
    return _peer(lambda: SlidingWindow(network, num_frame, size_multiple=size_multiple))


def _basicvsr_plus_plus() -> nn.Module:
    # Stock BasicSR leaves the alignment out where there is no CUDA. torchvision's deformable convolution runs on the
    # CPU as well, so the network is made whole, with the same modules that stock makes for CUDA.
    def build() -> nn.Module:
        arch = import_module('basicsr.archs.basicvsrpp_arch')
        net = arch.BasicVSRPlusPlus(num_blocks=15, is_low_res_input=False)
        if not net.is_with_alignment:
            c = net.mid_channels
            for branch in net.backbone:
                net.deform_align[branch] = arch.SecondOrderDeformableAlignment(
                    2 * c, c, 3, padding=1, deformable_groups=16
                )
            net.is_with_alignment = True
        return net

    return _peer(build)


def _enlarging() -> nn.Module:
    raise Unavailable('enlarges frames four times, and has no mode that keeps their size')


_LARGE: dict[str, Any] = {'num_block': 30, 'prop_feat': 96}
_PLUS_LARGE: dict[str, Any] = {'num_feat': 96, 'num_kernel_block': 5, 'num_block': 25}
# EDVR as its authors have it for deblurring, SwinIR as for colour denoising.
_EDVR = {'type': 'EDVR', 'num_feat': 128, 'num_reconstruct_block': 40, 'hr_in': True, 'with_predeblur': True}
_SWINIR = {'type': 'SwinIR', 'upscale': 1, 'img_size': 128, 'window_size': 8, 'img_range': 1.0, 'embed_dim': 180}
_SWINIR |= {'depths': [6] * 6, 'num_heads': [6] * 6, 'mlp_ratio': 2}
_RIDNET = {'type': 'RIDNet', 'in_channels': 3, 'mid_channels': 64, 'out_channels': 3}

NETWORKS = (
    Network('DSTNet', 'ours', DSTNet),
    Network('DSTNet-L', 'ours', partial(DSTNet, **_LARGE)),
    Network('DSTNetPlus', 'ours', DSTNetPlus, 'DSTNet+'),
    Network('DSTNetPlus-L', 'ours', partial(DSTNetPlus, **_PLUS_LARGE), 'DSTNet+L'),
    # Named as their options files are.
    Network('spatial-gmlp', 'ablations', partial(DSTNet, spatial='gmlp'), 'w/ gMLP'),
    Network('spatial-none', 'ablations', partial(DSTNet, spatial='none'), 'w/o CWGDN'),
    Network('fusion-blend', 'ablations', partial(DSTNet, fusion='blend'), 'w/ fusion of [27]'),
    Network('fusion-none', 'ablations', partial(DSTNet, fusion='none'), 'w/o (3)'),
    Network('pixel_filter-false', 'ablations', partial(DSTNet, pixel_filter=False), 'w/o (4)'),
    Network('propagation-none', 'ablations', partial(DSTNet, propagation='none'), 'w/o WaveletFP'),
    Network('propagation-bilinear', 'ablations', partial(DSTNet, propagation='bilinear'), 'w/ bilinear in FP'),
    Network('PlainDSTNet', 'plain', PlainDSTNet, 'DSTNet, plain'),
    Network('PlainDSTNet-L', 'plain', partial(PlainDSTNet, **_LARGE), 'DSTNet-L, plain'),
    Network('BasicVSR++', 'peers', _basicvsr_plus_plus),
    Network('EDVR', 'peers', partial(_sliding, 5, 16, **_EDVR)),
    Network('TOFlow', 'peers', partial(_sliding, 7, 16, type='TOFlow')),
    Network('DUF', 'peers', partial(_sliding, 7, 1, type='DUF', scale=1)),
    Network('SwinIR', 'peers', partial(_sliding, 1, 8, **_SWINIR)),
    Network('RIDNet', 'peers', partial(_sliding, 1, 1, **_RIDNET)),
    Network('BasicVSR', 'peers', _enlarging),
    Network('IconVSR', 'peers', _enlarging),
)

PLAIN = {'DSTNet': 'PlainDSTNet', 'DSTNet-L': 'PlainDSTNet-L'}
"""Networks of which there is a plain schedule, and its name."""

"""Networks that can be measured, by name: ours, the paper's ablations, the plain schedule, peers of stock BasicSR.

All have random weights: time, memory and work do not depend on them. A peer is measured as stock BasicSR ships it, in
the configuration that its authors used for deblurring.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from torch import nn

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.archs.sliding_window_arch import SlidingWindow
from dstnet_arch.benchmarks.plain import PlainDSTNet
from dstnet_arch.errors import DSTNetError, OptionsError, first_line

GROUPS = ('ours', 'ablations', 'plain', 'peers', 'reduced')


class Network(NamedTuple):
    """A network to measure: name on the command line, one of `GROUPS`, constructor, name in tables (as in papers).

    The constructor returns the network on the CPU in float32; it raises DSTNetError if it cannot be built here.
    """

    name: str
    group: str
    build: Callable[[], nn.Module]
    label: str

    @property
    def is_ours(self) -> bool:
        """True for the networks of this project in their normal schedule."""
        return self.group in ('ours', 'ablations', 'reduced')


def find(name: str) -> Network:
    """Return the network of this name; errors as `select`."""
    return select([name])[0]


def select(names: Iterable[str]) -> list[Network]:
    """Return the networks of these names and groups, in the order of `NETWORKS`.

    Raises:
        OptionsError: a name is neither a network nor a group.
    """
    wanted = set(names)
    if unknown := wanted - {*GROUPS, *(network.name for network in NETWORKS)}:
        known = ', '.join(network.name for network in NETWORKS)
        raise OptionsError(f'There is no network {min(unknown)}. Networks: {known}; groups: {", ".join(GROUPS)}.')
    return [network for network in NETWORKS if {network.group, network.name} & wanted]


def _peer(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network of stock BasicSR without its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            net = build()
    except ImportError as error:
        raise DSTNetError(f'BasicSR cannot be imported: {first_line(error)}') from None
    # Stock BasicSR's `flow_warp` warns at each run.
    warnings.filterwarnings('ignore', 'torch.meshgrid: in an upcoming release', UserWarning)
    return net


def _edvr() -> nn.Module:
    network = {'type': 'EDVR', 'num_feat': 128, 'num_reconstruct_block': 40, 'hr_in': True, 'with_predeblur': True}
    return _peer(lambda: SlidingWindow(network, 5, size_multiple=16))


def _basicvsr_plus_plus() -> nn.Module:
    # Stock BasicSR omits the alignment where there is no CUDA. torchvision's deformable convolution runs on the CPU
    # too, so build the modules that stock builds for CUDA.
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


_LARGE: dict[str, Any] = {'num_block': 30, 'prop_feat': 96}
_PLUS_LARGE: dict[str, Any] = {'num_feat': 96, 'num_kernel_block': 5, 'num_block': 25}
_REDUCED: dict[str, Any] = {'num_feat': 8, 'num_block': 1, 'num_cwgdn': 1}

NETWORKS = (
    Network('DSTNet', 'ours', DSTNet, 'DSTNet'),
    Network('DSTNet-L', 'ours', partial(DSTNet, **_LARGE), 'DSTNet-L'),
    Network('DSTNetPlus', 'ours', DSTNetPlus, 'DSTNet+'),
    Network('DSTNetPlus-L', 'ours', partial(DSTNetPlus, **_PLUS_LARGE), 'DSTNet+L'),
    # Named like their options files.
    Network('spatial-gmlp', 'ablations', partial(DSTNet, spatial='gmlp'), 'w/ gMLP'),
    Network('spatial-none', 'ablations', partial(DSTNet, spatial='none'), 'w/o CWGDN'),
    Network('fusion-blend', 'ablations', partial(DSTNet, fusion='blend'), 'w/ fusion of [27]'),
    Network('fusion-none', 'ablations', partial(DSTNet, fusion='none'), 'w/o (3)'),
    Network('pixel_filter-false', 'ablations', partial(DSTNet, pixel_filter=False), 'w/o (4)'),
    Network('propagation-none', 'ablations', partial(DSTNet, propagation='none'), 'w/o WaveletFP'),
    Network('propagation-bilinear', 'ablations', partial(DSTNet, propagation='bilinear'), 'w/ bilinear in FP'),
    Network('PlainDSTNet', 'plain', PlainDSTNet, 'DSTNet, plain'),
    Network('PlainDSTNet-L', 'plain', partial(PlainDSTNet, **_LARGE), 'DSTNet-L, plain'),
    Network('BasicVSR++', 'peers', _basicvsr_plus_plus, 'BasicVSR++'),
    Network('EDVR', 'peers', _edvr, 'EDVR'),
    # To see how time and memory grow.
    Network('DSTNet-reduced', 'reduced', partial(DSTNet, **_REDUCED), 'DSTNet, reduced'),
    Network('PlainDSTNet-reduced', 'plain', partial(PlainDSTNet, **_REDUCED), 'DSTNet, reduced, plain'),
)

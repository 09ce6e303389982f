"""Networks that can be measured, by name: ours, the paper's ablations, the plain schedule, peers of stock BasicSR.

All have random weights: time, memory and work do not depend on them. A peer is measured as stock BasicSR ships it, in
the configuration that its authors used for deblurring.
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
from dstnet_arch.archs.sliding_window_arch import SlidingWindow
from dstnet_arch.benchmarks.plain import PlainDSTNet
from dstnet_arch.errors import DSTNetError, OptionsError

GROUPS = ('ours', 'ablations', 'plain', 'peers')


class UnavailableError(DSTNetError):
    """A network cannot be built or run here; the message is the reason that a table shows."""


@dataclass(frozen=True)
class Network:
    """A network to measure.

    Attributes:
        name: name on the command line.
        group: one of `GROUPS`.
        build: returns the network on the CPU in float32. May raise UnavailableError.
        title: name in tables, as papers write it; `name` if empty.
    """

    name: str
    group: str
    build: Callable[[], nn.Module] = field(repr=False)
    title: str = ''

    @property
    def label(self) -> str:
        """Name in tables."""
        return self.title or self.name


def find(name: str) -> Network:
    """Return the network of this name, ignoring case.

    Raises:
        OptionsError: there is no such network.
    """
    return select([name])[0]


def select(names: Iterable[str]) -> list[Network]:
    """Return the networks of these names and groups ('all' is every network), in the order of `NETWORKS`.

    Raises:
        OptionsError: a name is neither a network nor a group.
    """
    given = {name.lower(): name for name in names}
    known = {name.lower(): name for name in ('all', *GROUPS, *(network.name for network in NETWORKS))}
    for key, name in given.items():
        if key not in known:
            near = get_close_matches(key, known, 1, 0.5)
            hint = f' Did you mean {known[near[0]]}?' if near else ''
            raise OptionsError(
                f'There is no network {name}.{hint} Networks: {", ".join(network.name for network in NETWORKS)}; '
                f'groups: all, {", ".join(GROUPS)}.'
            )
    return [n for n in NETWORKS if {'all', n.group, n.name.lower()} & given.keys()]


def _peer(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network of stock BasicSR without its log lines and warnings."""
    disabled = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            net = build()
    except ImportError as error:
        raise UnavailableError(f'BasicSR cannot be imported: {" ".join(str(error).split())}') from error
    finally:
        logging.disable(disabled)
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

NETWORKS = (
    Network('DSTNet', 'ours', DSTNet),
    Network('DSTNet-L', 'ours', partial(DSTNet, **_LARGE)),
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
    Network('BasicVSR++', 'peers', _basicvsr_plus_plus),
    Network('EDVR', 'peers', _edvr),
)

PLAIN = {'DSTNet': 'PlainDSTNet', 'DSTNet-L': 'PlainDSTNet-L'}
"""Network -> its plain schedule."""

"""DSTNet: deep discriminative spatial and temporal network for video deblurring (CVPR 2023), on stock BasicSR.

>>> from dstnet_arch import DSTNet, DSTNetPlus, LiveStreamer, Streamer, load_checkpoint

needs PyTorch only. If BasicSR is installed, importing this package also registers the networks, data sets, model, loss
and metric in BasicSR's registries when BasicSR is imported, in either order.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dstnet_arch._version import __version__
from dstnet_arch.plugin.startup._dstnet_arch_hook import install as _install_hook

if TYPE_CHECKING:
    from dstnet_arch.archs.checkpoint import load_checkpoint
    from dstnet_arch.archs.dstnet_arch import DSTNet
    from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
    from dstnet_arch.streaming.live import LiveStreamer
    from dstnet_arch.streaming.streamer import Streamer

__all__ = ['DSTNet', 'DSTNetPlus', 'LiveStreamer', 'Streamer', '__version__', 'load_checkpoint']

# Public name -> module. Imported on first use: commands that need no network start without PyTorch.
_PUBLIC = {
    'DSTNet': 'dstnet_arch.archs.dstnet_arch',
    'DSTNetPlus': 'dstnet_arch.archs.dstnet_plus_arch',
    'LiveStreamer': 'dstnet_arch.streaming.live',
    'Streamer': 'dstnet_arch.streaming.streamer',
    'load_checkpoint': 'dstnet_arch.archs.checkpoint',
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_install_hook()

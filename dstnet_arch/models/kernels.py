"""Choice between the compiled CPU kernels (ops/native.py) and PyTorch's operations for a run on a CPU.

Their results differ in rounding. So all ranks use the same ones, and a resumed run continues with those it began with.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from basicsr.utils import get_root_logger

from dstnet_arch.models.distributed import Ranks
from dstnet_arch.ops import native

_TITLES = {'native': 'the compiled CPU kernels', 'pytorch': "PyTorch's operations"}


def choose_kernels(ranks: Ranks, device: torch.device) -> str | None:
    """Use the compiled kernels if they are available on every rank.

    Args:
        ranks: all processes of the run, which call this function together.
        device: the device of the network.

    Returns:
        'native' or 'pytorch'; None if the device is not a CPU.
    """
    if device.type != 'cpu':
        return None
    available = ranks.gather(native.available)
    if all(available):
        return 'native'
    if any(available):
        missing = ', '.join(str(rank) for rank, found in enumerate(available) if not found)
        get_root_logger().warning(
            f'The compiled CPU kernels are not available on rank {missing}, so no rank uses them. Training is slower.'
        )
        native.set_native(False)
    return 'pytorch'


def resume_kernels(state: Mapping[str, Any], current: str | None) -> str | None:
    """Use the kernels of the training state, unless they are not available or the environment decides otherwise.

    Args:
        state: the training state; states of earlier versions and of stock BasicSR do not name the kernels.
        current: result of `choose_kernels`.

    Returns:
        The kernels to use, as `choose_kernels` does.
    """
    before = state.get('kernels')
    if current is None or before == current or before not in ('native', 'pytorch'):
        return current
    if before == 'pytorch' and native.VARIABLE not in os.environ:
        native.set_native(False)
        get_root_logger().info(
            f"The run continues with PyTorch's operations, with which it began. {native.VARIABLE}=1 selects the "
            'compiled CPU kernels, which are faster.'
        )
        return before
    reason = f'{native.VARIABLE} is set' if native.VARIABLE in os.environ else 'they are not available here'
    get_root_logger().warning(
        f'The run used {_TITLES[before]}, but {reason}: it continues with {_TITLES[current]}, and results differ in '
        'rounding from those of an uninterrupted run.'
    )
    return current

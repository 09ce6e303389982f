"""Free memory, and how much of it streaming needs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import torch

from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.arguments import Size
from dstnet_arch.streaming.state_store import StoreKind
from dstnet_arch.streaming.tiles import Maps, Plan

_STATE_SHARE = 0.5  # of free main memory that states may take; the network, frames and other programs need the rest
_DEVICE_SHARE = 0.8  # of a device's free memory that a plan may take; fragmentation takes some
_WORKSPACE = 256 << 20  # bytes that cuDNN and cuBLAS take on a GPU
_TILE_SIDES = (1024, 512, 256)

# Number of maps with all channels at half the frame size (as large as a state) that exist at the same time; each CWGDN
# block holds one more. Upper bounds of what tests/streaming/test_memory.py counts.
_WHOLE = 13  # of the frame or the tile that is being processed
_BETWEEN = 9  # of the whole frame between the stages, if the frame is processed in tiles
_ON_HOST = 2  # the part of those that the filters of D_p need on the device if all others are in main memory
_GRAPHS = 5  # memory of the inputs and outputs of CUDA graphs, on a GPU
_PYRAMID = 4  # filters of DSTNet+ at three sizes, which are always those of the whole frame
_FRAMES = 4  # frames in the precision of the network
_TILE_MARGIN = 80  # pixels around a tile

_UNLIMITED = 1 << 62
_UNKNOWN = 4 << 30  # assumed to be free if the system does not say
_CGROUPS = Path('/sys/fs/cgroup')
_OWN_CGROUPS = Path('/proc/self/cgroup')


class StatePlacement(NamedTuple):
    """Settings of a `Streamer` that say where states are kept, and how many."""

    store: StoreKind
    interval: Literal['sqrt'] | None


def place_states(state_bytes: int, num_frame: int, free_bytes: int) -> StatePlacement:
    """Choose where to keep states: all in main memory, or every S-th one if they would take more than half of it.

    The disk is used only if the user asks for it.

    Args:
        state_bytes: size of one frame's state.
        num_frame: T.
        free_bytes: free main memory.
    """
    fits = state_bytes * num_frame <= _STATE_SHARE * free_bytes
    return StatePlacement('host', None if fits else 'sqrt')


def tile_plans(net: VideoNet, frames: tuple[int, int, int], free_bytes: int, device_type: str = 'cuda') -> list[Plan]:
    """List the plans that should fit into memory, fastest first; if none should, the one that needs the least memory.

    Args:
        net: a DSTNet or DSTNetPlus.
        frames: batch, height and width.
        free_bytes: free memory of the computing device.
        device_type: its type, such as 'cuda' or 'cpu'. For a CPU, moving features to main memory saves nothing.
    """
    maps: tuple[Maps, ...] = ('device',) if device_type == 'cpu' else ('device', 'host')
    plans = [Plan(), *(Plan(Size(side, side), place) for place in maps for side in _TILE_SIDES)]
    budget = _DEVICE_SHARE * free_bytes - (_WORKSPACE if device_type == 'cuda' else 0)
    fitting = [i for i, plan in enumerate(plans) if needed_bytes(net, frames, plan, device_type) <= budget]
    return plans[fitting[0] if fitting else -1 :]


def needed_bytes(net: VideoNet, frames: tuple[int, int, int], plan: Plan, device_type: str) -> int:
    """Estimate the device memory that streaming needs besides weights and stored states; an upper bound.

    Args:
        net: a DSTNet or DSTNetPlus.
        frames: batch, height and width.
        plan: how frames are processed.
        device_type: type of the computing device; on a GPU, CUDA graphs need more.
    """
    batch, height, width = frames
    config = net.config
    itemsize = next(net.parameters()).element_size()
    channels = max(config['num_feat'], config.get('prop_feat') or 0)
    pixel = batch * channels * itemsize // 4  # bytes of one map for each pixel of the frame
    whole = height * width * pixel
    fixed = _FRAMES * 3 * batch * height * width * itemsize
    fixed += (_PYRAMID if 'num_kernel_block' in config else 0) * whole
    blocks = config.get('num_cwgdn', 0)
    if plan.tile is None:
        graphs = _GRAPHS if device_type == 'cuda' else 0
        return fixed + (_WHOLE + blocks + graphs) * whole
    tile = min(height, plan.tile.height + _TILE_MARGIN) * min(width, plan.tile.width + _TILE_MARGIN) * pixel
    between = _BETWEEN + blocks if plan.maps == 'device' else _ON_HOST
    return fixed + between * whole + _WHOLE * tile


def free_memory() -> int:
    """Return the bytes of main memory that this process can still allocate, also within a container."""
    return min(_system_memory(), _cgroup_memory())


def _system_memory() -> int:
    try:
        import psutil

        return int(psutil.virtual_memory().available)
    except (ImportError, OSError):
        return 1024 * proc_value('/proc/meminfo', 'MemAvailable') or _UNKNOWN


def _cgroup_memory() -> int:
    """Return the bytes that are left below the memory limits of this process's control groups (version 1 or 2)."""
    try:
        groups = [line.split(':', 2) for line in _OWN_CGROUPS.read_text('ascii').splitlines()]
    except (OSError, ValueError):
        return _UNLIMITED
    left = _UNLIMITED
    for _, controllers, path in groups:
        if not controllers:
            root, files = _CGROUPS, ('memory.max', 'memory.current', 'inactive_file')
        elif 'memory' in controllers.split(','):
            root, files = _CGROUPS / 'memory', ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file')
        else:
            continue
        group = root / path.lstrip('/')
        # Within a container, the path may be that outside of it; then the files of `root` apply.
        for folder in (group, *group.parents[: len(group.parts) - len(root.parts)]):
            left = min(left, _below_limit(folder, *files))
    return left


def _below_limit(folder: Path, limit: str, usage: str, reclaimable: str) -> int:
    try:
        used = int((folder / usage).read_text()) - proc_value(folder / 'memory.stat', reclaimable)
        return max(int((folder / limit).read_text()) - used, 0)
    except (OSError, ValueError):  # no such group, or no limit: 'max'
        return _UNLIMITED


def device_memory(device: torch.device) -> int:
    """Return the bytes that this process can still allocate on a device."""
    if device.type != 'cuda':
        return free_memory()
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has used so far: of a GPU's memory, or of main memory; 0 if unknown."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    return 1024 * proc_value('/proc/self/status', 'VmHWM')


def proc_value(path: str | Path, name: str) -> int:
    """Return the number after a name in a file of the kernel such as /proc/meminfo; 0 if there is none."""
    try:
        for line in Path(path).read_text('ascii').splitlines():
            key, _, value = line.replace(':', ' ').partition(' ')
            if key == name:
                return int(value.split()[0])
    except (OSError, ValueError, IndexError):
        pass
    return 0

"""How much memory there is, and what of it the states of a stream may take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.arguments import Size
from dstnet_arch.streaming.state_store import StoreKind
from dstnet_arch.streaming.tiles import Maps, Plan

_SHARE = 0.5  # of the free memory that states may take; networks, frames and other programs need some, too
_UNKNOWN = 4 << 30  # bytes taken for free on systems that do not tell

_DEVICE_SHARE = 0.8  # of a device's free memory; libraries take workspace for their convolutions, and gaps are lost
_TILE_SIDES = (1024, 512, 256)

# How many maps of all channels at half size (each as large as a state) a device holds, rounded up from what
# tests/test_tiles.py counts; the CWGDN blocks hold one more each.
_WHOLE = 10  # of the frame, or the tile, that is at work
_BETWEEN = 5  # of the whole frame between the stages, where it goes tile by tile
_ON_HOST = 2  # of those, what D_p's filters need on the device even if all others are in main memory
_PYRAMID = 4  # DSTNet+'s filters at three sizes, more than D_p's, always of the whole frame
_FRAMES = 4  # frames themselves, as the network takes them
_TILE_EDGES = 80  # pixels that are seen beside a tile


class Place(NamedTuple):
    """Settings of a `Streamer`."""

    store: StoreKind
    interval: Literal['sqrt'] | None


def choose_place(state_bytes: int, num_frame: int, free_bytes: int) -> Place:
    """Where states wait, as long as nobody has said.

    In main memory; where they would take more than half of what is free, every S-th. Gigabytes are not written to a
    disk unasked.

    Args:
        state_bytes: of one frame.
        num_frame: T.
        free_bytes: of main memory.
    """
    fits = state_bytes * num_frame <= _SHARE * free_bytes
    return Place('host', None if fits else 'sqrt')


def tile_plans(net: VideoNet, frames: tuple[int, int, int], free_bytes: int, device_type: str = 'cuda') -> list[Plan]:
    """Ways to restore frames that should fit into memory, the fastest first; the most frugal one if none should.

    Args:
        net: a DSTNet or DSTNetPlus.
        frames: batch, height and width.
        free_bytes: of the device that computes.
        device_type: its kind; on a 'cpu', main memory is no other place.
    """
    maps: tuple[Maps, ...] = ('device',) if device_type == 'cpu' else ('device', 'host')
    plans = [Plan(), *(Plan(Size(side, side), place) for place in maps for side in _TILE_SIDES)]
    fitting = [i for i, plan in enumerate(plans) if needed_bytes(net, frames, plan) <= _DEVICE_SHARE * free_bytes]
    return plans[fitting[0] if fitting else -1 :]


def needed_bytes(net: VideoNet, frames: tuple[int, int, int], plan: Plan) -> int:
    """About how much memory a device needs for streaming, beside the states that wait in a store; rather too much.

    Args:
        net: a DSTNet or DSTNetPlus.
        frames: batch, height and width.
        plan: how they are restored.
    """
    batch, height, width = frames
    config = net.config
    channels = max(config['num_feat'], config.get('prop_feat') or 0)
    one_map = batch * channels * next(net.parameters()).element_size() // 4  # at half size, for each pixel of a frame
    always = _PYRAMID if 'num_kernel_block' in config else 0
    blocks = config.get('num_cwgdn', 0)
    whole = height * width * one_map
    given = _FRAMES * 3 * batch * height * width * next(net.parameters()).element_size()
    if plan.tile is None:
        return given + (_WHOLE + blocks + always) * whole
    tile = min(height, plan.tile.height + _TILE_EDGES) * min(width, plan.tile.width + _TILE_EDGES) * one_map
    between = _BETWEEN + blocks if plan.maps == 'device' else _ON_HOST
    return given + (between + always) * whole + _WHOLE * tile


def free_memory() -> int:
    """Bytes of main memory that this process can still get; a guess where the system does not tell."""
    try:
        lines = Path('/proc/meminfo').read_text(encoding='ascii').splitlines()
        available = 1024 * int(next(line for line in lines if line.startswith('MemAvailable:')).split()[1])
    except (OSError, StopIteration, ValueError):
        return _physical_memory() // 2 or _UNKNOWN
    return min(available, _container_memory())


def _container_memory() -> int:
    """What a container's limit leaves."""
    folder = Path('/sys/fs/cgroup')
    try:
        limit, used = (int((folder / name).read_text()) for name in ('memory.max', 'memory.current'))
    except (OSError, ValueError):  # there is none: 'max'
        return 1 << 62
    return max(limit - used, 0)


def _physical_memory() -> int:
    try:
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (AttributeError, OSError, ValueError):
        return 0


def device_memory(device: torch.device) -> int:
    """Bytes that this process can still get on a device."""
    if device.type != 'cuda':
        return free_memory()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by PyTorch, and unused
    return torch.cuda.mem_get_info(device)[0] + kept


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held so far: on a GPU of its memory, else of main memory; 0 if unknown."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path('/proc/self/status').read_text(encoding='ascii').splitlines()
        return 1024 * int(next(line for line in status if line.startswith('VmHWM:')).split()[1])
    except (OSError, StopIteration, ValueError):
        return 0

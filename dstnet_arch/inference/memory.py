"""How much memory there is, and what of it the states of a stream may take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from dstnet_arch.inference.stores import StoreKind

_SHARE = 0.5  # of the free memory that states may take; networks, frames and other programs need some, too
_UNKNOWN = 4 << 30  # bytes taken for free on systems that do not tell


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


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held so far: on a GPU of its memory, else of main memory; 0 if unknown."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path('/proc/self/status').read_text(encoding='ascii').splitlines()
        return 1024 * int(next(line for line in status if line.startswith('VmHWM:')).split()[1])
    except (OSError, StopIteration, ValueError):
        return 0

"""Where tensors wait: on the device, in main memory, or in a temporary file."""

from __future__ import annotations

import os
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import IO, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from dstnet_arch.errors import DataError

StoreKind = Literal['device', 'host', 'disk']

_BLOCK_BYTES = 256 << 20
_BLOCK_TENSORS = 256


class TensorFile:
    """A sequence of tensors in a temporary file that has no name, and so vanishes with the process however that ends.

    The file is written and read, not mapped: a full disk then is an error message, not a signal that ends the process,
    and its pages do not count as memory of this process.

    Args:
        folder: where the file lies; None: the system's folder for temporary files.

    Raises:
        DataError: there can be no file.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._folder = os.fspath(folder or tempfile.gettempdir())
        self._places: list[tuple[int, _Layout]] = []  # offset
        try:
            # Unbuffered: what is written is large, and what does not fit on the disk is known at once.
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=self._folder, prefix='dstnet-', buffering=0)  # noqa: SIM115
        except OSError as error:
            raise DataError(
                f'There can be no temporary file in {self._folder}: {error}. Name another folder for temporary files.'
            ) from None
        weakref.finalize(self, self._file.close)

    def append(self, tensor: Tensor) -> int:
        """Write a tensor of any shape, type and device; returns its number.

        Raises:
            DataError: it cannot be written, for instance because the disk is full.
        """
        layout = _Layout.of(tensor)
        self._places.append((self._file.seek(0, os.SEEK_END), layout))
        data = _bytes_of(tensor.detach().cpu().contiguous(memory_format=layout.memory_format))
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            self._places.pop()
            raise DataError(
                f'The temporary file in {self._folder} cannot be written: {error}. It needs more room: name another '
                'folder for temporary files, or free some space.'
            ) from None
        return len(self._places) - 1

    def __getitem__(self, number: int) -> Tensor:
        """The tensor of that number, on the CPU."""
        offset, layout = self._places[number]
        tensor = layout.empty()
        data = _bytes_of(tensor)
        self._file.seek(offset)
        while data:
            count = self._file.readinto(data)  # type: ignore[attr-defined]
            if not count:
                raise DataError(f'The temporary file in {self._folder} has been cut short.')
            data = data[count:]
        return tensor

    def __len__(self) -> int:
        return len(self._places)

    def clear(self) -> None:
        """Give the room back; the sequence is empty after that."""
        self._places.clear()
        self._file.truncate(0)

    def close(self) -> None:
        """Remove the file."""
        self._places.clear()
        self._file.close()


def spool(frames: Iterable[Tensor], folder: str | os.PathLike[str] | None = None) -> TensorFile:
    """Write frames that come once to a temporary file, so that they can be read again in any order.

    Args:
        frames: as they come, from a camera, say.
        folder: as for `TensorFile`.

    Raises:
        DataError: as `TensorFile`.
    """
    file = TensorFile(folder)
    try:
        for frame in frames:
            file.append(frame)
    except BaseException:
        file.close()
        raise
    return file


class Store(ABC):
    """Features (N, C, H, W) by frame number: each is put once and taken once."""

    @abstractmethod
    def put(self, number: int, tensor: Tensor) -> None:
        """Keep a tensor.

        Raises:
            DataError: there is no room for it on the disk.
        """

    @abstractmethod
    def take(self, number: int) -> Tensor:
        """The tensor, on the device that it came from. It is kept no longer.

        Raises:
            KeyError: it was not put, or has been taken.
        """

    @abstractmethod
    def __len__(self) -> int:
        """How many are kept."""

    @abstractmethod
    def close(self) -> None:
        """Forget everything."""


class DeviceStore(Store):
    """Tensors stay as and where they are."""

    def __init__(self) -> None:
        self._kept: dict[int, Tensor] = {}

    def put(self, number: int, tensor: Tensor) -> None:
        self._kept[number] = tensor

    def take(self, number: int) -> Tensor:
        return self._kept.pop(number)

    def __len__(self) -> int:
        return len(self._kept)

    def close(self) -> None:
        self._kept.clear()


class HostStore(Store):
    """Tensors in main memory, page-locked where they come from a CUDA device, so that nothing waits for the copies.

    They lie in large blocks. Kept one by one between the temporary tensors of the computation, they would leave gaps
    that nothing else fits into, and PyTorch rounds page-locked memory up to powers of two.
    """

    def __init__(self) -> None:
        self._kept: dict[int, Tensor] = {}
        self._free: dict[_Layout, list[Tensor]] = {}
        self._device = torch.device('cpu')

    def put(self, number: int, tensor: Tensor) -> None:
        self._device = tensor.device
        layout = _Layout.of(tensor)
        free = self._free.setdefault(layout, [])
        if not free:
            count = min(max(1, _BLOCK_BYTES // tensor.nbytes), _BLOCK_TENSORS)
            free += layout.empty(count, pin_memory=tensor.is_cuda).split(len(tensor))
        self._kept[number] = free.pop().copy_(tensor, non_blocking=True)

    def take(self, number: int) -> Tensor:
        # All copies are in one CUDA stream, which keeps their order: the place can be used again at once.
        place = self._kept.pop(number)
        self._free[_Layout.of(place)].append(place)
        return place.to(self._device, non_blocking=True, copy=True)

    def __len__(self) -> int:
        return len(self._kept)

    def close(self) -> None:
        self._kept.clear()
        self._free.clear()


class DiskStore(Store):
    """Tensors in a `TensorFile`, whose room is reused once all of them have been taken.

    Args:
        folder: as for `TensorFile`.

    Raises:
        DataError: as `TensorFile`.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._file = TensorFile(folder)
        self._numbers: dict[int, int] = {}
        self._device = torch.device('cpu')

    def put(self, number: int, tensor: Tensor) -> None:
        self._device = tensor.device
        self._numbers[number] = self._file.append(tensor)

    def take(self, number: int) -> Tensor:
        tensor = self._file[self._numbers.pop(number)].to(self._device)
        if not self._numbers:
            self._file.clear()
        return tensor

    def __len__(self) -> int:
        return len(self._numbers)

    def close(self) -> None:
        self._numbers.clear()
        self._file.close()


def make_store(kind: StoreKind, folder: str | os.PathLike[str] | None = None) -> Store:
    """A new, empty store.

    Args:
        kind: which.
        folder: as for `TensorFile`.

    Raises:
        ValueError: there is no such kind.
        DataError: as `TensorFile`.
    """
    if kind == 'disk':
        return DiskStore(folder)
    if kind not in get_args(StoreKind):
        raise ValueError(f'store can be {", ".join(get_args(StoreKind))}; got {kind!r}.')
    return {'host': HostStore, 'device': DeviceStore}[kind]()


class _Layout(NamedTuple):
    """All of a dense tensor but its values. Convolutions are fastest in the memory format that they made."""

    shape: torch.Size
    dtype: torch.dtype
    memory_format: torch.memory_format

    @classmethod
    def of(cls, tensor: Tensor) -> _Layout:
        channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        return cls(tensor.shape, tensor.dtype, memory_format)

    def empty(self, count: int = 1, pin_memory: bool = False) -> Tensor:
        """Room on the CPU for so many tensors in a row, along the first dimension."""
        shape = (count * self.shape[0], *self.shape[1:])
        return torch.empty(shape, dtype=self.dtype, memory_format=self.memory_format, pin_memory=pin_memory)


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a tensor that is contiguous in one of the two formats."""
    if not tensor.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.view(-1).view(torch.uint8).numpy().data

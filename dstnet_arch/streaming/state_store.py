"""Storage of tensors on the device, in main memory or in a temporary file."""

from __future__ import annotations

import os
import tempfile
import weakref
from typing import IO, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from dstnet_arch.errors import DataError

StoreKind = Literal['device', 'host', 'disk']

_BLOCK_BYTES = 256 << 20
_BLOCK_TENSORS = 256


class TensorFile:
    """Sequence of tensors in an unnamed temporary file, which vanishes when the process ends for any reason.

    The file is written and read, not memory-mapped: a full disk then raises an error instead of a signal, and its pages
    do not count as memory of this process.

    Args:
        folder: folder of the file; None: the system's folder for temporary files.

    Raises:
        DataError: The file cannot be created.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._folder = os.fspath(folder or tempfile.gettempdir())
        self._places: list[tuple[int, _Layout]] = []  # offset
        try:
            # Unbuffered: tensors are large, and a full disk shows at once.
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=self._folder, prefix='dstnet-', buffering=0)  # noqa: SIM115
        except OSError as error:
            raise DataError(
                f'Cannot create a temporary file in {self._folder}: {error}. Name another folder for temporary files.'
            ) from None
        weakref.finalize(self, self._file.close)

    def append(self, tensor: Tensor) -> int:
        """Write a tensor of any shape, type and device; return its number.

        Raises:
            DataError: It cannot be written, for example because the disk is full.
        """
        layout = _Layout.of(tensor)
        data = _bytes_of(tensor.detach().cpu().contiguous(memory_format=layout.memory_format))
        offset = self._file.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise DataError(
                f'Cannot write the temporary file in {self._folder}: {error}. Free some space, or name another folder '
                'for temporary files.'
            ) from None
        self._places.append((offset, layout))
        return len(self._places) - 1

    def __getitem__(self, number: int) -> Tensor:
        """Return the tensor of that number, on the CPU."""
        offset, layout = self._places[number]
        tensor = layout.empty()
        data = _bytes_of(tensor)
        self._file.seek(offset)
        while data:
            count = self._file.readinto(data)  # type: ignore[attr-defined]
            if not count:
                raise DataError(f'The temporary file in {self._folder} was truncated by another program.')
            data = data[count:]
        return tensor

    def __len__(self) -> int:
        return len(self._places)

    def clear(self) -> None:
        """Remove all tensors and free their space."""
        self._places.clear()
        self._file.truncate(0)

    def close(self) -> None:
        """Delete the file."""
        self._places.clear()
        self._file.close()


class StateStore:
    """Features (N, C, H, W) by frame number: each is put once and taken once.

    In main memory, tensors that come from a CUDA device are pinned, so that copies run asynchronously. They are
    allocated in large blocks: single ones would fragment memory between the temporary tensors of the computation, and
    PyTorch rounds pinned memory up to powers of two. The space of a file is freed whenever all tensors have been taken.

    Args:
        kind: where tensors are kept: on the 'device' that they come from, in 'host' memory or on 'disk'.
        folder: as for `TensorFile`.

    Raises:
        ValueError: `kind` is unknown.
        DataError: as `TensorFile`.
    """

    def __init__(self, kind: StoreKind, folder: str | os.PathLike[str] | None = None) -> None:
        if kind not in get_args(StoreKind):
            raise ValueError(f'store must be one of {", ".join(get_args(StoreKind))}; got {kind!r}.')
        self._kind = kind
        self._file = TensorFile(folder) if kind == 'disk' else None
        self._places: dict[int, Tensor | int] = {}  # on disk, the number in the file
        self._free: dict[_Layout, list[Tensor]] = {}
        self._device = torch.device('cpu')

    def put(self, number: int, tensor: Tensor) -> None:
        """Store a tensor.

        Raises:
            DataError: The disk is full.
        """
        self._device = tensor.device
        if self._file is not None:
            self._places[number] = self._file.append(tensor)
        elif self._kind == 'host':
            self._places[number] = self._allocate(tensor).copy_(tensor, non_blocking=True)
        else:
            self._places[number] = tensor

    def take(self, number: int) -> Tensor:
        """Remove a tensor and return it on its original device."""
        place = self._places.pop(number)
        if not isinstance(place, Tensor):
            assert self._file is not None
            tensor = self._file[place].to(self._device)
            if not self._places:
                self._file.clear()
            return tensor
        if self._kind == 'device':
            return place
        # All copies are in one CUDA stream, which keeps their order: the memory can be reused at once.
        self._free[_Layout.of(place)].append(place)
        return place.to(self._device, non_blocking=True, copy=True)

    def __len__(self) -> int:
        return len(self._places)

    def close(self) -> None:
        """Free all memory and files."""
        self._places.clear()
        self._free.clear()
        if self._file is not None:
            self._file.close()

    def _allocate(self, tensor: Tensor) -> Tensor:
        layout = _Layout.of(tensor)
        free = self._free.setdefault(layout, [])
        if not free:
            count = min(max(1, _BLOCK_BYTES // tensor.nbytes), _BLOCK_TENSORS)
            free += layout.empty(count, pinned=tensor.is_cuda).split(len(tensor))
        return free.pop()


class _Layout(NamedTuple):
    """Layout of a dense tensor. Convolutions are fastest in the memory format that they produced."""

    shape: torch.Size
    dtype: torch.dtype
    memory_format: torch.memory_format

    @classmethod
    def of(cls, tensor: Tensor) -> _Layout:
        channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        return cls(tensor.shape, tensor.dtype, memory_format)

    def empty(self, count: int = 1, pinned: bool = False) -> Tensor:
        """Allocate `count` tensors on the CPU, concatenated along the first dimension; pageable if pinning fails."""
        shape = (count * self.shape[0], *self.shape[1:])
        try:
            return torch.empty(shape, dtype=self.dtype, memory_format=self.memory_format, pin_memory=pinned)
        except RuntimeError:
            if not pinned:
                raise
        return torch.empty(shape, dtype=self.dtype, memory_format=self.memory_format)


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return the memory of a tensor that is contiguous in one of the two formats."""
    if not tensor.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.view(-1).view(torch.uint8).numpy().data

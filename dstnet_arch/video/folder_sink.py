"""Folder of PNG files as a result."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from torch import Tensor
from typing_extensions import override

from dstnet_arch.data.frame_source import IMAGE_EXTENSIONS
from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.video.images import write_png
from dstnet_arch.video.sink import MAX_NAME, Job, Sink
from dstnet_arch.video.source import Source

_SAVE_SECONDS = 30.0  # between the points from which an interrupted run can continue


class FolderSink(Sink):
    """Folder of PNG files.

    Args:
        output: the folder, which must not exist or be empty.
        source: source of the frames.
        job: see `Sink`.
        resume: see `Sink`.
        overwrite: replace a folder of images, and what an interrupted run has left.

    Raises:
        OptionsError: see `Sink`.
        DataError: see `Sink`.
    """

    def __init__(self, output: Path, source: Source, job: Job, resume: bool = False, overwrite: bool = False) -> None:
        self._source = source
        self._latest: tuple[int, Tensor] | None = None  # point to resume at
        self._complete_before: tuple[int, Tensor] | None = None  # the same, with all frames before it written
        self._saved = time.monotonic()
        self.warnings, self.description = [], 'PNG files'
        if too_long := [name for name in source.names if len(os.fsencode(name)) + 4 > MAX_NAME]:
            raise OptionsError(f'The file name {too_long[0]}.png is too long. Rename the input.')
        super().__init__(output, len(source), job, resume, overwrite)

    @override
    def save(self, position: int, state: Tensor) -> None:
        if self._latest is not None and position - len(self._pending) >= self._latest[0]:
            self._complete_before = self._latest
        self._latest = position, state
        if position == self._count or time.monotonic() - self._saved > _SAVE_SECONDS:
            self._save()

    @override
    def close(self) -> None:
        with suppress(DataError):
            self._save()
        super().close()

    def _save(self) -> None:
        try:
            self._wait()
        except DataError:
            self._latest = self._complete_before
            raise
        finally:
            if self._latest is not None:
                with self._explained():
                    self._store_state(*self._latest)
                self._latest, self._saved = None, time.monotonic()

    def _make_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(2, thread_name_prefix='write')

    def _write(self, position: int, restored: Tensor) -> None:
        image = self._source.restored_image(position, restored)
        size = write_png(image, self._path(position), self._source.icc_profile(position))
        if position == self.position:
            self._check_space((self._count - position - 1) * size // 2)

    def _is_stored(self, count: int) -> bool:
        stored = {entry.name for entry in self._frames.iterdir()}
        return all(self._path(position).name in stored for position in range(count))

    def _complete(self) -> None:
        if not self._is_stored(self._count):
            raise DataError(f'Frames have vanished from {self._frames}. Start again with --overwrite.')
        if self._overwrite and self._target.exists():
            os.rename(self._target, self._partial / 'replaced')
        elif self._target.exists():
            self._target.rmdir()  # it is empty
        os.rename(self._frames, self._target)

    def _path(self, position: int) -> Path:
        return self._frames / f'{self._source.names[position]}.png'

    def _check_target(self) -> None:
        if not self._target.is_dir():
            if os.path.lexists(self._target):
                raise OptionsError(f'{self._target} is a file. Give a folder for the restored frames.')
            return
        if self._target.is_symlink():
            raise OptionsError(
                f'{self._target} is a link, which a folder cannot replace. Give {self._target.resolve()} itself.'
            )
        entries = list(self._target.iterdir())
        if entries and not self._overwrite:
            raise OptionsError(f'{self._target} is not empty. Give another folder, or --overwrite to replace it.')
        other = [e.name for e in entries if e.suffix.lower() not in IMAGE_EXTENSIONS or not e.is_file()]
        if other:
            raise OptionsError(
                f'{self._target} is not replaced, because {other[0]} in it is not an image and would be lost. Give '
                'another folder, or empty this one.'
            )

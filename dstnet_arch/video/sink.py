"""Results on disk, and folders of PNG files as results.

A result gets its name when it is complete. Until then, and after an interruption, it is in `<name>.partial` next to it,
from which a later run continues.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from typing_extensions import override

from dstnet_arch.data.frame_source import IMAGE_EXTENSIONS
from dstnet_arch.errors import DataError, OptionsError, first_line
from dstnet_arch.files import atomic_file, read_json
from dstnet_arch.video.images import write_png
from dstnet_arch.video.source import Source

MAX_NAME = 255
"""Bytes in a file name in most file systems."""

Job = Mapping[str, Any]
"""Settings that determine a result; names are shown to the user, values are JSON."""

_SUFFIX, _LOCK, _JOB = '.partial', 'lock', 'job.json'
_SAVE_SECONDS = 30.0  # between the points from which an interrupted run into a folder continues


class NonfiniteError(DataError):
    """A restored frame, that at `position`, has values that are not finite."""

    def __init__(self, position: int) -> None:
        super().__init__(f'Frame {position} has values that are not finite.')
        self.position = position


class Sink(ABC):
    """Result on disk. The arguments are those of `open_sink`, which names the errors.

    Attributes:
        position: number of frames that an interrupted run has completed.
        state: state of the stream at `position`; None at 0.
        warnings: what the user should know.
        description: one line on the format.
    """

    warnings: list[str]
    description: str
    _num_threads: int

    def __init__(self, output: Path, source: Source, job: Job, resume: bool = False, overwrite: bool = False) -> None:
        self._source, self._job, self._overwrite = source, dict(job), overwrite
        self._target = Path(os.path.abspath(output))
        self._partial = partial_path(self._target)
        self._frames, self._state_file = self._partial / 'frames', self._partial / 'state.pt'
        self._job_file = self._partial / _JOB
        self.position: int = 0
        self.state: Tensor | None = None
        resumes = resume and self._job_file.exists()
        if not resumes:
            self._check_free()
        with self._explained():
            self._partial.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._partial / _LOCK)
            try:
                self._lock.acquire(blocking=False)
            except Timeout:
                raise DataError(f'Another process is writing {self._partial}. Wait until it has ended.') from None
            try:
                self._continue() if resumes else self._begin()
            except BaseException:
                self._lock.release()
                raise
        self._pending: deque[Future[None]] = deque()
        self._pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix='write')

    @property
    def partial(self) -> Path | None:
        """Folder from which a later run can continue; None if nothing is stored yet."""
        return self._partial if self._state_file.exists() else None

    def write(self, position: int, restored: Tensor) -> None:
        """Write a restored frame (3, H, W), RGB in [0, 1], in a thread. Frames come in order.

        Raises:
            NonfiniteError: this frame or one before has values that are not finite.
            DataError: this frame or one before cannot be written.
        """
        self._pending.append(self._pool.submit(self._check_and_write, position, restored))
        self._wait(at_most=4)

    def save(self, position: int, state: Tensor) -> None:
        """Offer a point to resume at: `state` is that of the stream before frame `position`, which comes next.

        Call this after each frame. It is cheap, because only some points are stored.

        Raises:
            DataError: frames or the state cannot be written.
        """
        if position == len(self._source) or self._is_due(position):
            self._store_state(position, state)

    def finish(self) -> None:
        """Complete the result and give it its name. All frames must be written.

        Raises:
            DataError: frames cannot be written, or the result cannot be completed.
        """
        self._wait()
        with self._explained():
            self._check_target()
            self._complete()
        self._lock.release()
        _remove(self._partial)

    def close(self) -> None:
        """Stop. What is not finished stays for a later run."""
        self._pool.shutdown()
        self._lock.release()
        if not self._state_file.exists() and self._job_file.exists():
            _remove(self._partial)

    @abstractmethod
    def _is_due(self, position: int) -> bool:
        """True if a run should be able to resume at `position`."""

    @abstractmethod
    def _write(self, position: int, restored: Tensor) -> None: ...

    @abstractmethod
    def _is_stored(self, count: int) -> bool:
        """True if the first `count` frames are stored."""

    @abstractmethod
    def _check_target(self) -> None:
        """Raise OptionsError if the result cannot have its name."""

    @abstractmethod
    def _complete(self) -> None: ...

    def _check_and_write(self, position: int, restored: Tensor) -> None:
        if not torch.isfinite(restored).all():  # here, because it waits for the device
            raise NonfiniteError(position)
        self._write(position, restored)

    def _store_state(self, position: int, state: Tensor) -> None:
        self._wait()
        content = io.BytesIO()  # torch.save does not always report that a disk is full
        torch.save({'position': position, 'state': state.cpu()}, content)
        with self._explained(), atomic_file(self._state_file) as file:
            file.write(content.getbuffer())

    def _wait(self, at_most: int = 0) -> None:
        with self._explained():
            while self._pending and (len(self._pending) > at_most or self._pending[0].done()):
                self._pending[0].result()  # a failed write stays first in the queue
                self._pending.popleft()

    def _begin(self) -> None:
        _remove(self._partial, keep_lock=True)
        with atomic_file(self._job_file) as file:
            file.write(json.dumps({'overwrite': self._overwrite, **self._job}, indent=2).encode())
        self._frames.mkdir()

    def _continue(self) -> None:
        try:
            job = read_json(self._job_file)
            self._overwrite = job.pop('overwrite')
            position, state = 0, None
            if self._state_file.exists():
                saved = torch.load(self._state_file, map_location='cpu', weights_only=True)
                position, state = int(saved['position']), saved['state']
        except Exception as error:  # damaged bytes can raise anything
            raise DataError(
                f'{self._partial} is damaged ({first_line(error)}). Start again with --overwrite.'
            ) from None
        ours = json.loads(json.dumps(self._job))
        if changed := [key for key in {**ours, **job} if job.get(key) != ours.get(key)]:
            was = '; '.join(f'{key}: {job.get(key)}, now {ours.get(key)}' for key in changed)
            raise OptionsError(
                f'{self._partial} was left by a run with other settings ({was}). Use the same input and settings to '
                'resume it, or --overwrite to start again.'
            )
        self._frames.mkdir(exist_ok=True)
        if self._is_stored(position):
            self.position, self.state = position, state

    def _check_free(self) -> None:
        self._check_target()
        if self._partial.exists():
            if not _is_ours(self._partial):
                raise OptionsError(f'{self._partial} exists and was not made by this command. Move it away.')
            if self._job_file.exists() and not self._overwrite:
                raise OptionsError(
                    f'An interrupted run has left {self._partial}. Give --resume to continue it, or --overwrite to '
                    'start again.'
                )

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._partial).free
        if free < needed:
            raise DataError(
                f'{self._target.parent} has {free / 1e9:.1f} GB free, but the result needs at least '
                f'{needed / 1e9:.1f} GB. Free some space or write to another disk.'
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f'{self._partial} cannot be written: {error}. When this is corrected, run the same command with '
                '--resume; finished frames are kept.'
            ) from None


class FolderSink(Sink):
    """Folder of PNG files. With `overwrite`, it replaces a folder that contains only images."""

    _num_threads = 2

    def __init__(self, output: Path, source: Source, job: Job, resume: bool = False, overwrite: bool = False) -> None:
        self.warnings, self.description = [], 'PNG files'
        self._saved = time.monotonic()
        self._latest: tuple[int, Tensor] | None = None  # point to resume at
        if too_long := [name for name in source.names if len(os.fsencode(name)) + 4 > MAX_NAME]:
            raise OptionsError(f'The file name {too_long[0]}.png is too long. Rename the input.')
        super().__init__(output, source, job, resume, overwrite)

    @override
    def save(self, position: int, state: Tensor) -> None:
        self._latest = position, state
        super().save(position, state)

    @override
    def close(self) -> None:
        if self._latest is not None and self._partial.exists():
            with suppress(DataError):
                self._store_state(*self._latest)
        super().close()

    def _is_due(self, position: int) -> bool:
        if time.monotonic() - self._saved < _SAVE_SECONDS:
            return False
        self._saved = time.monotonic()
        return True

    def _write(self, position: int, restored: Tensor) -> None:
        image = self._source.restored_image(position, restored)
        size = write_png(image, self._path(position), self._source.icc_profile(position))
        if position == self.position:
            self._check_space((len(self._source) - position - 1) * size // 2)

    def _is_stored(self, count: int) -> bool:
        stored = {entry.name for entry in self._frames.iterdir()}
        return all(self._path(position).name in stored for position in range(count))

    def _complete(self) -> None:
        if not self._is_stored(len(self._source)):
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
        for entry in entries:
            if entry.suffix.lower() not in IMAGE_EXTENSIONS or not entry.is_file():
                raise OptionsError(
                    f'{self._target} is not replaced, because {entry.name} in it is not an image and would be lost. '
                    'Give another folder, or empty this one.'
                )


def partial_path(target: Path) -> Path:
    """Return the folder in which a result is made."""
    name = target.name + _SUFFIX
    if len(os.fsencode(name)) > MAX_NAME:
        digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
        name = f'{target.name[:40]}-{digest}{_SUFFIX}'
    return target.with_name(name)


def tidy(partial: Path) -> None:
    """Remove what a run has left that ended between naming its result and tidying up."""
    if partial.is_dir() and _is_ours(partial):
        _remove(partial)


def _is_ours(partial: Path) -> bool:
    names = {entry.name for entry in partial.iterdir()}
    return not names or bool(names & {_LOCK, _JOB})


def _remove(partial: Path, keep_lock: bool = False) -> None:
    with suppress(OSError):
        for entry in partial.iterdir():
            if entry.name != _LOCK:  # it goes last: it marks what is left after a kill as ours
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    if not keep_lock:
        shutil.rmtree(partial, ignore_errors=True)

"""Interface of a result on disk.

A result gets its name when it is complete. Until then, and after an interruption, it is in `<name>.partial` beside it,
from which a later run continues.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
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

from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.files import atomic_file, incomplete_path, read_json

PARTIAL_SUFFIX = '.partial'
MAX_NAME = 255
"""Bytes in a file name in most file systems."""

_JOB, _LOCK = 'job.json', 'lock'
_BEFORE_THE_JOB = {_LOCK, incomplete_path(Path(_JOB)).name}
"""Files of a run that ended before it had noted its job."""

Job = Mapping[str, Any]
"""Settings that determine a result; names are shown to the user, values are JSON."""


class Sink(ABC):
    """Result on disk.

    Args:
        output: the result.
        count: number of frames.
        job: only a run of the same job continues what an interrupted run has left.
        resume: continue what an interrupted run has left, if it has.
        overwrite: replace an older result and what an interrupted run has left.

    Attributes:
        position: number of frames that an interrupted run has completed.
        state: state of the stream at `position`; None at 0.
        warnings: what the user should know.
        description: one line on the format.

    Raises:
        OptionsError: the result exists, or an interrupted run of another job is in the way.
        DataError: the result cannot be written, or another process is writing it.
    """

    warnings: list[str]
    description: str

    def __init__(self, output: Path, count: int, job: Job, resume: bool = False, overwrite: bool = False) -> None:
        self._target = Path(os.path.abspath(output))
        self._partial = partial_path(self._target)
        self._frames, self._state_file = self._partial / 'frames', self._partial / 'state.pt'
        self._job_file = self._partial / _JOB
        self._count, self._job, self._overwrite = count, dict(job), overwrite
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
        self._pool = self._make_pool()

    @property
    def partial(self) -> Path | None:
        """Folder from which a later run can continue; None if nothing is stored yet."""
        return self._partial if self._state_file.exists() else None

    def write(self, position: int, restored: Tensor) -> None:
        """Write a restored frame (3, H, W), RGB in [0, 1], in a thread. Frames come in order.

        Raises:
            DataError: this frame or one before cannot be written.
        """
        self._pending.append(self._pool.submit(self._write, position, restored))
        self._wait(at_most=4)

    @abstractmethod
    def save(self, position: int, state: Tensor) -> None:
        """Offer a point to resume at: `state` is that of the stream before frame `position`.

        Call this after each frame. It is cheap, because only some points are stored.

        Raises:
            DataError: frames or the state cannot be written.
        """

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
        if not self._state_file.exists() and (self._partial / _JOB).exists():
            _remove(self._partial)

    @abstractmethod
    def _make_pool(self) -> ThreadPoolExecutor: ...

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

    def _store_state(self, position: int, state: Tensor) -> None:
        content = io.BytesIO()  # torch.save does not always report that a disk is full
        torch.save({'position': position, 'state': state.cpu()}, content)
        with atomic_file(self._state_file) as file:
            file.write(content.getbuffer())

    def _wait(self, at_most: int = 0) -> None:
        with self._explained():
            while self._pending and (len(self._pending) > at_most or self._pending[0].done()):
                self._pending[0].result()  # a failed write stays first in the queue
                self._pending.popleft()

    def _begin(self) -> None:
        for entry in self._partial.iterdir():
            if entry.name != _LOCK:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        with atomic_file(self._job_file) as file:
            file.write(json.dumps({'overwrite': self._overwrite, **self._job}, indent=2).encode())
        self._frames.mkdir()

    def _continue(self) -> None:
        try:
            job = read_json(self._job_file)
            self._overwrite = job.pop('overwrite')
        except (ValueError, KeyError):
            raise DataError(f'{self._job_file} is damaged. Start again with --overwrite.') from None
        ours = json.loads(json.dumps(self._job))
        if changed := [key for key in {**ours, **job} if job.get(key) != ours.get(key)]:
            was = '; '.join(f'{key}: {job.get(key)}, now {ours.get(key)}' for key in changed)
            raise OptionsError(
                f'{self._partial} was left by a run with other settings ({was}). Use the same input and settings to '
                'resume it, or --overwrite to start again.'
            )
        self._frames.mkdir(exist_ok=True)
        if self._state_file.exists():
            try:
                saved = torch.load(self._state_file, map_location='cpu', weights_only=True)
                position, state = int(saved['position']), saved['state']
            except Exception:  # damaged bytes can raise anything
                raise DataError(f'{self._state_file} is damaged. Start again with --overwrite.') from None
            if self._is_stored(position):
                self.position, self.state = position, state

    def _check_free(self) -> None:
        self._check_target()
        if self._partial.exists() and not _is_bare(self._partial):
            if not self._job_file.exists():
                raise OptionsError(f'{self._partial} exists and was not made by this command. Move it away.')
            if not self._overwrite:
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
                f'{self._partial} cannot be written: {error}. Finished frames are kept. When this is corrected, run '
                'the same command with --resume.'
            ) from None


def partial_path(target: Path) -> Path:
    """Return the folder in which a result is made."""
    name = target.name + PARTIAL_SUFFIX
    if len(os.fsencode(name)) > MAX_NAME:
        digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
        name = f'{target.name[:40]}-{digest}{PARTIAL_SUFFIX}'
    return target.with_name(name)


def tidy(partial: Path) -> None:
    """Remove what a run has left that ended between naming its result and tidying up."""
    if partial.is_dir() and ((partial / _JOB).exists() or _is_bare(partial)):
        _remove(partial)


def _is_bare(partial: Path) -> bool:
    return {entry.name for entry in partial.iterdir()} <= _BEFORE_THE_JOB


def _remove(partial: Path) -> None:
    """Remove what a run has used. The job goes last: it marks what is left after a kill as ours."""
    with suppress(OSError):
        for entry in partial.iterdir():
            if entry.name != _JOB:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.rmtree(partial, ignore_errors=True)

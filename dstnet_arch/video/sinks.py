"""Where restored videos go. A result gets its name when it is whole. Until then, and after a run that was interrupted,
it is in `<name>.partial` beside, from which a later run goes on.

Here: a folder of PNG files. The sink for video files is in `video_sink`, which needs PyAV.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from dstnet_arch.data.frame_source import IMAGE_EXTENSIONS
from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.files import atomic_file, incomplete_path, read_json
from dstnet_arch.video.images import Picture, write_png
from dstnet_arch.video.sources import Source

PARTIAL_SUFFIX = '.partial'

_JOB, _LOCK = 'job.json', 'lock'
_BEFORE_THE_JOB = {_LOCK, incomplete_path(Path(_JOB)).name}
"""All that a run can leave that was ended before it had noted its job."""

Job = Mapping[str, Any]
"""What determines a result, by names that its user knows; values as JSON has them."""

Made = TypeVar('Made')


class Sink(ABC, Generic[Made]):
    """Takes the frames of one result, each as a `Made`.

    Attributes:
        position: how many frames an interrupted run has left.
        state: the state of its stream there; None at 0.
    """

    position: int
    state: Tensor | None

    @abstractmethod
    def write(self, position: int, make: Callable[[], Made]) -> None:
        """Have a frame made and written, perhaps by another thread. Frames come in order.

        Raises:
            DataError: it, or one before, cannot be written.
        """

    @abstractmethod
    def save(self, position: int, state: Tensor) -> None:
        """When the frames before `position` are written, note that a later run can go on there.

        Raises:
            DataError: it cannot be noted, or frames cannot be written.
        """

    @abstractmethod
    def finish(self) -> None:
        """When all frames are written, give the result its name.

        Raises:
            DataError: frames cannot be written, or the result not be named.
        """

    @abstractmethod
    def close(self) -> None:
        """End the work. What is not finished stays for a later run."""


class FileSink(Sink[Made]):
    """A result on disk: what all of them have in common.

    Args:
        target: the result; there is nothing of that name, or nothing in it.
        count: of frames.
        job: only a run of the same job goes on with what this one leaves.
        resume: go on with what an interrupted run has left, if there is anything.
        overwrite: replace an older result, and what an interrupted run has left.

    Raises:
        OptionsError: there is something already; or, to go on with, something of another job.
        DataError: the result cannot be begun, or another process is at work on it.
    """

    def __init__(self, target: Path, count: int, job: Job, resume: bool = False, overwrite: bool = False):
        self._target = Path(os.path.abspath(target))
        if not self._target.name:
            raise OptionsError(f'{target} cannot be replaced by a result. Give another name.')
        self._partial = self._target.with_name(self._target.name + PARTIAL_SUFFIX)
        self._frames, self._state_file = self._partial / 'frames', self._partial / 'state.pt'
        self._job_file = self._partial / _JOB
        self._count, self._job, self._overwrite = count, dict(job), overwrite
        self.position, self.state = 0, None
        going_on = resume and self._job_file.exists()
        if not going_on:
            self._check_free()
        with self._explained():
            self._partial.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._partial / _LOCK)
            try:
                self._lock.acquire(blocking=False)
            except Timeout:
                raise DataError(f'Another process is at work on {self._partial}: wait until it has ended.') from None
            try:
                self._go_on() if going_on else self._begin()
            except BaseException:
                self._lock.release()
                raise
        self._pool = ThreadPoolExecutor(2, thread_name_prefix='write')
        self._pending: deque[Future[None]] = deque()

    @abstractmethod
    def _keep(self, position: int, made: Made) -> None:
        """Write a frame, in a thread. Raises OSError."""

    @abstractmethod
    def _missing(self, count: int) -> list[str]:
        """What is not there of the first frames; of a kind that a user understands."""

    @abstractmethod
    def _check_target(self) -> None:
        """Whether the result can have its name, and may replace what has it now.

        Raises:
            OptionsError: no.
        """

    @abstractmethod
    def _complete(self) -> None:
        """Give the result, all of whose frames are there, its name. Raises OSError."""

    def write(self, position: int, make: Callable[[], Made]) -> None:
        self._pending.append(self._pool.submit(lambda: self._keep(position, make())))
        self._wait(at_most=4)

    def save(self, position: int, state: Tensor) -> None:
        self._wait()
        content = io.BytesIO()  # written to a file, torch.save would not always say that a disk is full
        torch.save({'position': position, 'state': state.cpu()}, content)
        with self._explained(), atomic_file(self._state_file) as file:
            file.write(content.getbuffer())

    def finish(self) -> None:
        self._wait()
        with self._explained():
            if missing := self._missing(self._count):
                raise DataError(f'{missing[0]} has vanished from {self._frames}. Begin again with --overwrite.')
            self._check_target()
            self._complete()
        self._lock.release()
        _remove(self._partial)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._lock.release()
        if self._frames.is_dir() and not any(self._frames.iterdir()) and not self._state_file.exists():
            _remove(self._partial)

    def _wait(self, at_most: int = 0) -> None:
        with self._explained():
            while len(self._pending) > at_most:
                self._pending[0].result()  # a failure stays the first in the row, so that nothing after it counts
                self._pending.popleft()

    def _begin(self) -> None:
        for leftover in (self._frames, self._partial / 'replaced'):
            if leftover.exists():
                shutil.rmtree(leftover)
        self._state_file.unlink(missing_ok=True)
        with atomic_file(self._job_file) as file:
            file.write(json.dumps({'overwrite': self._overwrite, **self._job}, indent=2).encode())
        self._frames.mkdir()

    def _go_on(self) -> None:
        try:
            job = read_json(self._job_file)
            self._overwrite = job.pop('overwrite')
        except (ValueError, KeyError):
            raise DataError(f'{self._job_file} is damaged. Begin again with --overwrite.') from None
        ours = json.loads(json.dumps(self._job))
        if changed := [key for key in {**ours, **job} if job.get(key) != ours.get(key)]:
            was = '; '.join(f'{key}: {job.get(key)}, now {ours.get(key)}' for key in changed)
            raise OptionsError(
                f'{self._partial} was left by a run that was another one ({was}). Give the same input and settings to '
                'go on with it, or --overwrite to begin again.'
            )
        self._frames.mkdir(exist_ok=True)
        if self._state_file.exists():
            try:
                saved = torch.load(self._state_file, map_location='cpu', weights_only=True)
                position, state = int(saved['position']), saved['state']
            except Exception:  # damaged bytes can raise anything
                raise DataError(f'{self._state_file} is damaged. Begin again with --overwrite.') from None
            if not self._missing(position):
                self.position, self.state = position, state

    def _check_free(self) -> None:
        """Nothing must be lost that was not made for this result."""
        self._check_target()
        if self._partial.exists() and not _is_bare(self._partial):
            if not self._job_file.exists():
                raise OptionsError(f'{self._partial} is in the way, and was not made by this command. Move it away.')
            if not self._overwrite:
                raise OptionsError(
                    f'An interrupted run has left {self._partial}. Give --resume to go on with it, or --overwrite to '
                    'begin again.'
                )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f'{self._partial} cannot be written: {error}. What is there stays: when there is room and '
                'permission to write, run the same command with --resume, or with --overwrite to begin again.'
            ) from None


class PictureSink(FileSink[Picture]):
    """PNG files in a folder of their own.

    Args:
        target: the folder; there is nothing in it.
        names: of the files, without extension.
        job: as for `FileSink`.
        resume: as for `FileSink`.
        overwrite: replace a folder of pictures, and what an interrupted run has left.

    Raises:
        OptionsError: as `FileSink`.
        DataError: as `FileSink`.
    """

    def __init__(self, target: Path, names: Sequence[str], job: Job, resume: bool = False, overwrite: bool = False):
        self._names = list(names)
        super().__init__(target, len(names), job, resume, overwrite)

    def _keep(self, position: int, made: Picture) -> None:
        write_png(made, self._path(position))

    def _missing(self, count: int) -> list[str]:
        there = {entry.name for entry in self._frames.iterdir()} if self._frames.is_dir() else set()
        return [path.name for path in map(self._path, range(count)) if path.name not in there]

    def _complete(self) -> None:
        if self._overwrite and self._target.exists():
            os.rename(self._target, self._partial / 'replaced')
        elif self._target.exists():
            self._target.rmdir()  # there was nothing in it
        os.rename(self._frames, self._target)

    def _path(self, position: int) -> Path:
        return self._frames / f'{self._names[position]}.png'

    def _check_target(self) -> None:
        if not self._target.is_dir():
            if os.path.lexists(self._target):
                raise OptionsError(f'{self._target} is a file; the restored frames need a folder of their own.')
            return
        if self._target.is_symlink():
            raise OptionsError(
                f'{self._target} is a link, and a folder cannot take its place. Give {self._target.resolve()} itself.'
            )
        entries = list(self._target.iterdir())
        if entries and not self._overwrite:
            raise OptionsError(
                f'{self._target} exists, and there is something in it. Give another folder, or --overwrite to '
                'replace it.'
            )
        other = [e.name for e in entries if e.suffix.lower() not in IMAGE_EXTENSIONS or not e.is_file()]
        if other:
            raise OptionsError(
                f'{self._target} is not replaced: {other[0]} in it is no picture, and would be lost. Give another '
                'folder, or empty this one.'
            )


def is_finished(target: Path, names: Sequence[str]) -> bool:
    """Whether a folder holds PNG files of these names and nothing else, and no run is at work on another result.

    Removes what a run has left that was ended between naming its result and tidying up.
    """
    partial = Path(os.path.abspath(target) + PARTIAL_SUFFIX)
    if not target.is_dir() or (partial / 'frames').exists():
        return False
    finished = sorted(entry.name for entry in target.iterdir()) == sorted(f'{name}.png' for name in names)
    if finished and partial.is_dir() and ((partial / _JOB).exists() or _is_bare(partial)):
        _remove(partial)
    return finished


def _is_bare(partial: Path) -> bool:
    return {entry.name for entry in partial.iterdir()} <= _BEFORE_THE_JOB


def _remove(partial: Path) -> None:
    """Remove what a run has used. The job goes last: by it, what is left after a kill is known to be ours."""
    with suppress(OSError):
        for entry in partial.iterdir():
            if entry.name != _JOB:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.rmtree(partial, ignore_errors=True)


# The interface that replaces all of the above but `PARTIAL_SUFFIX`; for now on top of it.


@dataclass(frozen=True)
class OutputOptions:
    """How a video file is encoded.

    Attributes:
        codec: FFmpeg's name of an encoder; None: chosen from the container and the bit depth.
        quality: value on the codec's own scale (CRF for most); None: visually lossless.
        pix_fmt: FFmpeg's name of a pixel format; None: the input's, where the codec supports it.
        container: FFmpeg's name of a container; None: chosen from the extension.
    """

    codec: str | None = None
    quality: int | None = None
    pix_fmt: str | None = None
    container: str | None = None


def check_output_name(output: Path) -> None:
    """Check that a result can have this name, without opening anything.

    Raises:
        OptionsError: the extension is not supported, or the name is a URL.
    """
    if output.suffix.lower() in IMAGE_EXTENSIONS and not output.is_dir():
        raise OptionsError(
            f'-o {output}: an image file cannot hold a video. Use a folder (a name without extension), or '
            f'{output.stem}.mp4.'
        )


def open_sink(
    output: Path,
    source: Source,
    options: OutputOptions,
    job: Job,
    resume: bool = False,
    overwrite: bool = False,
) -> ResultSink:
    """Open a folder of PNG files or a video file for writing, depending on `output`."""
    return ResultSink(output, source, options, job, resume, overwrite)


def is_complete(output: Path, source: Source) -> bool:
    """True if `output` already holds all frames of `source` and no interrupted run is left."""
    from dstnet_arch.video.remux import count_frames
    from dstnet_arch.video.sources import VIDEO_EXTENSIONS

    if output.suffix.lower() not in VIDEO_EXTENSIONS or output.is_dir():
        return is_finished(output, source.names)
    if not output.is_file() or output.with_name(output.name + PARTIAL_SUFFIX).exists():
        return False
    return count_frames(output) == (len(source), source.size)


class ResultSink:
    """Writes restored frames to a folder or a video file."""

    def __init__(
        self, output: Path, source: Source, options: OutputOptions, job: Job, resume: bool, overwrite: bool
    ) -> None:
        from dstnet_arch.video.sources import VIDEO_EXTENSIONS

        check_output_name(output)
        self.warnings: list[str] = []
        self.description = 'PNG files'
        self._sink: FileSink[Any]
        self._render: Callable[[int, Tensor], Any]
        if output.suffix.lower() in VIDEO_EXTENSIONS and not output.is_dir():
            from dstnet_arch.video.encoder import choose_encoding, container_name
            from dstnet_arch.video.video_sink import VideoSink

            encoding = choose_encoding(
                output, source, options.codec, options.quality, options.pix_fmt, options.container
            )
            container = container_name(output, options.container)
            sink = VideoSink(output, source, encoding, container, job, resume, overwrite)
            self.warnings = encoding.losses(source) + sink.warnings
            self.description = f'{encoding.describe()}, {float(source.timing.rate):g} fps'
            self._sink, self._render = sink, partial(encoding.planes, source)
        else:
            self._sink = PictureSink(output, source.names, job, resume, overwrite)
            self._render = source.restored_image
        self.position, self.state = self._sink.position, self._sink.state

    @property
    def partial(self) -> Path | None:
        """Folder of the finished frames of an interrupted run; None if nothing is stored."""
        return self._sink._partial if self._sink._partial.exists() else None

    def write(self, position: int, restored: Tensor) -> None:
        """Write a restored frame (3, H, W). Frames come in order."""
        self._sink.write(position, partial(self._render, position, restored))

    def save(self, position: int, state: Tensor) -> None:
        """Note that a later run can continue at `position` with this state."""
        self._sink.save(position, state)

    def finish(self) -> None:
        """Complete the result."""
        self._sink.finish()

    def close(self) -> None:
        """End the work. What is not finished stays for a later run."""
        self._sink.close()

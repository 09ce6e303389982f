"""Results on disk: a folder of PNG files or a video file.

A result gets its name when it is complete. Until then, and after an interruption, it is in `<name>.partial` beside it,
from which a later run continues.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from typing_extensions import override

from dstnet_arch.data.frame_source import IMAGE_EXTENSIONS
from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.files import atomic_file, incomplete_path, read_json
from dstnet_arch.video.image_source import ImageSource, PageSource
from dstnet_arch.video.images import write_png
from dstnet_arch.video.join import count_frames
from dstnet_arch.video.source import Source
from dstnet_arch.video.sources import VIDEO_EXTENSIONS

PARTIAL_SUFFIX = '.partial'

_NOT_WRITTEN = ('.gif', '.ogv', '.y4m')  # read only
_JOB, _LOCK = 'job.json', 'lock'
_BEFORE_THE_JOB = {_LOCK, incomplete_path(Path(_JOB)).name}
"""Files of a run that ended before it had noted its job."""

_MAX_NAME = 255  # bytes in most file systems
_SAVE_SECONDS = 30.0

Job = Mapping[str, Any]
"""Settings that determine a result; names are shown to the user, values are JSON."""


@dataclass(frozen=True)
class OutputOptions:
    """How a video file is encoded.

    Attributes:
        codec: FFmpeg's name of an encoder; None: chosen from the container and the bit depth.
        quality: value on the codec's own scale (CRF for most); None: visually lossless.
        pix_fmt: FFmpeg's name of a pixel format; None: the input's, if the codec supports it.
        container: FFmpeg's name of a container; None: chosen from the extension.
    """

    codec: str | None = None
    quality: int | None = None
    pix_fmt: str | None = None
    container: str | None = None


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
        if too_long := [name for name in source.names if len(os.fsencode(name)) + 4 > _MAX_NAME]:
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


def open_sink(
    output: Path, source: Source, options: OutputOptions, job: Job, resume: bool = False, overwrite: bool = False
) -> Sink:
    """Open a folder of PNG files or a video file for writing.

    Everything that can be tested before the first frame is tested here: name, permissions, disk space, codec, container
    and the other streams.

    Args:
        output: a video file or a folder; its extension decides.
        source: source of the frames.
        options: for video files.
        job: settings that determine the frames, see `Sink`.
        resume: continue what an interrupted run has left, if it has.
        overwrite: replace an older result and what an interrupted run has left.

    Raises:
        OptionsError: the output exists, is the input, or the options do not fit.
        DataError: the output cannot be written.
    """
    check_output_name(output)
    if isinstance(source, ImageSource) and output.resolve() in {path.resolve().parent for path in source.paths}:
        raise OptionsError(f'-o {output}: the input is in this folder. Give another folder.')
    files = [source.path, *(source.paths if isinstance(source, PageSource) else ())]
    if output.exists() and any(file is not None and output.samefile(file) for file in files):
        raise OptionsError(f'-o {output}: this is the input. Give another name.')
    if output.is_dir() or (output.suffix.lower() not in VIDEO_EXTENSIONS and options.container is None):
        return FolderSink(output, source, job, resume, overwrite)
    from dstnet_arch.video.video_sink import VideoSink

    return VideoSink(output, source, options, job, resume, overwrite)


def check_output_name(output: Path) -> None:
    """Check that a result can have this name, without opening anything.

    Raises:
        OptionsError: the extension is not supported, or the name is a URL or too long.
    """
    if re.match(r'[a-zA-Z][a-zA-Z0-9+.-]+:/', str(output)):
        raise OptionsError(f'-o {output}: results are written to local files. Give a file or a folder.')
    if not Path(os.path.abspath(output)).name:
        raise OptionsError(f'-o {output} cannot be replaced by a result. Give another name.')
    if len(os.fsencode(output.name)) > _MAX_NAME:
        raise OptionsError(f'-o {output}: the name is longer than {_MAX_NAME} bytes. Give a shorter one.')
    extension = output.suffix.lower()
    if extension in IMAGE_EXTENSIONS and not output.is_dir():
        raise OptionsError(
            f'-o {output}: frames are written to a folder or to a video file. Give {output.stem} or {output.stem}.mp4.'
        )
    if extension in _NOT_WRITTEN and not output.is_dir():
        raise OptionsError(f'-o {output}: {extension} files are not written. Use .mp4, .mov, .mkv or .webm.')


def is_complete(output: Path, source: Source) -> bool:
    """Return True if `output` already holds all frames of `source` and no interrupted run is left.

    Removes what a run has left that ended between naming its result and tidying up.
    """
    partial = partial_path(Path(os.path.abspath(output)))
    if (partial / 'frames').exists():
        return False
    if output.is_dir():
        names = sorted(f'{name}.png' for name in source.names)
        complete = sorted(entry.name for entry in output.iterdir()) == names
    else:
        complete = output.is_file() and count_frames(output) == (len(source), source.size)
    if complete and partial.is_dir() and ((partial / _JOB).exists() or _is_bare(partial)):
        _remove(partial)
    return complete


def partial_path(target: Path) -> Path:
    """Return the folder in which a result is made."""
    name = target.name + PARTIAL_SUFFIX
    if len(os.fsencode(name)) > _MAX_NAME:
        digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
        name = f'{target.name[:40]}-{digest}{PARTIAL_SUFFIX}'
    return target.with_name(name)


def _is_bare(partial: Path) -> bool:
    return {entry.name for entry in partial.iterdir()} <= _BEFORE_THE_JOB


def _remove(partial: Path) -> None:
    """Remove what a run has used. The job goes last: it marks what is left after a kill as ours."""
    with suppress(OSError):
        for entry in partial.iterdir():
            if entry.name != _JOB:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.rmtree(partial, ignore_errors=True)

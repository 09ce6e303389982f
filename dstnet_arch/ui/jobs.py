"""The queue of ``dstnet ui``: videos that are restored one after the other, in a thread."""

from __future__ import annotations

import re
import shutil
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dstnet_arch.data.frame_source import IMAGE_EXTENSIONS
from dstnet_arch.deblur.config import DeblurConfig
from dstnet_arch.deblur.run import DeblurResult, StoppedError, run
from dstnet_arch.errors import DSTNetError, OptionsError, counted, first_line, printable
from dstnet_arch.progress import duration, remaining, say
from dstnet_arch.video.sink import partial_path

PICTURES = 'PNG pictures'
FORMATS = ('as the input', '.mp4', '.mov', '.mkv', PICTURES)
"""Choices of the format of results."""

_WRITTEN_AS_READ = ('.mp4', '.mov', '.mkv', '.webm')

State = Literal['waiting', 'running', 'finished', 'stopped', 'failed']


@dataclass
class Job:
    """One video of the queue.

    Attributes:
        title: its name for the user.
        config: the settings.
        state: where it is in the queue.
        message: the progress, the result or the error, in one sentence.
        fraction: how much of the current stage is done, from 0 to 1.
        result: result of the run.
    """

    title: str
    config: DeblurConfig
    state: State = 'waiting'
    message: str = ''
    fraction: float = 0.0
    result: DeblurResult | None = None
    _stage: tuple[float, int, int] = field(default=(0.0, 0, 0), repr=False)  # begin, steps done then, all steps

    def step(self, stage: str, done: int, total: int) -> None:
        """Receive the progress of the run."""
        begin, first, of_total = self._stage
        if total != of_total or done <= first:
            begin, first, _ = self._stage = time.monotonic(), done, total
        left = remaining(time.monotonic() - begin, done - first, total - first)
        self.fraction = done / total
        self.message = f'{stage}: {done} of {total} steps' + (f', {left} left' if left else '')


class Jobs:
    """Restores videos one after the other.

    Args:
        output: folder of the results.
        work: folder for temporary files.
        device: PyTorch's name of the device; None: a GPU if there is one.
    """

    def __init__(self, output: Path, work: Path, device: str | None = None) -> None:
        self.output, self.work = output, work
        self._device = device
        self._jobs: list[Job] = []
        self._num_added = 0
        self._changed = threading.Condition()
        self._stop = False  # the running job
        self._closed = False
        self._thread = threading.Thread(target=self._work, name='deblur', daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs))

    def add(self, files: Sequence[str], weights: str, precision: str | None, save_as: str = FORMATS[0]) -> list[Job]:
        """Add videos to the queue.

        Args:
            files: videos, each of which is a job, and pictures, which are the frames of one video. Uploads are moved.
            weights: name of released weights, or a file.
            precision: see `DeblurConfig`.
            save_as: one of `FORMATS`.

        Raises:
            OptionsError: a file does not exist, or there are none.
        """
        paths = [Path(file) for file in files]
        if missing := [path.name for path in paths if not path.is_file()]:
            raise OptionsError(f'{missing[0]} is no longer available. Drop it again.')
        if not paths:
            raise OptionsError('Drop a video or pictures first.')
        pictures = [path for path in paths if path.suffix.lower() in IMAGE_EXTENSIONS]
        groups = [[path] for path in paths if path not in pictures]
        if len({path.name for path in pictures}) < len(pictures):
            raise OptionsError('Two pictures have the same name. Their names are the order of the frames: rename one.')
        return [self._add_job(group, weights, precision, save_as) for group in [*groups, pictures] if group]

    def _add_job(self, paths: list[Path], weights: str, precision: str | None, save_as: str) -> Job:
        self._num_added += 1
        folder = self.work / f'input_{self._num_added}'
        folder.mkdir()
        for path in paths:
            (shutil.move if self.work in path.parents else shutil.copy2)(path, folder / path.name)
        several, first = len(paths) > 1, paths[0]
        is_video = first.suffix.lower() not in IMAGE_EXTENSIONS
        if save_as == FORMATS[0]:
            extension = first.suffix.lower() if first.suffix.lower() in _WRITTEN_AS_READ else '.mp4'
            save_as = extension if is_video else PICTURES
        config = DeblurConfig(
            input=str(folder if several else folder / first.name),
            output=self._free_name(first.stem, '' if save_as == PICTURES else save_as),
            weights=weights,
            device=self._device,
            precision=precision,
            resume=True,  # after stop
            report=True,
            temp_dir=str(self.work),
        )
        title = f'{first.name} and {len(paths) - 1} more' if several else first.name
        job = Job(title, config)
        with self._changed:
            self._jobs.append(job)
        return job

    def _free_name(self, stem: str, extension: str) -> Path:
        taken = {job.config.output.name for job in self._jobs} | {path.name for path in self.output.iterdir()}
        number = 1
        while True:
            name = f'{stem}_deblurred{f"_{number}" if number > 1 else ""}'
            if not any(other == name or other.startswith((f'{name}.', f'{name}_report.')) for other in taken):
                return self.output / f'{name}{extension}'
            number += 1

    def start(self) -> None:
        """Start waiting jobs, and continue stopped ones."""
        with self._changed:
            for job in self._jobs:
                if job.state == 'stopped':
                    job.state, job.message = 'waiting', ''
            self._stop = False
            self._changed.notify_all()

    def stop(self) -> None:
        """Stop the running job and those that wait; finished frames are kept."""
        with self._changed:
            self._stop = True
            for job in self._jobs:
                if job.state == 'waiting':
                    job.state, job.message = 'stopped', 'Start continues it.'

    def clear(self) -> None:
        """Remove all jobs but the running and the waiting ones, their inputs and unfinished frames; keep results."""
        with self._changed:
            gone = [job for job in self._jobs if job.state not in ('running', 'waiting')]
            self._jobs = [job for job in self._jobs if job not in gone]
        for job in gone:
            path = Path(job.config.input)
            shutil.rmtree(path if path.parent == self.work else path.parent, ignore_errors=True)
            shutil.rmtree(partial_path(job.config.output), ignore_errors=True)

    def close(self) -> None:
        """Stop; delete inputs and unfinished results."""
        self.stop()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self.clear()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next() is not None)
                job = self._next()
                if job is None:
                    return
                job.state, job.message, job.fraction = 'running', 'loading weights and input', 0.0
            self._restore(job)

    def _next(self) -> Job | None:
        return next((job for job in self._jobs if job.state == 'waiting'), None) if not self._stop else None

    def _restore(self, job: Job) -> None:
        try:
            result = run(job.config, job.step, lambda: self._stop, lambda line: say(printable(line)))
        except StoppedError:
            job.state, job.message = 'stopped', 'Stopped: Start continues it.'
        except DSTNetError as error:
            job.state, job.message = 'failed', first_sentence(error).replace(job.config.input, job.title)
        except Exception as error:  # an error of ours or of a library
            traceback.print_exc()
            job.state, job.message = 'failed', f'Unexpected error: {type(error).__name__}: {first_line(error)}'
        else:
            job.result = result
            done = f'{counted(result.frames, "frame")} in {duration(result.seconds)}.'
            message = ' '.join([done, *result.warnings]).replace(job.config.input, job.title)
            job.state, job.message = 'finished', message


def first_sentence(error: Exception) -> str:
    """Return the first sentence of an error's message: the others tell how to change a command line."""
    return re.split(r'(?<=\.)\s', printable(str(error)).strip(), maxsplit=1)[0].replace('\n', ' ')

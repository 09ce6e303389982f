"""What is killed: training, conversion and deblurring, each compared with a run that was not killed."""

from __future__ import annotations

import os
import random
import runpy
import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from project import NAME, contents, differences, make_project, make_videos, run_folder

CHECKPOINT_SECONDS = 0.004
"""Time to write a checkpoint of the small network."""


class Place(NamedTuple):
    """Where to kill.

    Attributes:
        name: for the report.
        event: 'open', 'os.rename', 'os.remove' or 'shutil.rmtree'; '' for a random time since the start.
        pattern: of the file's path, for `fnmatch`.
        most: one of the first so many occurrences is chosen.
        delay: longest delay after it, in seconds; None for no delay, 0 for the time that the work takes.
    """

    name: str
    event: str = ''
    pattern: str = ''
    most: int = 1
    delay: float | None = None


class Job(ABC):
    """Work that makes a folder and can be continued after a kill.

    Attributes:
        name: for the report.
        places: where to kill it.
        most_kills: in one run.
    """

    name: str
    places: Sequence[Place]
    most_kills = 8

    @abstractmethod
    def prepare(self, folder: Path) -> None:
        """Make the input in `folder`, and import what all forked processes share."""

    @abstractmethod
    def work(self, output: Path) -> None:
        """Make `output`, or continue to make it. May end with SystemExit."""

    @abstractmethod
    def after_kill(self, output: Path, rng: random.Random) -> str:
        """Return what the kill has left, for the report. May damage it."""

    def check_log(self, log: str) -> Iterator[str]:
        """Return faults that the log of a start shows."""
        return iter(())

    def faults(self, output: Path, reference: Path) -> Iterator[str]:
        """Return the differences between a result and one that was made without kills."""
        yield from differences(contents(output), contents(reference))


class Training(Job):
    """``python -m basicsr.train --auto_resume``; checkpoints are sometimes truncated between two starts."""

    name = 'training'
    most_kills = 14
    _weights, _states = '*/models/.net_g_*.incomplete', '*/training_states/.*.incomplete'
    places = (
        Place('any time'),
        *[Place('any time in training', 'open', '*/train_tiny_*.log', delay=0)] * 3,
        Place('while weights are written', 'open', _weights, most=5, delay=CHECKPOINT_SECONDS),
        Place('before weights are renamed', 'os.rename', _weights, most=5),
        Place('between weights and state', 'open', _states, most=5),
        Place('while a state is written', 'open', _states, most=5, delay=CHECKPOINT_SECONDS),
        Place('before a state is renamed', 'os.rename', _states, most=5),
        Place('in validation, restoring', 'open', '*/data/val/blurry/*.png', most=16, delay=0.05),
        Place('in validation, images', 'open', '*/visualization/*.incomplete', most=16, delay=0.002),
        Place('in validation, tables', 'os.rename', '*/scores/*.incomplete', most=6),
        Place('at the start', 'open', '*train.yml', delay=0.3),
        Place('while the last weights are written', 'open', '*/.net_g_latest.pth.incomplete', delay=CHECKPOINT_SECONDS),
    )

    def prepare(self, folder: Path) -> None:
        import basicsr.train  # noqa: F401

        self._had_states = False
        self._damaged = ''

    def work(self, output: Path) -> None:
        from dstnet_arch.errors import DSTNetError, message_of

        if not output.exists():  # renamed when complete: a kill can come before training begins
            make_project(output.with_suffix('.made')).rename(output)
        workers = f'datasets:train:num_worker_per_gpu={random.SystemRandom().choice((0, 0, 1))}'
        sys.argv = ['basicsr.train', '-opt', 'train.yml', '--auto_resume', '--force_yml', workers]
        os.chdir(output)
        try:
            runpy.run_module('basicsr.train', run_name='__main__', alter_sys=True)
        except DSTNetError as error:
            print(message_of(error), file=sys.stderr)
            sys.exit(2)

    def after_kill(self, output: Path, rng: random.Random) -> str:
        time.sleep(1)  # the names of folders that BasicSR moves away have a resolution of one second
        states = self._existing(output)
        left = [path.parent.name for path in run_folder(output).rglob('.*.incomplete')]
        self._had_states = bool(states)
        if len(states) >= 2 and rng.random() < 0.25:  # as a power cut may do
            path = states[-1]
            if rng.random() < 0.5:
                path = run_folder(output) / 'models' / f'net_g_{path.stem}.pth'
            with path.open('r+b') as file:
                file.truncate(rng.randrange(path.stat().st_size))
            self._damaged = path.name
        found = f'an incomplete file in {left[0]}' if left else 'no incomplete file'
        return f'{found}, checkpoint truncated' if self._damaged else found

    def check_log(self, log: str) -> Iterator[str]:
        if 'Start training' not in log:
            return
        if self._had_states and 'Resuming training' not in log:
            yield 'not resumed, although there were checkpoints'
        if self._damaged and not ('Trying the one before.' in log and self._damaged in log):
            yield f'no warning about the damaged {self._damaged}'
        self._damaged = ''

    def faults(self, output: Path, reference: Path) -> Iterator[str]:
        self._had_states, self._damaged = False, ''  # the next run starts from the beginning
        folders = ('models', 'training_states', 'scores', 'visualization')
        yield from differences(*(contents(run_folder(root), *folders) for root in (output, reference)))

    def _existing(self, output: Path) -> list[Path]:
        found = (output / 'experiments' / NAME / 'training_states').glob('[0-9]*.state')
        return sorted(found, key=lambda path: int(path.stem))


class Conversion(Job):
    """``python -m data_prep gopro``."""

    name = 'conversion'
    places = (
        Place('any time'),
        Place('any time'),
        Place('while headers are read', 'open', '*/raw/*.png', most=96, delay=0.02),
        Place('while frames are copied', 'open', '*/.source_files.tsv.incomplete', most=4, delay=0.1),
        Place('before the record of sources is renamed', 'os.rename', '*/.source_files.tsv.incomplete', most=4),
        Place('before meta_info.txt is renamed', 'os.rename', '*/.meta_info.txt.incomplete', most=4),
        Place('before dataset_info.json is renamed', 'os.rename', '*/.dataset_info.json.incomplete', most=4),
        Place('before an LMDB is renamed', 'os.rename', '*.lmdb.partial', most=4),
    )

    def prepare(self, folder: Path) -> None:
        import tqdm  # noqa: F401

        import data_prep.convert  # noqa: F401

        self._source = folder / 'raw'
        for seed, split in enumerate(('train', 'test')):
            made = folder / f'{split}_made'
            make_videos(made, num_video=2, num_frame=12, size=(48, 64), seed=seed)
            for kind, name in {'blurry': 'blur', 'sharp': 'sharp'}.items():
                for video in sorted((made / kind).iterdir()):
                    (self._source / split / video.name).mkdir(parents=True, exist_ok=True)
                    video.rename(self._source / split / video.name / name)
            shutil.rmtree(made)

    def work(self, output: Path) -> None:
        from data_prep import lmdb_writer
        from data_prep.__main__ import main

        lmdb_writer.IMAGES_PER_THREAD = 1  # so that a kill leaves some frames
        sys.exit(main(['gopro', str(self._source), '-o', str(output), '--threads', '2']))

    def after_kill(self, output: Path, rng: random.Random) -> str:
        return 'a partial LMDB' if output.exists() and list(output.glob('*.partial')) else 'no partial LMDB'


class Deblurring(Job):
    """``dstnet deblur --resume``, from images to images."""

    name = 'deblur'
    places = (
        Place('any time'),
        Place('any time'),
        Place('while the input is opened', 'open', '*/input/*', delay=0.05),
        Place('after the lock', 'open', '*.partial/lock', delay=0.002),
        Place('before the job is recorded', 'open', '*.partial/*job.json*'),
        Place('while a frame is written', 'open', '*/frames/*.incomplete', most=30, delay=0.003),
        Place('before a frame is renamed', 'os.rename', '*/frames/*.incomplete', most=30),
        Place('before a state is renamed', 'os.rename', '*.partial/*state*.incomplete', most=30),
        Place('before the result is renamed', 'os.rename', '*.partial/frames'),
        Place('after the result is renamed', 'os.rename', '*.partial/frames', delay=0.003),
        Place('while the rest is removed', 'shutil.rmtree', '*.partial'),
        Place('while the rest is removed', 'os.remove', '*'),
    )

    def prepare(self, folder: Path) -> None:
        import torch

        from dstnet_arch.archs.dstnet_arch import DSTNet
        from dstnet_arch.deblur import command  # noqa: F401

        make_videos(folder / 'made', num_video=1, num_frame=40, size=(16, 24))
        (folder / 'made' / 'blurry' / 'video0').rename(folder / 'input')
        torch.manual_seed(0)
        torch.save({'params': DSTNet(num_feat=8, num_block=1, num_cwgdn=1).state_dict()}, folder / 'net.pth')

    def work(self, output: Path) -> None:
        from dstnet_arch.__main__ import main
        from dstnet_arch.video import sink

        sink._SAVE_SECONDS = 0.05  # so that a kill leaves something to continue from
        arguments = ['input', '-o', output.name, '--weights', 'net.pth', '--device', 'cpu', '--resume']
        sys.exit(main(['deblur', *arguments]))

    def after_kill(self, output: Path, rng: random.Random) -> str:
        if output.exists():
            return 'the result'
        return 'frames' if any(_partial(output).glob('frames/[0-9]*.png')) else 'no frames'

    def faults(self, output: Path, reference: Path) -> Iterator[str]:
        yield from super().faults(output, reference)
        if _partial(output).exists():
            yield f'{_partial(output).name} was left'


def _partial(output: Path) -> Path:
    return output.with_name(f'{output.name}.partial')


JOBS = {job.name: job for job in (Training, Conversion, Deblurring)}

"""Kill `dstnet deblur --resume` at chosen and at random moments: the frames must be those of a run in one go."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from kill_job import Job, kill_job
from outcome import Outcome
from project import make_videos
from victims import Place, run_fresh

PLACES = (
    Place('any time'),
    Place('any time'),
    Place('while the input is looked at', 'open', '*/input/*', delay=0.05),
    Place('when the lock is there', 'open', '*.partial/lock', delay=0.002),
    Place('before the job is noted', 'open', '*.partial/*job.json*'),
    Place('while a frame is written', 'open', '*/frames/*.incomplete', most=30, delay=0.003),
    Place('before a frame gets its name', 'os.rename', '*/frames/*.incomplete', most=30),
    Place('before a state gets its name', 'os.rename', '*.partial/*state*.incomplete', most=30),
    Place('before the result gets its name', 'os.rename', '*.partial/frames'),
    Place('when the result has its name', 'os.rename', '*.partial/frames', delay=0.003),
    Place('while the rest is removed', 'shutil.rmtree', '*.partial'),
    Place('while the rest is removed', 'os.remove', '*'),
)


def kill_deblur(folder: Path, kills: int, seed: int, outcome: Outcome, say: Callable[[str], None]) -> None:
    """Restore a video again and again, each time with some kills, until there were so many, and compare."""
    from dstnet_arch.archs.dstnet_arch import DSTNet
    from dstnet_arch.deblur import command as deblur  # noqa: F401 - once, for all that are forked
    from dstnet_arch.deblur import restore  # noqa: F401

    make_videos(folder / 'made', num_video=1, num_frame=40, size=(16, 24))
    (folder / 'made' / 'blurry' / 'video0').rename(folder / 'input')
    torch.manual_seed(0)
    torch.save({'params': DSTNet(num_feat=8, num_block=1, num_cwgdn=1).state_dict()}, folder / 'net.pth')
    arguments = ['input', '--weights', 'net.pth', '--device', 'cpu', '--resume', '-o']
    start = time.monotonic()
    if run_fresh(['-m', 'dstnet_arch', 'deblur', *arguments, 'whole'], folder, folder / 'whole.log', None) != 0:
        raise RuntimeError(f'the run that nobody kills has failed: see {folder / "whole.log"}')
    seconds = (time.monotonic() - start) / 2
    wanted = _files(folder / 'whole')
    job = Job(
        name='deblur',
        places=PLACES,
        seconds=seconds,
        work=lambda output: _restoring([*arguments, output.name]),
        left=_left,
        faults=partial(_faults, wanted=wanted),
    )
    kill_job(job, folder, kills, seed, outcome, say)


def _restoring(arguments: list[str]) -> Callable[[], object]:
    def work() -> None:
        from dstnet_arch.__main__ import main
        from dstnet_arch.deblur import restore  # noqa: F401

        restore._SAVE_SECONDS = 0.05  # so that there is something to go on with
        sys.exit(main(['deblur', *arguments]))

    return work


def _left(output: Path) -> str:
    if output.exists():
        return 'with the result in place'
    done = any((_partial(output) / 'frames').glob('[0-9]*.png')) if _partial(output).exists() else False
    return 'with frames to go on with' if done else 'without frames'


def _faults(output: Path, wanted: dict[str, bytes]) -> Iterator[str]:
    if not output.is_dir() or _files(output) != wanted:
        yield 'the frames differ, or are not there'
    if _partial(output).exists():
        yield f'{_partial(output).name} was left'


def _partial(output: Path) -> Path:
    return output.with_name(f'{output.name}.partial')


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}

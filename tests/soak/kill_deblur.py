"""Kill `dstnet deblur --resume` at chosen and at random moments: the frames must be those of a run in one go."""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from outcome import Outcome
from project import make_videos
from victims import Place, Shot, aim, run_forked, run_fresh

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
    from dstnet_arch.inference import deblur, restore  # noqa: F401 - once, for all that are forked

    rng = random.Random(seed)
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
    places: list[Place] = []
    while outcome.kills.total() < kills:
        output = folder / f'run{outcome.runs}'
        last = 'nothing'
        for attempt in range(1000):
            shot: Shot | None = None
            if attempt < 8 and outcome.kills.total() < kills:
                places = places or rng.sample(PLACES, len(PLACES))
                shot = aim(places.pop(), rng, seconds)
            log = folder / f'{output.name}_{attempt}.log'
            status = run_forked(_restoring([*arguments, output.name]), folder, log, shot)
            if status == 0:
                break
            if status is not None or shot is None:
                tail = log.read_text()[-500:]
                outcome.faults.append(f'{output.name}: status {status} after a kill {last}: {tail}')
                break
            last = shot.place.name
            outcome.kills[shot.place.name] += 1
            partial = folder / f'{output.name}.partial'
            done = len(list((partial / 'frames').glob('[0-9]*.png'))) if partial.exists() else 0
            going_on = 'with frames to go on with' if done else 'without frames'
            outcome.found[going_on if not output.exists() else 'with the result in place'] += 1
        outcome.runs += 1
        found = []
        if not output.is_dir() or _files(output) != wanted:
            found.append(f'{output.name}: the frames differ, or are not there')
        if (folder / f'{output.name}.partial').exists():
            found.append(f'{output.name}.partial was left')
        outcome.faults += found
        say(f'deblur {output.name} has ended, {outcome.kills.total()} kills so far: {found or "equal"}')
        if not found:
            shutil.rmtree(output)


def _restoring(arguments: list[str]) -> Callable[[], object]:
    def work() -> None:
        from dstnet_arch.__main__ import main
        from dstnet_arch.inference import restore

        restore._SAVE_SECONDS = 0.05  # so that there is something to go on with
        sys.exit(main(['deblur', *arguments]))

    return work


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}

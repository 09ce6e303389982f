"""Kill `python -m data_prep gopro` at chosen and at random moments: the LMDBs must be those of a run in one go."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import lmdb
from kill_job import Job, kill_job
from outcome import Outcome
from project import make_videos
from victims import Place, run_forked

PLACES = (
    Place('any time'),
    Place('any time'),
    Place('while headers are read', 'open', '*/raw/*.png', most=96, delay=0.02),
    Place('while frames are copied', 'open', '*/.source_files.tsv.incomplete', most=4, delay=0.1),
    Place('before the record of sources gets its name', 'os.rename', '*/.source_files.tsv.incomplete', most=4),
    Place('before meta_info.txt gets its name', 'os.rename', '*/.meta_info.txt.incomplete', most=4),
    Place('before an LMDB gets its name', 'os.rename', '*.lmdb.partial', most=4),
    Place('before dataset_info.json gets its name', 'os.rename', '*/.dataset_info.json.incomplete'),
)
_FILES = ('meta_info.txt', 'source_files.tsv')


def kill_conversion(folder: Path, kills: int, seed: int, outcome: Outcome, say: Callable[[str], None]) -> None:
    """Convert again and again, each time with some kills, until there were so many, and compare with one go."""
    import tqdm  # noqa: F401 - once, for all that are forked

    import data_prep.convert  # noqa: F401

    source = folder / 'raw'
    for number, split in enumerate(('train', 'test')):
        _make_gopro(source / split, seed=number)
    whole = folder / 'whole'
    start = time.monotonic()
    if run_forked(_conversion(source, whole), folder, folder / 'whole.log', None) != 0:
        raise RuntimeError(f'the conversion that nobody kills has failed: see {folder / "whole.log"}')
    job = Job(
        name='conversion',
        places=PLACES,
        seconds=time.monotonic() - start,
        work=partial(_conversion, source),
        left=_left,
        faults=partial(_differences, reference=whole),
    )
    kill_job(job, folder, kills, seed, outcome, say)


def _make_gopro(folder: Path, seed: int) -> None:
    raw = folder.with_name(f'{folder.name}_made')
    make_videos(raw, num_video=2, num_frame=12, size=(48, 64), seed=seed)
    for kind, name in {'blurry': 'blur', 'sharp': 'sharp'}.items():
        for video in sorted((raw / kind).iterdir()):
            (folder / video.name).mkdir(parents=True, exist_ok=True)
            video.rename(folder / video.name / name)
    shutil.rmtree(raw)


def _conversion(source: Path, output: Path) -> Callable[[], object]:
    def work() -> None:
        from data_prep import lmdb_writer
        from data_prep.__main__ import main

        lmdb_writer.BATCH_BYTES = 30_000  # some frames, so that there is something to go on with
        sys.exit(main(['gopro', str(source), '-o', str(output), '--threads', '2']))

    return work


def _left(output: Path) -> str:
    names = [path.name for path in output.glob('*.partial')] if output.exists() else []
    return f'{names[0]} left' if names else 'nothing left half'


def _differences(output: Path, reference: Path) -> Iterator[str]:
    if not output.is_dir():
        yield 'there is nothing'
        return
    names = [sorted(path.name for path in folder.iterdir()) for folder in (output, reference)]
    if names[0] != names[1]:
        yield f'there are {names[0]}, not {names[1]}'
        return
    if (output / 'dataset_info.json').read_bytes() != (reference / 'dataset_info.json').read_bytes():
        yield 'dataset_info.json differs'
    for path in output.glob('*.lmdb'):
        yield from (
            f'{path.name}/{name} differs'
            for name in _FILES
            if (path / name).read_bytes() != (reference / path.name / name).read_bytes()
        )
        if _contents(path) != _contents(reference / path.name):
            yield f'{path.name} holds other frames'


def _contents(path: Path) -> dict[bytes, bytes]:
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as transaction:
        return dict(transaction.cursor())

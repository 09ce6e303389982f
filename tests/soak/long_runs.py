"""Let training and restoring run for long and look for what grows: memory, open files, processes, threads.

python tests/soak/long_runs.py
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from outcome import heading
from project import make_project, make_videos

os.environ.setdefault('OMP_NUM_THREADS', '1')

_WARM_UP = 0.2  # of a run: until then, caches fill and libraries are loaded


class Sample(NamedTuple):
    """A process and its children at one moment.

    Attributes:
        done: iterations or frames.
        memory: bytes that are not files' contents, those that two of them share counted once.
        files: open file handles.
        processes, threads: how many.
    """

    done: int
    memory: int
    files: int
    processes: int
    threads: int


def main() -> int:
    """Returns 0 where nothing grew but memory, of which there is a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--iterations', type=int, default=2000, help='of training; 0: none')
    parser.add_argument('--frames', type=int, default=10_000, help='to restore; 0: none')
    parser.add_argument('-o', '--output', type=Path, help='write the results to this JSON file')
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix='long-'))
    report: dict[str, Any] = heading()
    try:
        for name, run, count in (('training', train, args.iterations), ('deblur', deblur, args.frames)):
            if count:
                report[name] = run(folder, count)
                print(json.dumps({name: report[name]}, indent=2), flush=True)
    finally:
        shutil.rmtree(folder)
    if args.output:
        args.output.write_text(json.dumps(report, indent=2) + '\n')
    return 0


def train(folder: Path, iterations: int) -> dict[str, Any]:
    """Train with checkpoints and validations, a loading process among it."""
    project = make_project(folder / 'training', iterations, save_freq=iterations // 8, val_freq=iterations // 40)
    log = project / 'log'

    def done() -> int:
        found = re.findall(rb'iter: +([\d,]+)', log.read_bytes()[-2000:])
        return int(found[-1].replace(b',', b'')) if found else 0

    forced = ('datasets:train:num_worker_per_gpu=1', 'datasets:train:dataset_enlarge_ratio=20')
    arguments = ['-m', 'basicsr.train', '-opt', 'train.yml', '--force_yml', *forced]
    return {'iterations': iterations, **_watch(arguments, project, log, done)}


def deblur(folder: Path, frames: int) -> dict[str, Any]:
    """Restore a long video of tiny frames, with states at intervals, so that few of them are kept."""
    from dstnet_arch.archs.dstnet_arch import DSTNet

    work = folder / 'deblur'
    make_videos(work, num_video=1, num_frame=frames, size=(12, 16))
    torch.manual_seed(0)
    torch.save({'params': DSTNet(num_feat=8, num_block=1, num_cwgdn=1).state_dict()}, work / 'net.pth')

    def done() -> int:
        try:
            return sum(1 for _ in os.scandir(work / 'sharp.partial' / 'frames'))
        except OSError:  # not yet, or no longer
            return 0

    source = work / 'blurry' / 'video0'
    (work / 'sharp').rename(work / 'ground_truth')
    arguments = ['-m', 'dstnet_arch', 'deblur', str(source), '-o', 'sharp', '--weights', 'net.pth']
    result = _watch([*arguments, '--device', 'cpu', '--interval', 'sqrt'], work, work / 'log', done)
    made = len(list((work / 'sharp').iterdir()))
    if made != frames:
        raise RuntimeError(f'{made} frames were made of {frames}')
    return {'frames': frames, 'size': '16x12', **result}


def _watch(arguments: Sequence[str], folder: Path, log: Path, done: Callable[[], int]) -> dict[str, Any]:
    start = time.monotonic()
    samples: list[Sample] = []
    with log.open('wb') as output:
        process = subprocess.Popen([sys.executable, *arguments], cwd=folder, stdout=output, stderr=output)
        root = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                tree = [root, *root.children(recursive=True)]
                samples.append(
                    Sample(
                        done(),
                        sum(_memory(member.pid) for member in tree),
                        sum(member.num_fds() for member in tree),
                        len(tree),
                        sum(member.num_threads() for member in tree),
                    )
                )
            except (psutil.Error, OSError):  # one of them has just ended
                pass
            time.sleep(1)
    if process.returncode:
        raise RuntimeError(f'status {process.returncode}:\n{log.read_text()[-3000:]}')
    return {'seconds': round(time.monotonic() - start), **_summary(samples)}


def _memory(pid: int) -> int:
    """Bytes of a process' memory, those it shares with n others as an nth part (Linux).

    A loading process is a fork: what it shares with its parent becomes private page by page as either writes, so that
    private memory grows for long where nothing is held. Mapped files are left out, as others may let go of theirs.
    """
    found = re.findall(r'^Pss_(?:Anon|Shmem): +(\d+) kB$', Path(f'/proc/{pid}/smaps_rollup').read_text(), re.MULTILINE)
    return 1024 * sum(map(int, found))


def _summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """The slope of memory by least squares after the warm-up, and what was open then and at the end."""
    working = [sample for sample in samples if sample.done]
    last = working[-1].done
    # What is looked at when the last step is done may be coming to its end already.
    warm = [sample for sample in working if _WARM_UP * last <= sample.done < last]
    done, memory = (np.array([getattr(sample, name) for sample in warm], float) for name in ('done', 'memory'))
    slope = np.polyfit(done, memory, 1)[0]
    third = max(1, len(warm) // 3)
    return {
        'samples': len(warm),
        'memory_bytes_per_step': round(float(slope), 1),
        'memory_mb_first_third': round(float(np.median(memory[:third])) / 1e6, 1),
        'memory_mb_last_third': round(float(np.median(memory[-third:])) / 1e6, 1),
        'peak_mb': round(max(sample.memory for sample in samples) / 1e6, 1),
        **{
            name: {'after_warm_up': _typical(warm[:third], name), 'at_the_end': _typical(warm[-third:], name)}
            for name in ('files', 'processes', 'threads')
        },
    }


def _typical(samples: Sequence[Sample], name: str) -> int:
    """The median, as validations and checkpoints have files and threads of their own for a moment."""
    return int(np.median([getattr(sample, name) for sample in samples]))


if __name__ == '__main__':
    sys.exit(main())

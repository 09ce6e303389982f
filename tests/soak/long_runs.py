"""Run training and deblurring for long and report what grows: memory, open files, processes, threads.

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
from project import heading, make_project, make_videos

os.environ.setdefault('OMP_NUM_THREADS', '1')

_WARM_UP = 0.2  # share of a run in which caches fill and libraries are loaded


class Sample(NamedTuple):
    """A process and its children at one moment: steps done, bytes, open files, processes, threads."""

    done: int
    memory: int
    files: int
    processes: int
    threads: int


def train(folder: Path, iterations: int) -> dict[str, Any]:
    """Train with checkpoints, validations and one DataLoader worker."""
    project = make_project(folder / 'training', iterations, save_freq=iterations // 8, val_freq=iterations // 40)
    log = project / 'log'

    def done() -> int:
        found = re.findall(rb'iter: +([\d,]+)', log.read_bytes()[-2000:])
        return int(found[-1].replace(b',', b'')) if found else 0

    forced = ('datasets:train:num_worker_per_gpu=1', 'datasets:train:dataset_enlarge_ratio=20')
    arguments = ['-m', 'basicsr.train', '-opt', 'train.yml', '--force_yml', *forced]
    return {'iterations': iterations, **_watch(arguments, project, log, done)}


def deblur(folder: Path, frames: int) -> dict[str, Any]:
    """Deblur a long video of tiny frames."""
    from dstnet_arch.archs.dstnet_arch import DSTNet

    work = folder / 'deblur'
    make_videos(work, num_video=1, num_frame=frames, size=(12, 16))
    torch.manual_seed(0)
    torch.save({'params': DSTNet(num_feat=8, num_block=1, num_cwgdn=1).state_dict()}, work / 'net.pth')

    def done() -> int:
        try:
            return sum(1 for _ in os.scandir(work / 'out.partial' / 'frames'))
        except OSError:  # not created yet, or already renamed
            return 0

    arguments = ['-m', 'dstnet_arch', 'deblur', 'blurry/video0', '-o', 'out', '--weights', 'net.pth', '--device', 'cpu']
    result = _watch(arguments, work, work / 'log', done)
    assert len(list((work / 'out').iterdir())) == frames
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
                memory, files, threads = (
                    sum(values)
                    for values in zip(*((_memory(p.pid), p.num_fds(), p.num_threads()) for p in tree), strict=True)
                )
                samples.append(Sample(done(), memory, files, len(tree), threads))
            except (psutil.Error, OSError):  # one of them has just ended
                pass
            time.sleep(1)
    if process.returncode:
        raise RuntimeError(f'status {process.returncode}:\n{log.read_text()[-3000:]}')
    return {'seconds': round(time.monotonic() - start), **_summary(samples)}


def _memory(pid: int) -> int:
    """Return the bytes of a process's memory; of what it shares with n others, one nth (Linux).

    A DataLoader worker is a fork: what it shares with its parent becomes private page by page when either writes, so
    private memory grows for long although nothing is kept. Mapped files are not counted.
    """
    found = re.findall(r'^Pss_(?:Anon|Shmem): +(\d+) kB$', Path(f'/proc/{pid}/smaps_rollup').read_text(), re.MULTILINE)
    return 1024 * sum(map(int, found))


def _summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the slope of memory by least squares after the warm-up, and the medians of its first and last third."""
    last = max(sample.done for sample in samples)
    warm = [sample for sample in samples if sample.done and _WARM_UP * last <= sample.done < last]
    third = max(1, len(warm) // 3)

    def medians(name: str) -> list[float]:
        values = [getattr(sample, name) for sample in warm]
        return [float(np.median(part)) for part in (values[:third], values[-third:])]

    done, memory = (np.array([getattr(sample, name) for sample in warm], float) for name in ('done', 'memory'))
    first, end = medians('memory')
    return {
        'samples': len(warm),
        'memory_bytes_per_step': round(float(np.polyfit(done, memory, 1)[0]), 1),
        'memory_mb_first_third': round(first / 1e6, 1),
        'memory_mb_last_third': round(end / 1e6, 1),
        'peak_mb': round(max(sample.memory for sample in samples) / 1e6, 1),
        **{name: medians(name) for name in ('files', 'processes', 'threads')},
    }


def main() -> int:
    """Run both jobs and print a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--iterations', type=int, default=2000, help='of training; 0 for none (default: %(default)s)')
    parser.add_argument('--frames', type=int, default=10_000, help='to deblur; 0 for none (default: %(default)s)')
    parser.add_argument('-o', '--output', type=Path, help='write the report to this JSON file')
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix='long-'))
    report = heading()
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


if __name__ == '__main__':
    sys.exit(main())

"""Paired measurement of time and memory.

Workloads run in rounds, one run of each per round, in alternating order (A B, B A, ...), so that a machine that warms
up, slows down or does other work affects all of them alike. Ratios are computed within each round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dstnet_arch.errors import DSTNetError, first_line
from dstnet_arch.memory_errors import out_of_memory
from dstnet_arch.progress import Progress
from dstnet_arch.streaming.memory import proc_value

Run = Callable[[], Any]


@dataclass(frozen=True)
class Workload:
    """Something to measure.

    Attributes:
        name: Unique within a comparison.
        prepare: Returns the function to measure. It runs in another process, too: it and `arguments` must pickle.
        arguments: Keyword arguments of `prepare`.
        frames: Frames of one run.
        optional: Any error becomes the workload's failure instead of ending the comparison.
        memory: False to skip the memory measurement on a CPU, which runs in a fresh process.
    """

    name: str
    prepare: Callable[..., Run]
    arguments: Mapping[str, Any]
    frames: int = 1
    optional: bool = False
    memory: bool = True


@dataclass
class Measurement:
    """Result of one workload.

    Attributes:
        seconds: Time per frame of each run, in the order of the rounds; empty if a run failed.
        peak_memory: Bytes above what `prepare` allocated; None if not measured.
        failure: Reason if a run or the measurement of memory failed.
    """

    seconds: list[float] = field(default_factory=list)
    peak_memory: int | None = None
    failure: str | None = None


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Return median, quartiles (q1, q3) and number of runs; None for an empty sample."""
    if not values:
        return None
    quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    q1, median, q3 = torch.tensor(values, dtype=torch.float64).quantile(quartiles).tolist()
    return {'median': median, 'q1': q1, 'q3': q3, 'runs': len(values)}


def ratio(measured: Measurement, reference: Measurement) -> dict[str, float] | None:
    """Return the `spread` of the time relative to a reference, paired by round: below 1 is faster."""
    if not measured.seconds or not reference.seconds:
        return None
    return spread([a / b for a, b in zip(measured.seconds, reference.seconds, strict=True)])


def measure(
    workloads: Sequence[Workload], device: torch.device, repeats: int = 10, warmup: int = 2, with_memory: bool = True
) -> dict[str, Measurement]:
    """Measure workloads against each other; one that runs out of memory has that as its failure.

    Args:
        workloads: All are prepared at once; the results of their runs are not kept.
        device: The CPU, or PyTorch's current GPU.
        repeats: Number of timed rounds.
        warmup: Number of rounds before them, at least one.
        with_memory: Measure peak memory too.
    """
    results = {workload.name: Measurement() for workload in workloads}
    runs: dict[str, Run] = {}

    def prepare(workload: Workload) -> None:
        runs[workload.name] = workload.prepare(**workload.arguments)

    def warm_up(workload: Workload) -> None:
        _timed(runs[workload.name], device)

    def time(workload: Workload) -> None:
        results[workload.name].seconds.append(_timed(runs[workload.name], device) / workload.frames)

    def memory(workload: Workload) -> None:
        if device.type == 'cuda' or workload.memory:
            results[workload.name].peak_memory = peak_memory(workload, runs[workload.name], device)

    steps = [prepare, *[warm_up] * max(warmup, 1), *[time] * repeats, *[memory] * with_memory]
    with Progress(len(steps) * len(workloads), 'run', 'measuring') as progress:
        for number, step in enumerate(steps):
            for workload in workloads if number % 2 == 0 else reversed(workloads):
                progress.relabel(f'{step.__name__.replace("_", " ")}: {workload.name}')
                if not results[workload.name].failure:
                    results[workload.name].failure = _failure(step, workload)
                progress.update()
    for result in results.values():
        if len(result.seconds) < repeats:
            result.seconds.clear()
    return results


def _failure(step: Callable[[Workload], None], workload: Workload) -> str | None:
    try:
        step(workload)
    except Exception as error:
        if out_of_memory(error):
            torch.cuda.empty_cache()
            return 'not enough memory'
        if isinstance(error, DSTNetError):
            return ' '.join(str(error).split())
        if workload.optional:
            return f'{type(error).__name__}: {first_line(error)}'
        raise
    return None


def _timed(run: Run, device: torch.device) -> float:
    """Seconds of a run; on a GPU from the start of its first kernel to the end of its last."""
    if device.type != 'cuda':
        begin = perf_counter()
        run()
        return perf_counter() - begin
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def peak_memory(workload: Workload, run: Run, device: torch.device) -> int:
    """Return the peak memory of a run above what `prepare` allocated (the network and its input), in bytes.

    On a GPU this is the allocator's statistic for `run`. On a CPU the workload is repeated in a fresh process and the
    growth of its peak resident memory is taken, because an allocator reuses what earlier runs left behind.

    Raises:
        MemoryError: The system killed the fresh process.
        DSTNetError: The system does not report peak memory.
    """
    if device.type == 'cuda':
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        try:
            return pool.submit(_peak_growth, workload, torch.get_num_threads()).result()
        except BrokenProcessPool:
            raise MemoryError('the measuring process was killed') from None


_STATUS, _CLEAR_REFS = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def _peak_growth(workload: Workload, threads: int) -> int:
    if not _STATUS.exists():
        raise DSTNetError('Peak memory on a CPU is measured on Linux only.')
    torch.set_num_threads(threads)
    run = workload.prepare(**workload.arguments)
    # Load what PyTorch loads at its first convolution, backward pass and recomputation.
    x = torch.ones(1, 8, 16, 16, requires_grad=True)
    checkpoint(nn.functional.conv2d, x, torch.ones(8, 8, 3, 3), use_reentrant=False).sum().backward()
    try:
        _CLEAR_REFS.write_text('5')  # resets the peak
        before = proc_value(_STATUS, 'VmRSS')
    except OSError:  # not permitted: growth below the earlier peak stays unseen
        before = proc_value(_STATUS, 'VmHWM')
    run()
    return 1024 * (proc_value(_STATUS, 'VmHWM') - before)

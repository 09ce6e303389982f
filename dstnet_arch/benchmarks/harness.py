"""Measuring side by side: time by alternating runs in one process, memory, and what both were measured on.

What is compared runs in rounds, one run each a round, forwards in one round and backwards in the next (A B, B A, …), so
that a machine that warms up, slows down or does other work in between treats all alike. Ratios are taken within each
round and their median is reported, with the quartiles; nothing is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from time import perf_counter
from typing import Any, NamedTuple

import torch

from dstnet_arch.benchmarks.memory import peak_memory
from dstnet_arch.benchmarks.progress import progress
from dstnet_arch.errors import DSTNetError
from dstnet_arch.memory_errors import out_of_memory

Run = Callable[[], Any]


class Precision(NamedTuple):
    """What numbers a network computes with."""

    dtype: torch.dtype
    tf32: bool


PRECISIONS = {
    'fp32': Precision(torch.float32, False),
    'tf32': Precision(torch.float32, True),
    'bf16': Precision(torch.bfloat16, False),
    'fp16': Precision(torch.float16, False),
}


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in convolutions and matrix products. PyTorch's own default allows it in convolutions."""
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = allowed
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


@dataclass(frozen=True)
class Workload:
    """Something to measure, given so that another process can make it, too.

    Attributes:
        name: unique within a comparison.
        prepare: a function at the top level of a module; makes what is to run, so that the work alone is measured.
        arguments: of `prepare`; plain values.
        optional: any error in it becomes its result, in place of ending the comparison.
        memory: whether to measure memory in a fresh process, too, where that is how it is measured (on the CPU).
    """

    name: str
    prepare: Callable[..., Run]
    arguments: Mapping[str, Any]
    optional: bool = False
    memory: bool = True


@dataclass
class Measurement:
    """What came of a workload.

    Attributes:
        seconds: of each run, in the order of the rounds; empty where it could not be run.
        peak_memory: bytes, on top of what was prepared; None where not measured.
        failure: why it could not be run, or its memory not be measured; or None.
    """

    seconds: list[float] = field(default_factory=list)
    peak_memory: int | None = None
    failure: str | None = None


class Spread(NamedTuple):
    """A sample's median, quartiles and size."""

    median: float
    q1: float
    q3: float
    runs: int


def spread(values: Sequence[float]) -> Spread | None:
    """Median and quartiles; None of nothing."""
    if len(values) < 2:
        return Spread(values[0], values[0], values[0], 1) if values else None
    q1, _, q3 = quantiles(values, n=4, method='inclusive')
    return Spread(median(values), q1, q3, len(values))


def ratio(measured: Measurement, reference: Measurement) -> Spread | None:
    """Time relative to a reference's, from the pairs of each round; below 1 is faster. None where one did not run."""
    if not measured.seconds or not reference.seconds:
        return None
    return spread([a / b for a, b in zip(measured.seconds, reference.seconds, strict=True)])


def measure(
    workloads: Sequence[Workload],
    device: torch.device,
    repeats: int = 10,
    warmup: int = 2,
    with_memory: bool = True,
) -> dict[str, Measurement]:
    """Measure workloads against each other.

    Args:
        workloads: all are held in memory at once, the results of their runs are not.
        device: where they run; of GPUs, PyTorch's current one.
        repeats: rounds that are timed.
        warmup: rounds before that are not, at least one.
        with_memory: measure memory, too.

    Returns:
        Name -> what came of it, in the order given. One that has no memory to run has that as its failure.
    """
    results = {workload.name: Measurement() for workload in workloads}
    runs: dict[str, Run] = {}

    def prepare(workload: Workload) -> None:
        runs[workload.name] = workload.prepare(**workload.arguments)

    def warm_up(workload: Workload) -> None:
        timed(runs[workload.name], device)

    def timing(workload: Workload) -> None:
        results[workload.name].seconds.append(timed(runs[workload.name], device))

    def memory(workload: Workload) -> None:
        if device.type == 'cuda' or workload.memory:
            peak = peak_memory(runs[workload.name], workload.prepare, workload.arguments, device)
            results[workload.name].peak_memory = peak

    steps = [prepare, *[warm_up] * max(warmup, 1), *[timing] * repeats, *[memory] * with_memory]
    with progress(len(steps) * len(workloads)) as bar, _tuned_convolutions():
        for number, step in enumerate(steps):
            for workload in in_turn(workloads, number):
                bar.describe(f'{step.__name__.replace("_", " ")}: {workload.name}')
                if not results[workload.name].failure:
                    failure = results[workload.name].failure = _failure_of(step, workload)
                    if failure:
                        runs.pop(workload.name, None)
                        torch.cuda.empty_cache()  # does nothing where CUDA is not in use
                bar.update()
    for result in results.values():
        if len(result.seconds) < repeats:  # it failed halfway
            result.seconds.clear()
    return results


def _failure_of(step: Callable[[Workload], None], workload: Workload) -> str | None:
    try:
        step(workload)
    except Exception as error:
        if out_of_memory(error):
            return 'not enough memory'
        text = ' '.join(str(error).split())
        if isinstance(error, DSTNetError):
            return text
        if workload.optional:
            return f'{type(error).__name__}: {text}'[:200]
        raise
    return None


def in_turn(items: Sequence[Workload], number: int) -> list[Workload]:
    """The order of round `number`: forwards and backwards by turns."""
    return list(items) if number % 2 == 0 else list(items)[::-1]


def timed(run: Run, device: torch.device) -> float:
    """Seconds that a run takes, on a GPU from the start of its first kernel to the end of its last."""
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


@contextmanager
def _tuned_convolutions() -> Iterator[None]:
    """Let cuDNN choose its algorithms by trying them, in the warm-up, as BasicSR's own pipelines do."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before

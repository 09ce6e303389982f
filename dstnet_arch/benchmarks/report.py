"""What a measurement leaves behind: a table on the screen and a JSON file that says what it was made on."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

import torch

import dstnet_arch
from dstnet_arch.benchmarks.harness import Measurement, Spread, spread
from dstnet_arch.errors import DSTNetError
from dstnet_arch.files import atomic_file

SCHEMA = 1


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were made on."""
    cuda = device.type == 'cuda'
    return {
        'system': platform.platform(),
        'cpu': _cpu_name(),
        'cores': _cores(),
        'threads': torch.get_num_threads(),
        'load_average': round(os.getloadavg()[0], 2) if hasattr(os, 'getloadavg') else None,
        'device': str(device),
        'gpu': torch.cuda.get_device_name(device) if cuda else None,
        'gpu_memory': torch.cuda.get_device_properties(device).total_memory if cuda else None,
        'python': platform.python_version(),
        'torch': torch.__version__,
        'cuda': torch.version.cuda if cuda else None,
        'cudnn': torch.backends.cudnn.version() if cuda else None,
        'dstnet_arch': dstnet_arch.__version__,
        'commit': commit(),
    }


def commit() -> str | None:
    """The commit that this package is a checkout of, with '+changes' where tracked files differ; None if it is none."""
    root = Path(dstnet_arch.__file__).resolve().parent.parent
    git = shutil.which('git')
    if git is None or not (root / '.git').exists():
        return None

    def ask(*arguments: str) -> str:
        return subprocess.run([git, '-C', str(root), *arguments], capture_output=True, text=True).stdout.strip()

    changes = ask('status', '--porcelain', '--untracked-files=no')
    return ask('rev-parse', 'HEAD') + ('+changes' if changes else '') or None


def write_json(
    folder: Path, benchmark: str, args: argparse.Namespace, results: Sequence[Mapping[str, Any]], **more: Any
) -> Path:
    """Write a measurement, at once, under a name that no other has.

    Keys: `schema` (1), `benchmark`, `date` (UTC), `command`, `machine` (see above), `settings` (all arguments, given or
    not), then `more`, and `results`, a list of objects; sizes in pixels as 'WxH', times in seconds, memory in bytes.

    Args:
        folder: made where it does not exist.
        benchmark: what was measured.
        args: the arguments it was measured with; `args.device` is a torch.device.
        results: one object for each thing measured.
        more: further keys.

    Returns:
        ``<folder>/<date>_<benchmark>_<device>.json``.

    Raises:
        DSTNetError: it cannot be written.
    """
    now = datetime.now(timezone.utc)
    settings = {k: _plain(v) for k, v in sorted(vars(args).items()) if k not in ('output', 'kind')}
    content = {
        'schema': SCHEMA,
        'benchmark': benchmark,
        'date': now.isoformat(timespec='seconds'),
        'command': ' '.join(['dstnet', *sys.argv[1:]]),
        'machine': machine(args.device),
        'settings': settings,
        **more,
        'results': list(results),
    }
    stem = f'{now:%Y-%m-%dT%H%M%SZ}_{benchmark}_{args.device.type}'
    path = unused(folder / f'{stem}.json')
    with written(path) as file:
        file.write(json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False).encode() + b'\n')
    return path


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """`atomic_file`, in a folder that is made where it does not exist.

    Raises:
        DSTNetError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            yield file
    except OSError as error:
        raise DSTNetError(
            f'{path} cannot be written: {error.strerror or error}. Free some space, or give a folder that you may '
            'write to: -o FOLDER.'
        ) from error


def unused(path: Path) -> Path:
    """`path`, or with a number before the suffix where that exists."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f'{path.stem}-{number}{path.suffix}')
    return free


def measured(measurement: Measurement, frames: int) -> dict[str, Any]:
    """A measurement as an object for the JSON file, times for one of `frames` frames."""
    seconds = [s / frames for s in measurement.seconds]
    return {
        'seconds_per_frame': as_object(spread(seconds)),
        'runs_seconds_per_frame': seconds,
        'peak_memory_bytes': measurement.peak_memory,
        'failure': measurement.failure,
    }


def as_object(values: Spread | None) -> dict[str, float] | None:
    """A spread as an object for the JSON file."""
    return None if values is None else values._asdict()


def failures(objects: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each thing that could not be measured, or not wholly: why."""
    return [f'{item["name"]}: {item["failure"]}' for item in objects if item['failure']]


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return '\n'.join(
        '  '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
    )


def number(value: float | None, digits: int, scale: float = 1.0) -> str:
    """`value` times `scale` with so many digits; a dash for None."""
    return '-' if value is None else f'{value * scale:,.{digits}f}'


def with_quartiles(values: Spread | Mapping[str, float] | None, digits: int, scale: float = 1.0) -> str:
    """'median (q1 to q3)'."""
    if values is None:
        return '-'
    given = values._asdict() if isinstance(values, Spread) else values
    low, middle, high = (number(given[key], digits, scale) for key in ('q1', 'median', 'q3'))
    return f'{middle} ({low} to {high})'


def made_on(args: argparse.Namespace) -> str:
    """One line: the device, threads, versions and date."""
    facts = machine(args.device)
    where = facts['gpu'] or f'{facts["cpu"]}, {facts["threads"]} of {facts["cores"]} cores'
    return f'{where}; torch {facts["torch"]}; {datetime.now(timezone.utc):%Y-%m-%d}'


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, type(None))) else str(value)


def _cores() -> int | None:
    # Those that this process may use, which in a container can be few of the machine's.
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def _cpu_name() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()

"""Output of a measurement: a table on the screen and a JSON file that records the machine and the versions."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import dstnet_arch
from dstnet_arch._version import __version__
from dstnet_arch.arguments import Size
from dstnet_arch.files import output_file
from dstnet_arch.metrics.tables import markdown_table

SCHEMA = 3


def machine(device: torch.device) -> dict[str, Any]:
    """Return the hardware and software that a measurement ran on."""
    cuda = device.type == 'cuda'
    return {
        'system': platform.platform(),
        'cpu': _cpu_name(),
        'isa': _isa(),
        'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
        'threads': torch.get_num_threads(),
        'load_average': round(os.getloadavg()[0], 2) if hasattr(os, 'getloadavg') else None,
        'device': str(device),
        'gpu': torch.cuda.get_device_name(device) if cuda else None,
        'gpu_memory': torch.cuda.get_device_properties(device).total_memory if cuda else None,
        'python': platform.python_version(),
        'torch': torch.__version__,
        'cuda': torch.version.cuda if cuda else None,
        'cudnn': torch.backends.cudnn.version() if cuda else None,
        'dstnet_arch': __version__,
        'commit': commit(),
    }


def commit() -> str | None:
    """Return the commit of this checkout, with '+changes' if tracked files differ; None outside a checkout."""
    root = Path(dstnet_arch.__file__).resolve().parent.parent
    git = shutil.which('git')
    if git is None or not (root / '.git').exists():
        return None
    describe = [git, '-C', str(root), 'describe', '--always', '--abbrev=40', '--dirty=+changes', '--exclude=*']
    return subprocess.run(describe, capture_output=True, text=True).stdout.strip() or None


def write_json(
    folder: Path, benchmark: str, args: argparse.Namespace, results: Sequence[Mapping[str, Any]], **more: Any
) -> Path:
    """Write a measurement to ``<folder>/<date>_<benchmark>_<device>.json``, never over an existing file.

    Keys: `schema`, `benchmark`, `date` (UTC), `command`, `machine`, `settings` (all arguments), then `more`, and
    `results`, a list of objects; sizes are 'WxH' in pixels, times seconds, memory bytes.

    Args:
        folder: Created if missing.
        benchmark: Name of the measurement.
        args: Its arguments; `args.device` is a torch.device.
        results: One object per workload.
        **more: Further keys.

    Raises:
        DSTNetError: The file cannot be written.
    """
    now = datetime.now(timezone.utc)
    content = {
        'schema': SCHEMA,
        'benchmark': benchmark,
        'date': now.isoformat(timespec='seconds'),
        'command': ' '.join(['dstnet', *sys.argv[1:]]),
        'machine': machine(args.device),
        'settings': {
            k: str(v) if isinstance(v, Size) else v
            for k, v in sorted(vars(args).items())
            if k not in ('output', 'kind')
        },
        **more,
        'results': list(results),
    }
    path = folder / f'{now:%Y-%m-%dT%H%M%S.%fZ}_{benchmark}_{args.device.type}.json'
    with output_file(path) as file:
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False, default=str)
        file.write(text.encode() + b'\n')
    return path


def print_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], objects: Sequence[Mapping[str, Any]]
) -> None:
    """Print a Markdown table, and one line for each workload of `objects` that failed, with the reason."""
    failures = [f'{item["name"]}: {item["failure"]}' for item in objects if item['failure']]
    print(markdown_table(title, header, rows, failures))


def number(value: float | None, digits: int, scale: float = 1.0) -> str:
    """Format `value` times `scale`; '-' for None."""
    return '-' if value is None else f'{value * scale:,.{digits}f}'


def with_quartiles(values: Mapping[str, float] | None, digits: int, scale: float = 1.0) -> str:
    """Format as 'median (q1 to q3)'; '-' for None."""
    if values is None:
        return '-'
    low, middle, high = (number(values[key], digits, scale) for key in ('q1', 'median', 'q3'))
    return f'{middle} ({low} to {high})'


def made_on(device: torch.device) -> str:
    """Return one line: device, threads, instruction set, PyTorch version and date."""
    facts = machine(device)
    where = facts['gpu'] or f'{facts["cpu"]} ({facts["isa"]}), {facts["threads"]} of {facts["cores"]} cores'
    return f'{where}; torch {facts["torch"]}; {datetime.now(timezone.utc):%Y-%m-%d}'


def _isa() -> str:
    """The instruction set of PyTorch and of our kernels, and whether variables of the environment restrict it."""
    isa = torch.backends.cpu.get_cpu_capability()
    if isa != 'AVX2' or 'avx512bw' not in _cpu_fact('flags').split():
        return isa
    if os.environ.get('ONEDNN_MAX_CPU_ISA', '').upper().startswith('AVX2'):
        return 'AVX2 (forced on a machine with AVX-512)'
    return 'AVX2 (forced on a machine with AVX-512; oneDNN not restricted)'


def _cpu_name() -> str:
    return _cpu_fact('model name') or platform.processor() or platform.machine()


def _cpu_fact(key: str) -> str:
    """A line of /proc/cpuinfo; empty if there is none."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return ''
    return next((line.partition(':')[2].strip() for line in lines if line.startswith(key)), '')

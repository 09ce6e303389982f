"""``dstnet doctor``: what works here. Run it after the installation, and paste its output into bug reports.

Needs PyTorch alone. ``--full`` runs the networks on the device and compares them with the CPU.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from dstnet_arch._version import __version__
from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.arguments import Size, check_writable, command_parser
from dstnet_arch.benchmarks import command as benchmark
from dstnet_arch.benchmarks import report
from dstnet_arch.benchmarks.compare import add_machine_arguments, prepare_machine
from dstnet_arch.benchmarks.device_checks import FRAME, Check, full_checks, supported_precisions
from dstnet_arch.errors import DSTNetError
from dstnet_arch.ops import fused, native
from dstnet_arch.precision import PRECISIONS, resolve_precision
from dstnet_arch.streaming.memory import device_memory, free_memory, tile_plans

PACKAGES = (
    'torch', 'torchvision', 'triton', 'basicsr', 'av', 'imageio-ffmpeg', 'mmcv', 'mmcv-lite', 'numpy', 'opencv-python',
    'lmdb', 'pydantic', 'pillow', 'scipy',
)  # fmt: skip
_SIDES = (360, 480, 720, 1080, 1440, 2160, 2880, 4320)  # heights of 16:9 frames


def command(arguments: Sequence[str]) -> int:
    """Run ``dstnet doctor``; the exit status is 1 if a check fails."""
    parser = command_parser(
        'dstnet doctor', 'Show versions, devices, kernels and precisions, and check that they work.'
    )
    parser.add_argument(
        '--full',
        action='store_true',
        help='compare the networks with the CPU in every precision, and measure memory and time (minutes)',
    )
    add_machine_arguments(parser, output='results/doctor')
    args = parser.parse_args(arguments)
    if args.full:
        check_writable(args.output)
    prepare_machine(args)
    device: torch.device = args.device
    facts = {**versions(), **report.machine(device)}
    for name, value in facts.items():
        if value is not None:
            print(f'{name:16} {value}')
    print(f'{"memory":16} {free_memory() / 1e9:.1f} GB of main memory free', end='')
    print(f', {device_memory(device) / 1e9:.1f} GB on {device}' if device.type == 'cuda' else '')
    print(f'{"largest frame":16} {largest_frame(device)} without tiles (DSTNet, float32)\n')
    checks = [*kernel_checks(device), *precision_checks(device)]
    for check in checks:
        _print(check)
    if args.full:
        for check in full_checks(device):
            _print(check)
            checks.append(check)
        results = [check._asdict() for check in checks]
        print(f'\nWritten: {report.write_json(args.output, "doctor", args, results, versions=versions())}')
        _benchmarks(device, args.output)
    failed = [check.name for check in checks if not check.ok]
    print(f'\n{len(checks) - len(failed)} of {len(checks)} checks passed.', *(f'Failed: {name}.' for name in failed))
    return bool(failed)


def _print(check: Check) -> None:
    print(f'{"ok  " if check.ok else "FAIL"}  {check.name}: {check.detail}', flush=True)


def versions() -> dict[str, str | None]:
    """Return the versions of the packages in use, of the GPU driver and of ffmpeg; None if missing."""
    found: dict[str, str | None] = {'dstnet-arch': __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    found['ffmpeg'] = _output('ffmpeg', '-version')
    found['driver'] = _output('nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader')
    found['platform'] = f'{platform.system()} {platform.machine()}, Python {platform.python_version()}'
    return found


def _output(program: str, *arguments: str) -> str | None:
    """First line that a program prints; None if it does not exist or fails."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), None)


def largest_frame(device: torch.device) -> str:
    """Return the largest 16:9 frame that should fit into the device's free memory without tiles."""
    with torch.device('meta'):
        net = DSTNet()
    free = device_memory(device)
    sizes = (Size(side * 16 // 9, side) for side in _SIDES)
    fitting = [s for s in sizes if tile_plans(net, (1, s.height, s.width), free, device.type)[0].tile is None]
    return str(fitting[-1]) if fitting else 'none'


def kernel_checks(device: torch.device) -> Iterator[Check]:
    """Check that the compiled CPU kernels or the fused GPU kernels agree with PyTorch."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        if device.type == 'cuda':
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                ok = fused.enabled() and fused.check(device, dtype)
                yield Check(f'fused GPU kernels, {dtype}', ok, 'agree with PyTorch' if ok else _reason(caught))
        else:
            ok = native.available()
            # Without a C compiler they are not needed: PyTorch's operations are used.
            detail = (
                'agree with PyTorch' if ok else _reason(caught) if caught else 'not used: disabled, or no C compiler'
            )
            yield Check('compiled CPU kernels', ok or not caught, detail)


def _reason(caught: list[warnings.WarningMessage]) -> str:
    return str(caught[-1].message) if caught else 'disabled'


def precision_checks(device: torch.device) -> Iterator[Check]:
    """List the precisions and which of them the device supports."""
    default = resolve_precision(None, device).name
    for name in PRECISIONS:
        try:
            detail = str(resolve_precision(name, device)) + (', the default' if name == default else '')
        except DSTNetError as error:
            detail = f'not supported: {error}'
        yield Check('precision', True, detail)


def _benchmarks(device: torch.device, output: Path) -> None:
    """Run the paired benchmarks; each writes its own JSON file."""
    common = ['--device', str(device), '-o', str(output), '--warmup', '3']  # CUDA graphs are captured meanwhile
    if device.type == 'cpu':
        small = ['--size', '64x64', '--frames', '2', '--repeats', '2', '--no-memory']
        benchmark(['forward', *common, *small])
        return
    supported = [name for name in supported_precisions(device) if name in ('tf32', 'bf16')]
    precisions = ['--precision', *supported] if supported else []
    large = ['--networks', 'DSTNet', 'DSTNet-L', '--size', str(FRAME), '--frames', '3', '--repeats', '3']
    benchmark(['forward', *common, *precisions, *large])
    benchmark(['train', *common, *precisions, '--size', '256x256', '--frames', '15', '--repeats', '3'])

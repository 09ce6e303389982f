"""Arguments that the measuring commands share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from dstnet_arch.arguments import Size as Size
from dstnet_arch.arguments import size as size
from dstnet_arch.arguments import whole_number
from dstnet_arch.benchmarks.harness import PRECISIONS
from dstnet_arch.errors import OptionsError

OUTPUT = 'results/benchmarks'
"""Where benchmarks write to, unless they are told otherwise."""

positive = whole_number(1)
"""Parse a whole number of at least 1."""


def add_arguments(parser: argparse.ArgumentParser, frames: int, output: str = OUTPUT) -> None:
    """Define the arguments of every measurement.

    Args:
        parser: of the command.
        frames: default of --frames.
        output: default of -o.
    """
    parser.add_argument('--frames', type=positive, default=frames, metavar='N', help=f'of a clip, by default {frames}')
    parser.add_argument('--batch', type=positive, default=1, metavar='N', help='clips at once, by default 1')
    add_device_argument(parser)
    parser.add_argument('--repeats', type=positive, default=10, metavar='N', help='timed rounds, by default 10')
    parser.add_argument('--warmup', type=positive, default=2, metavar='N', help='rounds before, by default 2')
    parser.add_argument('--no-memory', action='store_true', help='measure time only')
    add_threads_argument(parser)
    add_output_argument(parser, output)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Define --device, which `prepare` settles."""
    parser.add_argument('--device', help='cpu, cuda, cuda:1; by default cuda where there is one')


def add_threads_argument(parser: argparse.ArgumentParser) -> None:
    """Define --threads, which `prepare` settles."""
    parser.add_argument('--threads', type=positive, metavar='N', help="of the CPU, by default PyTorch's choice")


def add_output_argument(parser: argparse.ArgumentParser, output: str = OUTPUT, what: str = 'the JSON file') -> None:
    """Define -o.

    Args:
        parser: of the command.
        output: its default.
        what: is written there.
    """
    about = f'for {what}, by default {output}'
    parser.add_argument('-o', '--output', type=Path, default=Path(output), metavar='FOLDER', help=about)


def prepare(args: argparse.Namespace) -> None:
    """Settle `args.device`, which becomes PyTorch's current one, and the number of threads.

    Raises:
        OptionsError: there is no such device here, it cannot compute in a precision of `args.dtype`, or `args.output`
            cannot be written to.
    """
    there = next(path for path in (args.output.absolute(), *args.output.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):  # now, and not after the measurement
        raise OptionsError(f'-o {args.output} given, but {there} is no folder that can be written to. Give another.')
    if args.threads:
        torch.set_num_threads(args.threads)
    wanted = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        args.device = torch.device(wanted)
    except RuntimeError:
        args.device = torch.device('meta')
    if args.device.type not in ('cpu', 'cuda'):
        raise OptionsError(f'--device {wanted} given; measured can be cpu, cuda or cuda:N.')
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if args.device.type == 'cuda' and (args.device.index or 0) >= here:
        raise OptionsError(
            f'--device {wanted} given, but the CUDA devices that PyTorch {torch.__version__} finds here are: '
            f'{", ".join(f"cuda:{i}" for i in range(here)) or "none"}. Take one of them, or --device cpu.'
        )
    if args.device.index is not None:
        torch.cuda.set_device(args.device)
    dtypes = [args.dtype] if isinstance(args.dtype, str) else args.dtype
    if args.device.type == 'cpu' and any(PRECISIONS[name].tf32 for name in dtypes):
        raise OptionsError('--dtype tf32 given: TF32 is a mode of NVIDIA GPUs. On the CPU take fp32, bf16 or fp16.')

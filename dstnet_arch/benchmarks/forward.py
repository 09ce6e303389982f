"""``dstnet benchmark forward``: restoring a clip."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.benchmarks import cli, report
from dstnet_arch.benchmarks.harness import PRECISIONS, Workload, measure, ratio, tf32
from dstnet_arch.benchmarks.networks import PLAIN, Network, Unavailable, find, select
from dstnet_arch.ops.native import native, usable

SCHEDULES = {
    'eager': '',
    'compiled': ', compiled',
    'steps': ', steps compiled',
    'graphs': ', CUDA graphs',
    'native': ', native kernels',
}
"""How a network is run, and what tables say of it: PyTorch's operations one by one; torch.compile of all, or of one
propagation step; a CUDA graph for each propagation step; the compiled CPU kernels of ops/native.py."""
COMPILED = ('compiled', 'steps')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet benchmark forward``."""
    add_network_arguments(parser, size='256x256')
    cli.add_arguments(parser, frames=2)


def add_network_arguments(parser: argparse.ArgumentParser, size: str) -> None:
    """Define what is compared."""
    parser.add_argument('--networks', nargs='+', default=['DSTNet'], metavar='NAME', help='by default DSTNet')
    parser.add_argument('--size', type=cli.size, default=cli.size(size), metavar='WxH', help=f'by default {size}')
    parser.add_argument(
        '--dtype', action='append', choices=list(PRECISIONS), help='may be repeated; by default fp32, without TF32'
    )
    parser.add_argument(
        '--schedules',
        nargs='+',
        default=[],
        choices=[name for name in SCHEDULES if name != 'eager'],
        help='measure the networks in other ways, too: under torch.compile, with only one step of the propagation '
        'compiled, with CUDA graphs for these steps, with the compiled kernels for CPUs (fp32 alone)',
    )


def run(args: argparse.Namespace) -> None:
    """Measure, print the table, write the JSON file."""
    args.dtype = args.dtype or ['fp32']
    cli.prepare(args)
    networks, reference = compared(args)
    workloads = [
        workload(network, args, args.size, dtype, schedule)
        for network, dtype, schedule in variants(networks, reference, args)
    ]
    results = measure(workloads, args.device, args.repeats, args.warmup, not args.no_memory)
    ran = [item for item in workloads if results[item.name].seconds]
    differences = _differences(ran, reference)
    base = results[workloads[0].name]
    rows, objects = [], []
    for item in workloads:
        result = results[item.name]
        objects.append(
            {
                'name': item.name,
                **{k: item.arguments[k] for k in ('network', 'dtype', 'schedule')},
                **report.measured(result, args.batch * args.frames),
                'ratio': report.as_object(ratio(result, base)),
                'largest_difference': differences.get(item.name),
            }
        )
        rows.append(_row(objects[-1], objects[0]))
    header = ['', 'ms a frame (quartiles)', 'ratio (quartiles)', 'peak MiB', 'ratio', 'largest difference']
    print(report.text_table(header, rows), *report.failures(objects), sep='\n')
    print(f'\n{args.batch} x {args.frames} frames of {args.size}; {report.made_on(args)}')
    print(f'Ratios are to {workloads[0].name}: below 1 is faster, or less. Peak: on top of the weights and the clip.')
    print(f'Written: {report.write_json(args.output, "forward", args, objects, reference=workloads[0].name)}')


def compared(args: argparse.Namespace) -> tuple[list[Network], Network]:
    """The networks to measure and the one that they are measured against.

    That is the plain schedule of the first, or of DSTNet where the first has none.
    """
    networks = select(args.networks)
    return networks, find(PLAIN.get(networks[0].name, 'PlainDSTNet'))


def variants(networks: list[Network], reference: Network, args: argparse.Namespace) -> list[tuple[Network, str, str]]:
    """(network, precision, schedule) to measure: first the reference in float32."""
    result = {(reference, 'fp32', 'eager'): None}
    for dtype in args.dtype:
        result |= {(network, dtype, 'eager'): None for network in (reference, *networks)}
        for schedule in args.schedules:
            if schedule == 'native' and dtype != 'fp32':
                continue
            of_ours = [n for n in networks if n.group in ('ours', 'ablations')]
            peers = [n for n in networks if n.group == 'peers' and schedule == 'compiled']
            result |= {(n, dtype, schedule): None for n in (*of_ours, *peers)}
    return list(result)


def workload(
    network: Network, args: argparse.Namespace, size: cli.Size, dtype: str, schedule: str = 'eager'
) -> Workload:
    """Restoring a clip of `args.frames` frames, as a workload."""
    return Workload(
        label(network, dtype, schedule),
        prepare,
        {
            'network': network.name,
            'shape': clip_shape(args.batch, args.frames, size),
            'device': str(args.device),
            'dtype': dtype,
            'schedule': schedule,
        },
        optional=schedule != 'eager' or network.group == 'peers',
        memory=schedule not in COMPILED,  # a fresh process would measure the compiler
    )


def label(network: Network, dtype: str, schedule: str) -> str:
    """What is measured, in words."""
    return f'{network.label}, {dtype}{SCHEDULES[schedule]}'


def clip_shape(batch: int, frames: int, size: cli.Size) -> list[int]:
    """Shape of the clip that networks are given."""
    return [batch, frames, 3, size.height, size.width]


def prepare(network: str, shape: list[int], device: str, dtype: str, schedule: str = 'eager') -> Callable[[], Tensor]:
    """A network and a clip: the function restores it.

    Weights and clip are random, and the same in every call for networks with the same parameters.

    Raises:
        Unavailable: the network cannot be run in this way here.
    """
    precision = PRECISIONS[dtype]
    net, clip = build(find(network), shape, device)
    net, clip = net.eval().to(dtype=precision.dtype), clip.to(precision.dtype)
    call = scheduled(net, schedule)

    def restore() -> Tensor:
        with torch.no_grad(), tf32(precision.tf32), native(schedule == 'native'):
            return call(clip)

    return restore


def scheduled(net: nn.Module, schedule: str) -> nn.Module:
    """The network, ready to be run in one of the ways of `SCHEDULES`.

    Raises:
        Unavailable: it cannot be run so here.
    """
    if schedule == 'native':
        _check_native()
    if schedule in ('steps', 'graphs') and not isinstance(net, VideoNet):
        raise Unavailable(f'{type(net).__name__} has no propagation steps of ours')
    if schedule == 'steps':
        cast(VideoNet, net).compile_steps()
    if schedule == 'graphs':
        if not next(net.parameters()).is_cuda:
            raise Unavailable('CUDA graphs need a CUDA GPU')
        cast(VideoNet, net).cuda_graphs = True
    return cast(nn.Module, torch.compile(net)) if schedule == 'compiled' else net


def _check_native() -> None:
    with native(True), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        if not usable(torch.zeros(1)):
            raise Unavailable(str(caught[0].message) if caught else 'the compiled CPU kernels cannot be had')


def build(network: Network, shape: list[int], device: str) -> tuple[nn.Module, Tensor]:
    """A network with random weights, and a random clip."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network.build().to(device), torch.rand(shape).to(device)


def _differences(workloads: list[Workload], reference: Network) -> dict[str, float]:
    """How far the results are from the reference's in float32, of those that are the same network in another schedule
    or precision."""
    same = [w for w in workloads if reference.name in (w.arguments['network'], PLAIN.get(w.arguments['network']))]
    try:
        restored = ((w.name, w.prepare(**w.arguments)().float()) for w in same)
        _, expected = next(restored)
        return {name: float((result - expected).abs().max()) for name, result in restored}
    except torch.cuda.OutOfMemoryError:  # there are more results at once than in a measurement
        return {}


def _row(item: dict[str, Any], reference: dict[str, Any]) -> list[str]:
    peak, base = item['peak_memory_bytes'], reference['peak_memory_bytes']
    difference = item['largest_difference']
    return [
        item['name'],
        report.with_quartiles(item['seconds_per_frame'], 2, 1e3),
        report.with_quartiles(item['ratio'], 3),
        report.number(peak, 0, 2**-20),
        report.number(peak / base if peak and base else None, 2),
        '-' if difference is None else f'{difference:.1e}',
    ]

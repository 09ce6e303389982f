"""``dstnet benchmark growth``: how time and memory grow with the frames, the pixels, the width and the batch."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import linear_regression
from typing import Any

import torch

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.benchmarks import cli, report
from dstnet_arch.benchmarks.harness import Workload, measure

AXES = {'frames': 1, 'pixels': 1, 'width': 2, 'batch': 1}
"""What grows, and the exponent that is due: each frame, pixel and clip costs the same; convolutions go with the square
of the width."""

KINDS = ('restore', 'train')
QUANTITIES = {'seconds': 'time', 'peak_memory_bytes': 'memory'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet benchmark growth``."""
    numbers: dict[str, Any] = {'nargs': '+', 'type': cli.positive, 'metavar': 'N'}
    parser.add_argument('--frames', **numbers, default=[2, 4, 8, 16], help='by default 2 4 8 16')
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=cli.size,
        default=[cli.Size(side, side) for side in (64, 128, 256, 512)],
        metavar='WxH',
        help='by default 64x64 128x128 256x256 512x512',
    )
    parser.add_argument('--widths', **numbers, default=[8, 16, 32, 64], help='num_feat; by default 8 16 32 64')
    parser.add_argument('--batches', **numbers, default=[1, 2, 4, 8], help='by default 1 2 4 8')
    parser.add_argument('--num-block', type=cli.positive, default=15, metavar='N', help='as in DSTNet, by default 15')
    parser.add_argument('--num-cwgdn', type=cli.positive, default=5, metavar='N', help='as in DSTNet, by default 5')
    parser.add_argument('--plot', action='store_true', help='draw the curves, beside the JSON file')
    cli.add_device_argument(parser)
    parser.add_argument('--repeats', type=cli.positive, default=5, metavar='N', help='timed rounds, by default 5')
    parser.add_argument('--warmup', type=cli.positive, default=1, metavar='N', help='rounds before, by default 1')
    parser.add_argument('--no-memory', action='store_true', help='measure time only')
    cli.add_threads_argument(parser)
    cli.add_output_argument(parser, what='the JSON file and the plot')


def run(args: argparse.Namespace) -> None:
    """Measure, print the exponents, write the JSON file and the plot."""
    args.dtype = 'fp32'
    cli.prepare(args)
    if args.plot:
        from dstnet_arch.benchmarks.figure import require_matplotlib

        require_matplotlib()  # now, not after the measuring
    points = _points(args)
    # The point where the axes meet is on all of them, and measured once.
    workloads = {_name(kind, point): _workload(kind, point, args) for kind in KINDS for _, _, point in points}
    found = measure(list(workloads.values()), args.device, args.repeats, args.warmup, not args.no_memory)
    results = []
    for kind in KINDS:
        for axis, value, point in points:
            measurement = found[_name(kind, point)]
            results.append(
                {
                    'kind': kind,
                    'axis': axis,
                    'value': value,
                    'point': dict(zip(AXES, point, strict=True)),
                    # The fastest run: other work on the machine adds to some, and would bend the curve.
                    'seconds': min(measurement.seconds, default=None),
                    'runs_seconds': measurement.seconds,
                    'peak_memory_bytes': measurement.peak_memory,
                    'failure': measurement.failure,
                    'name': _name(kind, point),
                }
            )
    exponents = [fit(results, kind, axis, quantity) for axis in AXES for kind in KINDS for quantity in QUANTITIES]
    path = report.write_json(args.output, 'growth', args, results, exponents=exponents)
    print(_table(exponents), *dict.fromkeys(report.failures(results)), sep='\n')
    print(
        f'DSTNet with {args.num_block} blocks and {args.num_cwgdn} CWGDN a branch; what does not grow: '
        f'{_base_text(args)}; {report.made_on(args)}'
    )
    print('Exponents: of a least-squares line through the logarithms; in brackets, between the two largest values.')
    print('Time: of the fastest run. Memory: the peak on top of the weights and the clip.')
    print(f'Written: {path}')
    if args.plot:
        print(f'Written: {draw(results, exponents, path.with_suffix(".png"))}')


# ---- measuring

Point = tuple[int, tuple[int, int], int, int]
"""Frames, (width, height) of a frame in pixels, num_feat, batch: in the order of `AXES`."""


def _points(args: argparse.Namespace) -> list[tuple[str, int, Point]]:
    """(axis, value, point): along each axis, the others stay at the second of their values."""
    values = [args.frames, [tuple(size) for size in args.sizes], args.widths, args.batches]
    middle = [column[min(1, len(column) - 1)] for column in values]
    points = []
    for number, axis in enumerate(AXES):
        for value in values[number]:
            point: Any = (*middle[:number], value, *middle[number + 1 :])
            points.append((axis, value[0] * value[1] if axis == 'pixels' else value, point))
    return points


def _name(kind: str, point: Point) -> str:
    frames, size, width, batch = point
    return f'{kind}, {batch} x {frames} frames of {cli.Size(*size)}, width {width}'


def _workload(kind: str, point: Point, args: argparse.Namespace) -> Workload:
    frames, (width, height), num_feat, batch = point
    arguments = {
        'kind': kind,
        'network': {'num_feat': num_feat, 'num_block': args.num_block, 'num_cwgdn': args.num_cwgdn},
        'shape': [batch, frames, 3, height, width],
        'device': str(args.device),
    }
    return Workload(_name(kind, point), prepare, arguments)


def prepare(kind: str, network: dict[str, Any], shape: Sequence[int], device: str) -> Callable[[], None]:
    """The function restores a random clip, or makes the gradients of all weights for it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, clip = DSTNet(**network).to(device), torch.rand(*shape).to(device)
    if kind == 'restore':
        net.eval()

        def restore() -> None:
            with torch.inference_mode():
                net(clip)

        return restore
    net.train()

    def train() -> None:
        net.zero_grad()
        (net(clip) - 0.5).abs().mean().backward()

    return train


# ---- fitting


def fit(results: Sequence[dict[str, Any]], kind: str, axis: str, quantity: str) -> dict[str, Any]:
    """The exponent of a quantity along an axis, by least squares in logarithms; None where there are too few values."""
    curve = _curve(results, kind, axis, quantity)
    return {
        'axis': axis,
        'kind': kind,
        'quantity': quantity,
        'expected': AXES[axis],
        'exponent': _slope(curve),
        'exponent_at_the_end': _slope(curve[-2:]),
    }


def _curve(results: Sequence[dict[str, Any]], kind: str, axis: str, quantity: str) -> list[tuple[float, float]]:
    chosen = (item for item in results if (item['kind'], item['axis']) == (kind, axis))
    return sorted((item['value'], item[quantity]) for item in chosen if item[quantity])


def _slope(curve: Sequence[tuple[float, float]]) -> float | None:
    x, y = ([math.log(value) for value in column] for column in zip(*curve, strict=True)) if curve else ([], [])
    return linear_regression(x, y).slope if len(set(x)) > 1 else None


def _table(exponents: Sequence[dict[str, Any]]) -> str:
    rows = []
    for axis, expected in AXES.items():
        cells = [
            f'{report.number(item["exponent"], 2)} ({report.number(item["exponent_at_the_end"], 2)})'
            for item in exponents
            if item['axis'] == axis
        ]
        rows.append([axis, str(expected), *cells])
    header = ['Exponent of', 'due', *(f'{kind}: {what}' for kind in KINDS for what in QUANTITIES.values())]
    return report.text_table(header, rows)


def _base_text(args: argparse.Namespace) -> str:
    frames, size, width, batch = (
        column[min(1, len(column) - 1)] for column in (args.frames, args.sizes, args.widths, args.batches)
    )
    return f'{frames} frames of {size}, width {width}, batch {batch}'


# ---- drawing


def draw(results: Sequence[dict[str, Any]], exponents: Sequence[dict[str, Any]], path: Path) -> Path:
    """Draw time and memory along each axis to a PNG file, at once. Returns its path."""
    from dstnet_arch.benchmarks.figure import require_matplotlib

    figure = require_matplotlib()(figsize=(12, 5.4), layout='constrained')
    grid = figure.subplots(len(QUANTITIES), len(AXES), sharex='col')
    scales = {'seconds': 1.0, 'peak_memory_bytes': 2.0**-20}
    labels = {'seconds': 'time (s)', 'peak_memory_bytes': 'peak memory (MiB)'}
    for row, quantity in zip(grid, QUANTITIES, strict=True):
        for axes, axis in zip(row, AXES, strict=True):
            for item in (e for e in exponents if (e['axis'], e['quantity']) == (axis, quantity)):
                curve = _curve(results, item['kind'], axis, quantity)
                label = f'{item["kind"]}: exponent {report.number(item["exponent"], 2)}'
                axes.plot([x for x, _ in curve], [y * scales[quantity] for _, y in curve], 'o-', label=label)
            axes.set(xscale='log', yscale='log')
            values = sorted({item['value'] for item in results if item['axis'] == axis})
            axes.set_xticks(values, [str(value) for value in values])
            axes.set_xticks([], minor=True)
            axes.grid(alpha=0.3, which='both')
            axes.legend(fontsize=8)
            if quantity == 'peak_memory_bytes':
                axes.set_xlabel(f'{axis} (due: exponent {AXES[axis]})')
        row[0].set_ylabel(labels[quantity])
    with report.written(path) as file:
        figure.savefig(file, format='png', dpi=120)
    return path

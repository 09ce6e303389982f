"""``dstnet complexity``: size, work, time and memory of networks beside the figures of papers (Table 7, Figure 1)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from dstnet_arch.arguments import Size, command_parser, size
from dstnet_arch.benchmarks import report
from dstnet_arch.benchmarks.compare import Case, add_run_arguments, choose_device, clip_shape, workload
from dstnet_arch.benchmarks.flops import count
from dstnet_arch.benchmarks.harness import measure
from dstnet_arch.benchmarks.networks import GROUPS, NETWORKS, Network, UnavailableError, select
from dstnet_arch.errors import DSTNetError, first_line
from dstnet_arch.metrics.tables import published_for
from dstnet_arch.progress import Progress

FIGURE_SIZE = Size(256, 256)  # size at which papers state the work
SIZES = (Size(1280, 720), FIGURE_SIZE)

QUOTED: dict[str, tuple[float | None, float | None, float | None]] = {
    'DSTNet': (7.45, 47.9, 0.08),
    'DSTNet-L': (16.96, None, 0.28),
    'DSTNet+': (3.90, 44.6, None),
    'DSTNet+L': (14.09, 158, None),
    'BasicVSR++': (9.46, 38, 0.10),
    'EDVR': (23.60, 2298.97, 2.70),
    'RVRT': (13.60, 559, 0.41),
    'FGST': (9.70, None, 0.72),
    'CDVD-TSP': (16.19, 357.79, 1.90),
    'DVDSEF': (75.05, None, 0.52),
    'DVD': (15.30, None, 0.88),
    'ESTRNN': (2.22, 10.5, None),
    'Shift-Net': (10.51, 147, None),
}
"""Figures that papers report, none measured here: millions of parameters, giga multiply-adds for a 256x256 frame,
seconds for a 1280x720 frame on an NVIDIA RTX A6000.

Parameters and seconds: Table 7 of the DSTNet paper, otherwise the networks' own papers. Multiply-adds: EDVR and
CDVD-TSP from Section 1 of the DSTNet paper, which calls them FLOPs; others from their own papers and comparisons.
"""
_QUOTED_KEYS = ('parameters', 'gmacs', 'seconds')
_NOT_QUOTED = (None, None, None)

_EPILOG = f"""networks:
{fill(', '.join(network.name for network in NETWORKS), 79)};
groups: all, {', '.join(GROUPS)}.
Counting takes about a minute. Timing all networks takes minutes on a GPU and
many hours on a CPU: choose networks and --size 256x256 there."""

_NOTES = """GMACs: giga multiply-adds per frame, by PyTorch's counter; + formula: work that the counter does not see
(dynamic filters and their resizing, warping, deformable convolutions). FLOPs are twice the sum; the GFLOPs of papers
are GMACs at 256x256. Quoted: reported by papers, not measured here; seconds for a 1280x720 frame on an RTX A6000."""


def command(arguments: Sequence[str]) -> None:
    """Run ``dstnet complexity``."""
    parser = command_parser(
        'dstnet complexity',
        'Parameters, multiply-adds, time and memory of networks, beside the figures of papers.',
        _EPILOG,
    )
    parser.add_argument('--networks', nargs='+', default=['all'], metavar='NAME', help='names or groups (default: all)')
    parser.add_argument(
        '--size', action='append', type=size, metavar='WxH', help='repeatable (default: 1280x720 and 256x256)'
    )
    parser.add_argument('--no-time', action='store_true', help='count only')
    parser.add_argument('--plot', action='store_true', help='also plot PSNR against multiply-adds, as in Figure 1')
    add_run_arguments(parser, frames=5, output='results/complexity', precisions=False)
    args = parser.parse_args(arguments)
    args.size = args.size or list(SIZES)
    choose_device(args)
    networks = select(args.networks)
    results = _count_all(networks, args)
    if not args.no_time:
        for frame_size in args.size:
            _measure_all(networks, results, args, frame_size)
    for frame_size in args.size:
        print(f'{_table(results, str(frame_size), timed=not args.no_time)}\n')
    print(f'{_NOTES}\nClips of {args.frames} frames; {report.made_on(args.device)}')
    labels = {result['label'] for result in results}
    others = {name: dict(zip(_QUOTED_KEYS, q, strict=True)) for name, q in QUOTED.items() if name not in labels}
    path = report.write_json(args.output, 'complexity', args, results, quoted_only=others)
    print(f'Written: {path}')
    if args.plot:
        work = {r['label']: r['sizes'][str(FIGURE_SIZE)].get('macs_per_frame') for r in results}
        print(f'Written: {plot(work, path.with_suffix(".png"))}')


def _count_all(networks: Sequence[Network], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Parameters and work of each network at each size."""
    results = []
    sizes = list(dict.fromkeys([*args.size, *[FIGURE_SIZE] * args.plot]))
    with Progress(len(networks) * len(sizes), 'network', 'counting') as progress:
        for network in networks:
            result: dict[str, Any] = {
                'network': network.name,
                'label': network.label,
                'group': network.group,
                'parameters': None,
                'quoted': dict(zip(_QUOTED_KEYS, QUOTED.get(network.label, _NOT_QUOTED), strict=True)),
                'sizes': {},
            }
            for frame_size in sizes:
                progress.relabel(f'count: {network.name}')
                result['sizes'][str(frame_size)] = _count(network, args.frames, frame_size, result)
                progress.update()
            results.append(result)
    return results


def _count(network: Network, frames: int, frame_size: Size, result: dict[str, Any]) -> dict[str, Any]:
    try:
        net = network.build()
        # Excludes the 1,024 frozen Haar values that the released files contain.
        result['parameters'] = sum(p.numel() for p in net.parameters())
        found = count(net, clip_shape(1, frames, frame_size))
    except UnavailableError as error:
        return {'failure': str(error)}
    except Exception as error:
        if network.group == 'peers':
            return {'failure': f'{type(error).__name__}: {first_line(error)}'}
        raise
    return {
        'macs_per_frame': found.counted / frames,
        'macs_by_formula_per_frame': {name: macs / frames for name, macs in found.by_formula.items()},
        'flops_per_frame': 2 * found.total / frames,
        'failure': None,
    }


def _measure_all(
    networks: Sequence[Network], results: Sequence[dict[str, Any]], args: argparse.Namespace, frame_size: Size
) -> None:
    """Add time and memory at one size to the results."""
    entries = {n: r['sizes'][str(frame_size)] for n, r in zip(networks, results, strict=True)}
    shape = clip_shape(args.batch, args.frames, frame_size)
    workloads = {n: workload(Case(n, 'fp32'), shape, args.device) for n, e in entries.items() if not e['failure']}
    measurements = measure(list(workloads.values()), args.device, args.repeats, args.warmup, not args.no_memory)
    for network, item in workloads.items():
        entries[network].update(report.measured(measurements[item.name], args.batch * args.frames))


def _table(results: Sequence[dict[str, Any]], frame_size: str, timed: bool) -> str:
    header = [frame_size, 'M parameters', 'GMACs', '+ formula', *['ms per frame (quartiles)', 'peak MiB'] * timed]
    rows = []
    for result in results:
        entry = result['sizes'][frame_size]
        by_formula = entry.get('macs_by_formula_per_frame')
        row = [
            result['label'],
            report.number(result['parameters'], 2, 1e-6),
            report.number(entry.get('macs_per_frame'), 1, 1e-9),
            report.number(None if by_formula is None else sum(by_formula.values()), 2, 1e-9),
        ]
        if timed:
            row.append(report.with_quartiles(entry.get('seconds_per_frame'), 2, 1e3))
            row.append(report.number(entry.get('peak_memory_bytes'), 0, 2**-20))
        rows.append([*row, *_quoted_cells(tuple(result['quoted'].values()))])
    labels = {result['label'] for result in results}
    for name, quoted in QUOTED.items():
        if name not in labels:
            rows.append([name, *'-' * (len(header) - 1), *_quoted_cells(quoted)])
    header += ['| quoted:', 'M parameters', 'GMACs 256x256', 's per frame']
    failures = [{'name': result['label'], **result['sizes'][frame_size]} for result in results]
    return '\n'.join([report.text_table(header, rows), *report.failures(failures)])


def _quoted_cells(quoted: Sequence[float | None]) -> list[str]:
    return ['|', *(report.number(value, digits) for value, digits in zip(quoted, (2, 1, 2), strict=True))]


def plot_points(counted: dict[str, float | None]) -> list[tuple[str, float, float, bool]]:
    """Return the points of the plot: (network, multiply-adds at 256x256, dB on GoPro, True if counted here).

    A network whose reported work differs by more than a tenth from the counted work appears twice.

    Args:
        counted: network -> multiply-adds; None if they could not be counted.
    """
    table = published_for('GoPro')
    assert table is not None
    psnr = {row['method']: row['psnr'] for row in table['rows']}
    points = []
    for name, (_, gmacs, _) in QUOTED.items():
        here, reported = counted.get(name), gmacs and 1e9 * gmacs
        if here:
            points.append((name, here, psnr[name], True))
        if reported and (not here or abs(reported / here - 1) > 0.1):
            points.append((f'{name}, reported' if here else name, reported, psnr[name], False))
    return points


def plot(counted: dict[str, float | None], path: Path) -> Path:
    """Plot `plot_points` to a PNG file.

    Raises:
        DSTNetError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout='constrained')
    axes = figure.add_subplot()
    for name, macs, psnr, here in plot_points(counted):
        colour = 'tab:red' if name.startswith('DSTNet') else 'tab:blue'
        axes.plot(macs / 1e9, psnr, 'o', color=colour, markerfacecolor=colour if here else 'white')
        axes.annotate(name, (macs / 1e9, psnr), (5, 3), textcoords='offset points', fontsize=8)
    for label, filling in (('work counted here', 'grey'), ('work as reported', 'white')):
        axes.plot([], [], 'o', color='grey', markerfacecolor=filling, label=label)
    axes.set(xscale='log', xlabel='giga multiply-adds for a 256x256 frame ("GFLOPs" of papers)')
    axes.set_ylabel('PSNR on GoPro, as reported (dB)')
    axes.margins(x=0.2, y=0.08)
    axes.grid(alpha=0.3, which='both')
    axes.legend(loc='lower left')
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise DSTNetError(f'{path} cannot be written: {error}.') from error
    return path

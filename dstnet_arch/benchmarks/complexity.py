"""``dstnet complexity``: Table 7 and Figure 1 of the paper. Size, work, time and memory of networks, measured here,
beside the figures that papers report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from textwrap import fill
from typing import Any

from dstnet_arch.benchmarks import cli, report
from dstnet_arch.benchmarks.flops import count
from dstnet_arch.benchmarks.forward import clip_shape, workload
from dstnet_arch.benchmarks.harness import PRECISIONS, measure
from dstnet_arch.benchmarks.networks import GROUPS, NETWORKS, Network, Unavailable, select
from dstnet_arch.benchmarks.progress import progress
from dstnet_arch.benchmarks.quoted import QUOTED, Quoted

SIZES = (cli.Size(1280, 720), cli.Size(256, 256))
FIGURE_SIZE = cli.Size(256, 256)  # at which papers state the work

_EPILOG = f"""networks:
{fill(', '.join(network.name for network in NETWORKS), 79)};
groups: all, {', '.join(GROUPS)}.
Counting computes nothing and takes a minute. Timing all networks takes minutes
on a GPU and many hours on a CPU: there, choose networks and --size 256x256."""

_NOTES = """GMACs: giga multiply-adds a frame, by PyTorch's counter; + formula: what that cannot see (dynamic filters
and their resizing, warping, deformable convolutions). FLOPs are twice the sum; what papers call GFLOPs are GMACs at
256x256. Quoted: reported by papers, not measured here; seconds for a 1280x720 frame on an NVIDIA RTX A6000."""


def command(arguments: Sequence[str]) -> None:
    """``dstnet complexity``."""
    args = _parse(arguments)
    cli.prepare(args)
    if args.plot:
        from dstnet_arch.benchmarks.figure import draw, require_matplotlib

        require_matplotlib()  # now, not after an hour of measuring
    networks = select(args.networks)
    results = _count_all(networks, args)
    if not args.no_time:
        for size in args.size:
            _measure_all(networks, results, args, size)
    for size in args.size:
        print(f'{_table(results, str(size), timed=not args.no_time)}\n')
    print(f'{_NOTES}\n{_conditions(args)}')
    others = {name: quoted._asdict() for name, quoted in QUOTED.items() if name not in {r['label'] for r in results}}
    path = report.write_json(args.output, 'complexity', args, results, quoted_only=others)
    print(f'Written: {path}')
    if args.plot:
        work = {r['label']: r['sizes'][str(FIGURE_SIZE)].get('macs_per_frame') for r in results}
        print(f'Written: {draw(work, path.with_suffix(".png"))}')


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='dstnet complexity',
        description='Parameters, multiply-adds, time and memory of networks, beside what papers report.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--networks', nargs='+', default=['all'], metavar='NAME', help='or groups, by default all')
    parser.add_argument(
        '--size', action='append', type=cli.size, metavar='WxH', help='may be repeated; by default 1280x720 and 256x256'
    )
    parser.add_argument('--dtype', choices=list(PRECISIONS), default='fp32', help='by default fp32, without TF32')
    parser.add_argument('--no-time', action='store_true', help='count only')
    parser.add_argument('--plot', action='store_true', help='also draw PSNR against multiply-adds, as in Figure 1')
    cli.add_arguments(parser, frames=5, output='results/complexity')
    args = parser.parse_args(arguments)
    args.size = args.size or list(SIZES)
    return args


def _count_all(networks: Sequence[Network], args: argparse.Namespace) -> list[dict[str, Any]]:
    """For each network what needs no run: parameters, and the work at each size."""
    results = []
    sizes = list(dict.fromkeys([*args.size, *[FIGURE_SIZE] * args.plot]))
    with progress(len(networks) * len(sizes)) as bar:
        for network in networks:
            result: dict[str, Any] = {
                'network': network.name,
                'label': network.label,
                'group': network.group,
                'parameters': None,
                'quoted': QUOTED.get(network.label, Quoted())._asdict(),
                'sizes': {},
            }
            for size in sizes:
                bar.describe(f'count: {network.name}')
                result['sizes'][str(size)] = _count(network, args.frames, size, result)
                bar.update()
            results.append(result)
    return results


def _count(network: Network, frames: int, size: cli.Size, result: dict[str, Any]) -> dict[str, Any]:
    try:
        net = network.build()
        # Without the 1,024 frozen values of the Haar transform that are in the released files of DSTNet.
        result['parameters'] = sum(p.numel() for p in net.parameters())
        found = count(net, clip_shape(1, frames, size))
    except Exception as error:
        if isinstance(error, Unavailable):
            return {'failure': str(error)}
        if network.group == 'peers':
            return {'failure': f'{type(error).__name__}: {" ".join(str(error).split())}'[:200]}
        raise
    return {
        'macs_per_frame': found.counted / frames,
        'macs_by_formula_per_frame': {name: macs / frames for name, macs in found.by_formula.items()},
        'flops_per_frame': 2 * found.total / frames,
        'failure': None,
    }


def _measure_all(
    networks: Sequence[Network], results: Sequence[dict[str, Any]], args: argparse.Namespace, size: cli.Size
) -> None:
    """Add time and memory at one size to the results."""
    entries = {n: r['sizes'][str(size)] for n, r in zip(networks, results, strict=True)}
    workloads = {n: workload(n, args, size, args.dtype) for n, entry in entries.items() if not entry['failure']}
    measurements = measure(list(workloads.values()), args.device, args.repeats, args.warmup, not args.no_memory)
    for network, item in workloads.items():
        entries[network].update(report.measured(measurements[item.name], args.batch * args.frames))


def _table(results: Sequence[dict[str, Any]], size: str, timed: bool) -> str:
    header = [size, 'M parameters', 'GMACs', '+ formula', *['ms a frame (quartiles)', 'peak MiB'] * timed]
    rows = []
    for result in results:
        entry = result['sizes'][size]
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
        rows.append([*row, *_quoted_cells(result['quoted'])])
    labels = {result['label'] for result in results}
    missing = {name: quoted for name, quoted in QUOTED.items() if name not in labels}
    rows += [[name, *'-' * (len(header) - 1), *_quoted_cells(q._asdict())] for name, q in missing.items()]
    header += ['| quoted:', 'M parameters', 'GMACs 256x256', 's a frame']
    failures = [{'name': result['label'], **result['sizes'][size]} for result in results]
    return '\n'.join([report.text_table(header, rows), *report.failures(failures)])


def _quoted_cells(quoted: dict[str, float | None]) -> list[str]:
    return ['|       ', *(report.number(quoted[k], d) for k, d in (('parameters', 2), ('gmacs', 1), ('seconds', 2)))]


def _conditions(args: argparse.Namespace) -> str:
    if args.no_time:
        return f'Counted on clips of {args.frames} frames.'
    return (
        f'Measured: {args.batch} x {args.frames} frames, {args.dtype}, alternating, median of {args.repeats}; '
        f'peak on top of the weights and the clip; {report.made_on(args)}'
    )

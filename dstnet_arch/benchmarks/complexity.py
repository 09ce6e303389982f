"""``dstnet complexity``: parameters and multiply-adds of networks, with the figures of papers (Table 7, Figure 1).

One multiply-add is one MAC and two FLOPs. The GFLOPs of papers on restoration are giga multiply-adds, usually for one
256x256 frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from dstnet_arch.archs.cwgdn import ChannelFilterNet
from dstnet_arch.archs.dstnet_plus_arch import PyramidFilterNet
from dstnet_arch.archs.dtff import PixelFilterNet
from dstnet_arch.arguments import Size, check_writable, command_parser, size, whole_number
from dstnet_arch.benchmarks import report
from dstnet_arch.benchmarks.networks import GROUPS, NETWORKS, Network, select
from dstnet_arch.benchmarks.plain import PlainDSTNet
from dstnet_arch.errors import DSTNetError, counted, first_line
from dstnet_arch.files import output_file
from dstnet_arch.metrics.tables import published_for
from dstnet_arch.ops.pixel_filter import TAPS
from dstnet_arch.progress import Progress

FIGURE_SIZE = Size(256, 256)
"""Size at which papers state the work."""

QUOTED: dict[str, tuple[float | None, float | None]] = {
    'DSTNet': (7.45, 47.9),
    'DSTNet-L': (16.96, None),
    'DSTNet+': (3.90, 44.6),
    'DSTNet+L': (14.09, 158),
    'BasicVSR++': (9.46, 38),
    'EDVR': (23.60, 2298.97),
    'RVRT': (13.60, 559),
    'FGST': (9.70, None),
    'CDVD-TSP': (16.19, 357.79),
    'DVDSEF': (75.05, None),
    'DVD': (15.30, None),
    'ESTRNN': (2.22, 10.5),
    'Shift-Net': (10.51, 147),
}
"""Figures that papers report, none counted here: millions of parameters, giga multiply-adds for a 256x256 frame.

Parameters: Table 7 of the DSTNet paper, otherwise the networks' own papers. Multiply-adds: EDVR and CDVD-TSP from
Section 1 of the DSTNet paper, which calls them FLOPs; others from their own papers and comparisons.
"""
_BILINEAR = 4  # multiply-adds for a value interpolated between four others

_NOTES = """GMACs: giga multiply-adds per frame, by PyTorch's counter; + formula: work that the counter does not see
(dynamic filters and their resizing, warping, deformable convolutions). FLOPs are twice the sum. Neither includes
biases, activations, normalisation, pooling, gating or resizing of features. Quoted: reported by papers for 256x256,
not counted here."""


def count(net: nn.Module, shape: Sequence[int]) -> tuple[int, dict[str, int]]:
    """Count the multiply-adds of one pass in evaluation mode.

    Nothing is computed: the network is moved to the meta device and cannot be used afterwards.

    Args:
        net: A network of ours or of stock BasicSR that maps a clip to a clip.
        shape: (B, T, 3, H, W).

    Returns:
        Those that PyTorch's counter sees (convolutions and matrix products), and by name those that it does not:
        pixel filter, Eq. (4), and channel filter, Eq. (1), where it is not a convolution: 9 per value of the filtered
        features; filter resizing: 4 per filter value at full size; deformable convolution: its products, and 4 per
        bilinear sample; warping: 4 per value.
    """
    net = net.eval().to('meta')
    filters: Counter[str] = Counter()
    for module in net.modules():
        if isinstance(module, (PixelFilterNet, PyramidFilterNet)):
            module.register_forward_hook(lambda _, args, out: filters.update(_pixel_filter(args[0], out)))
        # The fast channel filter is a convolution, which the counter sees.
        elif isinstance(module, ChannelFilterNet) and isinstance(net, PlainDSTNet):
            module.register_forward_hook(
                lambda _, args, out: filters.update({'channel filter': TAPS * args[0].numel()})
            )
    formulas = _operator_formulas()
    counter = FlopCounterMode(display=False, custom_mapping={op: formula for op, (_, formula) in formulas.items()})
    with torch.no_grad(), counter, _NoBranches():
        net(torch.empty(tuple(shape), device='meta'))
    flops: dict[Any, int] = dict(counter.get_flop_counts().get('Global', {}))
    by_formula = {name: flops.pop(op) // 2 for op, (name, _) in formulas.items() if op in flops}
    return sum(flops.values()) // 2, {**filters, **by_formula}


class _NoBranches(TorchFunctionMode):
    """Answer False where a network takes the truth value of a tensor, which has none on the meta device.

    EDVR does so to warn of large offsets, BasicVSR++ to detect mirrored clips: False for ordinary clips.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return False if func is Tensor.__bool__ else func(*args, **(kwargs or {}))


def _pixel_filter(features: Tensor, filters: Tensor | Sequence[Tensor]) -> dict[str, int]:
    # Filters come at one size or at several; those of each size are resized to the features' size.
    sizes = 1 if isinstance(filters, Tensor) else len(filters)
    work = TAPS * features.numel()
    return {'pixel filter': work, 'filter resizing': sizes * _BILINEAR * work}


def _operator_formulas() -> dict[Any, tuple[str, Any]]:
    """Operator -> (name, FLOPs from the shapes of its arguments)."""
    formulas: dict[Any, tuple[str, Any]] = {torch.ops.aten.grid_sampler_2d: ('warping', _warping)}
    deform_conv2d = getattr(torch.ops.torchvision, 'deform_conv2d', None)  # where torchvision is loaded
    if deform_conv2d is not None:
        formulas[deform_conv2d] = ('deformable convolution', _deformable_convolution)
    return formulas


def _warping(x: Any, grid: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * _BILINEAR * prod(out_shape)


def _deformable_convolution(x: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    n, _, height, width = out_shape
    samples = n * x[1] * prod(weight[2:]) * height * width
    return 2 * (prod(out_shape) * prod(weight[1:]) + _BILINEAR * samples)


def command(arguments: Sequence[str]) -> None:
    """Run ``dstnet complexity``."""
    parser = command_parser('dstnet complexity', 'Count parameters and multiply-adds, and quote those of papers.')
    names = ', '.join(network.name for network in NETWORKS)
    text = f'networks or groups (default: all). Networks: {names}; groups: {", ".join(GROUPS)}'
    parser.add_argument('--networks', nargs='+', default=GROUPS, metavar='NAME', help=text)
    parser.add_argument('--size', type=size, default=FIGURE_SIZE, metavar='WxH', help='default: 256x256')
    parser.add_argument('--frames', type=whole_number(1), default=5, metavar='N', help='of a clip (default: 5)')
    parser.add_argument('--plot', action='store_true', help='plot PSNR against multiply-adds, as in Figure 1')
    folder = Path('results/complexity')
    parser.add_argument('-o', '--output', type=Path, default=folder, metavar='DIR', help=f'default: {folder}')
    args = parser.parse_args(arguments)
    if args.plot and args.size != FIGURE_SIZE:
        parser.error(f'--plot needs --size {FIGURE_SIZE}, the size of the quoted figures')
    check_writable(args.output)
    args.device = torch.device('cpu')
    networks = select(args.networks)
    results = []
    with Progress(len(networks), 'network', 'counting') as progress:
        for network in networks:
            results.append(_count(network, args.frames, args.size))
            progress.update()
    _print_table(results, f'{counted(args.frames, "frame")} of {args.size}')
    print(_NOTES)
    path = report.write_json(args.output, 'complexity', args, results)
    print(f'Written: {path}')
    if args.plot:
        plot({result['name']: result['macs_per_frame'] for result in results}, path.with_suffix('.png'))
        print(f'Written: {path.with_suffix(".png")}')


def _count(network: Network, frames: int, frame_size: Size) -> dict[str, Any]:
    result: dict[str, Any] = {
        'name': network.label,
        'network': network.name,
        'parameters': None,
        'macs_per_frame': None,
        'macs_by_formula_per_frame': None,
        'quoted': QUOTED.get(network.label),
        'failure': None,
    }
    try:
        net = network.build()
        # Excludes the 1,024 frozen Haar values that the released files contain.
        result['parameters'] = sum(p.numel() for p in net.parameters())
        counted, by_formula = count(net, (1, frames, 3, frame_size.height, frame_size.width))
        result['macs_per_frame'] = counted / frames
        result['macs_by_formula_per_frame'] = {name: macs / frames for name, macs in by_formula.items()}
    except DSTNetError as error:
        result['failure'] = str(error)
    except Exception as error:
        if network.group != 'peers':
            raise
        result['failure'] = f'{type(error).__name__}: {first_line(error)}'
    return result


def _print_table(results: Sequence[Mapping[str, Any]], title: str) -> None:
    header = ['network', 'M parameters', 'GMACs', '+ formula', 'quoted M parameters', 'quoted GMACs']
    counted = {result['name']: result for result in results}
    rows = []
    for name in dict.fromkeys([*counted, *QUOTED]):
        found = counted.get(name, {})
        by_formula = found.get('macs_by_formula_per_frame')
        parameters, gmacs = QUOTED.get(name, (None, None))
        rows.append(
            [
                name,
                report.number(found.get('parameters'), 2, 1e-6),
                report.number(found.get('macs_per_frame'), 1, 1e-9),
                report.number(None if by_formula is None else sum(by_formula.values()), 2, 1e-9),
                report.number(parameters, 2),
                report.number(gmacs, 1),
            ]
        )
    report.print_table(title, header, rows, results)


def plot(counted: Mapping[str, float | None], path: Path) -> None:
    """Plot multiply-adds, counted here or else as reported, and PSNR on GoPro to a PNG file.

    Args:
        counted: Network -> multiply-adds for a 256x256 frame; None if they could not be counted.
        path: New file.

    Raises:
        DSTNetError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    table = published_for('GoPro')
    assert table is not None
    psnr = {row['method']: row['psnr'] for row in table['rows']}
    figure = Figure(figsize=(7.2, 4.4), layout='constrained')
    axes = figure.add_subplot()
    for name, (_, reported) in QUOTED.items():
        here = counted.get(name)
        gmacs = here / 1e9 if here else reported
        if gmacs is not None:
            colour = 'tab:red' if name.startswith('DSTNet') else 'tab:blue'
            axes.plot(gmacs, psnr[name], 'o', color=colour, markerfacecolor=colour if here else 'white')
            axes.annotate(name, (gmacs, psnr[name]), (5, 3), textcoords='offset points', fontsize=8)
    axes.set(xscale='log', xlabel='giga multiply-adds for a 256x256 frame (filled: counted here, else as reported)')
    axes.set_ylabel('PSNR on GoPro, as reported (dB)')
    axes.margins(x=0.2, y=0.08)
    axes.grid(alpha=0.3, which='both')
    with output_file(path) as file:
        figure.savefig(file, format='png', dpi=150)

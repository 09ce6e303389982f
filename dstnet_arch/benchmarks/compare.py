"""``dstnet benchmark forward|train|stream``: networks, precisions and ways to run them, against the plain schedule."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import product, starmap
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import torch
from torch import Tensor

from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.arguments import Size, add_device, check_writable, size, whole_number
from dstnet_arch.benchmarks import report
from dstnet_arch.benchmarks.harness import Workload, measure, ratio, spread
from dstnet_arch.benchmarks.networks import NETWORKS, find, select
from dstnet_arch.errors import OptionsError, counted
from dstnet_arch.memory_errors import out_of_memory
from dstnet_arch.ops import fused, native
from dstnet_arch.ops.cuda_graph import GraphedBackward
from dstnet_arch.precision import PRECISIONS, choose_device, resolve_precision
from dstnet_arch.streaming.state_store import StoreKind
from dstnet_arch.streaming.streamer import Streamer

SCHEDULES = {
    'eager': "PyTorch's operations instead of the compiled CPU kernels; no CUDA graph of a training step",
    'steps': 'torch.compile of one propagation step',
    'compiled': 'torch.compile of the network',
}
"""More ways to run a network; peers run as they are or 'compiled'."""
STATES: dict[str, dict[str, Any]] = {
    **{kind: {'store': kind} for kind in get_args(StoreKind)},
    'sqrt': {'store': 'host', 'interval': 'sqrt'},
}
"""Places of a stream's states -> arguments of `Streamer`."""
CHECKPOINTING = 'checkpointing'
_ACCURACY = ('largest_difference', 'psnr_to_fp32')
_DEFAULTS = {'forward': ('256x256', [2], 10), 'train': ('128x128', [3], 10), 'stream': ('256x256', [20, 100], 3)}


class Case(NamedTuple):
    """One row of a comparison.

    Attributes:
        kind: 'forward', 'train' or 'stream'.
        network: Name of the network.
        precision: One of `PRECISIONS`.
        frames: T.
        way: '', a key of `SCHEDULES` or `STATES`, or `CHECKPOINTING`.
    """

    kind: str
    network: str
    precision: str
    frames: int
    way: str = ''


def add_machine_arguments(parser: argparse.ArgumentParser, output: str = 'results/benchmarks') -> None:
    """Define --device, --threads and -o; `prepare_machine` applies them."""
    add_device(parser)
    parser.add_argument('--threads', type=whole_number(1), metavar='N', help="CPU threads (default: PyTorch's choice)")
    parser.add_argument(
        '-o', '--output', type=Path, default=Path(output), metavar='DIR', help=f'folder of the JSON file ({output})'
    )


def prepare_machine(args: argparse.Namespace) -> None:
    """Replace `args.device` by a `torch.device` and set the number of threads.

    Raises:
        OptionsError: the device cannot be used.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    args.device = choose_device(args.device)


def add_arguments(parser: argparse.ArgumentParser, kind: str) -> None:
    """Define the command line of ``dstnet benchmark KIND``."""
    frame_size, frames, repeats = _DEFAULTS[kind]
    positive = whole_number(1)
    add = parser.add_argument
    add('--networks', nargs='+', default=['DSTNet'], metavar='NAME', help='default: DSTNet')
    add('--size', type=size, default=size(frame_size), metavar='WxH', help=f'default: {frame_size}')
    text = f'frames of a clip (default: {" ".join(map(str, frames))})'
    add('--frames', nargs='+', type=positive, default=frames, metavar='N', help=text)
    add('--precision', nargs='+', choices=PRECISIONS, default=['fp32'], help='default: fp32')
    if kind == 'stream':
        text = 'where states are kept; sqrt: every sqrt(T)-th in main memory (default: host disk sqrt)'
        add('--states', nargs='+', choices=STATES, default=['host', 'disk', 'sqrt'], help=text)
        add('--tile', type=size, metavar='WxH', help='process frames in tiles')
    else:
        ways = '; '.join(f'{name}: {text}' for name, text in SCHEDULES.items())
        add('--schedules', nargs='+', choices=SCHEDULES, default=[], help=f'more ways to run ours. {ways}')
        add('--batch', type=positive, default=1, metavar='N', help='clips per run (default: 1)')
    add('--repeats', type=positive, default=repeats, metavar='N', help=f'timed rounds (default: {repeats})')
    add('--warmup', type=positive, default=2, metavar='N', help='rounds before them (default: 2)')
    add('--no-memory', action='store_true', help='measure time only')
    add_machine_arguments(parser)


def run(kind: str, args: argparse.Namespace) -> None:
    """Measure, print the table, write the JSON file.

    Args:
        kind: 'forward', 'train' or 'stream'.
        args: Arguments by `add_arguments`.
    """
    check_writable(args.output)
    prepare_machine(args)
    torch.backends.cudnn.benchmark = True  # cuDNN chooses its algorithms in the warm-up, as in BasicSR's pipelines
    cases = _cases(kind, args)
    workloads = [_workload(case, args) for case in cases]
    results = measure(workloads, args.device, args.repeats, args.warmup, not args.no_memory)
    reference = results[workloads[0].name]
    objects: list[dict[str, Any]] = []
    outputs: dict[tuple[str, int], Tensor] = {}
    for case, workload in zip(cases, workloads, strict=True):
        measured = results[workload.name]
        row = {
            'name': workload.name,
            **case._asdict(),
            'path': _path(case, args.device),
            'seconds_per_frame': spread(measured.seconds),
            'runs_seconds_per_frame': measured.seconds,
            'ratio': ratio(measured, reference),
            'peak_memory_bytes': measured.peak_memory,
            'failure': measured.failure,
        }
        if kind == 'forward':
            row |= _accuracy(case, workload, outputs) if measured.seconds else dict.fromkeys(_ACCURACY)
        objects.append(row)
    _print_table(kind, objects, args)
    print(f'Written: {report.write_json(args.output, kind, args, objects, reference=objects[0]["name"])}')


def _cases(kind: str, args: argparse.Namespace) -> list[Case]:
    """Rows of the table. The first is the reference: the plain schedule in fp32, or a stream's complete clip."""
    networks = select(args.networks)
    for name in args.precision:
        resolve_precision(name, args.device, '--precision')
    if kind == 'stream':
        names = [network.name for network in networks]
        if others := [network.name for network in networks if not network.is_ours]:
            raise OptionsError(f'Only DSTNet and DSTNetPlus can be streamed, not {", ".join(others)}.')
        rows = product([kind], names, args.precision, args.frames, args.states)
        return [Case(kind, names[0], args.precision[0], min(args.frames)), *starmap(Case, rows)]
    plain = next((n for n in NETWORKS if n.name == f'Plain{networks[0].name}'), find('PlainDSTNet'))
    cases = []
    for frames in args.frames:
        cases.append(Case(kind, plain.name, 'fp32', frames))
        for precision, network in product(args.precision, [plain, *networks]):
            ways = [way for way in args.schedules if network.is_ours or way == 'compiled']
            ways += [CHECKPOINTING] * (kind == 'train' and network.is_ours)
            cases += [Case(kind, network.name, precision, frames, way) for way in ['', *ways]]
    return list(dict.fromkeys(cases))


def _workload(case: Case, args: argparse.Namespace) -> Workload:
    network = find(case.network)
    batch = 1 if case.kind == 'stream' else args.batch
    shape = (batch, case.frames, 3, args.size.height, args.size.width)
    parts = [network.label, case.precision, case.way, counted(case.frames, 'frame') if len(args.frames) > 1 else '']
    return Workload(
        ', '.join(filter(None, parts)),
        prepare,
        {'case': case, 'shape': shape, 'device': str(args.device), 'tile': getattr(args, 'tile', None)},
        frames=batch * case.frames,
        optional=case.way in SCHEDULES or network.group == 'peers',
        memory=case.way not in ('steps', 'compiled'),  # a fresh process would measure the compiler
    )


def prepare(case: Case, shape: tuple[int, ...], device: str, tile: Size | None = None) -> Callable[[], Any]:
    """Return a function that restores or streams a random clip (B, T, 3, H, W), or makes a training step on it.

    Networks with the same parameters get the same weights. A training step computes the gradients of all weights; its
    loss, a small share of the time, is a mean absolute difference.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = find(case.network).build().to(device).train(case.kind == 'train')
        clip = torch.rand(shape)
    policy = resolve_precision(case.precision, device, '--precision')
    if case.way in STATES:
        streamer = Streamer(cast(VideoNet, net), autocast=policy.autocast_dtype, tile=tile, **STATES[case.way])
        frames = [clip[0, 0].clone()] * case.frames

        def stream() -> None:
            with policy.step():
                for _ in streamer(frames):
                    pass

        return stream
    if case.way == 'steps':
        cast(VideoNet, net).compile_steps()
    if case.way == CHECKPOINTING:
        cast(VideoNet, net).gradient_checkpointing = True
    call = torch.compile(net) if case.way == 'compiled' else net
    clip = clip.to(device)

    def restore() -> Tensor:
        with torch.no_grad(), policy.step(), policy.autocast(), _kernels(case):
            return call(clip)

    def backward(clip: Tensor, _: Tensor) -> dict[str, Tensor]:
        with policy.autocast():
            restored = call(clip)
        loss = (restored.float() - 0.5).abs().mean()
        loss.backward()
        return {'l_pix': loss.detach()}

    passes = GraphedBackward(backward, net.parameters()) if _is_graphed(case, clip.device) else backward

    def step() -> None:
        net.zero_grad()
        with policy.step(), _kernels(case):
            passes(clip, clip)

    return step if case.kind == 'train' else restore


def _kernels(case: Case) -> AbstractContextManager[None]:
    return native.native(False) if case.way == 'eager' else nullcontext()


def _is_graphed(case: Case, device: torch.device) -> bool:
    """Whether the model launches a training step as a CUDA graph. Plain schedules and peers run as published."""
    return case.kind == 'train' and device.type == 'cuda' and find(case.network).is_ours and case.way != 'eager'


def _path(case: Case, device: torch.device) -> str:
    """The kernels that ran: 'native' (C), 'fused' (Triton; 'graph': as a CUDA graph) or 'pytorch'."""
    policy = resolve_precision(case.precision, device)
    with policy.autocast(), _kernels(case):
        if find(case.network).is_ours and native.usable([torch.zeros(1, device=device)], 32):
            return 'native'
        if find(case.network).is_ours and fused.usable(torch.zeros(1, device=device, dtype=policy.autocast_dtype)):
            return 'fused, graph' if _is_graphed(case, device) else 'fused'
    return 'pytorch'


def _accuracy(case: Case, workload: Workload, outputs: dict[tuple[str, int], Tensor]) -> dict[str, float | None]:
    """Largest difference and PSNR (dB) to the first result of the same network in fp32."""
    family = case.network.removeprefix('Plain'), case.frames
    try:
        output = workload.prepare(**workload.arguments)().float()
        if case.precision == 'fp32' and family not in outputs:
            outputs[family] = output
        elif family in outputs:
            difference = output.double() - outputs[family].double()
            mse = difference.square().mean()
            psnr = float(-10 * mse.log10()) if mse else None
            return dict(zip(_ACCURACY, (float(difference.abs().max()), psnr), strict=True))
    except RuntimeError as error:  # more results at once than in the measurement
        if not out_of_memory(error):
            raise
    return dict.fromkeys(_ACCURACY)


def _print_table(kind: str, objects: list[dict[str, Any]], args: argparse.Namespace) -> None:
    header = ['network', 'path', 'ms per frame (quartiles)', 'ratio (quartiles)', 'peak MiB', 'ratio']
    accuracy = _ACCURACY[0] in objects[0]
    if accuracy:
        header += ['largest difference', 'dB to fp32']
    rows = []
    for item in objects:
        peak, base = item['peak_memory_bytes'], objects[0]['peak_memory_bytes']
        row = [
            item['name'],
            item['path'],
            report.with_quartiles(item['seconds_per_frame'], 2, 1e3),
            report.with_quartiles(item['ratio'], 3),
            report.number(peak, 0, 2**-20),
            report.number(peak / base if peak and base else None, 2),
        ]
        if accuracy:
            difference, psnr = (item[key] for key in _ACCURACY)
            row += ['-' if difference is None else f'{difference:.1e}', report.number(psnr, 1)]
        rows.append(row)
    report.print_table(f'{kind}, frames of {args.size}', header, rows, objects)
    print(f'Ratios to {objects[0]["name"]}: below 1 is faster, or less. Peak: above the weights and the clip.')
    print(report.made_on(args.device))

"""``dstnet benchmark forward`` and ``train``: networks, precisions and schedules compared with the plain schedule."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.arguments import Size, check_writable, size, whole_number
from dstnet_arch.benchmarks import report
from dstnet_arch.benchmarks.harness import Workload, measure, ratio, saved_for_backward
from dstnet_arch.benchmarks.networks import PLAIN, Network, UnavailableError, find, select
from dstnet_arch.errors import OptionsError
from dstnet_arch.memory_errors import out_of_memory
from dstnet_arch.ops.native import available, native, native_enabled, usable
from dstnet_arch.precision import PRECISIONS, Precision, resolve_precision

SCHEDULES = {
    'default': 'as users run it',
    'eager': "PyTorch's operations only",
    'native': 'compiled CPU kernels',
    'steps': 'torch.compile of one propagation step',
    'compiled': 'torch.compile of the network',
}
"""Ways to run a network; peers run as 'default' or 'compiled'."""
_COMPILED = ('steps', 'compiled')
_DEFAULT_OUTPUT = 'results/benchmarks'


class Case(NamedTuple):
    """One row of a comparison."""

    network: Network
    precision: str
    schedule: str = 'default'
    checkpointing: bool = False

    @property
    def name(self) -> str:
        """Row label, for example 'DSTNet, bf16, steps'."""
        schedule = '' if self.schedule == 'default' else f', {self.schedule}'
        return f'{self.network.label}, {self.precision}{schedule}{", checkpointing" * self.checkpointing}'


def add_machine_arguments(parser: argparse.ArgumentParser, output: str = _DEFAULT_OUTPUT) -> None:
    """Define --device, --threads and -o; `choose_device` resolves them."""
    parser.add_argument('--device', help='cpu, cuda or cuda:N (default: cuda if available)')
    parser.add_argument('--threads', type=whole_number(1), metavar='N', help="CPU threads (default: PyTorch's choice)")
    parser.add_argument(
        '-o', '--output', type=Path, default=Path(output), metavar='DIR', help=f'folder of the JSON file ({output})'
    )


def add_run_arguments(
    parser: argparse.ArgumentParser, frames: int, output: str = _DEFAULT_OUTPUT, precisions: bool = True
) -> None:
    """Define the arguments of paired measurements."""
    positive = whole_number(1)
    parser.add_argument('--frames', type=positive, default=frames, metavar='N', help=f'T (default: {frames})')
    parser.add_argument('--batch', type=positive, default=1, metavar='N', help='clips per run (default: 1)')
    parser.add_argument('--repeats', type=positive, default=10, metavar='N', help='timed rounds (default: 10)')
    parser.add_argument('--warmup', type=positive, default=2, metavar='N', help='rounds before them (default: 2)')
    parser.add_argument('--no-memory', action='store_true', help='measure time only')
    if precisions:
        parser.add_argument('--precision', nargs='+', choices=PRECISIONS, default=['fp32'], help='default: fp32')
    add_machine_arguments(parser, output)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet benchmark forward`` and ``train``."""
    training = parser.prog.endswith('train')
    default = Size(128, 128) if training else Size(256, 256)
    parser.add_argument('--networks', nargs='+', default=['DSTNet'], metavar='NAME', help='default: DSTNet')
    parser.add_argument('--size', type=size, default=default, metavar='WxH', help=f'default: {default}')
    ways = '; '.join(f'{name}: {text}' for name, text in list(SCHEDULES.items())[1:])
    parser.add_argument(
        '--schedules', nargs='+', default=[], choices=list(SCHEDULES)[1:], help=f'more ways to run ours. {ways}'
    )
    add_run_arguments(parser, frames=3 if training else 2)


def choose_device(args: argparse.Namespace) -> None:
    """Resolve `args.device`, make it PyTorch's current device and set the number of threads.

    Raises:
        OptionsError: the device does not exist, or `args.output` cannot be written.
    """
    check_writable(args.output)
    if args.threads:
        torch.set_num_threads(args.threads)
    name = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device('meta')
    if device.type not in ('cpu', 'cuda'):
        raise OptionsError(f'--device {name}: choose cpu, cuda or cuda:N.')
    if device.type == 'cuda':
        number = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= number:
            raise OptionsError(
                f'--device {name}: PyTorch {torch.__version__} finds {number} CUDA devices here. Choose another one, '
                'or --device cpu.'
            )
        torch.cuda.set_device(device)
    args.device = device


def run_forward(args: argparse.Namespace) -> None:
    """Measure restoring a clip, print the table, write the JSON file."""
    _run('forward', args, training=False)


def run_train(args: argparse.Namespace) -> None:
    """Measure a training step, print the table, write the JSON file."""
    _run('train', args, training=True)


def _run(kind: str, args: argparse.Namespace, training: bool) -> None:
    choose_device(args)
    for name in args.precision:
        resolve_precision(name, args.device, '--precision')
    cases = _cases(args, training)
    shape = clip_shape(args.batch, args.frames, args.size)
    workloads = [workload(case, shape, args.device, training) for case in cases]
    results = measure(workloads, args.device, args.repeats, args.warmup, not args.no_memory)
    objects: list[dict[str, Any]] = []
    outputs: dict[str, Tensor | None] = {}
    for case, item in zip(cases, workloads, strict=True):
        ran = bool(results[item.name].seconds)
        row: dict[str, Any] = {
            'name': case.name,
            'network': case.network.name,
            'precision': case.precision,
            'schedule': case.schedule,
            'path': _path(case, args.device),
            **report.measured(results[item.name], args.batch * args.frames),
            'ratio': report.as_object(ratio(results[item.name], results[workloads[0].name])),
        }
        if training:
            row['checkpointing'] = case.checkpointing
            row['saved_for_backward_bytes'] = _saved(case, shape, args.device) if ran and not args.no_memory else None
        else:
            row |= _accuracy(item, case, outputs) if ran else {'largest_difference': None, 'psnr_to_fp32': None}
        objects.append(row)
    _print_table(objects, args, training)
    path = report.write_json(args.output, kind, args, objects, reference=objects[0]['name'])
    print(f'Written: {path}')


def _cases(args: argparse.Namespace, training: bool) -> list[Case]:
    """Rows of the table. The first is the reference: the plain schedule in float32."""
    networks = select(args.networks)
    plain = find(PLAIN.get(networks[0].name, 'PlainDSTNet'))
    cases = [Case(plain, 'fp32')]
    for precision in args.precision:
        cases += [Case(network, precision) for network in (plain, *networks)]
        for network in networks:
            ours = network.group in ('ours', 'ablations')
            cases += [Case(network, precision, s) for s in args.schedules if ours or s == 'compiled']
            cases += [Case(network, precision, checkpointing=True)] * (training and ours)
    return list(dict.fromkeys(cases))


def workload(case: Case, shape: Sequence[int], device: torch.device, training: bool = False) -> Workload:
    """Return restoring a clip of this shape, or a training step on it, as a workload."""
    arguments: dict[str, Any] = {
        'network': case.network.name,
        'precision': case.precision,
        'schedule': case.schedule,
        'shape': list(shape),
        'device': str(device),
    }
    if training:
        arguments['checkpointing'] = case.checkpointing
    return Workload(
        case.name,
        prepare_train if training else prepare_forward,
        arguments,
        optional=case.schedule != 'default' or case.network.group == 'peers',
        memory=case.schedule not in _COMPILED,  # a fresh process would measure the compiler
    )


def clip_shape(batch: int, frames: int, frame_size: Size) -> list[int]:
    """Return the shape (B, T, 3, H, W)."""
    return [batch, frames, 3, frame_size.height, frame_size.width]


def prepare_forward(network: str, precision: str, schedule: str, shape: list[int], device: str) -> Callable[[], Tensor]:
    """Return a function that restores a random clip. Networks with the same parameters get the same weights.

    Raises:
        UnavailableError: the network cannot run in this way here.
    """
    net, clip, policy = _build(network, precision, shape, device)
    call = _scheduled(net.eval(), schedule)

    def restore() -> Tensor:
        with torch.no_grad(), policy.step(), policy.autocast(), _kernels(schedule):
            return call(clip)

    return restore


def prepare_train(
    network: str, precision: str, schedule: str, shape: list[int], device: str, checkpointing: bool
) -> Callable[[], None]:
    """Return a function that computes the gradients of all weights, as a training step without loss and optimiser.

    The loss, a small share of the time, is replaced by a mean absolute difference.
    """
    net, clip, policy = _build(network, precision, shape, device)
    if checkpointing:
        cast(VideoNet, net).gradient_checkpointing = True
    call = _scheduled(net.train(), schedule)

    def step() -> None:
        net.zero_grad()
        with policy.step(), _kernels(schedule):
            _loss(call, clip, policy).backward()

    return step


def _build(network: str, precision: str, shape: list[int], device: str) -> tuple[nn.Module, Tensor, Precision]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, clip = find(network).build().to(device), torch.rand(shape).to(device)
    return net, clip, resolve_precision(precision, device, '--precision')


def _loss(call: Callable[[Tensor], Tensor], clip: Tensor, policy: Precision) -> Tensor:
    with policy.autocast():
        restored = call(clip)
    return (restored.float() - 0.5).abs().mean()


def _scheduled(net: nn.Module, schedule: str) -> nn.Module:
    if schedule == 'native':
        with native(True):
            if not available():
                raise UnavailableError('the compiled CPU kernels are not available')
    if schedule == 'steps':
        cast(VideoNet, net).compile_steps()
    return cast(nn.Module, torch.compile(net)) if schedule == 'compiled' else net


def _kernels(schedule: str) -> AbstractContextManager[None]:
    """Force or forbid the compiled CPU kernels; 'default' leaves the choice to the library."""
    return native(native_enabled() if schedule == 'default' else schedule == 'native')


def _path(case: Case, device: torch.device) -> str:
    """The kernels that ran: 'native' (C), 'fused' (Triton) or 'pytorch'."""
    ours = case.network.group in ('ours', 'ablations')
    if device.type == 'cuda' and ours:
        return 'fused'
    with _kernels(case.schedule):
        is_native = ours and case.precision == 'fp32' and usable(torch.zeros(1), 32)
    return 'native' if is_native else 'pytorch'


def _accuracy(item: Workload, case: Case, outputs: dict[str, Tensor | None]) -> dict[str, float | None]:
    """Largest difference and PSNR (dB) to the first result of the same network in float32."""
    family = next((n for n, plain in PLAIN.items() if case.network.name in (n, plain)), case.network.name)
    try:
        output = item.prepare(**item.arguments)().float()
    except torch.cuda.OutOfMemoryError:  # more results at once than in the measurement
        return {'largest_difference': None, 'psnr_to_fp32': None}
    expected = outputs.setdefault(family, output if case.precision == 'fp32' else None)
    if expected is None or expected is output:
        return {'largest_difference': None, 'psnr_to_fp32': None}
    difference = output.double() - expected.double()
    mse = float(difference.square().mean())
    psnr = float(-10 * torch.tensor(mse).log10()) if mse else None
    return {'largest_difference': float(difference.abs().max()), 'psnr_to_fp32': psnr}


def _saved(case: Case, shape: list[int], device: torch.device) -> int | None:
    """Bytes that the graph of one forward pass holds."""
    if case.schedule in _COMPILED:
        return None
    try:
        net, clip, policy = _build(case.network.name, case.precision, shape, str(device))
        if case.checkpointing:
            cast(VideoNet, net).gradient_checkpointing = True
        with saved_for_backward(net) as saved, policy.step(), _kernels(case.schedule):
            loss = _loss(net.train(), clip, policy)
        del loss
        return sum(saved.values())
    except Exception as error:
        if case.network.group == 'peers' or out_of_memory(error):
            return None
        raise


def _print_table(objects: list[dict[str, Any]], args: argparse.Namespace, training: bool) -> None:
    header = ['', 'path', 'ms per frame (quartiles)', 'ratio (quartiles)', 'peak MiB', 'ratio']
    header += ['saved MiB', 'ratio'] if training else ['largest difference', 'dB to fp32']
    rows = []
    for item in objects:
        row = [
            item['name'],
            item['path'],
            report.with_quartiles(item['seconds_per_frame'], 2, 1e3),
            report.with_quartiles(item['ratio'], 3),
        ]
        for key in ('peak_memory_bytes', *['saved_for_backward_bytes'] * training):
            value, base = item[key], objects[0][key]
            row += [report.number(value, 0, 2**-20), report.number(value / base if value and base else None, 2)]
        if not training:
            difference = item['largest_difference']
            row += ['-' if difference is None else f'{difference:.1e}', report.number(item['psnr_to_fp32'], 1)]
        rows.append(row)
    print(report.text_table(header, rows), *report.failures(objects), sep='\n')
    print(f'\n{args.batch} x {args.frames} frames of {args.size}; {report.made_on(args.device)}')
    print(f'Ratios to {objects[0]["name"]}: below 1 is faster, or less. Peak: above the weights and the clip.')
    if training:
        print('Saved: what the backward pass keeps, without the weights.')

"""``dstnet benchmark runtimes``: exported networks in other programs, against PyTorch, on the CPU."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dstnet_arch._version import __version__
from dstnet_arch.archs.reference import PlainDSTNet
from dstnet_arch.benchmarks import cli, report
from dstnet_arch.benchmarks.forward import build, clip_shape
from dstnet_arch.benchmarks.harness import Workload, measure, ratio
from dstnet_arch.benchmarks.networks import PLAIN, find
from dstnet_arch.errors import OptionsError
from dstnet_arch.export.formats import DEFAULT_OPSET, FORMATS, INPUT, OUTPUT, quiet, write
from dstnet_arch.export.network import ClipNet

RUNTIMES = {
    'torchscript': 'TorchScript',
    'onnxruntime': 'ONNX Runtime',
    'openvino': 'OpenVINO',
}
"""What can be measured beside PyTorch: name -> title."""

_TITLES = {'pytorch': 'PyTorch', **RUNTIMES}


Run = Callable[[], Tensor]


class PlainClipNet(ClipNet):
    """A network as it is, to see what its own schedule exports to."""

    def forward(self, clip: Tensor) -> Tensor:
        """(1, T, 3, H, W) -> the same shape."""
        return self.net(clip)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet benchmark runtimes``."""
    parser.add_argument('--network', default='DSTNet', metavar='NAME', help='by default DSTNet')
    parser.add_argument(
        '--size', type=cli.size, default=cli.Size(256, 256), metavar='WxH', help='of the frames, by default 256x256'
    )
    parser.add_argument(
        '--runtimes', nargs='+', choices=RUNTIMES, default=list(RUNTIMES), metavar='NAME', help=', '.join(RUNTIMES)
    )
    parser.add_argument('--frames', type=cli.positive, default=2, metavar='N', help='of a clip, by default 2')
    parser.add_argument('--repeats', type=cli.positive, default=10, metavar='N', help='timed rounds, by default 10')
    parser.add_argument('--warmup', type=cli.positive, default=2, metavar='N', help='rounds before, by default 2')
    cli.add_threads_argument(parser)
    cli.add_output_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Measure, print the table, write the JSON file."""
    args.device = torch.device('cpu')
    if args.threads:
        torch.set_num_threads(args.threads)
    network = find(args.network)
    for runtime in args.runtimes:
        _check_packages(runtime)
    schedules = [network.name, *([PLAIN[network.name]] if network.name in PLAIN else [])]
    runs: dict[str, Run] = {}
    workloads = [
        _workload(runtime, schedule, args, runs) for runtime in ('pytorch', *args.runtimes) for schedule in schedules
    ]
    results = measure(workloads, args.device, args.repeats, args.warmup, with_memory=False)
    base = results[workloads[0].name]
    outputs = {item.name: runs[item.name]() for item in workloads if results[item.name].seconds}
    expected = outputs[workloads[0].name]
    differences = {name: float((output - expected).abs().max()) for name, output in outputs.items()}
    objects: list[dict[str, Any]] = [
        {
            'name': item.name,
            'runtime': item.arguments['runtime'],
            'network': item.arguments['network'],
            **report.measured(results[item.name], args.frames),
            'ratio': report.as_object(ratio(results[item.name], base)),
            'largest_difference': differences.get(item.name),
        }
        for item in workloads
    ]
    rows = [
        [
            item['name'],
            report.with_quartiles(item['seconds_per_frame'], 2, 1e3),
            report.with_quartiles(item['ratio'], 3),
            '-' if item['largest_difference'] is None else f'{item["largest_difference"]:.1e}',
        ]
        for item in objects
    ]
    header = ['', 'ms a frame (quartiles)', 'ratio (quartiles)', 'largest difference']
    print(report.text_table(header, rows), *report.failures(objects), sep='\n')
    versions = _versions(args.runtimes)
    print(f'\n1 x {args.frames} frames of {args.size}, float32; {report.made_on(args)}')
    print(', '.join(f'{RUNTIMES[name]} {version}' for name, version in versions.items()))
    print(f'Ratios are to {workloads[0].name}: below 1 is faster.')
    path = report.write_json(args.output, 'runtimes', args, objects, reference=workloads[0].name, versions=versions)
    print(f'Written: {path}')


def _workload(runtime: str, network: str, args: argparse.Namespace, runs: dict[str, Run]) -> Workload:
    """What is measured is put into `runs` as well, to look at its result: exporting takes long."""
    name = f'{find(network).label}, {_TITLES[runtime]}'

    def prepare_once(**arguments: Any) -> Run:
        runs[name] = prepare(**arguments)
        return runs[name]

    shape = clip_shape(1, args.frames, args.size)
    arguments = {'runtime': runtime, 'network': network, 'shape': shape, 'threads': torch.get_num_threads()}
    return Workload(name, prepare_once, arguments, optional=runtime != 'pytorch', memory=False)


def prepare(runtime: str, network: str, shape: list[int], threads: int) -> Run:
    """A network in a runtime, and a clip: the function restores it.

    Weights and clip are random, and the same in every call for networks with the same parameters.
    """
    net, clip = build(find(network), shape, 'cpu')
    net.eval()
    call: Callable[[Tensor], Tensor] = net if runtime == 'pytorch' else _exported(runtime, net, clip, threads)

    def restore() -> Tensor:
        with torch.no_grad():
            return call(clip)

    return restore


def _exported(runtime: str, net: Any, clip: Tensor, threads: int) -> Callable[[Tensor], Tensor]:
    clip_net = (PlainClipNet if isinstance(net, PlainDSTNet) else ClipNet)(net, clip.shape[1])
    name = 'torchscript' if runtime == 'torchscript' else 'onnx'
    with tempfile.TemporaryDirectory(prefix='dstnet_benchmark_') as folder:
        path = Path(folder, f'net{FORMATS[name].suffix}')
        write(name, clip_net, clip, path, DEFAULT_OPSET, {'version': __version__})
        with quiet():
            return _load_openvino(path, threads) if runtime == 'openvino' else FORMATS[name].load(path)


def _load_openvino(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    openvino: Any = import_module('openvino')
    # By itself, OpenVINO computes in bfloat16 where the processor can.
    settings = {'INFERENCE_NUM_THREADS': threads, 'INFERENCE_PRECISION_HINT': 'f32', 'PERFORMANCE_HINT': 'LATENCY'}
    model = openvino.Core().compile_model(path, 'CPU', settings)
    return lambda clip: torch.from_numpy(model({INPUT: clip.numpy()})[OUTPUT])


def _check_packages(runtime: str) -> None:
    if runtime != 'torchscript':
        FORMATS['onnx'].check_packages()
    if runtime == 'openvino' and not find_spec('openvino'):
        raise OptionsError('--runtimes openvino: it is not installed. pip install openvino, or leave it out.')


def _versions(runtimes: Sequence[str]) -> dict[str, str]:
    return {name: str(import_module(name).__version__) for name in runtimes if name != 'torchscript'}

"""``dstnet benchmark train``: one forward and backward pass, without and with gradient checkpointing."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.benchmarks import cli, report
from dstnet_arch.benchmarks.forward import (
    COMPILED,
    add_network_arguments,
    build,
    clip_shape,
    compared,
    label,
    scheduled,
    variants,
)
from dstnet_arch.benchmarks.harness import PRECISIONS, Measurement, Precision, Workload, measure, ratio, tf32
from dstnet_arch.benchmarks.memory import saved_for_backward
from dstnet_arch.benchmarks.networks import Network, find
from dstnet_arch.errors import OptionsError
from dstnet_arch.memory_errors import out_of_memory
from dstnet_arch.ops.native import native

_CHECKPOINTING = ', checkpointing'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet benchmark train``."""
    add_network_arguments(parser, size='128x128')
    cli.add_arguments(parser, frames=3)


def run(args: argparse.Namespace) -> None:
    """Measure, print the table, write the JSON file."""
    args.dtype = args.dtype or ['fp32']
    cli.prepare(args)
    if 'graphs' in args.schedules:
        raise OptionsError('--schedules graphs given: CUDA graphs are for restoring alone, not for training.')
    networks, reference = compared(args)
    workloads = []
    for network, dtype, schedule in variants(networks, reference, args):
        workloads.append(workload(network, args, dtype, schedule))
        if network.group in ('ours', 'ablations') and schedule == 'eager':
            workloads.append(workload(network, args, dtype, checkpointing=True))
    results = measure(workloads, args.device, args.repeats, args.warmup, not args.no_memory)
    first = workloads[0].name
    rows, objects = [], []
    for item in workloads:
        result = results[item.name]
        objects.append(
            {
                'name': item.name,
                **{k: item.arguments[k] for k in ('network', 'dtype', 'schedule', 'checkpointing')},
                **report.measured(result, args.batch * args.frames),
                'ratio': report.as_object(ratio(result, results[first])),
                'saved_for_backward_bytes': None if args.no_memory else _saved(item, result),
            }
        )
        rows.append(_row(objects[-1], objects[0]))
    header = ['', 'ms a frame (quartiles)', 'ratio (quartiles)', 'saved MiB', 'ratio', 'peak MiB', 'ratio']
    print(report.text_table(header, rows), *report.failures(objects), sep='\n')
    print(f'\n{args.batch} x {args.frames} frames of {args.size}; {report.made_on(args)}')
    print(
        f'Ratios are to {first}: below 1 is faster, or less. Saved: what the backward pass needs, without the weights. '
        'Peak: on top of the weights and the clip, gradients included. bf16 and fp16: under autocast, weights float32.'
    )
    print(f'Written: {report.write_json(args.output, "train", args, objects, reference=first)}')


def workload(
    network: Network, args: argparse.Namespace, dtype: str, schedule: str = 'eager', checkpointing: bool = False
) -> Workload:
    """A training step as a workload."""
    return Workload(
        label(network, dtype, schedule) + _CHECKPOINTING * checkpointing,
        prepare,
        {
            'network': network.name,
            'shape': clip_shape(args.batch, args.frames, args.size),
            'device': str(args.device),
            'dtype': dtype,
            'schedule': schedule,
            'checkpointing': checkpointing,
        },
        optional=schedule != 'eager' or network.group == 'peers',
        memory=schedule not in COMPILED,
    )


def prepare(
    network: str,
    shape: list[int],
    device: str,
    dtype: str,
    schedule: str = 'eager',
    checkpointing: bool = False,
) -> Callable[[], None]:
    """A network and a clip: the function makes the gradients of all weights, as the training does but for the loss.

    Of the loss, whose share of the time is small, only a mean absolute difference is there; no optimiser step is made.
    """
    net, clip, precision = _build(network, shape, device, dtype, checkpointing)
    call = scheduled(net, schedule)

    def step() -> None:
        net.zero_grad()
        with native(schedule == 'native'):
            _loss(call, clip, precision).backward()

    return step


def _build(
    network: str, shape: list[int], device: str, dtype: str, checkpointing: bool
) -> tuple[nn.Module, Tensor, Precision]:
    net, clip = build(find(network), shape, device)
    if checkpointing:
        cast(VideoNet, net).gradient_checkpointing = True
    return net.train(), clip, PRECISIONS[dtype]


def _loss(call: Callable[[Tensor], Tensor], clip: Tensor, precision: Precision) -> Tensor:
    half = precision.dtype != torch.float32
    with tf32(precision.tf32), torch.autocast(clip.device.type, dtype=precision.dtype if half else None, enabled=half):
        restored = call(clip)
    return (restored.float() - 0.5).abs().mean()


def _saved(item: Workload, result: Measurement) -> int | None:
    """Bytes that the graph of one forward pass holds."""
    if not result.seconds or item.arguments['schedule'] in COMPILED:
        return None
    arguments = {k: v for k, v in item.arguments.items() if k != 'schedule'}
    try:
        net, clip, precision = _build(**arguments)
        with saved_for_backward(net) as saved, native(item.arguments['schedule'] == 'native'):
            loss = _loss(net, clip, precision)
        del loss
        return sum(saved.values())
    except Exception as error:
        if item.optional or out_of_memory(error):
            return None
        raise


def _row(item: dict[str, Any], reference: dict[str, Any]) -> list[str]:
    cells = [
        item['name'],
        report.with_quartiles(item['seconds_per_frame'], 2, 1e3),
        report.with_quartiles(item['ratio'], 3),
    ]
    for key in ('saved_for_backward_bytes', 'peak_memory_bytes'):
        value, base = item[key], reference[key]
        cells += [report.number(value, 0, 2**-20), report.number(value / base if value and base else None, 2)]
    return cells

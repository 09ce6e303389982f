"""``dstnet benchmark precision``: what a reduced precision changes in restored videos, in dB."""

from __future__ import annotations

import argparse
import time
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from dstnet_arch.archs.checkpoint import load_checkpoint
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.benchmarks import cli, quality, report
from dstnet_arch.benchmarks.harness import PRECISIONS, tf32
from dstnet_arch.benchmarks.progress import progress
from dstnet_arch.streaming.streamer import Frames, Streamer
from dstnet_arch.weights import resolve_weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet benchmark precision``."""
    quality.add_arguments(parser)
    parser.add_argument(
        '--dtype',
        nargs='+',
        choices=[name for name in PRECISIONS if name != 'fp32'],
        help='by default all that the device can compute with',
    )


def run(args: argparse.Namespace) -> None:
    """Restore, compare, print the table, write the JSON file.

    Raises:
        DataError: the frames cannot be read, or the sharp ones are others.
        CheckpointError: the weights cannot be read.
    """
    chosen = args.dtype
    args.dtype = chosen or ['fp32']
    cli.prepare(args)
    args.dtype = chosen or (['bf16', 'fp16'] if args.device.type == 'cpu' else ['tf32', 'bf16', 'fp16'])
    blurry, sharp = quality.open_inputs(args)
    net = load_checkpoint(resolve_weights(args.weights), args.device)
    results = compare(net, blurry, sharp, args.dtype)
    header = [
        '',
        'PSNR to fp32',
        'of the worst frame',
        'largest difference',
        *['PSNR to sharp', 'change'] * bool(sharp),
    ]
    rows = [
        [
            item['name'],
            report.number(item['psnr_to_fp32'], 1),
            report.number(item['psnr_to_fp32_worst'], 1),
            '-' if item['largest_difference'] is None else f'{item["largest_difference"]:.1e}',
            *([report.number(item['psnr_to_sharp'], 3), report.number(item['change'], 4)] if sharp else []),
        ]
        for item in results
    ]
    print(report.text_table(header, rows))
    height, width = blurry.size
    print(f'\n{len(blurry)} frames of {width}x{height}, {args.weights}; {report.made_on(args)}')
    print(
        'In dB. To fp32: of values in [0, 1]; to sharp: of 8-bit pictures, mean over frames. bf16 and fp16 are under '
        'autocast.'
    )
    facts = {'frames': len(blurry), 'size': f'{width}x{height}', 'network': net.config}
    print(f'Written: {report.write_json(args.output, "precision", args, results, **facts)}')


def compare(net: VideoNet, blurry: Frames, sharp: Frames | None, dtypes: list[str]) -> list[dict[str, Any]]:
    """Restore a video in float32 and in each of the precisions.

    Args:
        net: what restores it, in float32.
        blurry: the frames.
        sharp: the same, sharp, where there are any.
        dtypes: names of `PRECISIONS`.

    Returns:
        An object for each, fp32 first: `name`, `seconds_per_frame`, `psnr_to_fp32` and `psnr_to_fp32_worst` (dB, of all
        pixels together and of the worst frame; None where nothing differs), `largest_difference` (of values in [0, 1];
        inf or nan where the precision is not enough), `psnr_to_sharp` and `change` against fp32 (dB).
    """
    results: list[dict[str, Any]] = []
    exact: list[Tensor] = []
    with progress(1 + len(dtypes)) as bar:
        for name in ('fp32', *dtypes):
            bar.describe(name)
            precision = PRECISIONS[name]
            autocast = None if precision.dtype == torch.float32 else precision.dtype
            start = time.perf_counter()
            with tf32(precision.tf32):
                restored = [frame.float().cpu() for frame in Streamer(net, autocast=autocast)(blurry)]
            seconds = (time.perf_counter() - start) / len(restored)
            exact = exact or restored
            pairs = list(zip(restored, exact, strict=True))
            errors = [float((a.clamp(0, 1) - b.clamp(0, 1)).square().mean()) for a, b in pairs]
            to_sharp = quality.psnr_to_sharp(restored, sharp)
            exact_to_sharp = results[0]['psnr_to_sharp'] if results else None
            results.append(
                {
                    'name': name,
                    'seconds_per_frame': seconds,
                    'psnr_to_fp32': quality.decibels(fmean(errors)),
                    'psnr_to_fp32_worst': quality.decibels(max(errors)),
                    'largest_difference': max(float((a - b).abs().max()) for a, b in pairs),
                    'psnr_to_sharp': to_sharp,
                    'change': None if to_sharp is None or exact_to_sharp is None else to_sharp - exact_to_sharp,
                }
            )
            bar.update()
    return results

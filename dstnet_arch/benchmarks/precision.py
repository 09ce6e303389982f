"""``dstnet benchmark precision``: what a reduced precision changes in restored videos, in dB."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from dstnet_arch.archs.checkpoint import load_checkpoint
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.benchmarks import cli, report
from dstnet_arch.benchmarks.harness import PRECISIONS, tf32
from dstnet_arch.benchmarks.progress import progress
from dstnet_arch.errors import DataError
from dstnet_arch.inference.sources import open_source
from dstnet_arch.inference.stream import Frames, Streamer
from dstnet_arch.metrics.psnr import batch_psnr
from dstnet_arch.weights import resolve_weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet benchmark precision``."""
    parser.add_argument('input', metavar='INPUT', help='blurry: a folder of pictures, a pattern for them, a video file')
    parser.add_argument('--sharp', metavar='INPUT', help='the same frames, sharp')
    parser.add_argument(
        '--weights', default='GoPro', metavar='NAME', help='released weights or a file, by default GoPro'
    )
    parser.add_argument(
        '--dtype',
        nargs='+',
        choices=[name for name in PRECISIONS if name != 'fp32'],
        help='by default all that the device can compute with',
    )
    parser.add_argument('--end', type=cli.positive, metavar='N', help='take so many frames')
    parser.add_argument('--device', help='cpu, cuda, cuda:1; by default cuda where there is one')
    parser.add_argument('--threads', type=cli.positive, metavar='N', help="of the CPU, by default PyTorch's choice")
    about_output = 'for the JSON file, by default results/benchmarks'
    parser.add_argument(
        '-o', '--output', type=Path, default=Path('results/benchmarks'), metavar='FOLDER', help=about_output
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
    blurry = open_source(args.input, None, args.end)
    sharp = None if args.sharp is None else open_source(args.sharp, None, args.end)
    if sharp is not None and (len(sharp), sharp.size) != (len(blurry), blurry.size):
        raise DataError(
            f'{args.sharp} has {len(sharp)} frames of {sharp.size}, {args.input} {len(blurry)} of {blurry.size}; they '
            'are to be the same frames.'
        )
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
            to_sharp = _psnr_to_sharp(restored, sharp)
            results.append(
                {
                    'name': name,
                    'seconds_per_frame': seconds,
                    'psnr_to_fp32': _decibels(fmean(errors)),
                    'psnr_to_fp32_worst': _decibels(max(errors)),
                    'largest_difference': max(float((a - b).abs().max()) for a, b in pairs),
                    'psnr_to_sharp': to_sharp,
                    'change': None if to_sharp is None or not results else to_sharp - results[0]['psnr_to_sharp'],
                }
            )
            bar.update()
    return results


def _decibels(mean_square: float) -> float | None:
    return -10 * math.log10(mean_square) if mean_square > 0 else None


def _psnr_to_sharp(frames: list[Tensor], sharp: Frames | None) -> float | None:
    if sharp is None:
        return None
    return fmean(float(batch_psnr(_eight_bits(frame), _eight_bits(sharp[t]))) for t, frame in enumerate(frames))


def _eight_bits(frame: Tensor) -> Tensor:
    return frame.clamp(0, 1).mul(255).round().to(torch.uint8)[None]

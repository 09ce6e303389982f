"""Restored videos compared with what they should be, for the benchmarks that are given one."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from statistics import fmean

import torch
from torch import Tensor

from dstnet_arch.benchmarks import cli
from dstnet_arch.errors import DataError
from dstnet_arch.metrics.psnr import batch_psnr
from dstnet_arch.streaming.streamer import Frames
from dstnet_arch.video.sources import Source, open_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments that name a video, a network and where to run it."""
    parser.add_argument('input', metavar='INPUT', help='blurry: a folder of pictures, a pattern for them, a video file')
    parser.add_argument('--sharp', metavar='INPUT', help='the same frames, sharp')
    parser.add_argument(
        '--weights', default='GoPro', metavar='NAME', help='released weights or a file, by default GoPro'
    )
    parser.add_argument('--end', type=cli.positive, metavar='N', help='take so many frames')
    cli.add_device_argument(parser)
    cli.add_threads_argument(parser)
    cli.add_output_argument(parser)


def open_inputs(args: argparse.Namespace) -> tuple[Source, Source | None]:
    """The blurry and, where they are given, the sharp frames.

    Raises:
        DataError: they cannot be read, or the sharp ones are others.
    """
    blurry = open_source(args.input, None, args.end)
    sharp = None if args.sharp is None else open_source(args.sharp, None, args.end)
    if sharp is not None and (len(sharp), sharp.size) != (len(blurry), blurry.size):
        raise DataError(
            f'{args.sharp} has {len(sharp)} frames of {sharp.size}, {args.input} {len(blurry)} of {blurry.size}; they '
            'are to be the same frames.'
        )
    return blurry, sharp


def psnr_to_sharp(frames: Iterable[Tensor], sharp: Frames | None) -> float | None:
    """Mean over the frames in dB, of 8-bit pictures, as the scores of a test; None without sharp frames, or where
    nothing differs."""
    if sharp is None:
        return None
    mean = fmean(float(batch_psnr(_eight_bits(frame), _eight_bits(sharp[t]))) for t, frame in enumerate(frames))
    return mean if math.isfinite(mean) else None


def decibels(mean_square: float) -> float | None:
    """PSNR of values in [0, 1]; None where nothing differs."""
    return -10 * math.log10(mean_square) if mean_square else None


def _eight_bits(frame: Tensor) -> Tensor:
    return frame.clamp(0, 1).mul(255).round().to(torch.uint8)[None]

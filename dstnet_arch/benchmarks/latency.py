"""``dstnet benchmark latency``: what it costs to restore a video live, against the whole clip."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from statistics import fmean
from typing import Any, NamedTuple

from torch import Tensor

from dstnet_arch.archs.checkpoint import load_checkpoint
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.arguments import whole_number
from dstnet_arch.benchmarks import cli, quality, report
from dstnet_arch.benchmarks.progress import progress
from dstnet_arch.streaming.live import LiveStreamer
from dstnet_arch.streaming.streamer import Frames, Streamer
from dstnet_arch.weights import resolve_weights

WHOLE = 'whole clip'


class Restored(NamedTuple):
    """A video restored in some way.

    Attributes:
        frames: (3, H, W) each, in [0, 1], in main memory.
        seconds: it took.
    """

    frames: list[Tensor]
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet benchmark latency``."""
    quality.add_arguments(parser)
    parser.add_argument(
        '--windows', nargs='+', type=cli.positive, default=[1, 4], metavar='N', help='restored together, by default 1 4'
    )
    parser.add_argument(
        '--lookaheads',
        nargs='+',
        type=whole_number(0),
        default=[0, 1, 2, 4, 8],
        metavar='N',
        help='by default 0 1 2 4 8',
    )


def run(args: argparse.Namespace) -> None:
    """Restore, compare, print the table, write the JSON file.

    Raises:
        DataError: the frames cannot be read, or the sharp ones are others.
        CheckpointError: the weights cannot be read.
    """
    args.dtype = 'fp32'
    cli.prepare(args)
    blurry, sharp = quality.open_inputs(args)
    net = load_checkpoint(resolve_weights(args.weights), args.device)
    results = compare(net, blurry, sharp, list(product(args.windows, args.lookaheads)))
    header = [
        '',
        'delay, frames',
        'ms a frame',
        'PSNR to whole clip',
        *['PSNR to sharp', 'gain on blurry'] * bool(sharp),
    ]
    rows = [
        [
            item['name'],
            '-' if item['delay_frames'] is None else str(item['delay_frames']),
            report.number(item['seconds_per_frame'], 1, 1e3),
            report.number(item['psnr_to_whole_clip'], 2),
            *[report.number(item[key], 2) for key in ('psnr_to_sharp', 'gain') if sharp],
        ]
        for item in results
    ]
    print(report.text_table(header, rows))
    height, width = blurry.size
    print(f'\n{len(blurry)} frames of {width}x{height}, {args.weights}; {report.made_on(args)}')
    print('In dB; to the whole clip of all pixels together, to the sharp frames the mean over the frames.')
    print('Delay: how many frames later the first one of a window is given.')
    facts = {'frames': len(blurry), 'size': f'{width}x{height}', 'network': net.config}
    print(f'Written: {report.write_json(args.output, "latency", args, results, **facts)}')


def compare(
    net: VideoNet, blurry: Frames, sharp: Frames | None, settings: Sequence[tuple[int, int]]
) -> list[dict[str, Any]]:
    """Restore a video as a whole and live.

    Args:
        net: what restores it.
        blurry: the frames.
        sharp: the same, sharp, where there are any.
        settings: windows and lookaheads.

    Returns:
        An object for each, the whole clip first: `name`, `window`, `lookahead`, `delay_frames`, `seconds_per_frame`,
        `psnr_to_whole_clip` (dB, of values in [0, 1]; None where nothing differs), `psnr_to_sharp` and `gain` (dB, of
        8-bit pictures; None without `sharp`).
    """
    with progress(1 + len(settings)) as bar:
        bar.describe(WHOLE)
        whole = _restored(Streamer(net), blurry)
        bar.update()
        before = quality.psnr_to_sharp((blurry[t] for t in range(len(blurry))), sharp)
        results = [_item(WHOLE, None, None, whole, whole, sharp, before)]
        for window, lookahead in settings:
            name = f'window {window}, lookahead {lookahead}'
            bar.describe(name)
            live = _restored(LiveStreamer(net, window, lookahead), (blurry[t] for t in range(len(blurry))))
            results.append(_item(name, window, lookahead, live, whole, sharp, before))
            bar.update()
    return results


def _restored(streamer: Callable[[Any], Iterator[Tensor]], frames: Frames | Iterable[Tensor]) -> Restored:
    start = time.perf_counter()
    restored = [frame.clamp(0, 1).cpu() for frame in streamer(frames)]
    return Restored(restored, time.perf_counter() - start)


def _item(
    name: str,
    window: int | None,
    lookahead: int | None,
    live: Restored,
    whole: Restored,
    sharp: Frames | None,
    before: float | None,
) -> dict[str, Any]:
    error = fmean(float((a - b).square().mean()) for a, b in zip(live.frames, whole.frames, strict=True))
    after = quality.psnr_to_sharp(live.frames, sharp)
    return {
        'name': name,
        'window': window,
        'lookahead': lookahead,
        'delay_frames': None if window is None or lookahead is None else window - 1 + lookahead,
        'seconds_per_frame': live.seconds / len(live.frames),
        'psnr_to_whole_clip': quality.decibels(error),
        'psnr_to_sharp': after,
        'gain': None if after is None or before is None else after - before,
    }

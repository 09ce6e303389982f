"""``dstnet benchmark stream``: time and memory of streaming, against the number of frames and against whole clips."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import torch

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.benchmarks import cli, report
from dstnet_arch.benchmarks.memory import peak_memory
from dstnet_arch.benchmarks.progress import progress
from dstnet_arch.benchmarks.stream_workload import MadeFrames, prepare_stream
from dstnet_arch.memory_errors import out_of_memory
from dstnet_arch.streaming.state_store import StoreKind

WHOLE = 'whole clip'
WAYS: dict[str, dict[str, Any]] = {
    **{kind: {'store': kind} for kind in get_args(StoreKind)},
    'sqrt': {'store': 'host', 'interval': 'sqrt'},
}
"""Name -> settings of a `Streamer`."""

REDUCED: dict[str, Any] = {'num_feat': 8, 'num_block': 1, 'num_cwgdn': 1}

_ABOUT = """\
Every figure is of one run, on a CPU in a fresh process: the whole video restored, and the growth of that process's
peak memory while it is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet benchmark stream``."""
    parser.epilog = _ABOUT
    numbers: dict[str, Any] = {'nargs': '+', 'type': cli.positive, 'metavar': 'N'}
    parser.add_argument('--frames', **numbers, default=[100, 1000], help='of the video, by default 100 and 1000')
    parser.add_argument(
        '--clip-frames',
        nargs='*',
        type=cli.positive,
        default=[8, 16],
        metavar='N',
        help='of whole clips, which are no streams, to compare with; by default 8 and 16, nothing: none',
    )
    parser.add_argument('--size', type=cli.size, default=cli.size('256x256'), metavar='WxH', help='by default 256x256')
    parser.add_argument(
        '--ways',
        nargs='+',
        choices=list(WAYS),
        default=['host', 'disk', 'sqrt'],
        help='where states wait, and sqrt: every so many of them; by default host, disk and sqrt',
    )
    parser.add_argument('--tile', type=cli.size, metavar='WxH', help='go through the frames in tiles')
    parser.add_argument('--reduced', action='store_true', help='a very small DSTNet, to see how memory grows')
    cli.add_device_argument(parser)
    cli.add_threads_argument(parser)
    cli.add_output_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Measure, print the table, write the JSON file."""
    args.dtype = 'fp32'
    cli.prepare(args)
    cases = [(WHOLE, count) for count in args.clip_frames]
    cases += [(way, count) for way in args.ways for count in sorted(args.frames)]
    results = []
    with progress(len(cases)) as bar:
        for way, count in cases:
            bar.describe(f'{way}: {count} frames')
            results.append(_measure(way, count, args))
            bar.update()
    _add_growth(results)
    header = ['', 'frames', 'ms a frame', 'peak MiB', 'to the fewest']
    rows = [
        [
            item['way'],
            str(item['frames']),
            report.number(item['seconds_per_frame'], 2, 1e3),
            report.number(item['peak_memory_bytes'], 0, 2**-20),
            report.number(item['peak_ratio'], 2),
        ]
        for item in results
    ]
    print(report.text_table(header, rows), *report.failures(results), sep='\n')
    network = _network(args)
    tiles = f', in tiles of {args.tile}' if args.tile else ''
    print(f'\n{_named(network)}, frames of {args.size}{tiles}; {report.made_on(args)}')
    print('Peak: on top of the weights. To the fewest: the peak, relative to that of the fewest frames.')
    print(f'Written: {report.write_json(args.output, "stream", args, results, network=network)}')


def prepare(way: str, num_frame: int, seconds_file: str, **arguments: Any) -> Callable[[], None]:
    """A run that leaves in a file how many seconds it took; with plain arguments, for another process."""
    work = prepare_clip(num_frame, **arguments) if way == WHOLE else prepare_stream(num_frame, **arguments)

    def timed() -> None:
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        Path(seconds_file).write_text(json.dumps(time.perf_counter() - start), encoding='utf-8')

    return timed


def prepare_clip(
    num_frame: int, height: int, width: int, network: dict[str, Any], device: str = 'cpu'
) -> Callable[[], None]:
    """The frames of `prepare_stream` as one clip, for the network itself."""
    torch.manual_seed(0)
    net = DSTNet(**network).to(device)
    frames = MadeFrames(num_frame, height, width)

    def work() -> None:
        with torch.no_grad():  # the clip counts: whoever has a stream need not have it
            net(torch.stack([frames[t] for t in range(num_frame)])[None].to(device))

    return work


def _measure(way: str, num_frame: int, args: argparse.Namespace) -> dict[str, Any]:
    settings = {} if way == WHOLE else {**WAYS[way], 'tile': list(args.tile) if args.tile else None}
    item: dict[str, Any] = {'name': f'{way}, {num_frame} frames', 'way': way, 'frames': num_frame, 'settings': settings}
    item |= {'seconds_per_frame': None, 'peak_memory_bytes': None, 'failure': None}
    with tempfile.TemporaryDirectory() as folder:
        seconds_file = Path(folder, 'seconds')
        arguments = {
            'way': way,
            'num_frame': num_frame,
            'seconds_file': str(seconds_file),
            'height': args.size.height,
            'width': args.size.width,
            'network': _network(args),
            'device': str(args.device),
            **settings,
        }
        try:
            work = prepare(**arguments) if args.device.type == 'cuda' else _nothing
            item['peak_memory_bytes'] = peak_memory(work, prepare, arguments, args.device)
            item['seconds_per_frame'] = json.loads(seconds_file.read_text(encoding='utf-8')) / num_frame
        except Exception as error:
            if not out_of_memory(error):
                raise
            item['failure'] = 'not enough memory'
    return item


def _add_growth(results: list[dict[str, Any]]) -> None:
    """Beside each peak, its ratio to that of the fewest frames restored in the same way."""
    for _, group in groupby(results, key=lambda item: item['way']):
        items = list(group)
        least = items[0]['peak_memory_bytes']
        for item in items:
            peak = item['peak_memory_bytes']
            item['peak_ratio'] = peak / least if peak and least else None


def _network(args: argparse.Namespace) -> dict[str, Any]:
    return REDUCED if args.reduced else {}


def _named(network: dict[str, Any]) -> str:
    return ', '.join(['DSTNet', *(f'{key}={value}' for key, value in network.items())])


def _nothing() -> None:
    """On a CPU, the run is another process's."""

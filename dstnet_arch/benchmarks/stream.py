"""``dstnet benchmark stream``: time and memory of streaming, by number of frames and place of the states."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.arguments import Size, size, whole_number
from dstnet_arch.benchmarks import report
from dstnet_arch.benchmarks.compare import add_machine_arguments, choose_device
from dstnet_arch.benchmarks.harness import Workload, peak_memory
from dstnet_arch.memory_errors import out_of_memory
from dstnet_arch.progress import Progress
from dstnet_arch.streaming.state_store import StoreKind
from dstnet_arch.streaming.streamer import Streamer

CLIP = 'whole clip'
STATES: dict[str, dict[str, Any]] = {
    **{kind: {'store': kind} for kind in get_args(StoreKind)},
    'sqrt': {'store': 'host', 'interval': 'sqrt'},
}
"""Name -> arguments of `Streamer`."""

REDUCED: dict[str, Any] = {'num_feat': 8, 'num_block': 1, 'num_cwgdn': 1}


class GeneratedFrames:
    """Frames that are computed when they are read: noise that moves by one pixel per frame.

    Args:
        num_frame: T.
        height: in pixels.
        width: in pixels.
    """

    def __init__(self, num_frame: int, height: int, width: int) -> None:
        self._num_frame = num_frame
        self._image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return self._num_frame

    def __getitem__(self, position: int) -> Tensor:
        if not 0 <= position < self._num_frame:
            raise IndexError(position)
        return self._image.roll(position, dims=-1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.epilog = 'Each figure is from one run over the whole video, on a CPU in a fresh process.'
    numbers: dict[str, Any] = {'type': whole_number(1), 'metavar': 'N'}
    parser.add_argument('--frames', **numbers, nargs='+', default=[100, 1000], help='frames (default: 100 1000)')
    parser.add_argument(
        '--clip-frames', **numbers, nargs='*', default=[8, 16], help='frames of whole clips to compare (default: 8 16)'
    )
    parser.add_argument('--size', type=size, default=Size(256, 256), metavar='WxH', help='default: 256x256')
    parser.add_argument(
        '--states', nargs='+', choices=list(STATES), default=['host', 'disk', 'sqrt'],
        help='where states are kept; sqrt: every sqrt(T)-th in main memory (default: host disk sqrt)',
    )  # fmt: skip
    parser.add_argument('--tile', type=size, metavar='WxH', help='process frames in tiles')
    parser.add_argument('--reduced', action='store_true', help='a very small DSTNet, to see how memory grows')
    add_machine_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Measure, print the table, write the JSON file."""
    choose_device(args)
    cases = [(CLIP, count) for count in args.clip_frames]
    cases += [(states, count) for states in args.states for count in sorted(args.frames)]
    results: list[dict[str, Any]] = []
    with Progress(len(cases), 'case', 'measuring') as progress:
        for states, count in cases:
            progress.relabel(f'{states}: {count} frames')
            results.append(_measure(states, count, args))
            progress.update()
    rows = []
    for item in results:
        fewest = next(other for other in results if other['states'] == item['states'])['peak_memory_bytes']
        item['peak_ratio'] = item['peak_memory_bytes'] / fewest if item['peak_memory_bytes'] and fewest else None
        rows.append([
            item['states'],
            str(item['frames']),
            report.number(item['seconds_per_frame'], 2, 1e3),
            report.number(item['peak_memory_bytes'], 0, 2**-20),
            report.number(item['peak_ratio'], 2),
        ])  # fmt: skip
    header = ['states', 'frames', 'ms per frame', 'peak MiB', 'to the fewest frames']
    print(report.text_table(header, rows), *report.failures(results), sep='\n')
    print(f'\nFrames of {args.size}; peak memory above the weights; {report.made_on(args.device)}')
    network = REDUCED if args.reduced else {}
    print(f'Written: {report.write_json(args.output, "stream", args, results, network=network)}')


def prepare(
    states: str, num_frame: int, frame_size: Size, network: dict[str, Any], device: str, seconds_file: str,
    tile: Size | None = None,
) -> Callable[[], None]:  # fmt: skip
    """Return a function that restores a generated video and writes its duration in seconds to a file."""
    torch.manual_seed(0)
    net = DSTNet(**network).to(device)
    frames = GeneratedFrames(num_frame, frame_size.height, frame_size.width)
    streamer = None if states == CLIP else Streamer(net, **STATES[states], tile=tile)

    def restore() -> None:
        start = time.perf_counter()
        if streamer:
            for _ in streamer(frames):
                pass
        else:
            with torch.no_grad():
                net(torch.stack(list(map(frames.__getitem__, range(num_frame))))[None].to(device))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        Path(seconds_file).write_text(str(time.perf_counter() - start), encoding='utf-8')

    return restore


def _measure(states: str, num_frame: int, args: argparse.Namespace) -> dict[str, Any]:
    item: dict[str, Any] = {'name': f'{states}, {num_frame} frames', 'states': states, 'frames': num_frame}
    item |= {'seconds_per_frame': None, 'peak_memory_bytes': None, 'failure': None}
    with tempfile.TemporaryDirectory() as folder:
        seconds_file = Path(folder, 'seconds')
        arguments = {
            'states': states,
            'num_frame': num_frame,
            'frame_size': args.size,
            'network': REDUCED if args.reduced else {},
            'device': str(args.device),
            'seconds_file': str(seconds_file),
            'tile': args.tile,
        }
        workload = Workload(item['name'], prepare, arguments)
        try:
            on_gpu = prepare(**arguments) if args.device.type == 'cuda' else None
            item['peak_memory_bytes'] = peak_memory(workload, on_gpu, args.device)
            item['seconds_per_frame'] = float(seconds_file.read_text(encoding='utf-8')) / num_frame
        except Exception as error:
            if not out_of_memory(error):
                raise
            item['failure'] = 'not enough memory'
    return item

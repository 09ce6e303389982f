"""``dstnet deblur INPUT -o OUTPUT``: restore a video."""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dstnet_arch.archs.checkpoint import load_checkpoint
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.data.frame_source import IMAGE_EXTENSIONS, size_text
from dstnet_arch.errors import DataError, DSTNetError, OptionsError
from dstnet_arch.inference.memory import choose_place, free_memory, peak_memory
from dstnet_arch.inference.sinks import PARTIAL_SUFFIX, PictureSink, Sink, is_finished
from dstnet_arch.inference.sources import VIDEO_EXTENSIONS, PictureSource, ReadAhead, Source, open_source
from dstnet_arch.inference.stream import Streamer
from dstnet_arch.weights import resolve_weights

PRECISIONS = {'fp32': None, 'tf32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}
"""Name -> type for autocast."""

_SAVE_SECONDS = 30.0  # between the points from which an interrupted run can go on

_DESCRIPTION = """\
Restore a blurry video of any length, every frame with the help of all others.

INPUT is a folder of pictures, in the natural order of their names, or a pattern like 'frames/*.png' or frames/%05d.png.
OUTPUT is a folder, which gets a PNG file for each, of the same name, bit depth and channels.
"""
_EPILOG = """\
OUTPUT appears when all of it is there. Until then, what is ready is in OUTPUT.partial; after an interruption, the same
command with --resume goes on with that.
"""


def restore(source: Source, sink: Sink, streamer: Streamer, show_progress: bool = True) -> None:
    """Restore a video, or what an interrupted run has left of it to be restored.

    Args:
        source: what to read.
        sink: where to write.
        streamer: what restores.
        show_progress: a bar on standard error.

    Raises:
        DataError: a frame cannot be read or written, or what came out is not finite. What is done is kept by `sink`.
        DSTNetError: memory is short.
    """
    if sink.position < len(source):
        _restore_rest(source, sink, streamer, show_progress)
    sink.finish()


def _restore_rest(source: Source, sink: Sink, streamer: Streamer, show_progress: bool) -> None:
    done: tuple[int, Tensor] | None = None
    saved = time.monotonic()
    device = next(streamer.net.parameters()).device
    try:
        with (
            _memory_advice(),
            closing(ReadAhead(source)) as frames,
            closing(_Bar(len(source) - sink.position, device, show_progress)) as bar,
            closing(streamer(frames, start=sink.position, state=sink.state, progress=bar.step)) as stream,
        ):
            for restored in stream:
                position = stream.position - 1
                if not torch.isfinite(restored).all():
                    raise DataError(
                        f'Frame {source.names[position]}: the network gave values that are not finite. Take '
                        '--precision fp32, or other weights.'
                    )
                sink.write(position, partial(source.restored_picture, position, restored))
                assert stream.state is not None
                done = stream.position, stream.state
                if time.monotonic() - saved > _SAVE_SECONDS:
                    sink.save(*done)
                    saved = time.monotonic()
    except BaseException:
        if done:
            with suppress(DSTNetError):  # the first error is the one to be told
                sink.save(*done)
        raise


class _Bar:
    """Frames, frames a second, time to go and memory. Each of a stream's steps counts for a part of a frame."""

    def __init__(self, num_frame: int, device: torch.device, show: bool) -> None:
        self._num_frame, self._device = num_frame, device
        form = '{desc}: {percentage:3.0f}% |{bar}| {n:.0f} of {total:.0f} [{elapsed}<{remaining}, {rate_fmt}{postfix}]'
        self._bar = tqdm(total=num_frame, unit='frame', bar_format=form, disable=not show, desc='looking ahead')

    def step(self, done: int, total: int) -> None:
        """What a stream calls."""
        self._bar.total, self._bar.unit_scale = total, self._num_frame / total
        if 2 * done > total:
            self._bar.set_description_str('restoring', refresh=False)
        self._bar.set_postfix_str(f'{peak_memory(self._device) / 1e9:.1f} GB', refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


@contextmanager
def _memory_advice() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        texts = ('out of memory', "can't allocate memory", 'not enough memory')
        if isinstance(error, MemoryError) or any(text in str(error) for text in texts):
            raise DSTNetError(
                f'There is not enough memory: {str(error).splitlines()[0]}. States take less with --interval sqrt or '
                '--store disk, a single frame with --precision bf16 or on another --device.'
            ) from error
        raise


# The command


def command(arguments: Sequence[str]) -> None:
    """``dstnet deblur``.

    Raises:
        DSTNetError: see `restore`, `open_source`, `PictureSink`, `resolve_weights` and `load_checkpoint`.
    """
    start = time.monotonic()
    args = _parser().parse_args(arguments)
    source = open_source(args.input, args.start, args.end)
    for warning in source.warnings:
        print(f'warning: {warning}', file=sys.stderr)
    _check_output(args.output, source)
    if args.resume and is_finished(args.output, source.names):
        print(f'{args.output} is there, with all {len(source)} frames: nothing is to be done.')
        return
    device = _device(args.device, args.precision)
    net = load_checkpoint(resolve_weights(args.weights), device)
    streamer = _streamer(net, source, args)
    sink = PictureSink(args.output, source.names, _job(source, net, args), args.resume, args.overwrite)
    already = sink.position
    with closing(sink):
        print(
            f'{args.input}: {len(source)} frames, {size_text(source.size)}; {args.weights}, {args.precision}, {device}'
        )
        print(f'States: {_describe_states(streamer, source)}')
        if already:
            print(f'{already} frames are there already.')
        try:
            restore(source, sink, streamer)
        except KeyboardInterrupt:
            print(f'\nWhat is done is in {args.output}{PARTIAL_SUFFIX}; --resume goes on with it.', file=sys.stderr)
            raise
    seconds = time.monotonic() - start
    print(
        f'{args.output}: {len(source)} frames, of which {len(source) - already} restored in {seconds:.0f} s; '
        f'peak memory {peak_memory(device) / 1e9:.1f} GB'
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        'dstnet deblur',
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('input', metavar='INPUT')
    parser.add_argument('-o', '--output', metavar='OUTPUT', type=Path, required=True)
    parser.add_argument(
        '--weights',
        default='GoPro',
        metavar='NAME',
        help='released weights, fetched once into weights/ (GoPro, GoPro-L, DVD, BSD; by default GoPro), or a file',
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ...; by default cuda where there is one')
    parser.add_argument(
        '--precision',
        choices=PRECISIONS,
        default='fp32',
        help='of the computation: fp32 (the default), or faster and less exact ones',
    )
    parser.add_argument('--start', type=int, metavar='N', help='first frame to take, counted from 0')
    parser.add_argument('--end', type=int, metavar='N', help='first frame after it not to take')
    again = parser.add_mutually_exclusive_group()
    again.add_argument('--resume', action='store_true', help='go on with what an interrupted run has left, if it has')
    again.add_argument('--overwrite', action='store_true', help='replace OUTPUT if it exists')
    memory = parser.add_argument_group(
        'memory',
        'A state of each frame (59 MB at 1280x720) waits for the second look at it. By default, all wait in main '
        'memory where they take at most half of what is free; else every S-th one and S others (S: the square root '
        'of their number) wait, and most are computed twice.',
    )
    memory.add_argument('--store', choices=('device', 'host', 'disk'), help='where states wait; host is main memory')
    memory.add_argument('--interval', type=_interval, metavar='S', help='keep every S-th state: a number, sqrt or all')
    memory.add_argument('--temp-dir', metavar='FOLDER', help='for the file of --store disk')
    return parser


def _interval(text: str) -> int | Literal['sqrt', 'all']:
    if text == 'sqrt':
        return 'sqrt'
    if text == 'all':
        return 'all'
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of at least 1, sqrt or all')
    return int(text)


def _check_output(output: Path, source: Source) -> None:
    if output.suffix.lower() in (*VIDEO_EXTENSIONS, *IMAGE_EXTENSIONS) and not output.is_dir():
        raise OptionsError(
            f'-o {output}: the restored frames go to a folder, as PNG files. Give a name without {output.suffix}; '
            f'ffmpeg makes a video of them: ffmpeg -framerate 24 -i FOLDER/%06d.png {output.stem}.mp4'
        )
    if isinstance(source, PictureSource) and output.resolve() in {path.resolve().parent for path in source.paths}:
        raise OptionsError(f'-o {output}: the input is in this folder, and is never touched. Give another one.')


def _device(name: str | None, precision: str) -> torch.device:
    name = name or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        problem = str(error).splitlines()[0]
        raise OptionsError(f'--device {name} cannot be used here: {problem}. --device cpu always can.') from None
    if device.type == 'cuda':
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == 'tf32'
    elif precision == 'tf32':
        raise OptionsError(f'--precision tf32 is there on NVIDIA GPUs alone, not on {device}. Take fp32.')
    return device


def _streamer(net: VideoNet, source: Source, args: argparse.Namespace) -> Streamer:
    make = partial(Streamer, net, autocast=PRECISIONS[args.precision], temp_dir=args.temp_dir)
    if args.store or args.interval:
        return make(store=args.store or 'host', interval=None if args.interval == 'all' else args.interval)
    place = choose_place(make().state_bytes(*source.size), len(source), free_memory())
    return make(store=place.store, interval=place.interval)


def _describe_states(streamer: Streamer, source: Source) -> str:
    where = {'device': 'on the device', 'host': 'in main memory', 'disk': 'on disk'}[streamer.store]
    count = streamer.num_states(len(source))
    size = count * streamer.state_bytes(*source.size)
    return f'{count} of {len(source)} at a time, {size / 1e9:.1f} GB {where}'


def _job(source: Source, net: nn.Module, args: argparse.Namespace) -> dict[str, Any]:
    digest = hashlib.sha256()
    for tensor in net.state_dict().values():
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    # Shortened, because a user may see them when they differ.
    return {'input': source.identity()[:16], 'weights': digest.hexdigest()[:16], 'precision': args.precision}

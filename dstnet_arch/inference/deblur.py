"""``dstnet deblur INPUT -o OUTPUT``: restore a video."""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import date
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dstnet_arch import __version__
from dstnet_arch.archs.checkpoint import load_checkpoint
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.data.frame_source import IMAGE_EXTENSIONS, size_text
from dstnet_arch.errors import DataError, DSTNetError, OptionsError
from dstnet_arch.inference.live import LiveStreamer
from dstnet_arch.inference.look import Wanted, add_look_arguments, show
from dstnet_arch.inference.memory import choose_place, free_memory, peak_memory
from dstnet_arch.inference.shard import device_of, ranks, restore_all
from dstnet_arch.inference.sinks import PARTIAL_SUFFIX, FileSink, PictureSink, Sink, is_finished
from dstnet_arch.inference.sources import (
    DEFAULT_RATE,
    VIDEO_EXTENSIONS,
    PictureSource,
    Place,
    ReadAhead,
    Source,
    open_source,
)
from dstnet_arch.inference.stream import Streamer
from dstnet_arch.nonfinite import first_nonfinite
from dstnet_arch.ops.native import set_native
from dstnet_arch.weights import resolve_weights

if TYPE_CHECKING:  # it needs PyAV, without which folders can be restored
    from dstnet_arch.inference.video_encoding import Encoding

PRECISIONS = {'fp32': None, 'tf32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}
"""Name -> type for autocast."""

_SAVE_SECONDS = 30.0  # between the points from which an interrupted run can go on

_DESCRIPTION = """\
Restore a blurry video of any length, every frame with the help of all others.

INPUT is a video file; a folder of pictures, in the natural order of their names; a pattern like 'frames/*.png' or
frames/%05d.png; or -, a video file from a pipe.
OUTPUT is a video file, which gets the sound and all else that is in INPUT; a folder, which gets a PNG file for each
frame, with the bit depth and channels of INPUT; or, with --window, -, for a pipe. Of several INPUTs, it is a folder for
all results, each under the name of its INPUT; processes started by torchrun share them out (docs/distributed.md).
"""
_EPILOG = """\
OUTPUT appears when all of it is there. Until then, what is ready is in OUTPUT.partial; after an interruption, the same
command with --resume goes on with that. docs/video.md has examples, what is kept, and what happens to awkward files.
"""


Made = TypeVar('Made')
Render = Callable[[int, Tensor], Made]
"""What a sink is given, of the number of a frame and the restored frame (3, H, W)."""


def restore(
    source: Source,
    sink: Sink[Made],
    streamer: Streamer | LiveStreamer,
    render: Render[Made],
    show_progress: bool = True,
) -> None:
    """Restore a video, or what an interrupted run has left of it to be restored.

    Args:
        source: what to read.
        sink: where to write.
        streamer: what restores. A `LiveStreamer` always begins at the first frame.
        render: makes of restored frames what `sink` takes, such as `source.restored_picture`.
        show_progress: a bar on standard error.

    Raises:
        DataError: a frame cannot be read or written, or what came out is not finite. What is done is kept by `sink`.
        DSTNetError: memory is short.
    """
    if isinstance(streamer, LiveStreamer):
        _restore_live(source, sink, streamer, render, show_progress)
    elif sink.position < len(source):
        _restore_rest(source, sink, streamer, render, show_progress)
    sink.finish()


def _restore_live(
    source: Source, sink: Sink[Made], streamer: LiveStreamer, render: Render[Made], show_progress: bool
) -> None:
    with (
        _memory_advice(),
        closing(ReadAhead(source)) as frames,
        closing(_Bar(len(source), torch.device('cpu'), show_progress)) as bar,
    ):
        for position, restored in enumerate(streamer(frames[t] for t in range(len(source)))):
            _check_finite(restored, source, position, streamer)
            sink.write(position, partial(render, position, restored))
            bar.device = restored.device
            bar.step(2 * position + 2, 2 * len(source))


def _restore_rest(
    source: Source, sink: Sink[Made], streamer: Streamer, render: Render[Made], show_progress: bool
) -> None:
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
                _check_finite(restored, source, position, streamer)
                sink.write(position, partial(render, position, restored))
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
    if done:
        sink.save(*done)  # to be finished again without restoring anything, should that fail


def _check_finite(restored: Tensor, source: Source, position: int, streamer: Streamer | LiveStreamer) -> None:
    if torch.isfinite(restored).all():
        return
    # Once more, with the frames beside it, to see where it begins: enough unless it has built up over many frames.
    first = None
    with suppress(DSTNetError, RuntimeError, MemoryError):  # the error to be told is that below
        frames = [source[t] for t in range(max(0, position - 1), min(position + 2, len(source)))]
        first = first_nonfinite(streamer.net, lambda: list(streamer(frames)))
    raise DataError(
        f'Frame {source.names[position]}: the network gave values that are not finite.'
        f'{f" The first: {first}." if first else ""} Take --precision fp32, or other weights.'
    )


class _Bar:
    """Frames, frames a second, time to go and memory. Each of a stream's steps counts for a part of a frame."""

    def __init__(self, num_frame: int, device: torch.device, show: bool) -> None:
        self._num_frame, self.device = num_frame, device
        form = '{desc}: {percentage:3.0f}% |{bar}| {n:.0f} of {total:.0f} [{elapsed}<{remaining}, {rate_fmt}{postfix}]'
        self._bar = tqdm(total=num_frame, unit='frame', bar_format=form, disable=not show, desc='looking ahead')

    def step(self, done: int, total: int) -> None:
        """What a stream calls."""
        self._bar.total, self._bar.unit_scale = total, self._num_frame / total
        if 2 * done > total:
            self._bar.set_description_str('restoring', refresh=False)
        self._bar.set_postfix_str(f'{peak_memory(self.device) / 1e9:.1f} GB', refresh=False)
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
                '--store disk, a single frame with --tile 512x512, --precision bf16 or on another --device.'
            ) from error
        raise


# The command


def command(arguments: Sequence[str]) -> None:
    """``dstnet deblur``.

    Raises:
        DSTNetError: see `restore`, `open_source`, `FileSink`, `choose_encoding`, `resolve_weights` and
            `load_checkpoint`.
    """
    args = _parser().parse_args(arguments)
    if args.native:
        set_native(True)
    rank = ranks()
    args.device = device_of(args.device, rank)
    if len(args.input) > 1:
        restore_all(args.input, args.output, lambda name, output: _restore_one(args, name, output), rank)
    elif rank.rank == 0:
        _restore_one(args, args.input[0], args.output)


def _restore_one(args: argparse.Namespace, name: str, output: Path) -> None:
    args = argparse.Namespace(**{**vars(args), 'input': name, 'output': output})
    _check_arguments(args)
    if _is_live(args) and '-' in (args.input, str(args.output)):
        _restore_pipe(args)
        return
    with _stored_input(args) as stored, closing(_open(stored, args)) as source:
        _restore_file(source, args)


def _restore_file(source: Source, args: argparse.Namespace) -> None:
    start = time.monotonic()
    _warn(source.warnings)
    _check_output(args.output, source)
    wanted = Wanted.of(args)
    if args.resume and _is_finished(args.output, source):
        there = f'{args.output} is there, with all {len(source)} frames'
        print(f'{there}.' if wanted else f'{there}: nothing is to be done.')
        if wanted:
            _show(wanted, source, args, _plan_video(source, args) if _is_video(args.output) else None)
        return
    device = _device(args.device, args.precision)
    plan = _plan_video(source, args) if _is_video(args.output) else None  # what does not fit is said before any work
    net = load_checkpoint(resolve_weights(args.weights), device)
    streamer = _streamer(net, source, args)
    job = _job(source, net, args)
    sink: FileSink[Any]
    if plan is None:
        render: Render[Any] = source.restored_picture
        sink = PictureSink(args.output, source.names, job, args.resume, args.overwrite)
    else:
        from dstnet_arch.inference.video_sink import VideoSink

        render = partial(plan.encoding.planes, source)
        sink = VideoSink(args.output, source, plan.encoding, plan.container, job, args.resume, args.overwrite)
        _warn(sink.warnings)
    already = sink.position
    with closing(sink):
        print(
            f'{args.input}: {len(source)} frames, {size_text(source.size)}; {args.weights}, {args.precision}, {device}'
        )
        print(_describe_states(streamer, source))
        if plan is not None:
            print(f'Video: {plan.encoding.describe()}, {float(source.timing.rate):g} frames a second')
        if already:
            print(f'{already} frames are there already.')
        try:
            restore(source, sink, streamer, render)
        except KeyboardInterrupt:
            if not _is_live(args):
                print(f'\nWhat is done is in {args.output}{PARTIAL_SUFFIX}; --resume goes on with it.', file=sys.stderr)
            raise
    seconds, count = time.monotonic() - start, len(source) - already
    memory = f'{peak_memory(device) / 1e9:.1f} GB'
    print(f'{args.output}: {len(source)} frames, of which {count} restored in {seconds:.0f} s; peak memory {memory}')
    if wanted:
        run = {
            'precision': args.precision,
            'device': str(device),
            'time': f'{seconds:.1f} s for {count} frames, with all that is done once',
            'peak memory': memory,
        }
        _show(wanted, source, args, plan, run)


def _show(
    wanted: Wanted,
    source: Source,
    args: argparse.Namespace,
    plan: _VideoPlan | None,
    run: Mapping[str, str] | None = None,
) -> None:
    facts = {
        'input': args.input,
        'output': str(args.output),
        'frames': f'{len(source)} of {size_text(source.size)}',
        'weights': Path(args.weights).name,
        **({'encoding': plan.encoding.describe()} if plan else {}),
        **(run or {}),
        'made by': f'dstnet-arch {__version__}, PyTorch {torch.__version__}, {date.today()}',
    }
    made = show(wanted, source, args.output, facts, plan)
    print(f'To look at: {", ".join(map(str, made))}')


def _restore_pipe(args: argparse.Namespace) -> None:
    _need_av(args.input if args.input != '-' else args.output)
    from dstnet_arch.inference.video_encoding import choose_encoding
    from dstnet_arch.inference.video_pipe import restore_pipe
    from dstnet_arch.inference.video_sink import check_video_target

    device = _device(args.device, args.precision)
    net = load_checkpoint(resolve_weights(args.weights), device)

    def choose(source: Source, container: str) -> Encoding:
        _warn(source.warnings)
        return choose_encoding(args.output, source, args.codec, args.quality, args.pix_fmt, container, low_delay=True)

    if str(args.output) != '-':
        check_video_target(args.output, args.overwrite)
    with _memory_advice():
        count = restore_pipe(args.input, args.output, _live(net, args), choose, args.format)
    print(f'{count} frames restored.', file=sys.stderr)


class _VideoPlan(NamedTuple):
    encoding: Encoding
    container: str


def _plan_video(source: Source, args: argparse.Namespace) -> _VideoPlan:
    _need_av(args.output)
    from dstnet_arch.inference.video_encoding import choose_encoding, container_name

    encoding = choose_encoding(args.output, source, args.codec, args.quality, args.pix_fmt, args.format)
    _warn(encoding.losses(source))
    return _VideoPlan(encoding, container_name(args.output, args.format))


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        print(f'warning: {warning}', file=sys.stderr)


def _need_av(name: object) -> None:
    if not find_spec('av'):
        raise OptionsError(f'{name}: video files are written by PyAV, which is not installed. pip install av')


@contextmanager
def _stored_input(args: argparse.Namespace) -> Iterator[str]:
    """The name of INPUT, which is stored first if it comes from a pipe: its last frame is the first to be looked at."""
    if args.input != '-':
        yield args.input
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(
                tempfile.NamedTemporaryFile(prefix='dstnet-', suffix='.video', dir=args.temp_dir)
            )
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.flush()
        except OSError as error:
            raise DataError(f'The video from the pipe cannot be stored: {error}. Name another --temp-dir.') from None
        yield file.name


def _open(name: str, args: argparse.Namespace) -> Source:
    return open_source(name, args.start, args.end, rate=args.fps, temp_dir=args.temp_dir, show_progress=True)


def _is_live(args: argparse.Namespace) -> bool:
    return args.window is not None or args.lookahead is not None


def _is_video(output: Path) -> bool:
    return output.suffix.lower() in VIDEO_EXTENSIONS and not output.is_dir()


def _is_finished(output: Path, source: Source) -> bool:
    if not _is_video(output):
        return is_finished(output, source.names)
    if not output.is_file() or output.with_name(output.name + PARTIAL_SUFFIX).exists():
        return False
    from dstnet_arch.inference.video_mux import count_frames

    return count_frames(output) == (len(source), source.size)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        'dstnet deblur',
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('input', metavar='INPUT', nargs='+')
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
    parser.add_argument(
        '--native',
        action='store_true',
        help='on a CPU, compute with kernels that a C compiler of the system makes once: about half the time in fp32',
    )
    place = 'a number, counted from 0 (from -1 backward), or a time like 12.5s or 00:01:02.5'
    parser.add_argument('--start', type=_place, metavar='PLACE', help=f'first frame to take: {place}')
    parser.add_argument('--end', type=_place, metavar='PLACE', help='first frame after it not to take')
    again = parser.add_mutually_exclusive_group()
    again.add_argument('--resume', action='store_true', help='go on with what an interrupted run has left, if it has')
    again.add_argument('--overwrite', action='store_true', help='replace OUTPUT if it exists')
    video = parser.add_argument_group('video files as OUTPUT')
    video.add_argument(
        '--codec',
        metavar='NAME',
        help='libx264 (8 bits) or libx265 by default, libsvtav1 in .webm; also ffv1 and all that PyAV has',
    )
    video.add_argument(
        '--quality',
        type=int,
        metavar='N',
        help="on the codec's own scale (CRF for most), 0 or 1 the best; hardly to be told from lossless by default",
    )
    video.add_argument(
        '--pix-fmt', metavar='NAME', help="FFmpeg's pixel format; as in INPUT by default, where the codec has it"
    )
    video.add_argument(
        '--format',
        metavar='NAME',
        help="FFmpeg's container, instead of the one that OUTPUT's extension says; matroska for a pipe",
    )
    video.add_argument(
        '--fps',
        type=_rate,
        metavar='RATE',
        help=f'of pictures as INPUT: 25, 30000/1001, ...; by default {DEFAULT_RATE}',
    )
    add_look_arguments(parser)
    live = parser.add_argument_group(
        'live',
        'Restores with a bounded delay, each frame from those before it and a few after it, also from and to pipes. '
        'Frames differ a little from those that all others have helped to restore.',
    )
    live.add_argument('--window', type=_count(1), metavar='N', help='frames that are restored together, by default 1')
    live.add_argument(
        '--lookahead', type=_count(0), metavar='K', help='frames after them that are waited for, by default 4'
    )
    memory = parser.add_argument_group(
        'memory',
        'A state of each frame (59 MB at 1280x720) waits for the second look at it. By default, all wait in main '
        'memory where they take at most half of what is free; else every S-th one and S others (S: the square root '
        'of their number) wait, and most are computed twice.',
    )
    memory.add_argument(
        '--tile',
        type=_tile,
        default='auto',
        metavar='WxH',
        help='go through frames in tiles of this size, with the same result in less memory; off; or auto (the '
        'default): where the device has not enough for whole frames',
    )
    memory.add_argument('--store', choices=('device', 'host', 'disk'), help='where states wait; host is main memory')
    memory.add_argument('--interval', type=_interval, metavar='S', help='keep every S-th state: a number, sqrt or all')
    memory.add_argument(
        '--temp-dir',
        metavar='FOLDER',
        help='for temporary files: of --store disk, of a pipe, of video that cannot be read backward',
    )
    return parser


def _interval(text: str) -> int | Literal['sqrt', 'all']:
    if text == 'sqrt':
        return 'sqrt'
    if text == 'all':
        return 'all'
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of at least 1, sqrt or all')
    return int(text)


def _tile(text: str) -> tuple[int, int] | Literal['auto'] | None:
    if text in ('auto', 'off'):
        return 'auto' if text == 'auto' else None
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    if match and min(map(int, match.groups())) >= 1:
        return int(match[1]), int(match[2])
    raise argparse.ArgumentTypeError(f'{text!r} is not a size like 1024x1024, width first, auto or off')


def _place(text: str) -> Place:
    if re.fullmatch(r'-?\d+', text):
        return int(text)
    if match := re.fullmatch(r'(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)(s?)', text):
        hours, minutes, seconds, unit = match.groups()
        if unit or minutes:
            return 3600 * int(hours or 0) + 60 * int(minutes or 0) + Fraction(seconds)
    raise argparse.ArgumentTypeError(f'{text!r} is not the number of a frame, or a time like 12.5s or 00:01:02.5')


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 100_000:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number of frames a second, such as 25 or 30000/1001')
    return rate


def _count(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of at least {least}')
        return int(text)

    return parse


def _check_arguments(args: argparse.Namespace) -> None:
    """What does not go together."""
    given = {name: getattr(args, name.replace('-', '_')) for name in ('codec', 'quality', 'pix-fmt', 'format')}
    to_pipe = str(args.output) == '-'
    wrong = [f'--{name}' for name, value in given.items() if value is not None]
    if wrong and not _is_video(args.output) and not to_pipe:
        raise OptionsError(
            f'{", ".join(wrong)}: -o {args.output} is a folder for pictures. Video files end in '
            f'{", ".join(VIDEO_EXTENSIONS[:5])} and others.'
        )
    if (args.compare or args.report) and _is_live(args) and '-' in (args.input, str(args.output)):
        raise OptionsError('--compare, --report: what goes through a pipe cannot be looked at again. Name files.')
    if args.input == '-' and args.resume:
        raise OptionsError('--resume: what came through a pipe cannot be read again. Give a file as INPUT.')
    if not _is_live(args):
        if to_pipe:
            raise OptionsError(
                '-o -: with the last frame looked at first, there is no pipe. Add --window, or name a file.'
            )
        return
    wrong = [f'--{name}' for name in ('resume', 'store', 'interval') if getattr(args, name)]
    wrong += ['--tile'] * isinstance(args.tile, tuple)
    if '-' in (args.input, str(args.output)):
        wrong += [f'--{name}' for name in ('start', 'end', 'fps') if getattr(args, name) is not None]
        if not to_pipe and not _is_video(args.output):
            raise OptionsError(f'-o {args.output}: from a pipe with --window, OUTPUT is a video file or a pipe (-).')
    if wrong:
        raise OptionsError(f'{", ".join(wrong)}: not there with --window or --lookahead; leave it out.')


def _check_output(output: Path, source: Source) -> None:
    if output.suffix.lower() in IMAGE_EXTENSIONS and not output.is_dir():
        raise OptionsError(
            f'-o {output}: the restored frames go to a folder, as PNG files, or to a video file. Give a name without '
            f'{output.suffix}, or {output.stem}.mp4.'
        )
    if isinstance(source, PictureSource) and output.resolve() in {path.resolve().parent for path in source.paths}:
        raise OptionsError(f'-o {output}: the input is in this folder, and is never touched. Give another one.')
    if source.path is not None and output.exists() and output.samefile(source.path):
        raise OptionsError(f'-o {output}: this is the input, which is never touched. Give another name.')


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


def _live(net: VideoNet, args: argparse.Namespace) -> LiveStreamer:
    window = 1 if args.window is None else args.window
    lookahead = 4 if args.lookahead is None else args.lookahead
    return LiveStreamer(net, window, lookahead, autocast=PRECISIONS[args.precision])


def _streamer(net: VideoNet, source: Source, args: argparse.Namespace) -> Streamer | LiveStreamer:
    if _is_live(args):
        return _live(net, args)
    make = partial(Streamer, net, autocast=PRECISIONS[args.precision], temp_dir=args.temp_dir, tile=args.tile)
    if args.store or args.interval:
        return make(store=args.store or 'host', interval=None if args.interval == 'all' else args.interval)
    place = choose_place(make().state_bytes(*source.size), len(source), free_memory())
    return make(store=place.store, interval=place.interval)


def _describe_states(streamer: Streamer | LiveStreamer, source: Source) -> str:
    if isinstance(streamer, LiveStreamer):
        return f'Live: windows of {streamer.window}, {streamer.lookahead} frames ahead'
    where = {'device': 'on the device', 'host': 'in main memory', 'disk': 'on disk'}[streamer.store]
    count = streamer.num_states(len(source))
    size = count * streamer.state_bytes(*source.size)
    plan = streamer.plan(*source.size)
    return f'Computing: {plan}\nStates: {count} of {len(source)} at a time, {size / 1e9:.1f} GB {where}'


def _job(source: Source, net: nn.Module, args: argparse.Namespace) -> dict[str, Any]:
    digest = hashlib.sha256()
    for tensor in net.state_dict().values():
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    # Shortened, because a user may see them when they differ.
    return {'input': source.identity()[:16], 'weights': digest.hexdigest()[:16], 'precision': args.precision}

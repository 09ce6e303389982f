"""``dstnet deblur INPUT -o OUTPUT``: restore a video."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dstnet_arch._version import __version__
from dstnet_arch.archs.checkpoint import load_checkpoint
from dstnet_arch.data.frame_source import size_text
from dstnet_arch.deblur.config import check_arguments, is_live, is_video, make_parser
from dstnet_arch.deblur.distributed import device_of, ranks, restore_all
from dstnet_arch.deblur.plan import (
    VideoPlan,
    check_output,
    choose_device,
    describe_states,
    job_of,
    make_live,
    make_streamer,
    need_av,
    plan_video,
    warn,
)
from dstnet_arch.deblur.preview import Wanted, show
from dstnet_arch.deblur.restore import MEMORY_ADVICE, Render, restore
from dstnet_arch.errors import DataError
from dstnet_arch.memory_errors import memory_explained
from dstnet_arch.ops.native import set_native
from dstnet_arch.streaming.memory import peak_memory
from dstnet_arch.video.sinks import PARTIAL_SUFFIX, FileSink, Job, PictureSink, is_finished
from dstnet_arch.video.sources import Source, open_source
from dstnet_arch.weights import resolve_weights

if TYPE_CHECKING:  # it needs PyAV, without which folders can be restored
    from dstnet_arch.video.encoder import Encoding


def command(arguments: Sequence[str]) -> None:
    """``dstnet deblur``.

    Raises:
        DSTNetError: see `restore`, `open_source`, `FileSink`, `choose_encoding`, `resolve_weights` and
            `load_checkpoint`.
    """
    args = make_parser().parse_args(arguments)
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
    check_arguments(args)
    if is_live(args) and '-' in (args.input, str(args.output)):
        _restore_pipe(args)
        return
    with _stored_input(args) as stored, closing(_open(stored, args)) as source:
        _restore_file(source, args)


def _restore_file(source: Source, args: argparse.Namespace) -> None:
    start = time.monotonic()
    warn(source.warnings)
    check_output(args.output, source)
    wanted = Wanted.of(args)
    if args.resume and _is_finished(args.output, source):
        there = f'{args.output} is there, with all {len(source)} frames'
        print(f'{there}.' if wanted else f'{there}: nothing is to be done.')
        if wanted:
            _show(wanted, source, args, plan_video(source, args))
        return
    device = choose_device(args.device, args.precision)
    plan = plan_video(source, args)  # what does not fit is said before any work
    net = load_checkpoint(resolve_weights(args.weights), device)
    streamer = make_streamer(net, source, args)
    sink, render = _make_sink(source, plan, job_of(source, net, args), args)
    already = sink.position
    with closing(sink):
        print(
            f'{args.input}: {len(source)} frames, {size_text(source.size)}; {args.weights}, {args.precision}, {device}'
        )
        print(describe_states(streamer, source))
        if plan is not None:
            print(f'Video: {plan.encoding.describe()}, {float(source.timing.rate):g} frames a second')
        if already:
            print(f'{already} frames are there already.')
        try:
            restore(source, sink, streamer, render)
        except KeyboardInterrupt:
            if not is_live(args):
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


def _make_sink(
    source: Source, plan: VideoPlan | None, job: Job, args: argparse.Namespace
) -> tuple[FileSink[Any], Render[Any]]:
    """Where the result goes, and what that takes of each frame."""
    if plan is None:
        return PictureSink(args.output, source.names, job, args.resume, args.overwrite), source.restored_picture
    from dstnet_arch.video.video_sink import VideoSink

    sink = VideoSink(args.output, source, plan.encoding, plan.container, job, args.resume, args.overwrite)
    warn(sink.warnings)
    return sink, partial(plan.encoding.planes, source)


def _show(
    wanted: Wanted,
    source: Source,
    args: argparse.Namespace,
    plan: VideoPlan | None,
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
    need_av(args.input if args.input != '-' else args.output)
    from dstnet_arch.video.encoder import choose_encoding
    from dstnet_arch.video.video_pipe import restore_pipe
    from dstnet_arch.video.video_sink import check_video_target

    device = choose_device(args.device, args.precision)
    net = load_checkpoint(resolve_weights(args.weights), device)

    def choose(source: Source, container: str) -> Encoding:
        warn(source.warnings)
        return choose_encoding(args.output, source, args.codec, args.quality, args.pix_fmt, container, low_delay=True)

    if str(args.output) != '-':
        check_video_target(args.output, args.overwrite)
    with memory_explained(MEMORY_ADVICE):
        count = restore_pipe(args.input, args.output, make_live(net, args), choose, args.format)
    print(f'{count} frames restored.', file=sys.stderr)


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


def _is_finished(output: Path, source: Source) -> bool:
    if not is_video(output):
        return is_finished(output, source.names)
    if not output.is_file() or output.with_name(output.name + PARTIAL_SUFFIX).exists():
        return False
    from dstnet_arch.video.remux import count_frames

    return count_frames(output) == (len(source), source.size)

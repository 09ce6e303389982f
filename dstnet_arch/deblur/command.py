"""The command line of ``dstnet deblur``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import get_args

from dstnet_arch.arguments import add_device, command_parser, frame_rate, size, whole_number
from dstnet_arch.deblur.batch import Ranks, restore_all, split_inputs
from dstnet_arch.deblur.config import CompareMode, DeblurConfig
from dstnet_arch.deblur.run import StoppedError, run
from dstnet_arch.errors import EXIT_STATUS, counted, printable
from dstnet_arch.precision import PRECISIONS
from dstnet_arch.progress import Progress, say
from dstnet_arch.streaming.state_store import StoreKind
from dstnet_arch.video.sinks import OutputOptions
from dstnet_arch.video.source import Place
from dstnet_arch.video.timing import DEFAULT_RATE

_DESCRIPTION = """\
Deblur a video. The whole video is used to restore each frame.

INPUT is a video file, a folder of images (in natural order of their names), or a pattern such as 'frames/*.png' or
frames/%05d.png. OUTPUT is a video file, which also receives sound, subtitles and metadata of INPUT, or a folder for PNG
files, which keep the bit depth and channels of INPUT. With several INPUTs, OUTPUT is a folder, and each result gets the
name of its INPUT, with .mp4 instead of an extension that cannot be written.
"""
_EPILOG = """\
OUTPUT appears when it is complete. Until then, finished frames are in OUTPUT.partial; after an interruption, the same
command with --resume continues. docs/video.md lists examples, and what is kept of each kind of input.
"""


def command(arguments: Sequence[str]) -> int:
    """Run ``dstnet deblur``; return its exit status.

    Raises:
        DSTNetError: see `run`.
    """
    inputs, config = parse_arguments(arguments)
    ranks = Ranks.from_environment()
    config = replace(config, device=config.device or ranks.device)
    try:
        if len(inputs) == 1:
            if ranks.rank == 0:
                _restore(replace(config, input=inputs[0]))
            return 0
        failures = restore_all(split_inputs(inputs, config), _restore, ranks)
    except (KeyboardInterrupt, StoppedError) as error:
        partial = getattr(error, 'partial', None)
        kept = f' Finished frames are in {partial}; run the same command with --resume to continue.'
        _print(f'Interrupted.{kept if partial else ""}')
        return 130
    if ranks.rank == 0:
        _print(f'{len(inputs) - len(failures)} of {len(inputs)} videos are in {config.output}.')
    if failures:
        _print('\n'.join([f'error: {counted(len(failures), "video")} failed:', *failures]))
    return EXIT_STATUS if failures else 0


def _restore(config: DeblurConfig) -> None:
    with closing(_Bars()) as bars:
        result = run(config, bars.step, log=_print)
    _print(
        f'{config.output}: {counted(result.frames, "frame")}, {result.restored} restored in {result.seconds:.0f} s; '
        f'peak memory {result.peak_memory / 1e9:.1f} GB'
    )
    for path in result.paths[1:]:
        _print(f'Written: {path}')


def _print(line: str) -> None:
    if line.startswith(('warning: ', 'error: ', 'Interrupted.')):
        print(printable(line), file=sys.stderr, flush=True)
    else:
        say(printable(line))


class _Bars:
    """Shows the progress of `run`: a bar for each job, which names the stage."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def step(self, stage: str, done: int, total: int) -> None:
        if self._bar is None or total != self._bar.total or done <= self._bar.done:
            self.close()
            self._bar = Progress(total, 'step', stage, done=done)  # their duration is unknown
        self._bar.relabel(stage)
        self._bar.update(done - self._bar.done)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def parse_arguments(arguments: Sequence[str]) -> tuple[list[str], DeblurConfig]:
    """Parse the command line.

    Returns:
        The INPUTs; the settings for all of them, with the first one as `input`.
    """
    args = vars(_make_parser().parse_args(arguments))
    inputs = args.pop('input')
    encoding = OutputOptions(*(args.pop(name) for name in ('codec', 'quality', 'pix_fmt', 'format')))
    return inputs, DeblurConfig(input=inputs[0], encoding=encoding, rate=args.pop('fps'), **args)


def _make_parser() -> argparse.ArgumentParser:
    parser = command_parser('dstnet deblur', _DESCRIPTION, _EPILOG)
    add = parser.add_argument
    add('input', metavar='INPUT', nargs='+', help='video file, folder of images, or pattern')
    add('-o', '--output', metavar='OUTPUT', type=Path, required=True, help='video file or folder')
    text = 'released weights (GoPro, GoPro-L, DVD, BSD), downloaded once into weights/, or a file; default: GoPro'
    add('--weights', default='GoPro', metavar='NAME', help=text)
    add_device(parser)
    text = 'fp32 is exact; tf32, bf16 and fp16 are faster. Default: tf32 on GPUs that have it, else fp32'
    add('--precision', choices=PRECISIONS, help=text)
    text = (
        'compile part of the network with torch.compile, which takes about a minute at the first frame. It can pay for '
        'long videos on a GPU, rarely on a CPU. Results differ in rounding'
    )
    add('--compile', action='store_true', help=text)
    text = 'a frame number from 0 (negative: from the end), or a time such as 12.5s or 00:01:02.5'
    add('--start', type=_place, metavar='PLACE', help=f'first frame to restore: {text}')
    add('--end', type=_place, metavar='PLACE', help='first frame that is not restored')
    add('--fps', type=frame_rate, metavar='RATE', help=f'frames per second; images have {DEFAULT_RATE} by default')
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument('--resume', action='store_true', help='continue an interrupted run if there is one')
    existing.add_argument('--overwrite', action='store_true', help='replace OUTPUT if it exists')

    add = parser.add_argument_group('preview', 'Written next to OUTPUT when it is complete.').add_argument
    modes = get_args(CompareMode)
    text = (
        'OUTPUT_compare: frames before and after in one picture: the left half of one and the right half of the other '
        '(split, the default), or side by side (side)'
    )
    add('--compare', nargs='?', const=modes[0], choices=modes, help=text)
    text = 'OUTPUT_report.html: a page with frames before and after, a temporal profile, sharpness and settings'
    add('--report', action='store_true', help=text)

    add = parser.add_argument_group('video files as OUTPUT').add_argument
    add('--codec', metavar='NAME', help="FFmpeg's encoder; default: libx264 (8 bits), libx265, or libsvtav1 for .webm")
    add('--quality', type=int, metavar='N', help="on the codec's own scale, such as CRF; default: visually lossless")
    add('--pix-fmt', metavar='NAME', help="FFmpeg's pixel format; default: that of INPUT if the codec supports it")
    add('--format', metavar='NAME', help="FFmpeg's container format; default: chosen from the extension of OUTPUT")

    text = (
        "Each frame's backward feature (the state, 59 MB at 1280x720) is kept until the forward pass. By default, all\n"
        'states are kept in main memory if they need at most half of the free memory. Otherwise only every S-th one\n'
        'is kept (S: the square root of the number of frames), and the others are computed twice.'
    )
    add = parser.add_argument_group('memory', text).add_argument
    text = 'process frames in tiles of this size, with the same result in less memory; off; or auto: if memory is low'
    add('--tile', type=_tile, default='auto', metavar='WxH', help=f'{text} (the default)')
    add('--store', choices=get_args(StoreKind), help='where states are kept; host is main memory')
    add('--interval', type=_interval, metavar='S', help='keep every S-th state: a number, sqrt or all')
    add('--temp-dir', metavar='FOLDER', help="folder for temporary files; default: the system's")
    return parser


def _interval(text: str) -> int | str:
    return text if text in ('sqrt', 'all') else whole_number(1)(text)


def _tile(text: str) -> tuple[int, int] | str | None:
    return {'auto': 'auto', 'off': None}[text] if text in ('auto', 'off') else size(text)


def _place(text: str) -> Place:
    if re.fullmatch(r'-?\d+', text):
        return int(text)
    if match := re.fullmatch(r'(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)(s?)', text):
        hours, minutes, seconds, unit = match.groups()
        if unit or minutes:
            return 3600 * int(hours or 0) + 60 * int(minutes or 0) + Fraction(seconds)
    raise argparse.ArgumentTypeError(f'{text!r} is not a frame number, or a time such as 12.5s or 00:01:02.5')

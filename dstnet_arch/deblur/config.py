"""The arguments of ``dstnet deblur``, and which of them do not go together."""

from __future__ import annotations

import argparse
import re
from fractions import Fraction
from pathlib import Path
from typing import Literal

import torch

from dstnet_arch.arguments import frame_rate, whole_number
from dstnet_arch.deblur.preview import add_look_arguments
from dstnet_arch.errors import OptionsError
from dstnet_arch.video.sources import DEFAULT_RATE, VIDEO_EXTENSIONS, Place

PRECISIONS = {'fp32': None, 'tf32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}
"""Name -> type for autocast."""

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


def make_parser() -> argparse.ArgumentParser:
    """The command line's parser."""
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
        type=frame_rate,
        metavar='RATE',
        help=f'of pictures as INPUT: 25, 30000/1001, ...; by default {DEFAULT_RATE}',
    )
    add_look_arguments(parser)
    live = parser.add_argument_group(
        'live',
        'Restores with a bounded delay, each frame from those before it and a few after it, also from and to pipes. '
        'Frames differ a little from those that all others have helped to restore.',
    )
    live.add_argument(
        '--window', type=whole_number(1), metavar='N', help='frames that are restored together, by default 1'
    )
    live.add_argument(
        '--lookahead', type=whole_number(0), metavar='K', help='frames after them that are waited for, by default 4'
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


def check_arguments(args: argparse.Namespace) -> None:
    """Look at what no single argument says.

    Args:
        args: of one INPUT, `input`, which is a text here.

    Raises:
        OptionsError: arguments do not go together.
    """
    given = {name: getattr(args, name.replace('-', '_')) for name in ('codec', 'quality', 'pix-fmt', 'format')}
    to_pipe = str(args.output) == '-'
    wrong = [f'--{name}' for name, value in given.items() if value is not None]
    if wrong and not is_video(args.output) and not to_pipe:
        raise OptionsError(
            f'{", ".join(wrong)}: -o {args.output} is a folder for pictures. Video files end in '
            f'{", ".join(VIDEO_EXTENSIONS[:5])} and others.'
        )
    if (args.compare or args.report) and is_live(args) and '-' in (args.input, str(args.output)):
        raise OptionsError('--compare, --report: what goes through a pipe cannot be looked at again. Name files.')
    if args.input == '-' and args.resume:
        raise OptionsError('--resume: what came through a pipe cannot be read again. Give a file as INPUT.')
    if not is_live(args):
        if to_pipe:
            raise OptionsError(
                '-o -: with the last frame looked at first, there is no pipe. Add --window, or name a file.'
            )
        return
    wrong = [f'--{name}' for name in ('resume', 'store', 'interval') if getattr(args, name)]
    wrong += ['--tile'] * isinstance(args.tile, tuple)
    if '-' in (args.input, str(args.output)):
        wrong += [f'--{name}' for name in ('start', 'end', 'fps') if getattr(args, name) is not None]
        if not to_pipe and not is_video(args.output):
            raise OptionsError(f'-o {args.output}: from a pipe with --window, OUTPUT is a video file or a pipe (-).')
    if wrong:
        raise OptionsError(f'{", ".join(wrong)}: not there with --window or --lookahead; leave it out.')


def is_live(args: argparse.Namespace) -> bool:
    """Whether frames are restored with a bounded delay."""
    return args.window is not None or args.lookahead is not None


def is_video(output: Path) -> bool:
    """Whether OUTPUT is a video file, not a folder for pictures."""
    return output.suffix.lower() in VIDEO_EXTENSIONS and not output.is_dir()


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

"""The command `python -m data_prep`. Heavy imports wait until a sub-command needs them."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from data_prep.layouts import LAYOUTS, Layout, describe_folders
from dstnet_arch.arguments import command_parser, real_number, run_command, whole_number
from dstnet_arch.errors import INTERRUPTED

_CONVERT_TEXT = """\
Convert {title} to LMDB for this project and stock BasicSR.

SOURCE is the folder that the data set was unpacked to. Frames are found in these folders:
{folders}

Files are copied byte for byte (with --raw, their pixels are), and each is decoded once to check that it is complete.
Names, partners and sizes are checked before anything is written. To resume an interrupted run, give the same command
again. Finished data is never overwritten."""

_VERIFY_TEXT = """\
Read converted data back: decode every frame, compare meta_info.txt with the contents, and the keys of blurry sets
with those of their sharp ones. Faults are listed and give exit status 1."""

_SAMPLE_TEXT = """\
Make a small data set without any download: photographs that come with scikit-image, filmed by a shaky virtual camera.
The frames are written to OUTPUT/raw in GoPro's layout and converted like any other data set."""

_SYNTHESIZE_TEXT = """\
Make training pairs from your own high-frame-rate footage, to train a network for your own camera. The mean of N frames
in linear light is a blurry frame; the middle frame is its sharp partner.

Each VIDEO is a video file or a folder of frames. The output has GoPro's layout, OUTPUT/train|test/CLIP/blur|sharp/
000001.png, and `python -m data_prep gopro OUTPUT -o FOLDER` converts it. Each shot of a video becomes a clip; no pair
spans a cut. Frames of videos with variable frame rate are averaged by their times. CLIP/synthesis.json records how the
pairs were made. docs/synthesize.md explains how to film and how to choose the options."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all sub-commands; the converters are made from the descriptions in `layouts.py`."""
    parser = command_parser(
        'python -m data_prep',
        'Make data sets for training and testing.',
        'python -m data_prep COMMAND --help explains a command, with an example.\n'
        'Exit status: 0 success; 1 verify found faults, or an unexpected error; 2 wrong input; 130 Ctrl-C.',
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for layout in LAYOUTS:
        _add_converter(commands, layout)

    verify = _add_command(commands, 'verify', 'check converted data', _VERIFY_TEXT, 'verify datasets/GoPro')
    verify.add_argument('path', metavar='PATH', type=Path, help='an .lmdb folder, or a folder that contains several')

    what = 'make a small data set without any download'
    sample = _add_command(commands, 'sample', what, _SAMPLE_TEXT, 'sample -o datasets/sample')
    _add_output(sample)
    sample.add_argument('--seed', type=whole_number(0), default=0, help='random seed of the camera paths (default 0)')

    _add_synthesize(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status, see `run_command`; 1 if `verify` found faults.
    """
    return run_command(lambda: _run(build_parser().parse_args(argv)))


def _run(arguments: argparse.Namespace) -> int:
    try:
        return _run_command(arguments)
    except KeyboardInterrupt:
        again = 'with --overwrite' if arguments.command == 'synthesize' else 'to resume'
        print(f'\nInterrupted. Run the same command again {again}.', file=sys.stderr)
        return INTERRUPTED


def _run_command(arguments: argparse.Namespace) -> int:
    if arguments.command == 'verify':
        from data_prep.verify import verify

        return 0 if verify(arguments.path, arguments.threads) else 1
    if arguments.command == 'sample':
        from data_prep.sample import make_sample

        make_sample(arguments.output, arguments.seed, arguments.threads)
    elif arguments.command == 'synthesize':
        from data_prep.blur_model import load_response
        from data_prep.synthesize import synthesize
        from data_prep.synthesize_plan import Settings

        arguments.response = load_response(arguments.response or 'gamma2.2')
        given = {field.name: getattr(arguments, field.name) for field in fields(Settings)}
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
        synthesize(
            arguments.videos,
            arguments.output,
            settings,
            arguments.test,
            arguments.train_share,
            arguments.overwrite,
            arguments.preview,
            arguments.threads,
        )
    else:
        from data_prep.convert import convert

        layout = next(layout for layout in LAYOUTS if layout.command == arguments.command)
        convert(layout, arguments.source, arguments.output, arguments.choice, arguments.threads, arguments.raw)
    return 0


def _add_command(commands: Any, name: str, help_line: str, text: str, *examples: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_line,
        description=text,
        epilog='example:\n' + '\n'.join(f'  python -m data_prep {example}' for example in examples),
    )
    command.add_argument(
        '--threads', type=whole_number(1), metavar='N', help='number of threads (default: number of cores, at most 16)'
    )
    return command


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument('-o', '--output', type=Path, required=True, help='folder for the result')


def _add_converter(commands: Any, layout: Layout) -> None:
    name = layout.title.split()[0]
    example = f'{layout.command} /data/{name} -o datasets/{name}'
    if layout.choices and layout.default is None:
        choice = next(iter(layout.choices))
        example += f'_{choice} {layout.option} {choice}'
    text = _CONVERT_TEXT.format(title=layout.title, folders=describe_folders(layout))
    command = _add_command(commands, layout.command, f'convert {layout.title}', text, example)
    command.add_argument('source', metavar='SOURCE', type=Path, help='folder of the unpacked data set')
    _add_output(command)
    command.set_defaults(choice=None)
    if layout.option:
        meanings = '; '.join(f'{value}: {meaning}' for value, meaning in layout.choices.items())
        command.add_argument(
            layout.option,
            dest='choice',
            choices=list(layout.choices),
            default=layout.default,
            required=layout.default is None,
            help=meanings + (f' (default {layout.default})' if layout.default else ''),
        )
    command.add_argument(
        '--raw',
        action='store_true',
        help='store pixels instead of files: training then decodes nothing; takes 3 bytes per pixel (6 for images of '
        '16 bits), about twice a PNG',
    )


def _add_synthesize(commands: Any) -> None:
    command = _add_command(
        commands,
        'synthesize',
        'make pairs from your own footage',
        _SYNTHESIZE_TEXT,
        'synthesize a.mp4 b.mp4 c.mp4 -o pairs --test c --max-size 1280',
        'synthesize slow.mp4 -o pairs --stride 1 --duty-cycle 0.5 --interpolate 16',
    )
    command.add_argument('videos', metavar='VIDEO', nargs='+', type=Path, help='video file or folder of frames')
    _add_output(command)
    fraction = real_number(0, 1, exclusive=True)
    options = (
        ('--window', _window, 'N', 'exposure time in frames: an odd number, or a range such as 7-13 from which each '
         'clip uses one odd number (default 7-13, as GoPro)'),
        ('--stride', whole_number(1), 'S', 'frames from one pair to the next; the frame rate is divided by S (default: '
         'window / duty cycle)'),
        ('--duty-cycle', fraction, 'D', 'exposure time divided by the time between pairs (default: window / stride, or '
         '1). With --stride and without --window, the exposure is D * S frames, which may be a fraction'),
        ('--response', str, 'CURVE', 'response curve of the camera: srgb, gamma2.2, linear (average stored values), or '
         'a text file with the light of each of the 256 stored values (default gamma2.2)'),
        ('--interpolate', whole_number(1, 64), 'K', 'insert K - 1 frames between two frames by optical flow, if the '
         'frame rate is low for the motion (default 1: none)'),
        ('--cut-threshold', real_number(0, 255), 'T', 'minimum mean difference at a cut, in grey levels (default 12; '
         '255 finds no cut)'),
        ('--min-pairs', whole_number(1), 'N', 'skip shots with fewer pairs (default 1)'),
    )  # fmt: skip
    for flag, kind, metavar, text in options:
        command.add_argument(flag, type=kind, metavar=metavar, help=text)
    size = command.add_mutually_exclusive_group()
    size.add_argument('--scale', type=fraction, metavar='F', help='scale down by F, averaging areas')
    text = 'scale down to at most N pixels on the longer side'
    size.add_argument('--max-size', type=whole_number(1), metavar='N', help=text)
    share = command.add_mutually_exclusive_group()
    text = 'use this VIDEO for testing; may be repeated'
    share.add_argument('--test', action='append', default=[], metavar='NAME', help=text)
    text = 'share of the videos for training, the others are for testing; chosen by a hash of their names'
    share.add_argument('--train-share', type=real_number(0, 1), metavar='P', help=text)
    command.add_argument('--preview', action='store_true', help='write CLIP/preview.jpg with some pairs')
    command.add_argument('--overwrite', action='store_true', help='replace earlier clips of these videos')


def _window(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'([0-9]{1,4})(?:-([0-9]{1,4}))?', text)
    if match is not None:
        first, last = int(match[1]), int(match[2] or match[1])
        if 1 <= first <= last and (first % 2 or first < last):
            return first, last
    raise argparse.ArgumentTypeError(f'{text!r} is neither an odd number nor a range such as 7-13')


if __name__ == '__main__':
    sys.exit(main())

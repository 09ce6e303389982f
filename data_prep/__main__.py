"""The command `python -m data_prep`. Heavy imports wait until a sub-command needs them."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from data_prep import synthesize_command
from data_prep.layouts import LAYOUTS, Layout, describe_folders
from dstnet_arch.arguments import command_parser, whole_number
from dstnet_arch.errors import EXIT_STATUS, INTERRUPTED, DSTNetError, escape_unencodable_output, printable

_CONVERT_TEXT = """\
Convert {title} to LMDB for this project and stock BasicSR.

SOURCE is the folder that the data set was unpacked to. Frames are found in these folders:
{folders}
{remark}
Files are copied byte for byte (with --raw, their pixels are), and each is decoded once to check that it is complete.
Names, partners and sizes are checked before anything is written. To resume an interrupted run, give the same command
again. Finished data is never overwritten."""

_VERIFY_TEXT = """\
Read converted data back: decode every frame, compare meta_info.txt with the contents, and the keys of blurry sets
with those of their sharp ones. Faults are listed and give exit status 1."""

_SAMPLE_TEXT = """\
Make a small data set without any download: photographs that come with scikit-image, filmed by a shaky virtual camera.
Many short exposures are averaged in linear light to a blurry frame; the middle one is its sharp partner. The frames
are written to OUTPUT/raw in GoPro's layout and converted like any other data set. Needs scikit-image."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all sub-commands; the converters are made from the descriptions in `layouts.py`."""
    parser = command_parser(
        'python -m data_prep',
        'Make data sets for training and testing.',
        'python -m data_prep COMMAND --help explains a command, with an example.',
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for layout in LAYOUTS:
        _add_converter(commands, layout)

    verify = _add_command(
        commands, 'verify', 'check converted data', _VERIFY_TEXT, 'python -m data_prep verify datasets/GoPro'
    )
    verify.add_argument('path', metavar='PATH', type=Path, help='an .lmdb folder, or a folder that contains several')
    _add_threads(verify)

    sample = _add_command(
        commands,
        'sample',
        'make a small data set without any download',
        _SAMPLE_TEXT,
        'python -m data_prep sample -o datasets/sample',
    )
    sample.add_argument('-o', '--output', type=Path, required=True, help='folder for the result')
    sample.add_argument('--seed', type=whole_number(0), default=0, help='random seed of the camera paths (default 0)')
    _add_threads(sample)

    synthesize = _add_command(
        commands, 'synthesize', 'make pairs from your own footage', synthesize_command.TEXT, synthesize_command.EXAMPLES
    )
    synthesize_command.add_arguments(synthesize)
    _add_threads(synthesize)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        Exit status: 0 success; 1 `verify` found faults; 2 an error, printed as one message; 130 interrupted.
    """
    arguments = build_parser().parse_args(argv)
    try:
        return _run(arguments)
    except (DSTNetError, OSError) as error:
        print(printable(f'error: {error}'), file=sys.stderr)
        return EXIT_STATUS
    except KeyboardInterrupt:
        again = 'with --overwrite' if arguments.command == 'synthesize' else 'to resume'
        print(f'\ninterrupted; run the same command again {again}', file=sys.stderr)
        return INTERRUPTED


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == 'verify':
        from data_prep.verify import verify

        return 0 if verify(arguments.path, arguments.threads) else 1
    if arguments.command == 'sample':
        from data_prep.sample import make_sample

        make_sample(arguments.output, arguments.seed, arguments.threads)
        return 0
    if arguments.command == 'synthesize':
        synthesize_command.run(arguments)
        return 0
    from data_prep.convert import convert

    layout = next(layout for layout in LAYOUTS if layout.command == arguments.command)
    convert(layout, arguments.source, arguments.output, arguments.choice, arguments.threads, raw=arguments.raw)
    return 0


def _add_converter(commands: argparse._SubParsersAction[argparse.ArgumentParser], layout: Layout) -> None:
    name, choice = layout.title.split()[0], layout.choice
    example = f'python -m data_prep {layout.command} /data/{name} -o datasets/{name}'
    if choice is not None and choice.default is None:
        value = next(iter(choice.values))
        example += f'_{value} {choice.option} {value}'
    remark = f'\n{textwrap.fill(layout.remark, 115)}\n' if layout.remark else ''
    text = _CONVERT_TEXT.format(title=layout.title, folders=describe_folders(layout), remark=remark)
    command = _add_command(commands, layout.command, f'convert {layout.title}', text, example)
    command.add_argument('source', metavar='SOURCE', type=Path, help='folder of the unpacked data set')
    command.add_argument('-o', '--output', type=Path, required=True, help='folder for the .lmdb folders')
    command.set_defaults(choice=None)
    if choice is not None:
        meanings = '; '.join(f'{value}: {meaning}' for value, meaning in choice.values.items())
        command.add_argument(
            choice.option,
            dest='choice',
            choices=list(choice.values),
            default=choice.default,
            required=choice.default is None,
            help=meanings + (f' (default {choice.default})' if choice.default else ''),
        )
    command.add_argument(
        '--raw',
        action='store_true',
        help='store pixels instead of files: training then decodes nothing; takes 3 bytes per pixel (6 for images of '
        '16 bits), about twice a PNG',
    )
    _add_threads(command)


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help_line: str, text: str, example: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_line,
        description=text,
        epilog=f'example:\n  {example}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return command


def _add_threads(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        '--threads', type=whole_number(1), metavar='N', help='threads that read and decode (default: number of cores)'
    )


if __name__ == '__main__':
    escape_unencodable_output()
    sys.exit(main())

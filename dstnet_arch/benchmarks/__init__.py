"""Measurements: ``dstnet benchmark KIND`` and ``dstnet complexity``. Our own networks need PyTorch alone."""

from __future__ import annotations

from collections.abc import Sequence

from dstnet_arch.arguments import command_parser

KINDS = {
    'forward': 'time and memory of restoring a clip, compared with the plain schedule',
    'train': 'time and memory of a training step, compared with the plain schedule',
    'stream': 'time and memory of streaming, by number of frames and place of the states',
}


def command(arguments: Sequence[str]) -> None:
    """Run ``dstnet benchmark``."""
    from dstnet_arch.benchmarks.compare import add_arguments, run

    parser = command_parser('dstnet benchmark', 'Measure time and memory.')
    kinds = parser.add_subparsers(dest='kind', required=True, metavar='KIND')
    for kind, text in KINDS.items():
        add_arguments(kinds.add_parser(kind, help=text, description=text), kind)
    args = parser.parse_args(arguments)
    run(args.kind, args)

"""Measurements: ``dstnet benchmark KIND`` and ``dstnet complexity``. Our own networks need PyTorch alone."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from dstnet_arch.arguments import command_parser

# Kind -> (module, function, help). The module is imported when the kind is called; it defines add_arguments(parser).
KINDS = {
    'forward': ('compare', 'run_forward', 'time and memory of restoring a clip, compared with the plain schedule'),
    'train': ('compare', 'run_train', 'time and memory of a training step, compared with the plain schedule'),
    'stream': ('stream', 'run', 'time and memory of streaming, by number of frames and place of the states'),
}


def command(arguments: Sequence[str]) -> None:
    """Run ``dstnet benchmark``."""
    parser = command_parser('dstnet benchmark', 'Measure time and memory.')
    kinds = parser.add_subparsers(dest='kind', required=True, metavar='KIND')
    parsers = {kind: kinds.add_parser(kind, help=text, description=text) for kind, (_, _, text) in KINDS.items()}
    for kind in parsers.keys() & set(arguments[:1]):
        import_module(f'{__name__}.{KINDS[kind][0]}').add_arguments(parsers[kind])
    args = parser.parse_args(arguments)
    module, function, _ = KINDS[args.kind]
    getattr(import_module(f'{__name__}.{module}'), function)(args)

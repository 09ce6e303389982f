"""Figures from the results of a test: ``dstnet visualize compare|crops|profile``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from dstnet_arch.arguments import command_parser

KINDS = ('compare', 'crops', 'profile')


def command(arguments: Sequence[str]) -> None:
    """Run ``dstnet visualize``; each kind of figure is a module with its own arguments."""
    parser = command_parser('dstnet visualize', 'Make figures from the results of a test.')
    kinds = parser.add_subparsers(dest='kind', required=True, metavar='KIND')
    for name in KINDS:
        kind = import_module(f'dstnet_arch.visualize.{name}')
        kind.add_arguments(
            kinds.add_parser(
                name,
                help=kind.HELP,
                description=f'{kind.HELP[0].upper()}{kind.HELP[1:]}.',
                epilog=kind.EXAMPLES,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    args = parser.parse_args(arguments)
    args.run(args)

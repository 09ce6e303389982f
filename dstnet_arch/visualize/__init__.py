"""Pictures made from the results of tests: ``dstnet visualize KIND ...``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def command(arguments: Sequence[str]) -> None:
    """``dstnet visualize``: one kind of picture a module, each with its own arguments."""
    from dstnet_arch.visualize import compare

    parser = argparse.ArgumentParser(prog='dstnet visualize', description='Make pictures from the results of a test.')
    kinds = parser.add_subparsers(dest='kind', required=True, metavar='KIND')
    compare.add_arguments(kinds.add_parser('compare', help=compare.HELP, description=compare.HELP))
    args = parser.parse_args(arguments)
    args.run(args)

"""``dstnet completion``: tab completion for shells."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from unittest import mock

from dstnet_arch.__main__ import COMMANDS, load
from dstnet_arch.arguments import command_parser
from dstnet_arch.errors import OptionsError

_DESCRIPTION = """\
Print a script that completes the commands and options of dstnet when you press Tab. To install it:

  bash:  dstnet completion bash > ~/.local/share/bash-completion/completions/dstnet
  zsh:   dstnet completion zsh > FOLDER/_dstnet, where FOLDER is in $fpath
"""


def command(arguments: Sequence[str]) -> None:
    """Run ``dstnet completion``.

    Raises:
        OptionsError: shtab is not installed.
    """
    parser = command_parser('dstnet completion', _DESCRIPTION)
    parser.add_argument('shell', choices=('bash', 'zsh', 'tcsh'))
    shell = parser.parse_args(arguments).shell
    try:
        import shtab
    except ImportError:
        raise OptionsError("shtab is not installed. Install it with: pip install 'dstnet-arch[completion]'") from None
    commands = argparse.ArgumentParser('dstnet')
    commands.add_argument('-V', '--version', action='store_true', help='show the version')
    added = commands.add_subparsers()
    for name, (_, text) in COMMANDS.items():
        found = _basicsr_parser() if name in ('train', 'test') else _parser_of(name)
        added.add_parser(name, help=text, parents=[found], add_help=False)
        _mark_files(found)
    print(shtab.complete(commands, shell))


def _parser_of(name: str) -> argparse.ArgumentParser:
    stop = mock.patch.object(argparse.ArgumentParser, 'parse_args', autospec=True, side_effect=SystemExit)
    with stop as parse_args, suppress(SystemExit):
        load(name)([])
    parser: argparse.ArgumentParser = parse_args.call_args.args[0]
    return parser


def _basicsr_parser() -> argparse.ArgumentParser:
    """Return a parser with the options of BasicSR, which makes its own after other work."""
    parser = command_parser('', '')
    parser.add_argument('-opt', help='options file')
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm'))
    parser.add_argument('--auto_resume', action='store_true')
    parser.add_argument('--debug', action='store_true')
    parser.add_argument('--force_yml', nargs='+', metavar='KEY=VALUE', help='override values of the options file')
    return parser


def _mark_files(parser: argparse.ArgumentParser) -> None:
    from shtab import FILE

    action: Any
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for nested in action.choices.values():
                _mark_files(nested)
        elif action.choices is not None:
            action.choices = list(action.choices)  # shtab accepts no dict
        elif action.nargs != 0:
            action.complete = FILE

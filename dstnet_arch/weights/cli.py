"""``dstnet weights list|get|verify|convert``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dstnet_arch.arguments import command_parser
from dstnet_arch.errors import EXIT_STATUS, CheckpointError, OptionsError, message_of
from dstnet_arch.weights import released as known
from dstnet_arch.weights.released import find_released, identify
from dstnet_arch.weights.store import DEFAULT_FOLDER, get_weights

_VERIFY = """\
Identify each FILE by its content: which released file it is, or which network it is of. No code in a file is executed.
Exit status: 0 if all are released files, 1 if some are others that can be loaded, 2 if some cannot be loaded."""


def command(arguments: Sequence[str]) -> int | None:
    """Run ``dstnet weights ACTION ...`` and return the exit status, None for 0."""
    args = _parser().parse_args(arguments)
    exit_status: int | None = args.run(args)
    return exit_status


def _parser() -> argparse.ArgumentParser:
    parser = command_parser('dstnet weights', f'Weights released at {known.REPOSITORY}.')
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument('--folder', type=Path, default=Path(DEFAULT_FOLDER), help='default: %(default)s')

    action = actions.add_parser('list', help='list the released weights', parents=[folder])
    action.set_defaults(run=_list)

    action = actions.add_parser('get', help='download released weights and check their content', parents=[folder])
    action.set_defaults(run=_get)
    action.add_argument('names', nargs='+', metavar='NAME', help=f'{known.names()}, or all')
    action.add_argument('--base-url', metavar='URL', help="folder on a mirror, instead of the authors' repository")

    action = actions.add_parser('verify', help='identify weight files', description=_VERIFY)
    action.set_defaults(run=_verify)
    action.add_argument('files', nargs='+', type=Path, metavar='FILE')

    action = actions.add_parser('convert', help='change the format or the key names; the values do not change')
    action.set_defaults(run=_convert)
    action.add_argument('file', type=Path, metavar='FILE', help='any checkpoint')
    output = ".safetensors, or .pth with {'params': ...} as BasicSR expects"
    action.add_argument('-o', '--output', type=Path, required=True, metavar='OUT', help=output)
    names = "key names: of this project (default) or of the authors' files"
    action.add_argument('--to', choices=['ours', 'released'], default='ours', help=names)
    key = 'which weights, if the file holds several (default: params_ema, then params)'
    action.add_argument('--param-key', metavar='KEY', help=key)
    action.add_argument('--overwrite', action='store_true', help='replace an existing OUT')
    return parser


def _list(args: argparse.Namespace) -> None:
    for r in known.RELEASED:
        path = args.folder / r.file
        state = 'not downloaded'
        if path.is_file():
            state = 'verified' if identify(path) == r else "not the authors' file"
        print(f'{r.name:8} {r.network:9} {path}: {state}')
    print("BSD: the authors' options test it on 1ms-8ms. Download: dstnet weights get NAME")


def _get(args: argparse.Namespace) -> None:
    wanted = [r.name for r in known.RELEASED] if 'all' in args.names else args.names
    found = {name: find_released(name) for name in wanted}
    if unknown := [name for name, released in found.items() if released is None]:
        raise OptionsError(f'{unknown[0]} is unknown. Allowed: {known.names()}, or all.')
    for released in filter(None, found.values()):
        path = get_weights(released, args.folder, args.base_url)
        print(f"{path}: verified as the authors' {released.file}")


def _verify(args: argparse.Namespace) -> int:
    return max(_verify_one(path) for path in args.files)


def _verify_one(path: Path) -> int:
    from dstnet_arch.archs.checkpoint import load_checkpoint
    from dstnet_arch.weights.convert import describe

    if path.is_file() and (released := identify(path)):
        print(f"{path}: the authors' {released.file} ({released.name}, {released.network}), byte for byte")
        return 0
    try:
        net = load_checkpoint(path)
    except CheckpointError as error:
        print(message_of(error), file=sys.stderr)
        return EXIT_STATUS
    num_parameters = sum(p.numel() for p in net.parameters())
    print(f'{path}: not a released file; {describe(net)}, {num_parameters:,} parameters')
    return 1


def _convert(args: argparse.Namespace) -> None:
    from dstnet_arch.weights.convert import convert, describe

    net = convert(args.file, args.output, args.to, args.param_key, args.overwrite)
    print(f'{args.output}: {describe(net)}, {"our" if args.to == "ours" else "released"} key names')

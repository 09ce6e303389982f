"""``dstnet weights``: list, fetch, recognise and convert files of weights."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dstnet_arch.errors import EXIT_STATUS, CheckpointError, OptionsError, message_of, printable
from dstnet_arch.weights import released as known
from dstnet_arch.weights.released import Released, find_released, identify, is_lfs_pointer
from dstnet_arch.weights.store import DEFAULT_FOLDER, get_weights, partial_path

_DESCRIPTION = f"""\
The weights that the authors of DSTNet have released in {known.REPOSITORY}
(GoPro, GoPro-L, DVD, BSD), and files of weights in general."""

_GET = """\
Fetch released weights, or go on with an interrupted transfer, and check them against the ids that Git has for them in
the authors' repository. What is there and right is not fetched again; what is there and differs is left alone."""

_VERIFY = """\
Say which released file each FILE is, by its content, whatever its name; or, where it is none of them, which network it
is of. Nothing in a file is executed. Exit status: 0 if all are released files, 1 if some are others that can be loaded,
2 if some cannot."""

_CONVERT = """\
Write weights in another format (by the suffix of OUT: .safetensors, or .pth with {'params': ...} as BasicSR has it) or
with other key names; every value stays bit by bit the same."""


def command(arguments: Sequence[str]) -> int | None:
    """Run ``dstnet weights ACTION ...``; the exit status, None for 0."""
    args = _parser().parse_args(arguments)
    try:
        return args.run(args)
    except OSError as error:
        raise CheckpointError(f'{error.filename or "A file"} cannot be used: {error.strerror or error}.') from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='dstnet weights', description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')

    action = actions.add_parser('list', help='show the released weights, and which are here')
    action.set_defaults(run=_list)
    _add_folder(action)

    action = actions.add_parser('get', help='fetch released weights and check them', description=_GET)
    action.set_defaults(run=_get)
    action.add_argument('names', nargs='+', metavar='NAME', help=f'{known.names()}, or all')
    _add_folder(action)
    action.add_argument(
        '--format',
        choices=['pth', 'safetensors'],
        default='pth',
        help='safetensors: write a conversion beside the file, with our key names; the file itself stays',
    )
    action.add_argument('--base-url', metavar='URL', help="a mirror's folder, in place of the authors' repository")

    action = actions.add_parser('verify', help='say what files of weights are', description=_VERIFY)
    action.set_defaults(run=_verify)
    action.add_argument('files', nargs='+', type=Path, metavar='FILE')

    action = actions.add_parser('convert', help='change format or key names', description=_CONVERT)
    action.set_defaults(run=_convert)
    action.add_argument('file', type=Path, metavar='FILE', help="any checkpoint: BasicSR's, the authors', safetensors")
    action.add_argument('-o', '--output', type=Path, required=True, metavar='OUT')
    action.add_argument(
        '--to',
        choices=['ours', 'released'],
        default='ours',
        help="key names: of this project (default), or of the authors' files",
    )
    action.add_argument(
        '--param-key',
        metavar='KEY',
        help='which weights, where the file holds several; by default params_ema, or else params',
    )
    action.add_argument('--overwrite', action='store_true', help='replace OUT if it is there')
    return parser


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--folder', type=Path, default=Path(DEFAULT_FOLDER), help='where released weights are kept (%(default)s)'
    )


def _list(args: argparse.Namespace) -> None:
    rows = [('name', 'file', 'network', 'parameters', 'size', 'PSNR', f'in {args.folder}')]
    for r in known.RELEASED:
        size = f'~{r.approximate_size / 1e6:.0f} MB'
        psnr = f'{r.psnr} ({r.table})'
        rows.append((r.name, r.file, r.network, f'{r.num_values:,}', size, psnr, _state(r, args.folder)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(
        '\n'
        'PSNR in dB: quoted from the paper, not measured here. It gives one figure for BSD and does not say for which\n'
        'exposure; the options of the authors test BSD.pth on 1ms-8ms. Parameters: with 1,024 frozen Haar filter\n'
        'values. Size: that of the parameters; the authors state none.\n'
        f'From {known.REPOSITORY}, whose license is MIT: dstnet weights get NAME'
    )


def _state(released: Released, folder: Path) -> str:
    path = folder / released.file
    partial = partial_path(path)
    if path.is_file():
        state = 'verified' if identify(path) == released else "not the authors' file"
    elif partial.is_file():
        state = f'{partial.stat().st_size / 1e6:.1f} MB of it'
    else:
        state = '-'
    return state


def _get(args: argparse.Namespace) -> None:
    for released in _chosen(args.names):
        was_there = (args.folder / released.file).exists()
        path = get_weights(released, args.folder, args.base_url)
        print(f"{path}: {'already there, ' if was_there else ''}verified, the authors' {released.file}")
        if args.format == 'safetensors':
            _get_safetensors(released, path)


def _get_safetensors(released: Released, path: Path) -> None:
    from dstnet_arch.weights.convert import convert, origin

    target = path.with_suffix('.safetensors')
    if target.exists():
        if origin(target).get('source_git_blob') != released.blob_id:
            raise CheckpointError(f'{target} is there and was not made from {path}. Move it away; it was left alone.')
        print(f'{target}: already there, made from it as it says')
        return
    convert(path, target)
    print(f'{target}: made from it')


def _chosen(names: Sequence[str]) -> list[Released]:
    """The released weights of these names, every one once, in the given order."""
    if 'all' in names:
        return list(known.RELEASED)
    found: dict[Released, None] = {}
    for name in names:
        released = find_released(name)
        if released is None:
            raise OptionsError(f'{name} given. Allowed: {known.names()}, or all.{known.nearest(name)}')
        found[released] = None
    return list(found)


def _verify(args: argparse.Namespace) -> int:
    return max(_verify_one(path) for path in args.files)


def _verify_one(path: Path) -> int:
    released = identify(path) if path.is_file() else None
    if released is not None:
        print(f"{path}: the authors' {released.file} ({released.name}, {released.network}), byte for byte")
        return 0
    if path.is_file() and is_lfs_pointer(path):
        print(f'error: {path} is a Git LFS pointer in place of a file. Fetch that with git lfs pull.', file=sys.stderr)
        return EXIT_STATUS

    from dstnet_arch.archs.checkpoint import load_checkpoint
    from dstnet_arch.weights.convert import describe, origin

    try:
        net = load_checkpoint(path)
    except CheckpointError as error:
        print(message_of(error), file=sys.stderr)
        return EXIT_STATUS
    num_parameters = sum(p.numel() for p in net.parameters())
    print(f'{path}: none of the released files; {describe(net)}, {num_parameters:,} parameters')
    says = origin(path) if path.suffix == '.safetensors' else {}
    if 'source' in says:
        made_from = f'{says["source"]} (git blob {says.get("source_git_blob", "unknown")})'
        print(printable(f'  It says that it was made from {made_from}.'))
    return 1


def _convert(args: argparse.Namespace) -> None:
    from dstnet_arch.weights.convert import convert, describe

    net = convert(args.file, args.output, args.to, args.param_key, args.overwrite)
    names = 'our key names' if args.to == 'ours' else "the authors' key names"
    print(f'{args.output}: {describe(net)}, {names}')

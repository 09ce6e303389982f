"""``dstnet options``: check, list and copy options files."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from dstnet_arch.arguments import command_parser
from dstnet_arch.errors import DSTNetError, OptionsError, message_of
from dstnet_arch.plugin.options import concerns_us, find_options, options_folder, packaged_files, read_options
from dstnet_arch.plugin.options_check import check_options


def command(arguments: Sequence[str]) -> int:
    """Run ``dstnet options check FILE...``, ``list`` or ``copy DIR``."""
    parser = command_parser('dstnet options', 'Check, list and copy options files.')
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    check = actions.add_parser('check', help='check options files without running anything')
    check.add_argument('files', nargs='+', metavar='FILE', help='options file, or the name of a packaged one')
    check.add_argument('--no-paths', action='store_true', help='do not check that data and weights exist')
    actions.add_parser('list', help='list the packaged options files; -opt accepts their names')
    copying = actions.add_parser('copy', help='copy the packaged options files to a folder')
    copying.add_argument('folder', type=Path, metavar='DIR', help='is created if necessary; files in it are kept')
    args = parser.parse_args(arguments)
    if args.action == 'check':
        return max(_check(file, not args.no_paths) for file in args.files)
    if args.action == 'copy':
        _copy(args.folder)
    else:
        print('\n'.join(map(str, packaged_files())))
    return 0


def _check(file: str, check_paths: bool) -> int:
    try:
        opt = read_options(find_options(file))
        ours = concerns_us(opt)
        datasets = opt.get('datasets')
        is_train = 'train' in opt or (isinstance(datasets, dict) and 'train' in datasets)
        if ours:
            check_options(opt, is_train, check_paths=check_paths)
    except DSTNetError as error:
        print(f'{file}: {message_of(error)}', file=sys.stderr)
        return 2
    print(f'{file}: fine' if ours else f'{file}: not checked, it uses no model or data set of this package')
    return 0


def _copy(target: Path) -> None:
    source, files = options_folder(), packaged_files()
    kept = [target / file for file in files if (target / file).exists()]
    changed = [str(file) for file in kept if file.read_bytes() != (source / file.relative_to(target)).read_bytes()]
    if changed:
        raise OptionsError(f'These files exist and differ: {", ".join(changed)}. Give another folder.')
    try:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns('*.py', '__pycache__'), dirs_exist_ok=True)
    except OSError as error:
        raise OptionsError(f'{target} cannot be written: {error}. Give another folder.') from None
    print(f'{len(files)} files in {target}')

"""``dstnet setup-basicsr``: install stock BasicSR with the build settings that it needs."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from dstnet_arch.arguments import command_parser
from dstnet_arch.errors import DSTNetError

REQUIREMENT = 'basicsr==1.4.2'
# BasicSR's setup.py names torch, numpy and cython as build requirements and uses none of them. In an isolated build
# pip would download a second PyTorch, so the build runs in this environment, which needs these two.
BUILD_REQUIREMENTS = ('setuptools', 'wheel')
BUILD_HELP = Path(__file__).with_name('basicsr_build')


def command(arguments: Sequence[str]) -> int:
    """Run ``dstnet setup-basicsr``. Arguments after ``--`` are passed on to pip."""
    parser = command_parser(
        'dstnet setup-basicsr',
        f'Install {REQUIREMENT} from PyPI into this Python environment. '
        'It is needed for train and test, and not for deblur, data_prep and the network.',
    )
    parser.add_argument('pip_arguments', nargs='*', metavar='-- PIP_ARGUMENT', help='more arguments for pip install')
    args = parser.parse_args(arguments)
    try:
        print(f'BasicSR {version("basicsr")} is already installed in {sys.prefix}.')
        return 0
    except PackageNotFoundError:
        pass
    missing = [name for name in BUILD_REQUIREMENTS if find_spec(name) is None]
    if missing:
        _install(*missing, *args.pip_arguments)
    # pip before 23.1 would run setup.py itself, and so download the build requirements.
    pep517 = ['--use-pep517'] if find_spec('pip') else []
    _install('--no-build-isolation', *pep517, REQUIREMENT, *args.pip_arguments, PYTHONPATH=str(BUILD_HELP))
    importlib.invalidate_caches()
    print(f'BasicSR {version("basicsr")} is installed.')
    return 0


def _install(*arguments: str, **variables: str) -> None:
    done = subprocess.run([*_installer(), *arguments], env={**os.environ, **variables})
    if done.returncode:
        raise DSTNetError(f'{arguments[0] if not variables else REQUIREMENT} was not installed; see the output above.')


def _installer() -> list[str]:
    """Return the start of an install command: pip, or uv in environments that have no pip."""
    if find_spec('pip') is not None:
        return [sys.executable, '-m', 'pip', 'install']
    if uv := shutil.which('uv'):
        return [uv, 'pip', 'install', '--python', sys.executable]
    raise DSTNetError('Neither pip nor uv is available in this environment. Run: python -m ensurepip')

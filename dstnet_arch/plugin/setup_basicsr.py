"""``dstnet setup-basicsr``: install stock BasicSR with the build settings that it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
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
    with suppress(PackageNotFoundError):
        print(f'BasicSR {version("basicsr")} is already installed in {sys.prefix}.')
        return 0
    installer, pep517 = [sys.executable, '-m', 'pip', 'install'], ['--use-pep517']
    if not find_spec('pip'):
        if not (uv := shutil.which('uv')):
            raise DSTNetError('Neither pip nor uv is available in this environment. Run: python -m ensurepip')
        installer, pep517 = [uv, 'pip', 'install', '--python', sys.executable], []
    missing = [name for name in BUILD_REQUIREMENTS if not find_spec(name)]
    if missing:
        _run([*installer, *missing, *args.pip_arguments])
    # --use-pep517: pip before 23.1 would run setup.py itself, and so download the build requirements.
    install = [*installer, '--no-build-isolation', *pep517, REQUIREMENT, *args.pip_arguments]
    _run(install, PYTHONPATH=str(BUILD_HELP))
    return 0


def _run(command: list[str], **variables: str) -> None:
    if subprocess.run(command, env={**os.environ, **variables}).returncode:
        raise DSTNetError(f'{REQUIREMENT} was not installed; see the output above.')

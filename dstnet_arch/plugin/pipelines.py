"""``dstnet train`` and ``dstnet test``: BasicSR's own pipelines, also without the start-up hook."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from dstnet_arch.arguments import take_verbosity
from dstnet_arch.errors import DSTNetError
from dstnet_arch.plugin.options import find_options, read_options
from dstnet_arch.plugin.options_parser import given_options
from dstnet_arch.plugin.startup._dstnet_arch_hook import raise_on_interrupt
from dstnet_arch.plugin.stock import require_basicsr


def train(arguments: Sequence[str]) -> None:
    """Train as ``python -m basicsr.train`` does.

    Can be called from a notebook, in which `sys.argv` belongs to the kernel::

        from dstnet_arch.plugin.pipelines import train

        train(['-opt', 'options/train_DSTNet_sample.yml', '--force_yml', 'train:total_iter=100'])

    Args:
        arguments: the command line, see `python -m basicsr.train --help`.

    Raises:
        DSTNetError: the options or the data are wrong, or BasicSR cannot be imported.
    """
    _run('train', arguments)


def test(arguments: Sequence[str]) -> None:
    """Restore and score as ``python -m basicsr.test`` does; see `train`."""
    _run('test', arguments)


def _run(name: str, arguments: Sequence[str]) -> None:
    arguments = take_verbosity(arguments)
    require_basicsr()
    try:
        module = import_module(f'basicsr.{name}')
    except ImportError as error:
        raise DSTNetError(f'BasicSR cannot be imported: {error}') from error
    before = sys.argv
    # BasicSR reads the arguments there, and copies the command line into the folder of the run.
    sys.argv = [f'dstnet {name}', *arguments]
    try:
        if file := given_options().opt:
            read_options(find_options(file), strict=True)  # this command runs no code from an options file
        getattr(module, f'{name}_pipeline')(os.getcwd())
    finally:
        sys.argv = before
        raise_on_interrupt()

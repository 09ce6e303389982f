"""``dstnet train`` and ``dstnet test``: BasicSR's own pipelines, also where the start-up hook is not installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from dstnet_arch.errors import DSTNetError
from dstnet_arch.plugin.options import given_options, read_options
from dstnet_arch.plugin.startup._dstnet_arch_hook import exit_on_interrupt
from dstnet_arch.plugin.stock import require_basicsr


def train(arguments: Sequence[str]) -> None:
    """Train as ``python -m basicsr.train`` does, with the same arguments."""
    _run('train', arguments)


def test(arguments: Sequence[str]) -> None:
    """Test as ``python -m basicsr.test`` does, with the same arguments."""
    _run('test', arguments)


def _run(name: str, arguments: Sequence[str]) -> None:
    require_basicsr()
    exit_on_interrupt()  # until the options are parsed
    try:
        module = import_module(f'basicsr.{name}')
    except ImportError as error:
        raise DSTNetError(f'BasicSR cannot be imported: {error}') from error
    # BasicSR reads the arguments, and copies the command line into the folder of the run.
    sys.argv = [f'dstnet {name}', *arguments]
    if file := given_options().opt:
        read_options(file, whoevers=True)  # this command runs nothing that stands in an options file
    getattr(module, f'{name}_pipeline')(os.getcwd())

"""Find out whether a package called ``basicsr`` is stock BasicSR. Imports nothing of it."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from dstnet_arch.errors import BASICSR_MISSING, DSTNetError

OLDEST = (1, 4, 2)


def is_stock(folder: Path) -> bool:
    """Return True if the package in `folder` says that it is BasicSR 1.4.2 or later.

    Repositories that contain a copy of BasicSR have earlier versions, or none.
    """
    with suppress(OSError, UnicodeDecodeError):
        source = (folder / 'version.py').read_text(encoding='utf-8')
        if found := re.search(r"^__version__ = '(\d+)\.(\d+)\.(\d+)", source, re.MULTILINE):
            return tuple(map(int, found.groups())) >= OLDEST
    return False


def explain_copy(folder: Path) -> str:
    """Return one line about a package that is called ``basicsr`` and is not stock BasicSR."""
    problem = f'{folder} is not stock BasicSR 1.4.2, and DSTNet is not available in it.'
    for entry in sys.path:
        other = Path(entry or '.', 'basicsr')
        if other.resolve() != folder.resolve() and is_stock(other):
            return (
                f'{problem} It hides the one in {other}. Run the command in another folder, or use: dstnet train|test'
            )
    return f'{problem} Install stock BasicSR with: dstnet setup-basicsr'


def report_copy(basicsr: ModuleType) -> bool:
    """Print one line if a package that is called ``basicsr`` is not stock BasicSR, and return True."""
    folder = Path(next(iter(basicsr.__path__)))
    if is_stock(folder):
        return False
    print(f'dstnet_arch: {explain_copy(folder)}', file=sys.stderr)
    return True


def require_basicsr() -> None:
    """Check that ``import basicsr`` imports stock BasicSR, without importing it.

    Raises:
        DSTNetError: BasicSR is not installed, or another package of that name is found first.
    """
    spec = find_spec('basicsr')
    if spec is None:
        raise DSTNetError(BASICSR_MISSING)
    folder = Path(next(iter(spec.submodule_search_locations or ()), spec.origin or 'basicsr'))
    if not is_stock(folder):
        raise DSTNetError(explain_copy(folder))

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


def explain_copy(folder: Path) -> str | None:
    """Return one line if the package in `folder` is not BasicSR 1.4.2 or later: a stub, or a repository's own copy."""
    with suppress(OSError, UnicodeDecodeError):
        source = (folder / 'version.py').read_text(encoding='utf-8')
        version = re.search(r"^__version__ = '(\d+)\.(\d+)\.(\d+)", source, re.MULTILINE)
        if version and tuple(map(int, version.groups())) >= OLDEST:
            return None
    return (
        f'{folder} is not stock BasicSR 1.4.2, and DSTNet is not available in it. If stock BasicSR is installed, run '
        'the command in another folder, or use dstnet train|test. To install it: dstnet setup-basicsr'
    )


def report_copy(basicsr: ModuleType) -> bool:
    """Print one line if a package that is called ``basicsr`` is not stock BasicSR, and return True."""
    explained = explain_copy(Path(next(iter(basicsr.__path__))))
    if explained:
        print(f'dstnet_arch: {explained}', file=sys.stderr)
    return explained is not None


def require_basicsr() -> None:
    """Check that ``import basicsr`` imports stock BasicSR, without importing it.

    Raises:
        DSTNetError: BasicSR is not installed, or another package of that name is found first.
    """
    spec = find_spec('basicsr')
    if spec is None:
        raise DSTNetError(BASICSR_MISSING)
    folder = next(iter(spec.submodule_search_locations or ()), spec.origin or 'basicsr')
    if explained := explain_copy(Path(folder)):
        raise DSTNetError(explained)

"""Let pip build BasicSR 1.4.2 on Python 3.13 and later. Only ``dstnet setup-basicsr`` puts this folder on PYTHONPATH.

BasicSR's setup.py executes version.py inside a function and then reads ``__version__`` from ``locals()``. Since
Python 3.13 (PEP 667) a plain ``exec`` in a function works on a copy of the locals. This ``exec`` uses the caller's own
namespaces, as earlier versions of Python did. BasicSR's files are not changed.
"""

import builtins
import sys
from typing import Any

if sys.version_info >= (3, 13):
    _exec = builtins.exec

    def exec_in_frame(source: Any, /, *namespaces: Any, **keywords: Any) -> None:
        """Execute `source`, by default in the namespaces of the caller."""
        if not namespaces and 'globals' not in keywords:
            caller = sys._getframe(1)
            namespaces = (caller.f_globals, caller.f_locals)
        _exec(source, *namespaces, **keywords)

    builtins.exec = exec_in_frame  # type: ignore[assignment]

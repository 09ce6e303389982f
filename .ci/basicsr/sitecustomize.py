"""Let BasicSR 1.4.2 be built on Python 3.13 and later; on PYTHONPATH for that one pip command alone (see Makefile).

Its setup.py executes version.py inside a function and then looks for ``__version__`` among ``locals()``. Since PEP 667
(Python 3.13) a plain ``exec`` works on a copy of them. Given the frame's own, it assigns as it did before. Nothing of
BasicSR itself is changed.
"""

import builtins
import sys
from typing import Any

if sys.version_info >= (3, 13):
    _exec = builtins.exec

    def exec_in_frame(source: Any, /, *namespaces: Any, **keywords: Any) -> None:
        if not namespaces and 'globals' not in keywords:
            caller = sys._getframe(1)
            namespaces = (caller.f_globals, caller.f_locals)
        _exec(source, *namespaces, **keywords)

    builtins.exec = exec_in_frame  # type: ignore[assignment]

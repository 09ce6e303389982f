"""Everything that touches stock BasicSR from outside: start-up hook, patches, registration, options, run lock."""

from __future__ import annotations

from importlib import import_module


def activate() -> bool:
    """Patch what stock BasicSR 1.4.2 gets wrong on today's libraries, then register this package's parts.

    Called by the start-up hook right after BasicSR is imported. Calling it again has no effect.

    Returns:
        False if the imported package is called ``basicsr`` and is something else; it is named in one line.
    """
    from dstnet_arch.plugin.stock import report_copy

    if report_copy(import_module('basicsr')):
        return False

    from dstnet_arch.plugin.patches import apply
    from dstnet_arch.plugin.registration import register_all

    apply()
    register_all()
    return True

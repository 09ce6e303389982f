"""Everything about stock BasicSR: registration, patches, options, commands."""

from __future__ import annotations


def activate() -> None:
    """Repair what stock BasicSR 1.4.2 gets wrong on today's libraries, then register this package's parts.

    Called by the start-up hook right after BasicSR is imported. Calling it again does no harm.
    """
    from dstnet_arch.plugin.patches import apply
    from dstnet_arch.plugin.registration import register_all

    apply()
    register_all()

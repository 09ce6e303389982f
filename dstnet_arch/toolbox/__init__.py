"""Everything about stock BasicSR: registration, shims, options, commands."""

"""The weights that the authors have released: fetch, recognise and convert them.

>>> from dstnet_arch.weights import resolve_weights

turns the name of released weights, or a path, into the path of a file that is there. ``dstnet weights`` is the command.
"""

from __future__ import annotations

from dstnet_arch.weights.store import DEFAULT_FOLDER, resolve_weights

__all__ = ['DEFAULT_FOLDER', 'resolve_weights']

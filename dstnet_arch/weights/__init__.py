"""Weights released by the authors: download, verify and convert. ``dstnet weights`` is the command."""

from __future__ import annotations

from dstnet_arch.weights.store import DEFAULT_FOLDER, resolve_weights

__all__ = ['DEFAULT_FOLDER', 'resolve_weights']

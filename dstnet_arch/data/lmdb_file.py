"""Opening LMDB folders read-only."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import lmdb

from dstnet_arch.errors import DataError


def open_lmdb(folder: str | os.PathLike[str]) -> lmdb.Environment:
    """Open an LMDB folder for reading.

    LMDB trusts its file: the size is checked against the last page, since reading beyond the end of a truncated file
    would kill the process. Other damage is not noticed here; `python -m data_prep verify` reads in a child process.

    Raises:
        DataError: `folder` does not contain an LMDB, or its file is truncated.
    """
    file = Path(folder) / 'data.mdb'
    if not file.is_file():
        raise DataError(f'{folder} contains no data.mdb')
    try:
        # Locks would need a writable folder; frames are read in random order, so reading ahead wastes memory.
        environment = lmdb.open(str(folder), create=False, readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise DataError(f'{folder} cannot be read as an LMDB ({error})') from None
    needed = (environment.info()['last_pgno'] + 1) * environment.stat()['psize']
    size = file.stat().st_size
    if size < needed:
        environment.close()
        raise DataError(f'{file} is truncated: {size} of {needed} bytes')
    return environment


# Environments of this process by real path, each with the inode of the file that it maps.
_environments: dict[str, tuple[int, lmdb.Environment]] = {}
_environments_lock = threading.Lock()


def shared_environment(path: str) -> lmdb.Environment:
    """Return the environment of a folder, opened once per process: LMDB refuses to open a path twice.

    Args:
        path: the folder's real path.

    Raises:
        DataError: see `open_lmdb`.
    """
    file = Path(path) / 'data.mdb'
    inode = file.stat().st_ino if file.exists() else -1
    with _environments_lock:
        if path in _environments and _environments[path][0] != inode:  # the file was replaced
            _environments.pop(path)[1].close()
        if path not in _environments:
            _environments[path] = inode, open_lmdb(path)
        return _environments[path][1]


def _drop_inherited_environments() -> None:
    """A forked child must not use its parent's environments, and cannot open its own while it holds them."""
    global _environments_lock
    _environments_lock = threading.Lock()  # another thread of the parent may have held it
    for _, environment in _environments.values():
        environment.close()
    _environments.clear()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_drop_inherited_environments)

"""Opening LMDB folders read-only."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import lmdb

from dstnet_arch.errors import DataError


def open_lmdb(folder: str | os.PathLike[str]) -> lmdb.Environment:
    """Open an LMDB folder for reading.

    Reading beyond the end of a truncated file would end the process, so the file's size is checked.

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


# Environments of this process by device and inode of data.mdb.
_environments: dict[tuple[int, int], lmdb.Environment] = {}
_environments_lock = threading.Lock()


def shared_environment(folder: str) -> lmdb.Environment:
    """Return the environment of a folder as `open_lmdb` does, but open it once per process, as LMDB demands."""
    try:
        status = os.stat(os.path.join(folder, 'data.mdb'))
    except OSError:
        raise DataError(f'{folder} contains no data.mdb') from None
    file = status.st_dev, status.st_ino
    with _environments_lock:
        if file not in _environments:
            _environments[file] = open_lmdb(folder)
        return _environments[file]


def _close_inherited_environments() -> None:
    """A forked child must not use its parent's environments, and cannot open its own while it holds them."""
    global _environments_lock
    _environments_lock = threading.Lock()  # another thread of the parent may have held it
    for environment in _environments.values():
        environment.close()
    _environments.clear()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_close_inherited_environments)

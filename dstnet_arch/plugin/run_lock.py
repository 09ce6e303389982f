"""A lock for each run, so that only one process (or group of ranks) works on it.

A second process would move the folder of the first away, as BasicSR does with an existing folder of that name, or write
its checkpoints between those of the first.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import distributed as dist

from dstnet_arch.errors import DSTNetError

PATIENCE = 8.0
"""Seconds to wait for a run that is ending: its DataLoader workers notice a kill after five."""

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""Errors of file systems without locks; some shared file systems of clusters are mounted so."""

_held: dict[Path, FileLock] = {}


def hold_run(opt: dict[str, Any]) -> None:
    """Lock a run until this process ends, with a file next to its folder.

    Of several ranks, rank 0 holds the lock, and all fail if it cannot.

    Args:
        opt: the options, as BasicSR's ``parse_options`` returns them.

    Raises:
        DSTNetError: another process is working on the run, or the lock cannot be created.
    """
    folder = Path(opt['path']['experiments_root' if opt['is_train'] else 'results_root'])
    problem = [_take(folder) if opt['rank'] == 0 else None]
    if opt['dist']:
        dist.broadcast_object_list(problem, src=0)
    if problem[0]:
        raise DSTNetError(problem[0])


def _take(folder: Path) -> str | None:
    """Lock a run. Returns the problem, or None."""
    file = folder.with_name(f'.{folder.name}.lock')
    lock = _held.setdefault(file, FileLock(file))
    if lock.is_locked:  # by an earlier run in this process
        return None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        return (
            f'Another process is working on the run {folder.name} in {folder}. Wait until it has ended, or use another '
            f'name: --force_yml name=NAME. If there is no such process on any machine, remove {file}.'
        )
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            return f'{file} cannot be created: {error.strerror}. Use a folder that is writable and has free space.'
        print(f'{file.parent} is on a file system without locks: do not start a second process on this run.')
    return None

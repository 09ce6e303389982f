"""One process (or group of ranks) at a time on a run.

A second one would move the folder of the first away, as BasicSR does with what it finds under the name of a new run, or
write its checkpoints between those of the first.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import distributed as dist

from dstnet_arch.errors import DSTNetError

PATIENCE = 8.0
"""Seconds to wait for a run that is ending: after a kill, its loading processes notice after five."""

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""What file systems without locks say; some of those that clusters share are mounted so."""

_held: dict[Path, FileLock] = {}


def hold_run(opt: dict[str, Any]) -> None:
    """Keep the folder of a run to this process until it ends, in whatever way.

    The lock is a file beside the folder, which may be moved; the system gives it back when the process is gone. Among
    several ranks, rank 0 holds it, and all learn whether it does.

    Args:
        opt: the options, as BasicSR's ``parse_options`` returns them.

    Raises:
        DSTNetError: another process is at work on the run, or the lock cannot be made.
    """
    folder = Path(opt['path']['experiments_root' if opt['is_train'] else 'results_root'])
    problem = [_take(folder) if opt['rank'] == 0 else None]
    if opt['dist']:
        dist.broadcast_object_list(problem, src=0)
    if problem[0]:
        raise DSTNetError(problem[0])


def _take(folder: Path) -> str | None:
    """Lock a run; says what is in the way."""
    file = folder.with_name(f'.{folder.name}.lock')
    lock = _held.setdefault(file, FileLock(file))
    if lock.is_locked:  # by an earlier run in this process, which the later one follows
        return None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            print(f'Another process is at work on {folder}: waiting a moment for it to end.', flush=True)
            lock.acquire(timeout=PATIENCE)
    except Timeout:
        return (
            f'Another process is at work on the run {folder.name} in {folder}, and both would write over each other. '
            'Wait until it has ended, or end it; or give this run a name of its own: --force_yml name=… (If there is '
            f'no such process on any machine, remove {file}.)'
        )
    except (OSError, NotImplementedError) as error:
        if isinstance(error, NotImplementedError) or error.errno in _NO_LOCKS:
            print(f'{file.parent} is on a file system without locks: see to it that no other process is at work on it.')
            return None
        return (
            f'{file} cannot be made: {error.strerror or error}. Start the run in a folder that you may write to and '
            'that has room.'
        )
    return None

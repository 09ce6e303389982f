"""Files that appear when they are complete, and only then; and JSON. Needs nothing but the standard library."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

INCOMPLETE_SUFFIX = '.incomplete'


@contextmanager
def atomic_file(path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under `path`, in place of an older one, only when it is complete.

    Args:
        path: where the file is to be; its folder exists.
        durable: wait until the disk holds the file, so that not even a power cut leaves an empty one.

    Raises:
        OSError: it cannot be written; what stood under `path` is untouched, and nothing new is left behind.
    """
    incomplete = incomplete_path(path)
    try:
        with open(incomplete, 'wb') as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(incomplete, path)
    except BaseException:  # KeyboardInterrupt, too
        incomplete.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


def incomplete_path(path: Path) -> Path:
    """Where a file lies while it is written: beside `path`, for libraries that write to a name and not to a file.

    Stock BasicSR, which goes on from the highest number in a folder, does not see names with a leading dot.
    """
    return path.with_name(f'.{path.name}{INCOMPLETE_SUFFIX}')


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except RecursionError:
        raise ValueError('its brackets are too many') from None
    if not isinstance(content, dict):
        raise ValueError('it holds no object')
    return content


def _sync_folder(folder: Path) -> None:
    """Make a renaming in `folder` durable; only POSIX systems can and need to."""
    if os.name != 'posix':
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

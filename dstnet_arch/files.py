"""Atomic files, and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from dstnet_arch.errors import DSTNetError

INCOMPLETE_SUFFIX = '.incomplete'


@contextmanager
def atomic_file(path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` when it is complete, and never before.

    Args:
        path: of the new file; its folder exists.
        durable: wait until the disk has the file, so that a power cut cannot leave an empty one.

    Raises:
        OSError: the file cannot be written. An older file of that name is unchanged, and nothing new is left.
    """
    incomplete = incomplete_path(path)
    try:
        with open(incomplete, 'wb') as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(incomplete, path)
    except BaseException:  # including KeyboardInterrupt
        incomplete.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


@contextmanager
def output_file(path: Path, error_type: type[DSTNetError] = DSTNetError) -> Iterator[BinaryIO]:
    """Open `atomic_file` for a result of a command; missing folders are created.

    Raises:
        DSTNetError: the file cannot be written; of class `error_type`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            yield file
    except OSError as error:
        raise error_type(f'{path} cannot be written: {error.strerror or error}.') from None


def incomplete_path(path: Path) -> Path:
    """Return the temporary name of a file, for libraries that write to a name.

    It is in the same folder and begins with a dot: stock BasicSR, which resumes from the file with the highest number
    in a folder, ignores such names.
    """
    return path.with_name(f'.{path.name}{INCOMPLETE_SUFFIX}')


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that contains a JSON object.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or contains something else.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except RecursionError:
        raise ValueError('too many nested brackets') from None
    if not isinstance(content, dict):
        raise ValueError('not a JSON object')
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

"""Writing image files into an LMDB folder, byte for byte or as raw pixels, so that interruptions lose nothing.

A data set is built in `<name>.lmdb.partial` and renamed when it is complete. `source_files.tsv` in it records what each
key was made from: it decides which entries a resumed run keeps, and whether a finished data set is the requested one.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from dstnet_arch.data.image_file import ImageHeader, decode
from dstnet_arch.data.lmdb_file import open_lmdb
from dstnet_arch.data.lmdb_format import META_INFO, RAW_EXTENSION, MetaEntry, format_meta_line, raw_header
from dstnet_arch.errors import DataError, Problems
from dstnet_arch.files import atomic_file
from dstnet_arch.progress import Progress, say

SOURCE_FILES = 'source_files.tsv'
DATASET_INFO = 'dataset_info.json'
PARTIAL_SUFFIX = '.partial'
IMAGES_PER_THREAD = 4
"""Images per thread and transaction: the most that is held in memory and that a kill loses."""


@dataclass(frozen=True)
class Frame:
    """An image file to store."""

    key: str  # <clip>/<frame>
    path: Path
    origin: str  # path below SOURCE; identifies the file together with size and time
    status: os.stat_result
    header: ImageHeader
    raw: bool  # store pixels instead of the file

    @property
    def identity(self) -> str:
        """The line in `source_files.tsv`: what the entry is made from, and how."""
        source = f'{self.key}\t{self.origin}\t{self.status.st_size}\t{self.status.st_mtime_ns}'
        return f'{source}\traw' if self.raw else source

    @property
    def meta_line(self) -> str:
        """The line in `meta_info.txt`."""
        extension, channels = (RAW_EXTENSION, 3) if self.raw else (self.path.suffix, self.header.channels)
        return format_meta_line(MetaEntry(self.key, extension, (self.header.height, self.header.width, channels)))


def default_threads() -> int:
    """Number of threads to read and decode with; beyond 16 the single writer is the limit."""
    return max(2, min(16, os.cpu_count() or 2))


def is_complete(path: Path, frames: Sequence[Frame]) -> bool:
    """Return True if `path` is the LMDB that `write_lmdb` would make, False if it does not exist, else raise."""
    if not os.path.lexists(path):
        return False
    if _read_record(path) != {frame.identity for frame in frames}:
        raise DataError(
            f'{path} exists already and was not made from these files, or not with the same --raw. '
            'Move it away, or choose another folder with -o.'
        )
    return True


def bytes_needed(path: Path, frames: Sequence[Frame]) -> int:
    """Estimate the bytes that `write_lmdb` still has to write."""
    started = path.with_name(path.name + PARTIAL_SUFFIX) / 'data.mdb'
    return max(0, _map_size(frames) - (started.stat().st_size if started.exists() else 0))


def write_lmdb(path: Path, frames: Sequence[Frame], info: Mapping[str, Any], threads: int | None = None) -> None:
    """Store image files in a new LMDB folder, or resume an interrupted run, with the same result.

    Args:
        path: the folder to make; its name ends in `.lmdb`. It must not exist.
        frames: the frames with unique keys, in the order of `meta_info.txt`.
        info: description of the data for `dataset_info.json` in the folder.
        threads: threads that read each file and decode it to check that it is complete.

    Raises:
        DataError: unreadable images (all are listed), no space left, another process writes the same folder, ...
            The entries written so far stay in `<path>.partial` for the next run.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with only_writer(partial):
            with closing(_open_for_writing(partial, frames)) as env:
                kept = _keep_valid_entries(env, partial, frames)
                _copy(env, partial, frames, kept, threads or default_threads())
            write_text(partial / META_INFO, '\n'.join(frame.meta_line for frame in frames) + '\n')
            write_text(partial / DATASET_INFO, json.dumps(info, indent=2) + '\n')
            partial.rename(path)
    except (OSError, lmdb.Error) as error:
        raise DataError(
            f'cannot write {partial}: {error}.\n'
            'Remove the cause, then run the same command again: it resumes where it stopped.'
        ) from None


def read_keys(env: lmdb.Environment) -> set[str]:
    """Return all keys of an LMDB; keys that are not ASCII are escaped."""
    with env.begin() as transaction:
        return {key.decode('ascii', 'backslashreplace') for key in transaction.cursor().iternext(values=False)}


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically and durably."""
    with atomic_file(path, durable=True) as file:
        file.write(text.encode())


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Lock a folder against a second process, however this one ends. Raises DataError if another one holds the lock."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f'another process is writing {folder}; wait for it, or choose another -o') from None
        except OSError:
            pass  # some network file systems have no locks
        yield
    finally:
        os.close(descriptor)


def _map_size(frames: Sequence[Frame]) -> int:
    """Estimate the size of the file, in which values fill complete pages, generously."""
    pages = 256
    for frame in frames:
        height, width, _, bit_depth = frame.header
        num_bytes = 3 * height * width * bit_depth // 8 if frame.raw else frame.status.st_size
        pages += num_bytes // mmap.PAGESIZE + 3
    return pages * mmap.PAGESIZE


def _open_for_writing(partial: Path, frames: Sequence[Frame]) -> lmdb.Environment:
    size = _map_size(frames)
    data = partial / 'data.mdb'
    if data.exists():
        size += data.stat().st_size  # stale entries need space, too
        try:
            open_lmdb(partial).close()
        except DataError:
            print(f'{partial} is damaged: this unfinished data set is started again.')
            data.unlink()
    return lmdb.open(str(partial), map_size=size, lock=False)


def _keep_valid_entries(env: lmdb.Environment, partial: Path, frames: Sequence[Frame]) -> set[str]:
    """Delete entries that an earlier run made from other files, and return the keys that stay."""
    present = read_keys(env)
    recorded = _read_record(partial)
    kept = {frame.key for frame in frames if frame.key in present and frame.identity in recorded}
    if present:
        say(f'{partial.name}: {len(kept)} of {len(frames)} frames exist from an earlier run.')
    # In this order: after a kill in between, the old record still identifies the stale entries.
    with env.begin(write=True) as transaction:
        for key in present - kept:
            transaction.delete(key.encode())
    write_text(partial / SOURCE_FILES, '\n'.join(frame.identity for frame in frames) + '\n')
    return kept


def _read_record(folder: Path) -> set[str]:
    path = folder / SOURCE_FILES
    return set(path.read_text(encoding='utf-8').splitlines()) if path.is_file() else set()


def _copy(env: lmdb.Environment, partial: Path, frames: Sequence[Frame], kept: set[str], threads: int) -> None:
    problems = Problems()
    todo = [frame for frame in frames if frame.key not in kept]
    name = partial.name.removesuffix(PARTIAL_SUFFIX)
    size = IMAGES_PER_THREAD * threads
    with (
        ThreadPoolExecutor(threads) as pool,
        Progress(len(frames), 'frame', f'writing {name}', done=len(kept)) as progress,
    ):
        for start in range(0, len(todo), size):
            batch = todo[start : start + size]
            values = list(pool.map(_load, batch))
            with env.begin(write=True) as transaction:
                for frame, value in zip(batch, values, strict=True):
                    if isinstance(value, bytes):
                        transaction.put(frame.key.encode(), value)
                    else:
                        # An OSError's own text would repeat the path.
                        problems.add(f'{frame.origin} {getattr(value, "strerror", None) or value}')
            progress.update(len(batch))
    problems.raise_if_any(
        f'{len(problems)} of {len(frames)} images for {name} cannot be used',
        f'Replace these files and run the same command again: the other frames are kept in {partial}.',
    )


def _load(frame: Frame) -> bytes | ValueError | OSError:
    """Return the value to store, or the error if the file cannot be read."""
    try:
        data = frame.path.read_bytes()
        image, shape = decode(np.frombuffer(data, np.uint8))
    except (ValueError, OSError) as error:
        return error
    if shape != frame.header[:2] or len(data) != frame.status.st_size:
        return ValueError('changed while it was read')
    if not frame.raw:
        return data
    samples = image if image.dtype == np.uint8 else image.astype('>u2')
    return raw_header(*shape, 8 * samples.itemsize) + samples.tobytes()

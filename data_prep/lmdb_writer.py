"""Writing image files into an LMDB folder, byte for byte or as raw pixels, so that interruptions lose nothing.

A data set is built in `<name>.lmdb.partial` and renamed when it is finished, so a folder `<name>.lmdb` is always
complete. The file `source_files.tsv` in it records what each key was made from. It decides which entries a resumed run
keeps, and whether a finished data set is the requested one.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import lmdb
import numpy as np

from dstnet_arch.data.image_file import ImageHeader, decode
from dstnet_arch.data.lmdb_file import open_lmdb
from dstnet_arch.data.lmdb_format import (
    META_INFO,
    RAW_EXTENSION,
    MetaEntry,
    format_meta_line,
    raw_header,
    read_meta_info,
)
from dstnet_arch.errors import DataError, Problems
from dstnet_arch.files import atomic_file
from dstnet_arch.progress import Progress

SOURCE_FILES = 'source_files.tsv'
PARTIAL_SUFFIX = '.partial'
BATCH_BYTES = 64 << 20
"""Bytes per transaction: the most that a kill loses, and that is held in memory."""

_RAW_MARK = '\traw'

Item = TypeVar('Item')
Result = TypeVar('Result')


@dataclass(frozen=True)
class Frame:
    """An image file to store.

    Attributes:
        key: `<clip>/<frame>`.
        path: the file.
        origin: its path below SOURCE; identifies the file together with size and time.
        num_bytes: its size.
        mtime_ns: its modification time.
        header: size and bit depth of the image.
        raw: True to store pixels instead of the file.
    """

    key: str
    path: Path
    origin: str
    num_bytes: int
    mtime_ns: int
    header: ImageHeader
    raw: bool = False

    @property
    def identity(self) -> str:
        """The line in `source_files.tsv`: what the entry is made from, and how."""
        source = f'{self.key}\t{self.origin}\t{self.num_bytes}\t{self.mtime_ns}'
        return source + _RAW_MARK if self.raw else source

    @property
    def stored_bytes(self) -> int:
        """Size of the entry."""
        height, width, _, bit_depth = self.header
        if not self.raw:
            return self.num_bytes
        return len(raw_header(height, width, bit_depth)) + 3 * height * width * bit_depth // 8

    @property
    def meta_line(self) -> str:
        """The line in `meta_info.txt`."""
        height, width, channels, _ = self.header
        if self.raw:
            return format_meta_line(MetaEntry(self.key, RAW_EXTENSION, (height, width, 3)))
        return format_meta_line(MetaEntry(self.key, self.path.suffix, (height, width, channels)))


def default_threads() -> int:
    """Number of threads to read and decode with; beyond 16 the single writer is the limit."""
    return max(2, min(16, os.cpu_count() or 2))


def is_complete(path: Path, frames: Sequence[Frame]) -> bool:
    """Return True if `path` is the LMDB that `write_lmdb` would make from `frames`, False if it does not exist.

    Compares names, sizes, times and counts, and decodes nothing.

    Raises:
        DataError: `path` is something else, which must not be overwritten.
    """
    if not os.path.lexists(path):
        return False
    remedy = 'Move it away, or choose another folder with -o.'
    if not (path / SOURCE_FILES).is_file():
        raise DataError(f'{path} exists already and was not made by this command. {remedy}')
    ours = {frame.identity for frame in frames}
    theirs = set(_read_record(path))
    if ours != theirs:
        if {line.removesuffix(_RAW_MARK) for line in ours} == {line.removesuffix(_RAW_MARK) for line in theirs}:
            found, expected = ('files', 'raw pixels') if any(frame.raw for frame in frames) else ('raw pixels', 'files')
            raise DataError(f'{path} exists already and contains {found} of these frames, not {expected}. {remedy}')
        example = min(ours ^ theirs).replace('\t', ', ')
        raise DataError(
            f'{path} exists already and was made from other files: it has {len(theirs)}, SOURCE has {len(ours)}, '
            f'{len(ours & theirs)} agree in path, size and time; one that does not: {example}. {remedy}'
        )
    try:
        entries = read_meta_info(path)
        with closing(open_lmdb(path)) as env:
            count = env.stat()['entries']
    except (OSError, ValueError, DataError) as error:
        raise DataError(f'{path} is damaged: {error}. {remedy}') from None
    if not len(entries) == count == len(frames):
        raise DataError(
            f'{path} is damaged: {count} frames, {len(entries)} lines in {META_INFO}, {len(frames)} expected. {remedy}'
        )
    return True


def bytes_needed(path: Path, frames: Sequence[Frame]) -> int:
    """Estimate the bytes that `write_lmdb` still has to write."""
    started = path.with_name(path.name + PARTIAL_SUFFIX) / 'data.mdb'
    return max(0, _map_size(frames) - (started.stat().st_size if started.exists() else 0))


def write_lmdb(path: Path, frames: Sequence[Frame], threads: int | None = None) -> None:
    """Store image files in a new LMDB folder, or resume an interrupted run.

    Each file is decoded to check that it is complete. Memory is bounded by a few images per thread and `BATCH_BYTES`.
    The result does not depend on whether earlier runs were interrupted.

    Args:
        path: the folder to make; its name ends in `.lmdb`. It must not exist.
        frames: the frames with unique keys, in the order of `meta_info.txt`. All are stored alike, as files or raw.
        threads: threads that read and decode.

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
                count = env.stat()['entries']
                if count != len(frames):
                    raise DataError(f'{partial} contains {count} frames, not {len(frames)}: delete it and start again')
            write_text(partial / META_INFO, '\n'.join(frame.meta_line for frame in frames) + '\n')
            partial.rename(path)
    except (OSError, lmdb.Error) as error:
        free = f' {shutil.disk_usage(partial).free / 1e6:.0f} MB are free on its disk.' if partial.exists() else ''
        raise DataError(
            f'cannot write {partial}: {error}.{free}\n'
            'Remove the cause, then run the same command again: it resumes where it stopped.'
        ) from None


def read_keys(env: lmdb.Environment) -> set[str]:
    """Return all keys of an LMDB; keys that are not ASCII are escaped."""
    with env.begin() as transaction:
        return {key.decode('ascii', 'backslashreplace') for key in transaction.cursor().iternext(values=False)}


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically and durably."""
    with atomic_file(path, durable=True) as file:
        file.write(text.encode('utf-8', 'surrogateescape'))


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Like `pool.map`, but with at most `ahead` pending results and with futures instead of results."""
    pending: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            pending.append((item, pool.submit(function, item)))
            if len(pending) >= ahead:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        for _, future in pending:
            future.cancel()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Lock a folder against a second process. The lock ends with the process, however that ends.

    Raises:
        DataError: another process holds the lock.
    """
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


def _map_size(frames: Iterable[Frame]) -> int:
    """Estimate the size of the file, in which values fill complete pages. `_write` enlarges it if needed."""
    pages = sum(frame.stored_bytes // 4096 + 2 for frame in frames)
    return (pages + 256) * 4096


def _open_for_writing(partial: Path, frames: Sequence[Frame]) -> lmdb.Environment:
    if (partial / 'data.mdb').exists():
        try:
            open_lmdb(partial).close()
        except DataError:
            print(f'{partial} is damaged: this unfinished data set is started again.')
            (partial / 'data.mdb').unlink()
    return lmdb.open(str(partial), map_size=_map_size(frames), lock=False)


def _keep_valid_entries(env: lmdb.Environment, partial: Path, frames: Sequence[Frame]) -> set[str]:
    """Delete entries that an earlier run made from other files, and return the keys that stay."""
    present = read_keys(env)
    unchanged = {frame.identity for frame in frames}.intersection(_read_record(partial))
    kept = present.intersection(frame.key for frame in frames if frame.identity in unchanged)
    stale = present - kept
    if present:
        changed = f'; {len(stale)} were made from other files and are replaced' if stale else ''
        print(f'{partial.name}: {len(kept)} of {len(frames)} frames exist from an earlier run{changed}.')
    # In this order: after a kill in between, the old record still identifies the stale entries.
    _write(env, dict.fromkeys(stale))
    write_text(partial / SOURCE_FILES, '\n'.join(frame.identity for frame in frames) + '\n')
    return kept


def _read_record(folder: Path) -> list[str]:
    try:
        text = (folder / SOURCE_FILES).read_text(encoding='utf-8', errors='surrogateescape')
    except FileNotFoundError:
        return []
    return text.removesuffix('\n').split('\n')


def _copy(env: lmdb.Environment, partial: Path, frames: Sequence[Frame], kept: Collection[str], threads: int) -> None:
    problems = Problems()
    batch: dict[str, bytes | None] = {}
    batch_bytes = 0
    todo = [frame for frame in frames if frame.key not in kept]
    name = partial.name.removesuffix(PARTIAL_SUFFIX)
    with (
        ThreadPoolExecutor(threads) as pool,
        Progress(len(frames), 'frame', name, done=len(frames) - len(todo)) as progress,
    ):
        for frame, loading in in_order(pool, _load, todo, ahead=4 * threads):
            try:
                batch[frame.key] = data = loading.result()
            except (ValueError, OSError) as error:
                # An OSError's own text would repeat the path.
                problems.add(f'{frame.origin} {getattr(error, "strerror", None) or error}')
                continue
            batch_bytes += len(data)
            if batch_bytes >= BATCH_BYTES:
                _write(env, batch)
                batch, batch_bytes = {}, 0
            progress.update()
        _write(env, batch)
    problems.raise_if_any(
        f'{len(problems)} of {len(frames)} images for {name} cannot be used',
        f'Replace these files and run the same command again: the other frames are kept in {partial}.',
    )


def _load(frame: Frame) -> bytes:
    data = frame.path.read_bytes()
    if len(data) != frame.num_bytes:
        raise ValueError(f'changed from {frame.num_bytes} to {len(data)} bytes while it was read')
    image, (height, width) = decode(np.frombuffer(data, np.uint8))
    expected = frame.header
    if (height, width) != (expected.height, expected.width):
        raise ValueError(f'decodes to {width}x{height}, but its header says {expected.width}x{expected.height}')
    if not frame.raw:
        return data
    samples = image if image.dtype == np.uint8 else image.astype('>u2')
    return raw_header(height, width, 8 * samples.itemsize) + samples.tobytes()


def _write(env: lmdb.Environment, batch: dict[str, bytes | None]) -> None:
    """Write values (None: delete the key) in one transaction."""
    while batch:
        try:
            with env.begin(write=True) as transaction:
                for key, data in batch.items():
                    if data is None:
                        transaction.delete(key.encode('ascii'))
                    else:
                        transaction.put(key.encode('ascii'), data)
            return
        except lmdb.MapFullError:
            env.set_mapsize(env.info()['map_size'] * 3 // 2 + sum(len(data or b'') for data in batch.values()))

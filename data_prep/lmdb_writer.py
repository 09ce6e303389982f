"""Image files into an LMDB folder, byte for byte or as raw pixels, such that an interruption loses nothing.

A data set grows in `<name>.lmdb.partial` and gets its name when it is whole, so a folder `<name>.lmdb` is always
complete. Beside the data lies `source_files.tsv`, which says what each key was made from: it decides what a continued
run may keep, and whether a finished data set is the one that is asked for again.
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

from dstnet_arch.data.image_check import decode_image
from dstnet_arch.data.lmdb_check import check_pages
from dstnet_arch.data.lmdb_format import (
    META_INFO,
    RAW_EXTENSION,
    MetaEntry,
    format_meta_line,
    raw_header,
    read_meta_info,
)
from dstnet_arch.errors import DataError, Problems

SOURCE_FILES = 'source_files.tsv'
PARTIAL_SUFFIX = '.partial'
BATCH_BYTES = 64 << 20
"""Commit after so many bytes: what a kill costs at most, and what is held in memory."""

_RAW_MARK = '\traw'

Item = TypeVar('Item')
Result = TypeVar('Result')


@dataclass(frozen=True)
class Frame:
    """An image file and the key it gets."""

    key: str
    path: Path
    origin: str
    """Path below SOURCE: together with size and time it identifies the file."""
    num_bytes: int
    mtime_ns: int
    shape: tuple[int, int, int]
    """(height, width, channels), by the file's header."""
    raw: bool = False
    """Whether its pixels are stored, uncompressed, in place of the file."""

    @property
    def identity(self) -> str:
        """What the entry was made from, and how."""
        source = f'{self.key}\t{self.origin}\t{self.num_bytes}\t{self.mtime_ns}'
        return source + _RAW_MARK if self.raw else source

    @property
    def stored_bytes(self) -> int:
        """Size of the entry."""
        height, width, _ = self.shape
        return len(raw_header(height, width)) + 3 * height * width if self.raw else self.num_bytes

    @property
    def meta_line(self) -> str:
        """The frame's line in `meta_info.txt`."""
        if self.raw:
            return format_meta_line(MetaEntry(self.key, RAW_EXTENSION, (*self.shape[:2], 3)))
        return format_meta_line(MetaEntry(self.key, self.path.suffix, self.shape))


def default_threads() -> int:
    """Reading and decoding leave Python's lock, so threads help; beyond 16 the one writer is the limit."""
    return max(2, min(16, os.cpu_count() or 2))


def is_complete(path: Path, frames: Sequence[Frame]) -> bool:
    """Whether the finished LMDB at `path` is the one that `write_lmdb` would make from `frames`.

    False where there is nothing at `path`. Looks at names, sizes, times and counts; does not decode.

    Raises:
        DataError: there is something else at `path`: it must not be overwritten.
    """
    if not os.path.lexists(path):
        return False
    remedy = 'Move it away, or choose another folder with -o.'
    record = path / SOURCE_FILES
    if not record.is_file():
        raise DataError(f'{path} exists already and was not made by this command. {remedy}')
    ours = {frame.identity for frame in frames}
    theirs = set(_read_record(path))
    if ours != theirs:
        if {line.removesuffix(_RAW_MARK) for line in ours} == {line.removesuffix(_RAW_MARK) for line in theirs}:
            there, wanted = ('files', 'raw pixels') if any(frame.raw for frame in frames) else ('raw pixels', 'files')
            raise DataError(f'{path} exists already and holds {there} of these frames, not {wanted}. {remedy}')
        example = min(ours ^ theirs).replace('\t', ', ')
        raise DataError(
            f'{path} exists already and was made from other files: {len(theirs)} there, {len(ours)} in SOURCE, '
            f'{len(ours & theirs)} of them the same by path, size and time; not so: {example}. {remedy}'
        )
    try:
        entries = read_meta_info(path)
        with open_for_reading(path) as env:
            count = env.stat()['entries']
    except (OSError, ValueError, DataError) as error:
        raise DataError(f'{path} is damaged: {error}. {remedy}') from None
    if not len(entries) == count == len(frames):
        raise DataError(
            f'{path} is damaged: {count} frames, {len(entries)} lines in {META_INFO}, {len(frames)} expected. {remedy}'
        )
    return True


def bytes_needed(path: Path, frames: Sequence[Frame]) -> int:
    """About how many bytes `write_lmdb` will still take on the disk."""
    started = path.with_name(path.name + PARTIAL_SUFFIX) / 'data.mdb'
    return max(0, _map_size(frames) - (started.stat().st_size if started.exists() else 0))


def write_lmdb(path: Path, frames: Sequence[Frame], threads: int | None = None) -> int:
    """Store image files in a new LMDB folder, or go on where an interrupted run stopped.

    Each file is decoded to make sure that it is whole. Memory is bounded by a few images a thread and `BATCH_BYTES`.
    The keys, values and `meta_info.txt` do not depend on whether, or where, earlier runs were interrupted.

    Args:
        path: The folder to make; its name ends in `.lmdb`. It must not exist.
        frames: Keys unique, in the order for `meta_info.txt`. All are stored alike, as files or raw.
        threads: Threads that read and decode.

    Returns:
        How many frames an earlier, interrupted run had left ready.

    Raises:
        DataError: unreadable images (all are listed), no space left, another process at work on the same folder, ...
            What was written so far stays in `<path>.partial` for the next run.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with only_writer(partial):
            with closing(_open_for_writing(partial, frames)) as env:
                kept = _keep_what_fits(env, partial, frames)
                _copy(env, partial, frames, kept, threads or default_threads())
                count = env.stat()['entries']
                if count != len(frames):
                    raise DataError(f'{partial} holds {count} frames, not {len(frames)}: delete it and start again')
            write_text(partial / META_INFO, '\n'.join(frame.meta_line for frame in frames) + '\n')
            partial.rename(path)
            _sync_folder(path.parent)
    except (OSError, lmdb.Error) as error:
        free = f'{shutil.disk_usage(partial).free / 1e6:.0f} MB are free on its disk' if partial.exists() else ''
        raise DataError(
            f'cannot write {partial}: {error}. {free}\n'
            'Mend the cause, then run the same command again: it continues with what is there.'
        ) from None
    return len(kept)


@contextmanager
def open_for_reading(path: Path) -> Iterator[lmdb.Environment]:
    """Open an LMDB folder read-only.

    Raises:
        DataError: it is no LMDB, its file has been cut off, or LMDB finds it damaged while it is read.
    """
    if not (path / 'data.mdb').is_file():
        raise DataError(f'{path} holds no data.mdb')
    try:
        check_pages(path / 'data.mdb')
    except ValueError as error:
        raise DataError(f'{path}/data.mdb {error}') from None
    try:
        with closing(lmdb.open(str(path), readonly=True, lock=False, readahead=False)) as env:
            # LMDB maps the file into memory: touching a page beyond a cut would kill the process.
            expected = (env.info()['last_pgno'] + 1) * env.stat()['psize']
            size = (path / 'data.mdb').stat().st_size
            if size < expected:
                raise DataError(f'{path}/data.mdb is truncated: {size} bytes of {expected}')
            yield env
    except lmdb.Error as error:
        raise DataError(f'{path} is no LMDB, or a damaged one ({error})') from None


def read_keys(env: lmdb.Environment) -> set[str]:
    """All keys of an LMDB; a key that is not ASCII comes with escapes."""
    with env.begin() as transaction:
        return {key.decode('ascii', 'backslashreplace') for key in transaction.cursor().iternext(values=False)}


def write_text(path: Path, text: str) -> None:
    """Write a text file such that it is there as a whole, or not at all."""
    temporary = path.with_name(path.name + '.tmp')
    try:
        with open(temporary, 'w', encoding='utf-8', errors='surrogateescape', newline='\n') as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Like `pool.map`, with at most `ahead` results waiting, and with failures left to the caller."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) >= ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for _, future in waiting:
            future.cancel()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep a second process out. The lock dies with its process, however that ends."""
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
            pass  # some network file systems have no such locks
        yield
    finally:
        os.close(descriptor)


def _map_size(frames: Iterable[Frame]) -> int:
    """An estimate of the file's size: values fill whole pages. LMDB is told a larger one when it is too small."""
    pages = sum(frame.stored_bytes // 4096 + 2 for frame in frames)
    return (pages + 256) * 4096


def _open_for_writing(partial: Path, frames: Sequence[Frame]) -> lmdb.Environment:
    if (partial / 'data.mdb').exists():
        try:
            with open_for_reading(partial):
                pass
        except DataError as error:
            print(f'{error}: this unfinished data set is started anew.')
            (partial / 'data.mdb').unlink()
    return lmdb.open(str(partial), map_size=_map_size(frames), lock=False)


def _keep_what_fits(env: lmdb.Environment, partial: Path, frames: Sequence[Frame]) -> set[str]:
    """Drop what an earlier run made from files that differ from today's, and return the keys that stay."""
    present = read_keys(env)
    still_true = {frame.identity for frame in frames}.intersection(_read_record(partial))
    kept = present.intersection(frame.key for frame in frames if frame.identity in still_true)
    stale = present - kept
    if present:
        changed = f'; {len(stale)} were made from other files and are written anew' if stale else ''
        print(f'{partial.name}: {len(kept)} of {len(frames)} frames are there from an earlier run{changed}.')
    # In this order: a kill in between leaves the old record, by which stale entries are found again.
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
    from tqdm import tqdm

    problems = Problems()
    batch: dict[str, bytes | None] = {}
    batch_bytes = 0
    mega_bytes = sum(frame.stored_bytes for frame in frames if frame.key in kept) / 1e6
    total = sum(frame.stored_bytes for frame in frames) / 1e6
    todo = [frame for frame in frames if frame.key not in kept]
    name = partial.name.removesuffix(PARTIAL_SUFFIX)
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(frames), initial=len(kept), desc=name, unit='frame', disable=not todo) as bar,
    ):
        for frame, loading in in_order(pool, _load, todo, ahead=4 * threads):
            try:
                batch[frame.key] = data = loading.result()
            except (ValueError, OSError) as error:
                # An OSError's own text would repeat the path.
                problems.add(f'{frame.origin} {getattr(error, "strerror", None) or error}')
                continue
            batch_bytes += len(data)
            mega_bytes += len(data) / 1e6
            if batch_bytes >= BATCH_BYTES:
                _write(env, batch)
                batch, batch_bytes = {}, 0
            bar.set_postfix_str(f'{mega_bytes:.0f}/{total:.0f} MB', refresh=False)
            bar.update()
        _write(env, batch)
    problems.raise_if_any(
        f'{len(problems)} of {len(frames)} images for {name} cannot be used',
        f'Put whole files in their place and run the same command again: the other frames are kept in {partial}.',
    )


def _load(frame: Frame) -> bytes:
    data = frame.path.read_bytes()
    if len(data) != frame.num_bytes:
        raise ValueError(f'changed from {frame.num_bytes} to {len(data)} bytes while it was read')
    image = decode_image(data)
    height, width, _ = image.shape
    if (height, width) != frame.shape[:2]:
        raise ValueError(f'decodes to {width}x{height}, but its header says {frame.shape[1]}x{frame.shape[0]}')
    return raw_header(height, width) + image[..., ::-1].tobytes() if frame.raw else data


def _write(env: lmdb.Environment, batch: dict[str, bytes | None]) -> None:
    """Write values (None: delete the key) in one transaction: all of them or none, whatever happens."""
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


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power failure, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)

"""Where frames come from: an LMDB folder made by data_prep, or a folder of clip folders.

Frames are handed out as 8-bit RGB with the pixels as stored: gray is repeated over the three channels, alpha is
dropped, 16 bits are reduced to 8 (all of it as OpenCV's `IMREAD_COLOR` does), an EXIF orientation is not applied.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray

from dstnet_arch.data.augment import Window
from dstnet_arch.data.decoding import decode
from dstnet_arch.data.lmdb_check import check_pages
from dstnet_arch.data.lmdb_format import META_INFO, natural_key, read_meta_info
from dstnet_arch.errors import DataError, OptionsError

BACKENDS = ('auto', 'lmdb', 'disk')
IMAGE_EXTENSIONS = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')


class FrameSource(ABC):
    """Clips of frames, each read by the names of its clip and itself.

    Sources pickle, and may be read in any process, forked or spawned; nothing that must not cross over is kept in them.

    Attributes:
        root: the folder, as it was given.
        clips: names of the clips and, for each, of its frames (without extension), both in natural order.
    """

    root: str
    clips: dict[str, list[str]]

    @abstractmethod
    def shape(self, clip: str, frame: str) -> tuple[int, int]:
        """(height, width) in pixels, without decoding the picture.

        Raises:
            DataError: the file is no picture.
        """

    @abstractmethod
    def describe(self, clip: str, frame: str) -> str:
        """The frame's place, for messages."""

    @abstractmethod
    def _encoded(self, clip: str, frame: str) -> AbstractContextManager[NDArray[np.uint8]]:
        """The bytes of the picture's file; valid inside the context only."""

    def read(self, clip: str, frame: str, window: Window | None = None) -> NDArray[np.uint8]:
        """The picture, or a window of it: (H, W, 3) uint8, RGB, contiguous.

        Raises:
            DataError: the frame is missing or damaged, or has another size than was announced.
        """
        with self._encoded(clip, frame) as data:
            decoded = decode(data, window)
        if decoded is None:
            raise DataError(
                f'{self.describe(clip, frame)} cannot be decoded: the file is damaged or no picture. '
                'Replace it; `python -m data_prep verify` finds all such frames.'
            )
        image, shape = decoded
        if shape != self.shape(clip, frame):
            raise DataError(
                f'{self.describe(clip, frame)} has {size_text(shape)} pixels, but '
                f'{size_text(self.shape(clip, frame))} were announced: the data changed after they were listed. '
                'Start again, or make the LMDB anew.'
            )
        return image


class FolderSource(FrameSource):
    """Frames as files: `<root>/<clip>/<frame>.png` (or another of IMAGE_EXTENSIONS).

    Hidden files and files of other kinds are passed over.

    Args:
        root: the folder that holds the clips.
        clips: look at these folders in it only; by default at all.

    Raises:
        DataError: there are no frames in this layout, two files of a clip differ in their extensions only, or a name is
            not UTF-8.
    """

    def __init__(self, root: str | os.PathLike[str], clips: Iterable[str] | None = None) -> None:
        self.root = os.fspath(root)
        self._folder = Path(root).absolute()
        self._files: dict[str, dict[str, str]] = {}
        self._shapes: dict[tuple[str, str], tuple[int, int]] = {}
        for clip in sorted(_names(self._folder, folders=True) if clips is None else clips, key=natural_key):
            if files := self._find_frames(clip):
                self._files[clip] = files
        if not self._files:
            raise DataError(
                f'{self.root} holds no frames in the layout <clip>/<frame>.png. Give the folder that holds the clips; '
                '`python -m data_prep` converts data sets as they are distributed.'
            )
        self.clips = {clip: list(files) for clip, files in self._files.items()}

    def _find_frames(self, clip: str) -> dict[str, str]:
        files: dict[str, str] = {}
        for file in sorted(_names(self._folder / clip, folders=False), key=natural_key):
            frame, extension = os.path.splitext(file)
            if extension.lower() not in IMAGE_EXTENSIONS:
                continue
            if not _is_text(clip + frame):
                raise DataError(
                    f'The name of {os.path.join(self.root, clip, file)!r} is no UTF-8, and could stand in no table. '
                    'Rename it.'
                )
            if frame in files:
                raise DataError(
                    f'{os.path.join(self.root, clip)} holds both {files[frame]} and {file}, but a frame is known by '
                    'its name without extension. Keep one of them.'
                )
            files[frame] = file
        return files

    def shape(self, clip: str, frame: str) -> tuple[int, int]:
        if (clip, frame) not in self._shapes:
            from PIL import Image  # reads headers only, unlike OpenCV; LMDB folders do without it

            try:
                with Image.open(self._path(clip, frame)) as image:
                    self._shapes[clip, frame] = (image.height, image.width)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise DataError(f'{self.describe(clip, frame)} cannot be read as a picture: {error}') from None
        return self._shapes[clip, frame]

    def describe(self, clip: str, frame: str) -> str:
        return os.path.join(self.root, clip, self._files[clip][frame])

    def _path(self, clip: str, frame: str) -> Path:
        return self._folder / clip / self._files[clip][frame]

    def _encoded(self, clip: str, frame: str) -> AbstractContextManager[NDArray[np.uint8]]:
        try:
            return nullcontext(np.fromfile(self._path(clip, frame), dtype=np.uint8))
        except OSError as error:
            raise DataError(f'{self.describe(clip, frame)} cannot be read: {error}') from None


class LMDBSource(FrameSource):
    """Frames in an LMDB folder: see dstnet_arch/data/lmdb_format.py for its form.

    The database is opened in the process that reads, when it first does, and once in a process however many sources
    read it: LMDB refuses to open one path twice.

    Raises:
        DataError: the folder is not such a database, or frames listed in `meta_info.txt` are not in it.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self._path = os.path.realpath(root)
        try:
            entries = read_meta_info(self.root)
        except (OSError, ValueError) as error:
            raise DataError(str(error)) from None
        self._shapes: dict[tuple[str, str], tuple[int, int]] = {}
        self.clips = {}
        for entry in sorted(entries, key=lambda entry: (natural_key(entry.clip), natural_key(entry.frame))):
            if not entry.clip:
                raise DataError(
                    f'{os.path.join(self.root, META_INFO)} lists {entry.key!r}, which names no clip: keys are '
                    '<clip>/<frame>. Make the LMDB with `python -m data_prep`.'
                )
            self.clips.setdefault(entry.clip, []).append(entry.frame)
            self._shapes[entry.clip, entry.frame] = entry.shape[:2]
        _close_if_replaced(self._path)
        self._check_keys()

    def _check_keys(self) -> None:
        with self._transaction() as transaction, transaction.cursor() as cursor:
            stored = set(map(bytes, cursor.iternext(keys=True, values=False)))
        listed = (f'{clip}/{frame}' for clip, frames in self.clips.items() for frame in frames)
        missing = [key for key in listed if key.encode() not in stored]
        if missing:
            raise DataError(
                f'{self.root} lacks {name_some(missing)}, though its {META_INFO} lists them: the conversion was not '
                'finished, or the files belong to different ones. Make the LMDB anew with `python -m data_prep`.'
            )

    def shape(self, clip: str, frame: str) -> tuple[int, int]:
        return self._shapes[clip, frame]

    def describe(self, clip: str, frame: str) -> str:
        return f'{clip}/{frame} in {self.root}'

    @contextmanager
    def _transaction(self) -> Iterator[lmdb.Transaction]:
        try:
            with _open_environment(self._path).begin(buffers=True) as transaction:
                yield transaction
        except lmdb.Error as error:
            raise DataError(
                f'{self.root} cannot be read as an LMDB: {error}. If the file is damaged, make it anew with '
                '`python -m data_prep`; if other code of this process has it open, close it there.'
            ) from None

    @contextmanager
    def _encoded(self, clip: str, frame: str) -> Iterator[NDArray[np.uint8]]:
        with self._transaction() as transaction:
            data = transaction.get(f'{clip}/{frame}'.encode())
            if data is None:
                raise DataError(
                    f'{self.describe(clip, frame)} does not exist: the database was changed after it was opened.'
                )
            yield np.frombuffer(data, dtype=np.uint8)


def open_source(root: str | os.PathLike[str], backend: str = 'auto') -> LMDBSource | FolderSource:
    """Open a folder of frames, an LMDB or plain files.

    Args:
        root: the LMDB folder, or the folder that holds the folders of the clips.
        backend: 'lmdb', 'disk', or 'auto': LMDB where `root` looks like one.

    Raises:
        OptionsError: `backend` is none of these.
        DataError: there is no such folder, or it does not hold what the backend reads.
    """
    if backend not in BACKENDS:
        raise OptionsError(f'io_backend type is {backend!r}; it can be {", ".join(BACKENDS)}.')
    root = os.fspath(root)
    if not os.path.isdir(root):
        what = 'is not a folder' if os.path.exists(root) else 'does not exist'
        raise DataError(
            f'{root} {what} (the current folder is {os.getcwd()}). Correct the path, or make the data with '
            '`python -m data_prep`.'
        )
    is_lmdb = root.rstrip('/\\').endswith('.lmdb') or os.path.exists(os.path.join(root, 'data.mdb'))
    return LMDBSource(root) if backend == 'lmdb' or (backend == 'auto' and is_lmdb) else FolderSource(root)


def size_text(shape: Iterable[int]) -> str:
    """(height, width) in the order in which people name it: '1280x720'."""
    height, width = shape
    return f'{width}x{height}'


def name_some(names: list[str], limit: int = 5) -> str:
    """The first few of the names, and how many more there are."""
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more


def _names(folder: Path, folders: bool) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir() == folders and not entry.name.startswith('.')]
    except OSError as error:
        raise DataError(f'{folder} cannot be listed: {error}') from None


def _is_text(name: str) -> bool:
    """Whether a name from the file system is UTF-8: Python keeps other bytes as half characters."""
    return not any('\ud800' <= character <= '\udfff' for character in name)


# Environments of this process, by real path, each with the number of the file that it maps.
_environments: dict[str, tuple[int, Any]] = {}
_environments_lock = threading.Lock()


def _open_environment(path: str) -> lmdb.Environment:
    with _environments_lock:
        if path not in _environments:
            file = os.path.join(path, 'data.mdb')
            if os.path.isfile(file):
                try:
                    check_pages(Path(file))
                except ValueError as error:
                    raise lmdb.CorruptedError(f'data.mdb {error}') from None
            # Locks would need a writable folder; frames are read in random order, so reading ahead wastes memory.
            environment = lmdb.open(path, create=False, readonly=True, lock=False, readahead=False, meminit=False)
            # Reading beyond the end of a file that was cut short would kill the process.
            needed = (environment.info()['last_pgno'] + 1) * environment.stat()['psize']
            if os.path.getsize(os.path.join(path, 'data.mdb')) < needed:
                environment.close()
                raise lmdb.CorruptedError('data.mdb is cut short')
            _environments[path] = (_file_number(path), environment)
        return _environments[path][1]


def _close_if_replaced(path: str) -> None:
    """Forget an environment whose file has been made anew since: its old file would go on being read."""
    with _environments_lock:
        if path in _environments and _environments[path][0] != _file_number(path):
            _environments.pop(path)[1].close()


def _file_number(path: str) -> int:
    try:
        return os.stat(os.path.join(path, 'data.mdb')).st_ino
    except OSError:
        return -1


def _drop_inherited_environments() -> None:
    """A forked child must not use its parent's environments, and cannot open its own while it holds them."""
    global _environments_lock
    _environments_lock = threading.Lock()  # another thread of the parent may have held it
    for _, environment in _environments.values():
        environment.close()
    _environments.clear()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_drop_inherited_environments)

"""Sources of frames: an LMDB folder, or folders of image files.

Frames are RGB of 8 or 16 bits as stored: gray is repeated over the channels, alpha and EXIF orientation are ignored.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray

from dstnet_arch.data.folder_layouts import image_files, subfolders
from dstnet_arch.data.image_file import ImageHeader, Pixels, Window, decode, read_header
from dstnet_arch.data.lmdb_file import shared_environment
from dstnet_arch.data.lmdb_format import IMAGE_EXTENSIONS as IMAGE_EXTENSIONS
from dstnet_arch.data.lmdb_format import META_INFO, natural_key, read_meta_info
from dstnet_arch.errors import DataError, OptionsError

BACKENDS = ('auto', 'lmdb', 'disk')
_CONVERT_AGAIN = 'Delete the folder and convert the data again with `python -m data_prep`.'


class FrameSource(ABC):
    """Clips of frames, addressed by the names of clip and frame. Can be pickled and read in any process.

    Attributes:
        root: the folder, as given.
        clips: frame names (without extension) by clip name, both in natural order.
    """

    root: str
    clips: dict[str, list[str]]

    @abstractmethod
    def header(self, clip: str, frame: str) -> ImageHeader:
        """Return the header of a frame. Raises DataError if it is not a readable image."""

    def shape(self, clip: str, frame: str) -> tuple[int, int]:
        """Return (height, width) in pixels without decoding. Raises DataError if it is not a readable image."""
        return self.header(clip, frame)[:2]

    @abstractmethod
    def describe(self, clip: str, frame: str) -> str:
        """Return the location of a frame for messages."""

    @abstractmethod
    def _encoded(self, clip: str, frame: str) -> AbstractContextManager[NDArray[np.uint8]]:
        """Content of the image file, valid only inside the context."""

    def bit_depth(self) -> int:
        """Return 16 if the first frame of any clip has 16 bits per sample, else 8."""
        return max(self.header(clip, frames[0]).bit_depth for clip, frames in self.clips.items())

    def read(self, clip: str, frame: str, window: Window | None = None) -> Pixels:
        """Read an image, or a window of it: (H, W, 3), RGB, uint8 or uint16, contiguous.

        Raises:
            DataError: the frame is missing or damaged, or its size is not `shape(clip, frame)`.
        """
        name = self.describe(clip, frame)
        with self._encoded(clip, frame) as data:
            try:
                image, shape = decode(data, window)
            except ValueError as error:
                remedy = 'Replace the file; `python -m data_prep verify` lists all damaged frames of an LMDB.'
                raise DataError(f'{name} {error}. {remedy}') from None
        listed = self.shape(clip, frame)
        if shape != listed:
            remedy = 'Start the run again; if this is an LMDB, convert the data again.'
            raise DataError(f'{name} has {size_text(shape)} pixels, but {size_text(listed)} are listed. {remedy}')
        return image


class FolderSource(FrameSource):
    """Frames as files, one folder per clip. Hidden files and files that are not images are ignored.

    Args:
        root: the folder that contains the clips.
        folders: folder of each clip by the clip's name; default: every folder in `root` that contains images.

    Raises:
        DataError: there are no frames, two files of a clip differ only in extension, or a name is not UTF-8.
    """

    def __init__(self, root: str | os.PathLike[str], folders: Mapping[str, Path] | None = None) -> None:
        self.root = os.fspath(root)
        searched = folders is None
        if folders is None:
            folders = {folder.name: folder for folder in subfolders(Path(root))}
        files = {clip: _frames_of(folders[clip]) for clip in sorted(folders, key=natural_key)}
        self._files = {clip: frames for clip, frames in files.items() if frames}
        self._headers: dict[Path, ImageHeader] = {}
        self.clips = {clip: list(frames) for clip, frames in self._files.items()}
        if searched and not self.clips:
            raise DataError(
                f'{self.root} contains no frames in the layout <clip>/<frame>.png. Give the folder that contains the '
                'clips, or convert the data with `python -m data_prep`.'
            )

    def path(self, clip: str, frame: str) -> Path:
        """Return the file of a frame."""
        return self._files[clip][frame]

    def header(self, clip: str, frame: str) -> ImageHeader:
        """Return the header of a frame, read once. Raises DataError if it is not a readable image."""
        path = self._files[clip][frame]
        if path not in self._headers:
            try:
                with open(path, 'rb') as file:
                    self._headers[path] = read_header(file)
            except OSError as error:
                raise DataError(f'{path} cannot be read: {error.strerror or error}') from None
            except ValueError as error:
                raise DataError(f'{path} {error}') from None
        return self._headers[path]

    def describe(self, clip: str, frame: str) -> str:
        """Return the path of the file."""
        return str(self._files[clip][frame])

    def _encoded(self, clip: str, frame: str) -> AbstractContextManager[NDArray[np.uint8]]:
        try:
            return nullcontext(np.fromfile(self._files[clip][frame], dtype=np.uint8))
        except OSError as error:
            raise DataError(f'{self.describe(clip, frame)} cannot be read: {error}') from None


def _frames_of(folder: Path) -> dict[str, Path]:
    """Return the image files of a folder by their names without extension."""
    files: dict[str, Path] = {}
    for file in image_files(folder):
        try:
            str(file).encode()
        except UnicodeEncodeError:  # Python represents other bytes in file names as surrogates
            raise DataError(f'The name {str(file)!r} is not UTF-8. Rename the file or folder.') from None
        if file.stem in files:
            raise DataError(
                f'{folder} contains both {files[file.stem].name} and {file.name}, but frames are identified by their '
                'names without extension. Remove one of the two.'
            )
        files[file.stem] = file
    return files


class LMDBSource(FrameSource):
    """Frames in an LMDB folder, which is opened once per process however many sources read it.

    Raises:
        DataError: the folder is not such a database, or frames listed in `meta_info.txt` are missing.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self._path = os.path.abspath(root)
        try:
            entries = read_meta_info(self.root)
        except (OSError, ValueError) as error:
            raise DataError(str(error)) from None
        self._shapes: dict[tuple[str, str], tuple[int, int]] = {}
        self.clips = {}
        for entry in sorted(entries, key=lambda entry: (natural_key(entry.clip), natural_key(entry.frame))):
            if not entry.clip:
                raise DataError(
                    f'{self.root}/{META_INFO} lists {entry.key!r}, expected <clip>/<frame>. {_CONVERT_AGAIN}'
                )
            self.clips.setdefault(entry.clip, []).append(entry.frame)
            self._shapes[entry.clip, entry.frame] = entry.shape[:2]
        with self._transaction() as transaction, transaction.cursor() as cursor:
            stored = set(map(bytes, cursor.iternext(keys=True, values=False)))
        missing = [entry.key for entry in entries if entry.key.encode() not in stored]
        if missing:
            raise DataError(f'{self.root} lacks {name_some(missing)}, which its {META_INFO} lists. {_CONVERT_AGAIN}')

    def header(self, clip: str, frame: str) -> ImageHeader:
        """Return the header of a frame. Raises DataError if it is not a readable image."""
        with self._encoded(clip, frame) as data:
            try:
                return read_header(io.BytesIO(data.tobytes()))
            except ValueError as error:
                raise DataError(f'{self.describe(clip, frame)} {error}') from None

    def shape(self, clip: str, frame: str) -> tuple[int, int]:
        """Return (height, width) by `meta_info.txt`."""
        return self._shapes[clip, frame]

    def describe(self, clip: str, frame: str) -> str:
        """Return the key and the folder."""
        return f'{clip}/{frame} in {self.root}'

    @contextmanager
    def _transaction(self) -> Iterator[lmdb.Transaction]:
        try:
            with shared_environment(self._path).begin(buffers=True) as transaction:
                yield transaction
        except lmdb.Error as error:
            raise DataError(f'{self.root} is damaged ({error}). {_CONVERT_AGAIN}') from None

    @contextmanager
    def _encoded(self, clip: str, frame: str) -> Iterator[NDArray[np.uint8]]:
        with self._transaction() as transaction:
            data = transaction.get(f'{clip}/{frame}'.encode())
            if data is None:
                raise DataError(f'{self.describe(clip, frame)} does not exist: the LMDB changed during the run.')
            yield np.frombuffer(data, np.uint8)


def open_source(root: str | os.PathLike[str], backend: str = 'auto') -> FrameSource:
    """Open a folder of frames as 'lmdb', as 'disk' (`<clip>/<frame>.png`), or as what it looks like ('auto').

    Raises:
        OptionsError: `backend` is unknown.
        DataError: the folder does not exist, or does not contain what the backend reads.
    """
    return LMDBSource(root) if is_lmdb(root, backend) else FolderSource(root)


def is_lmdb(root: str | os.PathLike[str], backend: str = 'auto') -> bool:
    """Return True if `open_source` reads `root` as an LMDB. Raises as `open_source` does."""
    if backend not in BACKENDS:
        raise OptionsError(f'io_backend type is {backend!r}, expected one of: {", ".join(BACKENDS)}.')
    folder = Path(root)
    if not folder.is_dir():
        what = 'is not a folder' if folder.exists() else 'does not exist'
        raise DataError(
            f'{folder} {what} (the current folder is {os.getcwd()}). Correct the path, or make the data with '
            '`python -m data_prep`.'
        )
    looks_so = folder.suffix == '.lmdb' or (folder / 'data.mdb').exists()
    return backend == 'lmdb' or (backend == 'auto' and looks_so)


def size_text(shape: Iterable[int]) -> str:
    """Format (height, width) in the usual order: '1280x720'."""
    height, width = shape
    return f'{width}x{height}'


def name_some(names: list[str], limit: int = 5) -> str:
    """Join the first few names and the number of those left out."""
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more

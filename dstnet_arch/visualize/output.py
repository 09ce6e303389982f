"""Pictures and videos on disk: whole or not at all, and never in the place of others without being told."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.files import atomic_file
from dstnet_arch.visualize.canvas import Image

PICTURES = {'.png': [], '.jpg': [cv2.IMWRITE_JPEG_QUALITY, 95], '.jpeg': [cv2.IMWRITE_JPEG_QUALITY, 95]}
VIDEOS = {'.mp4': 'mp4v', '.mkv': 'FFV1'}


def add_output_arguments(parser: argparse.ArgumentParser, help: str, required: bool = True) -> None:
    parser.add_argument('-o', '--output', type=Path, metavar='FILE', required=required, help=help)
    parser.add_argument('--overwrite', action='store_true', help='replace the file if it exists')


def check_picture(path: Path, overwrite: bool) -> None:
    """To be called before the work: raise OptionsError for a file that exists or is of another kind."""
    if path.suffix.lower() not in PICTURES:
        raise OptionsError(f'-o {path}: a picture is saved as {", ".join(PICTURES)}. Give a name that ends so.')
    _check_free(path, overwrite)


def check_video(path: Path, overwrite: bool) -> None:
    """`check_picture` for videos: .mp4, .mkv, or a folder for pictures, which must be new or empty."""
    if path.suffix and path.suffix.lower() not in VIDEOS and not path.is_dir():
        raise OptionsError(
            f'-o {path}: a video is saved as {", ".join(VIDEOS)}, or as PNG files in a folder, whose name has no '
            'dot. Give such a name.'
        )
    if path.suffix.lower() in VIDEOS:
        _check_free(path, overwrite)
    elif path.is_dir() and any(path.iterdir()):
        raise OptionsError(
            f'-o {path}: there is something in this folder, and --overwrite replaces files only. '
            'Give another name, or remove it.'
        )


def save_picture(image: Image, path: Path, overwrite: bool = False) -> None:
    """Write a picture; its folder is made where there is none.

    Raises:
        OptionsError: see `check_picture`.
        DataError: it cannot be written.
    """
    check_picture(path, overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(_encode(image, path.suffix.lower()))
    except OSError as error:
        raise _cannot_write(path, error) from None


@contextmanager
def video_writer(path: Path, rate: Fraction, overwrite: bool = False) -> Iterator[Callable[[Image, str], None]]:
    """Write a video frame by frame; it appears under its name when the context ends without an error.

    Args:
        path: .mp4 (MPEG-4 Part 2; most players take it, browsers do not), .mkv (FFV1: without loss), or a folder for
            PNG files.
        rate: frames in a second.
        overwrite: replace an older file.

    Yields:
        write(image, name): images of one size; odd sides of videos get a white line more. The name is that of the
        PNG file.

    Raises:
        OptionsError: see `check_video`.
        DataError: it cannot be written, or OpenCV lacks the codec.
    """
    check_video(path, overwrite)
    partial = path.with_name(f'.partial.{path.name}')  # OpenCV goes by the extension
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        if path.suffix.lower() in VIDEOS:
            writer = _VideoFile(partial, path, rate)
            try:
                yield writer.write
            finally:
                writer.release()
            writer.check()
        else:
            partial.mkdir()

            def write(image: Image, name: str) -> None:
                (partial / f'{name}.png').write_bytes(_encode(image, '.png'))

            yield write
        os.replace(partial, path)
    except OSError as error:
        raise _cannot_write(path, error) from None
    finally:
        _remove(partial)


class _VideoFile:
    def __init__(self, file: Path, path: Path, rate: Fraction) -> None:
        self.file, self.path, self.rate = file, path, rate
        self.written = 0
        self._writer: cv2.VideoWriter | None = None

    def write(self, image: Image, name: str) -> None:
        height, width = (side + side % 2 for side in image.shape[:2])
        image = np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), constant_values=255)
        if self._writer is None:
            codec = VIDEOS[self.path.suffix.lower()]
            self._writer = cv2.VideoWriter(
                str(self.file), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), float(self.rate), (width, height)
            )
            if not self._writer.isOpened():
                raise DataError(
                    f'{self.path} cannot be written: this OpenCV has no encoder for {codec} at {width}x{height}, or '
                    'the folder is read-only. Save it as .mkv or as PNG files in a folder, or lower --columns.'
                )
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self.written += 1

    def release(self) -> None:
        if self._writer is not None:
            self._writer.release()

    def check(self) -> None:
        """OpenCV says nothing of frames that it could not write: a full disk, for instance."""
        reader = cv2.VideoCapture(str(self.file), cv2.CAP_FFMPEG)
        found = 0
        while reader.grab():
            found += 1
        reader.release()
        if found != self.written:
            raise DataError(
                f'{self.path} cannot be written: {found} of {self.written} frames arrived. Free some space on the disk.'
            )


def _encode(image: Image, extension: str) -> bytes:
    return bytes(cv2.imencode(extension, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), PICTURES[extension])[1])


def _check_free(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise OptionsError(f'-o {path} is a folder. Give the name of a file.')
    if path.exists() and not overwrite:
        raise OptionsError(f'{path} exists already. Give another name with -o, or replace it with --overwrite.')


def _remove(path: Path) -> None:
    with suppress(OSError):  # whoever writes in this place meets the same error, and reports it
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _cannot_write(path: Path, error: OSError) -> DataError:
    reason = error.strerror or str(error)
    return DataError(f'{path} cannot be written: {reason}. Free some space, mend the permissions or give another -o.')

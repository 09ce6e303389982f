"""The ffmpeg program, and opening of media files with PyAV."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import av
import imageio_ffmpeg  # type: ignore[import-untyped]
from av.container import InputContainer
from av.video import VideoStream

from dstnet_arch.errors import DataError, OptionsError

_PROTOCOLS = 'file,fd,pipe'  # what FFmpeg may open: nothing from a network, whatever a playlist names

av.logging.set_level(None)  # errors are raised as exceptions


class FFmpegError(DataError):
    """The ffmpeg program failed. The message is its own reason."""


@cache
def ffmpeg_program() -> str:
    """Path of the ffmpeg program: `DSTNET_FFMPEG` if set, else the one of imageio-ffmpeg.

    Raises:
        OptionsError: there is none.
    """
    if chosen := os.environ.get('DSTNET_FFMPEG'):
        if found := shutil.which(chosen):
            return found
        raise OptionsError(f'DSTNET_FFMPEG={chosen} is not a program. Correct or unset it.')
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        raise OptionsError('The ffmpeg program was not found. Install it, or set DSTNET_FFMPEG to its path.') from None


def input_arguments(path: Path, *options: str) -> list[str]:
    """Return the arguments of the ffmpeg program that open a local file, whatever its name."""
    return [*options, '-protocol_whitelist', _PROTOCOLS, '-i', f'file:{path}']


def run_ffmpeg(arguments: Sequence[str]) -> None:
    """Run the ffmpeg program; it replaces existing outputs.

    Raises:
        FFmpegError: it failed.
    """
    command = [ffmpeg_program(), '-nostdin', '-hide_banner', '-loglevel', 'error', '-y', *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.decode('utf-8', 'replace').strip().splitlines()
        ended = f'it ended with status {done.returncode}'
        raise FFmpegError(' '.join(line.strip() for line in lines[:4]) or ended)


@contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """Open a local file for reading.

    Raises:
        DataError: FFmpeg cannot read it.
    """
    try:
        container = av.open(f'file:{path}', metadata_errors='replace', options={'protocol_whitelist': _PROTOCOLS})
    except (av.FFmpegError, OSError) as error:
        raise _unreadable(path, error) from None
    with container:
        yield container


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the main video stream, never a cover picture.

    Raises:
        DataError: there is none, or there is no decoder for it.
    """
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise DataError(f'{path} has no video in it. Give a video file or a folder of images.')
    best = container.streams.best('video')
    stream = best if isinstance(best, VideoStream) and best in streams else streams[0]
    if stream.codec_context is None:
        raise DataError(f'{path}: PyAV has no decoder for its video. Convert it with another program first.')
    return stream


def _unreadable(path: Path, error: Exception) -> DataError:
    if not path.exists():
        return DataError(f'{path} does not exist.')
    if path.stat().st_size == 0:
        return DataError(f'{path} is empty.')
    with suppress(OSError), path.open('rb') as file:
        if file.read(12)[4:8] == b'ftyp' and isinstance(error, av.error.InvalidDataError):
            return DataError(
                f"{path} cannot be read: it has no list of its frames ('moov'), probably because the recording was "
                'interrupted. Tools such as untrunc can rebuild it from another file of the same camera.'
            )
    reason = getattr(error, 'strerror', None) or error
    return DataError(f'{path} cannot be read as a video: {reason}. Check that it is a complete video file.')

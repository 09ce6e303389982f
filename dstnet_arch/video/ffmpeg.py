"""The ffmpeg program."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import imageio_ffmpeg  # type: ignore[import-untyped]

from dstnet_arch.errors import DataError, OptionsError

PROTOCOLS = 'file,fd,pipe'
"""What FFmpeg may open: nothing from a network, whatever a playlist names."""


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
    """Arguments that open a local file, whatever its name."""
    return [*options, '-protocol_whitelist', PROTOCOLS, '-i', file_url(path)]


def file_url(path: Path) -> str:
    """The name by which FFmpeg opens a local file, whatever characters are in it."""
    return f'file:{path}'


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

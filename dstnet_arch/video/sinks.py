"""Opening of results: a folder of PNG files or a video file."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dstnet_arch.data.frame_source import IMAGE_EXTENSIONS
from dstnet_arch.errors import OptionsError
from dstnet_arch.video.encoding import CONTAINERS
from dstnet_arch.video.encoding import OutputOptions as OutputOptions
from dstnet_arch.video.image_source import ImageSource
from dstnet_arch.video.segments import count_frames
from dstnet_arch.video.sink import MAX_NAME, FolderSink, Job, Sink, partial_path, tidy
from dstnet_arch.video.source import Source
from dstnet_arch.video.sources import VIDEO_EXTENSIONS
from dstnet_arch.video.video_sink import VideoSink


def open_sink(
    output: Path, source: Source, options: OutputOptions, job: Job, resume: bool = False, overwrite: bool = False
) -> Sink:
    """Open a folder of PNG files or a video file for writing.

    Everything that can be tested before the first frame is tested here: name, permissions, disk space, codec, container
    and the other streams.

    Args:
        output: a video file or a folder; its extension decides.
        source: source of the frames.
        options: for video files.
        job: settings that determine the frames; only a run of the same job continues an interrupted one.
        resume: continue what an interrupted run has left, if it has.
        overwrite: replace an older result and what an interrupted run has left.

    Raises:
        OptionsError: the output exists or is the input, the options do not fit, or an interrupted run of another job
            is in the way.
        DataError: the output cannot be written, another process is writing it, or the disk is too small.
    """
    if isinstance(source, ImageSource) and output.resolve() in {path.resolve().parent for path in source.paths}:
        raise OptionsError(f'-o {output}: the input is in this folder. Give another folder.')
    if source.path is not None and output.exists() and output.samefile(source.path):
        raise OptionsError(f'-o {output}: this is the input. Give another name.')
    if is_folder(output, options):
        return FolderSink(output, source, job, resume, overwrite)
    return VideoSink(output, source, job, resume, overwrite, options)


def is_folder(output: Path, options: OutputOptions) -> bool:
    """Return True if a result with this name is a folder of PNG files, False if it is a video file."""
    return output.is_dir() or (output.suffix.lower() not in CONTAINERS and options.container is None)


def check_output_name(output: Path) -> None:
    """Check that a result can have this name, without opening anything.

    Raises:
        OptionsError: the extension is not supported, or the name is a URL or too long.
    """
    if re.match(r'[a-zA-Z][a-zA-Z0-9+.-]+:/', str(output)):
        raise OptionsError(f'-o {output}: results are written to local files. Give a file or a folder.')
    if not Path(os.path.abspath(output)).name:
        raise OptionsError(f'-o {output} cannot be replaced by a result. Give another name.')
    if len(os.fsencode(output.name)) > MAX_NAME:
        raise OptionsError(f'-o {output}: the name is longer than {MAX_NAME} bytes. Give a shorter one.')
    extension = output.suffix.lower()
    if extension in IMAGE_EXTENSIONS and not output.is_dir():
        raise OptionsError(
            f'-o {output}: frames are written to a folder or to a video file. Give {output.stem} or {output.stem}.mp4.'
        )
    if extension in VIDEO_EXTENSIONS and extension not in CONTAINERS and not output.is_dir():
        raise OptionsError(f'-o {output}: {extension} files are not written. Use .mp4, .mov, .mkv or .webm.')


def is_complete(output: Path, source: Source) -> bool:
    """Return True if `output` already holds all frames of `source` and no interrupted run is left.

    Removes what a run has left that ended between naming its result and tidying up.
    """
    partial = partial_path(Path(os.path.abspath(output)))
    if (partial / 'frames').exists():
        return False
    if output.is_dir():
        names = sorted(f'{name}.png' for name in source.names)
        complete = sorted(entry.name for entry in output.iterdir()) == names
    else:
        complete = output.is_file() and count_frames(output) == (len(source), source.size)
    if complete:
        tidy(partial)
    return complete

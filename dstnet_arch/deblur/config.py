"""Settings of one run of ``dstnet deblur``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

from dstnet_arch.errors import OptionsError
from dstnet_arch.streaming.state_store import StoreKind
from dstnet_arch.video.sinks import OutputOptions, check_output_name, is_folder
from dstnet_arch.video.source import Place
from dstnet_arch.video.sources import VIDEO_EXTENSIONS

CompareMode = Literal['split', 'side']

_URL = re.compile(r'[A-Za-z][A-Za-z0-9+.-]+://')


@dataclass(frozen=True)
class DeblurConfig:
    """Settings of a run that restores one video.

    Attributes:
        input: a video file, a folder of images, an image, or a pattern for images such as ``frames/*.png``.
        output: a video file, or a folder for PNG files.
        weights: name of released weights, or a file.
        device: PyTorch's name of the device; None: a GPU if there is one.
        precision: one of `dstnet_arch.precision.PRECISIONS`; None: tf32 on GPUs that have it, else fp32.
        compile: compile the steps of the propagation with `torch.compile`.
        start: first frame to restore, as a number (negative: from the end) or a time in seconds.
        end: first frame after `start` not to restore.
        resume: continue an interrupted run if there is one.
        overwrite: replace existing results.
        encoding: settings of a video file as output.
        rate: frames per second that override those of the input.
        compare: write frames before and after next to the output; None: do not.
        report: write an HTML page next to the output.
        tile: (width, height) of tiles; 'auto': tiles if the free memory requires them; None: whole frames.
        store: where states are kept; None: chosen from the free memory.
        interval: keep every `interval`-th state; 'sqrt' or 'all'; None: chosen from the free memory.
        temp_dir: folder for temporary files; None: the system's.
    """

    input: str
    output: Path
    weights: str = 'GoPro'
    device: str | None = None
    precision: str | None = None
    compile: bool = False
    start: Place | None = None
    end: Place | None = None
    resume: bool = False
    overwrite: bool = False
    encoding: OutputOptions = field(default_factory=OutputOptions)
    rate: Fraction | None = None
    compare: CompareMode | None = None
    report: bool = False
    tile: tuple[int, int] | Literal['auto'] | None = 'auto'
    store: StoreKind | None = None
    interval: int | Literal['sqrt', 'all'] | None = None
    temp_dir: str | None = None

    def check(self) -> None:
        """Check all that can be checked without opening the input.

        Raises:
            OptionsError: A setting is wrong, settings exclude each other, or a file to be written exists.
        """
        if '-' in (self.input, str(self.output)):
            raise OptionsError('-: pipes are not supported. Give the name of a file or folder.')
        self._check_input()
        check_output_name(self.output)
        if self.encoding != OutputOptions() and not self.writes_video:
            raise OptionsError(
                f'-o {self.output}: --codec, --quality, --pix-fmt and --format apply to video files only. For a video '
                f'file, end the name in {", ".join(VIDEO_EXTENSIONS[:4])} or another extension of videos.'
            )
        if self.temp_dir is not None and not os.path.isdir(self.temp_dir):
            raise OptionsError(f'--temp-dir {self.temp_dir}: there is no such folder.')
        new_file = self.output if self.writes_video and not self.resume else None
        for path in (new_file, self.compare_path, self.report_path):
            if path is not None and os.path.lexists(path):
                self._check_replaceable(path)

    def _check_replaceable(self, path: Path) -> None:
        if not self.overwrite:
            raise OptionsError(f'{path} exists. Move it away, or replace it with --overwrite.')
        for entry in path.iterdir() if path.is_dir() else ():
            if entry.suffix != '.png':
                raise OptionsError(f'{path} is not replaced, because it contains {entry.name}. Move it away.')

    def _check_input(self) -> None:
        if _URL.match(self.input):
            raise OptionsError(f'INPUT {self.input} is a URL. Download the video and give the name of the file.')
        path = Path(self.input)
        if not (path.is_file() or path.is_dir() or set('*?[%') & set(self.input)):
            raise OptionsError(f'INPUT {self.input} does not exist as a file or folder, seen from {os.getcwd()}.')
        if self.output.resolve() in (path.resolve(), path.resolve().parent):
            raise OptionsError(f'-o {self.output}: this is the input or its folder. Give another name.')

    @property
    def writes_video(self) -> bool:
        """True if the output is a video file, False if it is a folder."""
        return not is_folder(self.output, self.encoding)

    @property
    def compare_path(self) -> Path | None:
        """File or folder to write the comparison to; None if none is requested, or `resume` finds one."""
        return self._beside('_compare', '.mp4' if self.writes_video else '') if self.compare else None

    @property
    def report_path(self) -> Path | None:
        """File to write the report to; None if none is requested, or `resume` finds one."""
        return self._beside('_report', '.html') if self.report else None

    def _beside(self, ending: str, suffix: str) -> Path | None:
        output = Path(os.path.abspath(self.output))
        path = output.with_name(f'{output.stem if self.writes_video else output.name}{ending}{suffix}')
        return None if self.resume and os.path.lexists(path) else path

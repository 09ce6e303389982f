"""Image files as a video."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch import Tensor
from typing_extensions import override

from dstnet_arch.data.frame_source import IMAGE_EXTENSIONS, name_some, size_text
from dstnet_arch.data.lmdb_format import natural_key
from dstnet_arch.errors import DataError, counted
from dstnet_arch.video import images
from dstnet_arch.video.colour import Colour, SampleFormat
from dstnet_arch.video.frames import VideoFormat
from dstnet_arch.video.images import Image, ImageKind
from dstnet_arch.video.source import Place, Source, digest_of, frame_numbers
from dstnet_arch.video.timing import DEFAULT_RATE, Timing

_NUMBERED = re.compile(r'%0?\d*d')  # as in ffmpeg: frames/%05d.png
_LAST_NUMBER = re.compile(r'(.*?)(\d+)(\D*)')


class ImageSource(Source):
    """Image files in the order of time, one per frame.

    All headers are read at once, so that files that do not fit together are found before the work.

    Raises:
        DataError: a file is unreadable, sizes differ, or two files have the same name without extension.
    """

    def __init__(self, paths: Sequence[Path], where: str, rate: Fraction = DEFAULT_RATE) -> None:
        self.paths, self.names = list(paths), [path.stem for path in paths]
        if twice := [name for name, count in Counter(self.names).items() if count > 1]:
            both = [str(path) for path in paths if path.stem == twice[0]]
            raise DataError(
                f'{where}: {" and ".join(both[:2])} would both be restored to {twice[0]}.png. Keep one of them, or '
                'give a pattern such as "FOLDER/*.png".'
            )
        self._headers = [images.read_header(path) for path in paths]
        self.size = Counter(header.size for header in self._headers).most_common(1)[0][0]
        pairs = list(zip(paths, self._headers, strict=True))
        if others := [f'{path.name} ({size_text(h.size)})' for path, h in pairs if h.size != self.size]:
            raise DataError(
                f'{where}: all frames of a video must have the same size. Most have {size_text(self.size)}, but not '
                f'{name_some(others)}. Put each video into its own folder.'
            )
        self.warnings = [f'{where}: {gap}' for gap in _gaps(self.names)]
        if more := [path.name for path, header in pairs if header.num_pages > 1]:
            self.warnings.append(
                f'{where}: {name_some(more)} have several pages; only the first is used. Give such a file as INPUT '
                'to restore all of its pages.'
            )
        self.timing = Timing.constant(rate, len(self.paths))

    @property
    @override
    def format(self) -> VideoFormat:
        kind = self.kind(0)
        depth = 16 if kind.dtype == np.uint16 else 8
        return VideoFormat(SampleFormat('rgb', depth, alpha=kind.alpha), Colour())

    def __getitem__(self, position: int) -> Tensor:
        return images.to_frame(self._read(position))

    @override
    def kind(self, position: int) -> ImageKind:
        return ImageKind.of(self._read(position))

    @override
    def alpha(self, position: int) -> Tensor | None:
        return images.to_alpha(self._read(position))

    @override
    def icc_profile(self, position: int) -> bytes | None:
        return self._headers[position].icc_profile

    @override
    def identity(self) -> str:
        return digest_of(self.paths, self.timing.rate)

    def _read(self, position: int) -> Image:
        path = self.paths[position]
        image = images.read_image(path)
        if image.shape[:2] != self.size:
            raise DataError(
                f'{path} is {size_text(image.shape[:2])} now and was {size_text(self.size)} before: it was changed. '
                'Start again.'
            )
        return image


class PageSource(ImageSource):
    """Pages of a TIFF file or frames of an animated WebP, unpacked into a temporary folder.

    The arguments are those of `open_source`.
    """

    def __init__(
        self, path: Path, start: Place | None, end: Place | None, rate: Fraction | None, temp_dir: str | None
    ) -> None:
        self.path = path
        self._folder = TemporaryDirectory(prefix='dstnet-', dir=temp_dir)
        try:
            durations, num_skipped = self._unpack()
            has_times = rate is None and min(durations) > 0
            unit = Fraction(1, 1000) if has_times else 1 / (rate or DEFAULT_RATE)
            starts = [0, *accumulate(durations)] if has_times else list(range(len(durations) + 1))
            self._chosen = chosen = frame_numbers([time * unit for time in starts[:-1]], path, start, end)
            super().__init__([self._page(number) for number in chosen], str(path), rate or DEFAULT_RATE)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise DataError(f'{path} cannot be unpacked: {error}. Free some space, or set --temp-dir.') from None
            raise
        if num_skipped:
            self.warnings = [f'{path}: {counted(num_skipped, "page")} of another size left out.']
        if has_times:
            kept = [starts[number] - starts[chosen.start] for number in (*chosen, chosen.stop)]
            average = len(chosen) / (kept[-1] * unit)
            self.timing = Timing(unit, kept[:-1], kept[-1] - kept[-2], average)

    @override
    def identity(self) -> str:
        assert self.path is not None
        return digest_of([self.path], self._chosen, self.timing.rate)

    @override
    def close(self) -> None:
        self._folder.cleanup()

    def _unpack(self) -> tuple[list[int], int]:
        """Write the pages as PNG files; return their durations in ms and the number of pages of other sizes."""
        assert self.path is not None
        header, num_skipped = images.read_header(self.path), 0
        durations: list[int] = []
        for image, duration in images.read_pages(self.path):
            if image.shape[:2] == header.size:
                images.write_png(image, self._page(len(durations)), header.icc_profile)
                durations.append(duration)
            else:  # a thumbnail
                num_skipped += 1
        return durations, num_skipped

    def _page(self, number: int) -> Path:
        return Path(self._folder.name, f'{number:06d}.png')


def find_images(name: str) -> list[Path]:
    """Return the images in a folder, or those that a pattern such as ``'*.png'`` or ``%05d.png`` names, in order.

    Raises:
        DataError: there are none.
    """
    path = Path(name)
    try:
        if path.is_dir():
            found = [entry for entry in path.iterdir() if _is_image(entry)]
        elif path.is_file():
            found = [path]  # the content decides, not the name
        elif _NUMBERED.search(path.name):
            pattern = r'\d+'.join(map(re.escape, _NUMBERED.split(path.name)))
            found = [entry for entry in path.parent.iterdir() if re.fullmatch(pattern, entry.name)]
        else:
            matches = map(Path, glob.glob(name) or glob.glob(os.path.join(glob.escape(str(path.parent)), path.name)))
            found = [match for match in matches if _is_image(match)]
        if found:
            return sorted(found, key=lambda path: natural_key(path.name))
        entries = sorted(path.iterdir() if path.is_dir() else map(Path, glob.glob(name)))
        names = [entry.name for entry in entries if not entry.name.startswith('.')]
    except OSError as error:
        raise DataError(f'{name} cannot be read: {error}.') from None
    if names:
        hint = f'It contains {name_some(names)}: give one of them.'
    elif path.exists():
        hint = 'Give another one.'
    else:
        hint = f'It does not exist; the current folder is {os.getcwd()}.'
    raise DataError(f'{name} has no images in it, which are files ending in {", ".join(IMAGE_EXTENSIONS)}. {hint}')


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith('.') and path.is_file()


def _gaps(names: Sequence[str]) -> list[str]:
    """Describe what is missing if the names are numbers with a constant step."""
    matches = [_LAST_NUMBER.fullmatch(name) for name in names]
    numbers = [int(match[2]) for match in matches if match]
    frames = {(match[1], match[3]) for match in matches if match}
    steps = {b - a for a, b in pairwise(numbers)}
    if len(numbers) != len(names) or len(frames) > 1 or len(steps) < 2 or min(steps) < 1:
        return []
    gaps = [
        f'{a} to {b}' for (a, b), (m, n) in zip(pairwise(names), pairwise(numbers), strict=True) if n - m > min(steps)
    ]
    missing = name_some(gaps, 3)
    return [f'frames are missing in the numbering, from {missing}. The others are used as consecutive frames.']

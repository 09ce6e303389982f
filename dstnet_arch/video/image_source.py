"""Image files as a video."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from dstnet_arch.data.frame_source import name_some, size_text
from dstnet_arch.errors import DataError, counted
from dstnet_arch.streaming.state_store import TensorFile
from dstnet_arch.video.colour import Colour, SampleFormat
from dstnet_arch.video.frames import VideoFormat
from dstnet_arch.video.images import Image, ImageKind, read_header, read_image, read_pages, to_alpha, to_frame, to_image
from dstnet_arch.video.source import Place, Source, digest, file_facts, frame_numbers, nothing_chosen
from dstnet_arch.video.timing import DEFAULT_RATE, Timing

_LAST_NUMBER = re.compile(r'(.*?)(\d+)(\D*)')


class ImageSource(Source):
    """Image files, one per frame.

    All headers are read at once, so that files that do not fit together are found before the work.

    Args:
        paths: the files in the order of time, at least one.
        where: what the user has called them.
        rate: frames per second.

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
        self._headers = [read_header(path) for path in paths]
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
        kind = ImageKind.of(self._read(0))
        depth = 16 if kind.dtype == np.uint16 else 8
        return VideoFormat(SampleFormat('rgb', depth, alpha=kind.alpha), Colour())

    def __getitem__(self, position: int) -> Tensor:
        return to_frame(self._read(position))

    @override
    def restored_image(self, position: int, restored: Tensor) -> Image:
        original = self._read(position)
        kind = ImageKind.of(original)
        image = to_image(restored, kind)
        if kind.alpha:  # alpha stays as it was
            original = original.copy()
            original[..., :3] = image
            return original
        return image

    @override
    def alpha(self, position: int) -> Tensor | None:
        return to_alpha(self._read(position))

    @override
    def icc_profile(self, position: int) -> bytes | None:
        return self._headers[position].icc_profile

    @override
    def identity(self) -> str:
        return digest(''.join(f'{file_facts(path)}\n' for path in self.paths) + f'{self.timing.rate}')

    def _read(self, position: int) -> Image:
        path = self.paths[position]
        image = read_image(path)
        if image.shape[:2] != self.size:
            raise DataError(
                f'{path} is {size_text(image.shape[:2])} now and was {size_text(self.size)} before: it was changed. '
                'Start again.'
            )
        return image


class PageSource(ImageSource):
    """Pages of a TIFF file or frames of an animated WebP, which are read at once into a temporary file.

    Args:
        path: the file.
        start: first frame to use.
        end: first frame after `start` not to use.
        rate: frames per second; None: the file's own durations, or the default.
        temp_dir: folder for the temporary file.

    Raises:
        DataError: the file is damaged.
    """

    def __init__(
        self, path: Path, start: Place | None, end: Place | None, rate: Fraction | None, temp_dir: str | None
    ) -> None:
        self.paths = [path]
        self._images = TensorFile(temp_dir)
        self._kinds: list[ImageKind] = []
        header = read_header(path)
        durations, self.size, skipped = [], header.size, 0
        for image, duration in read_pages(path):
            if image.shape[:2] != self.size:  # a thumbnail
                skipped += 1
                continue
            self._kinds.append(ImageKind.of(image))
            durations.append(duration)
            self._images.append(torch.from_numpy(np.array(image, order='C').view(np.uint8)))
        self._icc_profile = header.icc_profile
        self.warnings = [f'{path}: {counted(skipped, "page")} of another size left out.'] if skipped else []
        if rate is None and min(durations) > 0:
            starts = [0, *accumulate(durations)]
        else:
            ms_per_frame = 1000 / (rate or DEFAULT_RATE)
            starts = [round(i * ms_per_frame) for i in range(len(durations) + 1)]
        chosen = range(len(durations))[slice(*frame_numbers([Fraction(t, 1000) for t in starts[:-1]], start, end))]
        if not chosen:
            raise nothing_chosen(path, len(durations), start, end)
        self._chosen = chosen
        self.names = [f'{number:06d}' for number in chosen]
        self.timing = Timing.constant(rate or DEFAULT_RATE, len(chosen))
        if rate is None and min(durations) > 0:
            kept = [starts[i] - starts[chosen.start] for i in (*chosen, chosen.stop)]
            average = Fraction(1000 * len(chosen), kept[-1])
            self.timing = Timing(Fraction(1, 1000), kept[:-1], kept[-1] - kept[-2], average)

    @override
    def icc_profile(self, position: int) -> bytes | None:
        return self._icc_profile

    @override
    def close(self) -> None:
        self._images.close()

    def _read(self, position: int) -> Image:
        number = self._chosen[position]
        return self._images[number].numpy().view(self._kinds[number].dtype)


def _gaps(names: Sequence[str]) -> list[str]:
    """Describe what is missing if the names are numbers with a constant step."""
    matches = [_LAST_NUMBER.fullmatch(name) for name in names]
    numbers = [int(match[2]) for match in matches if match]
    frames = {(match[1], match[3]) if match else None for match in matches}
    if len(numbers) < 3 or len(frames) != 1 or None in frames:
        return []
    steps = [b - a for a, b in pairwise(numbers)]
    usual = min(steps)
    gaps = [f'{a} to {b}' for (a, b), step in zip(pairwise(names), steps, strict=True) if step != usual]
    if not gaps or usual < 1:
        return []
    return [
        f'frames are missing in the numbering, from {name_some(gaps, 3)}. The others are used as consecutive frames.'
    ]

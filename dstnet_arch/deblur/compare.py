"""``dstnet deblur --compare``: the frames before and after in one picture each, as a video or a folder of pictures."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from dstnet_arch.video.sinks import PARTIAL_SUFFIX, PictureSink, Sink
from dstnet_arch.video.sources import Source
from dstnet_arch.visualize.canvas import Image, pad
from dstnet_arch.visualize.compare import side_by_side, split_view

if TYPE_CHECKING:  # it needs PyAV, without which folders can be compared
    from dstnet_arch.video.encoder import Encoding

Mode = Literal['split', 'side']
MODES: Sequence[Mode] = ('split', 'side')


def compose(before: Image, after: Image, mode: Mode) -> Image:
    """Put a frame before and after into one picture, under their names.

    Args:
        before: (H, W, 3) uint8 RGB.
        after: the same shape.
        mode: 'split': the left half of one and the right half of the other; 'side': both side by side.

    Returns:
        (H', W', 3) uint8 RGB, H' and W' even, as most video codecs want them.
    """
    frames = {'before': before, 'after': after}
    split = mode == 'split' and before.shape[1] > 1
    view = split_view(frames, sharp=None) if split else side_by_side(frames, sharp=None)
    height, width = (side + side % 2 for side in view.shape[:2])
    return pad(view, height, width)


class Comparison:
    """An `Observer` that writes each frame before and after as one picture.

    Args:
        target: what `sink` writes.
        sink: where to write. What is not finished is removed, as it is made again in little time.
        render: makes of a picture what `sink` takes.
        mode: as for `compose`.
    """

    def __init__(self, target: Path, sink: Sink[Any], render: Callable[[Image], Any], mode: Mode) -> None:
        self._target, self._sink, self._render, self._mode = target, sink, render, mode

    def see(self, position: int, before: Image, after: Image) -> None:
        self._sink.write(position, partial(self._make, before, after))

    def finish(self) -> Path:
        self._sink.finish()
        return self._target

    def close(self) -> None:
        self._sink.close()
        shutil.rmtree(self._target.with_name(self._target.name + PARTIAL_SUFFIX), ignore_errors=True)

    def _make(self, before: Image, after: Image) -> Any:
        return self._render(compose(before, after, self._mode))


def compare_pictures(target: Path, names: Sequence[str], mode: Mode) -> Comparison:
    """Write PNG files of these names to a folder, in place of an older one.

    Raises:
        DSTNetError: as `PictureSink`.
    """
    return Comparison(target, PictureSink(target, names, {}, overwrite=True), lambda image: image, mode)


def compare_video(target: Path, source: Source, encoding: Encoding, container: str, mode: Mode) -> Comparison:
    """Write a video file in place of an older one, encoded like the result and with all that goes along with it.

    Raises:
        DSTNetError: as `VideoSink`.
    """
    from dstnet_arch.video.video_sink import VideoSink

    blank = np.zeros((*source.size, 3), np.uint8)
    height, width = compose(blank, blank, mode).shape[:2]
    fitting = encoding._replace(size=(height, width))
    sink = VideoSink(target, source, fitting, container, {}, overwrite=True)
    return Comparison(target, sink, partial(_planes, fitting), mode)


def _planes(encoding: Encoding, image: Image) -> Any:
    from dstnet_arch.video.colour import from_rgb

    frame = torch.from_numpy(image.copy()).permute(2, 0, 1) / 255
    form = encoding.format
    return from_rgb(frame, form, encoding.colour.resolved(*encoding.size, form.family))

"""Restoring a video from where it is to where it goes, in one go or what an interrupted run has left of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from dstnet_arch.errors import DataError, DSTNetError
from dstnet_arch.memory_errors import memory_explained
from dstnet_arch.nonfinite import first_nonfinite
from dstnet_arch.streaming.live import LiveStreamer
from dstnet_arch.streaming.memory import peak_memory
from dstnet_arch.streaming.streamer import Streamer
from dstnet_arch.video.sinks import Sink
from dstnet_arch.video.sources import ReadAhead, Source

_SAVE_SECONDS = 30.0  # between the points from which an interrupted run can go on

MEMORY_ADVICE = (
    'States take less with --interval sqrt or --store disk, a single frame with --tile 512x512, --precision bf16 or on '
    'another --device.'
)

Made = TypeVar('Made')
Render = Callable[[int, Tensor], Made]
"""What a sink is given, of the number of a frame and the restored frame (3, H, W)."""


def restore(
    source: Source,
    sink: Sink[Made],
    streamer: Streamer | LiveStreamer,
    render: Render[Made],
    show_progress: bool = True,
) -> None:
    """Restore a video, or what an interrupted run has left of it to be restored.

    Args:
        source: what to read.
        sink: where to write.
        streamer: what restores. A `LiveStreamer` always begins at the first frame.
        render: makes of restored frames what `sink` takes, such as `source.restored_picture`.
        show_progress: a bar on standard error.

    Raises:
        DataError: a frame cannot be read or written, or what came out is not finite. What is done is kept by `sink`.
        DSTNetError: memory is short.
    """
    if isinstance(streamer, LiveStreamer):
        _restore_live(source, sink, streamer, render, show_progress)
    elif sink.position < len(source):
        _restore_rest(source, sink, streamer, render, show_progress)
    sink.finish()


def _restore_live(
    source: Source, sink: Sink[Made], streamer: LiveStreamer, render: Render[Made], show_progress: bool
) -> None:
    with (
        memory_explained(MEMORY_ADVICE),
        closing(ReadAhead(source)) as frames,
        closing(_Bar(len(source), torch.device('cpu'), show_progress)) as bar,
    ):
        for position, restored in enumerate(streamer(frames[t] for t in range(len(source)))):
            _check_finite(restored, source, position, streamer)
            sink.write(position, partial(render, position, restored))
            bar.device = restored.device
            bar.step(2 * position + 2, 2 * len(source))


def _restore_rest(
    source: Source, sink: Sink[Made], streamer: Streamer, render: Render[Made], show_progress: bool
) -> None:
    done: tuple[int, Tensor] | None = None
    saved = time.monotonic()
    device = next(streamer.net.parameters()).device
    try:
        with (
            memory_explained(MEMORY_ADVICE),
            closing(ReadAhead(source)) as frames,
            closing(_Bar(len(source) - sink.position, device, show_progress)) as bar,
            closing(streamer(frames, start=sink.position, state=sink.state, progress=bar.step)) as stream,
        ):
            for restored in stream:
                position = stream.position - 1
                _check_finite(restored, source, position, streamer)
                sink.write(position, partial(render, position, restored))
                assert stream.state is not None
                done = stream.position, stream.state
                if time.monotonic() - saved > _SAVE_SECONDS:
                    sink.save(*done)
                    saved = time.monotonic()
    except BaseException:
        if done:
            with suppress(DSTNetError):  # the first error is the one to be told
                sink.save(*done)
        raise
    if done:
        sink.save(*done)  # to be finished again without restoring anything, should that fail


def _check_finite(restored: Tensor, source: Source, position: int, streamer: Streamer | LiveStreamer) -> None:
    if torch.isfinite(restored).all():
        return
    # Once more, with the frames beside it, to see where it begins: enough unless it has built up over many frames.
    first = None
    with suppress(DSTNetError, RuntimeError, MemoryError):  # the error to be told is that below
        frames = [source[t] for t in range(max(0, position - 1), min(position + 2, len(source)))]
        first = first_nonfinite(streamer.net, lambda: list(streamer(frames)))
    raise DataError(
        f'Frame {source.names[position]}: the network gave values that are not finite.'
        f'{f" The first: {first}." if first else ""} Take --precision fp32, or other weights.'
    )


class _Bar:
    """Frames, frames a second, time to go and memory. Each of a stream's steps counts for a part of a frame."""

    def __init__(self, num_frame: int, device: torch.device, show: bool) -> None:
        self._num_frame, self.device = num_frame, device
        form = '{desc}: {percentage:3.0f}% |{bar}| {n:.0f} of {total:.0f} [{elapsed}<{remaining}, {rate_fmt}{postfix}]'
        self._bar = tqdm(total=num_frame, unit='frame', bar_format=form, disable=not show, desc='looking ahead')

    def step(self, done: int, total: int) -> None:
        """What a stream calls."""
        self._bar.total, self._bar.unit_scale = total, self._num_frame / total
        if 2 * done > total:
            self._bar.set_description_str('restoring', refresh=False)
        self._bar.set_postfix_str(f'{peak_memory(self.device) / 1e9:.1f} GB', refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()

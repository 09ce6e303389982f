"""Restore a video from a source to a sink, from the start or from where an interrupted run stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress

import torch
from torch import Tensor

from dstnet_arch.errors import DataError, DSTNetError
from dstnet_arch.memory_errors import translate_oom
from dstnet_arch.nonfinite import first_nonfinite
from dstnet_arch.streaming.streamer import Streamer
from dstnet_arch.video.sink import Sink
from dstnet_arch.video.source import Source
from dstnet_arch.video.sources import ReadAhead

_MEMORY_ADVICE = (
    'States need less with --interval sqrt or --store disk, a frame with --tile 512x512, with --precision bf16 or on '
    'another --device.'
)


def restore(source: Source, sink: Sink, streamer: Streamer, step: Callable[[str, int, int], None]) -> None:
    """Restore all frames that the sink does not hold yet.

    If anything ends the work, finished frames are kept by the sink, so that a later run can continue.

    Args:
        source: the blurry video.
        sink: receives the restored frames.
        streamer: restores them.
        step: called after each step of the computation with its stage, steps done and steps in total. Errors that it
            raises end the work.

    Raises:
        DataError: A frame cannot be read or written, or the network returned a value that is not finite.
        DSTNetError: Memory ran out.
    """
    if sink.position >= len(source):
        return

    def count(steps: int, total: int) -> None:
        step('backward pass' if 2 * steps <= total else 'restoring', steps, total)

    with (
        translate_oom(_MEMORY_ADVICE),
        closing(ReadAhead(source)) as frames,
        closing(streamer(frames, start=sink.position, state=sink.state, progress=count)) as stream,
    ):
        waiting: deque[_Restored] = deque()
        for frame in stream:
            assert stream.state is not None
            waiting.append(_Restored(stream.position - 1, frame, stream.state))
            if len(waiting) > _frames_ahead(frame):
                _write(waiting.popleft(), source, sink, streamer)
        while waiting:
            _write(waiting.popleft(), source, sink, streamer)


class _Restored:
    """A restored frame, the state after it, and a check that does not wait for the device before it is asked."""

    def __init__(self, position: int, frame: Tensor, state: Tensor) -> None:
        self.position, self.frame, self.state = position, frame, state
        self._finite = torch.isfinite(frame).all().to('cpu', non_blocking=True)
        self._checked = torch.cuda.current_stream(frame.device).record_event() if frame.is_cuda else None

    def is_finite(self) -> bool:
        if self._checked is not None:
            self._checked.synchronize()
        return bool(self._finite)


def _frames_ahead(frame: Tensor) -> int:
    """Number of frames that a GPU receives the work for before the results of earlier ones are awaited."""
    return 1 if frame.is_cuda else 0


def _write(restored: _Restored, source: Source, sink: Sink, streamer: Streamer) -> None:
    if not restored.is_finite():
        raise _nonfinite_error(source, restored.position, streamer)
    sink.write(restored.position, restored.frame)
    sink.save(restored.position + 1, restored.state)


def _nonfinite_error(source: Source, position: int, streamer: Streamer) -> DataError:
    # Repeat the computation for three frames to find the layer: enough unless the error builds up over many frames.
    first = None
    # Layers inside compiled code cannot be watched.
    with suppress(DSTNetError, RuntimeError, MemoryError), torch.compiler.set_stance('force_eager'):
        frames = [source[t] for t in range(max(0, position - 1), min(position + 2, len(source)))]
        first = first_nonfinite(streamer.net, lambda: list(streamer(frames)))
    return DataError(
        f'Frame {source.names[position]}: the network returned values that are not finite.'
        f'{f" First: {first}." if first else ""} Use --precision fp32 or other weights.'
    )

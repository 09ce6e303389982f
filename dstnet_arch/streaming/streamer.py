"""Exact streaming: a video of any length, frame by frame, with the result that the network gives for the whole clip.

The network looks at all frames twice, backward and then forward, and so a stream does: first from the last frame to
the first, keeping of each frame only the result of the backward propagation (the *state*, C channels at half size),
then from the first frame to the last. Through the CWGDN blocks, which see neighbouring frames, the frames pass in a
row, three inside a block at a time. The high bands, which bypass all that, are made from the frame where they are
wanted. What lies on the computing device does not depend on the number of frames; the states wait in a store.

Where T states are too many even for the store, a stream keeps every S-th one, and repeats the backward propagation of
S frames whenever it has come to them: T/S + S states, least for S = sqrt(T), for about half as much work again.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.arguments import Size
from dstnet_arch.ops.reflect_pad import reflect_pad
from dstnet_arch.streaming.memory import device_memory, tile_plans
from dstnet_arch.streaming.stages import stages_of
from dstnet_arch.streaming.state_store import StoreKind, make_store, spool
from dstnet_arch.streaming.tiles import Maps, Plan, TiledStages

Progress = Callable[[int, int], None]


@runtime_checkable
class Frames(Protocol):
    """Frames that can be read again, in any order: a list, a tensor (T, 3, H, W), a video file with seeking, …

    Each is a tensor (3, H, W), or (B, 3, H, W) for B videos side by side, on any device: RGB, floating point in
    [0, 1] or uint8. All are of one shape.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> Tensor: ...


class Streamer:
    """Restores videos frame by frame, exactly as `net` restores whole clips.

    >>> streamer = Streamer(load_checkpoint('GOPRO.pth', 'cuda'))  # doctest: +SKIP
    >>> for frame in streamer(frames):  # doctest: +SKIP
    ...     show(frame)

    Computes on the device and in the precision of the network's parameters, without gradients.

    Args:
        net: a DSTNet or DSTNetPlus.
        autocast: run convolutions in this reduced precision, as `torch.autocast` does.
        store: where states wait: on the 'device', in the 'host's memory or in a temporary file on 'disk'. A state is
            2·B·C·H·W bytes in the network's float32, half that in a 16-bit `autocast` (C: channels of the
            propagation): 59 MB for a 1280x720 frame with 64 channels.
        interval: None: keep all states. A number S: keep every S-th, and those of S frames (see the module). 'sqrt':
            the S that keeps the fewest. For each stretch of S frames, the CWGDN blocks repeat 20 frames beside it (a
            seventh of the backward propagation's work each): a small S is slow.
        temp_dir: folder for temporary files; None: the system's.
        tile: (width, height) in pixels: go through large frames in tiles of at most this size (rounded up to multiples
            of 32), with the same result in less memory, see `dstnet_arch.streaming.tiles`. 'auto': where the memory
            that is free needs it. None: never.
        maps: with a size as `tile`, where the features of whole frames wait between the stages: on the 'device' or in
            the 'host's memory, which is slow, and leaves the device little more than a tile.

    Raises:
        TypeError: `net` is another network.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        net: VideoNet,
        *,
        autocast: torch.dtype | None = None,
        store: StoreKind = 'host',
        interval: int | Literal['sqrt'] | None = None,
        temp_dir: str | os.PathLike[str] | None = None,
        tile: tuple[int, int] | Literal['auto'] | None = None,
        maps: Maps = 'device',
    ) -> None:
        if interval not in (None, 'sqrt') and not (isinstance(interval, int) and interval >= 1):
            raise ValueError(f"interval can be None, 'sqrt' or a number of frames from 1 up; got {interval!r}.")
        make_store(store, temp_dir).close()  # what cannot be made is said here, not after the first frame
        if tile not in (None, 'auto') and (isinstance(tile, str) or min(tile) < 1):
            raise ValueError(f"tile can be None, 'auto' or a width and a height in pixels from 1 up; got {tile!r}.")
        if maps not in get_args(Maps):
            raise ValueError(f'maps can be {", ".join(get_args(Maps))}; got {maps!r}.')
        self.net, self.tile, self.maps = net, tile, maps
        self._tiled = None if tile is None else TiledStages(net, self._plans)
        self.stages = stages_of(net) if self._tiled is None else self._tiled.stages()
        self.autocast, self.store, self.interval, self.temp_dir = autocast, store, interval, temp_dir

    def __call__(
        self,
        frames: Frames | Iterable[Tensor],
        *,
        start: int = 0,
        state: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Stream:
        """Restore a video.

        Args:
            frames: the blurry frames, see `Frames`. An iterator or another iterable that cannot be read again is
                written to a temporary file first.
            start: give the restored frames from this one on, of a stream that was interrupted. The frames before are
                read only as neighbours.
            state: the interrupted stream's `state`, when frame `start - 1` had been given.
            progress: called after each step with (steps done, steps in all); about half the steps, those of the
                backward propagation, come before the first restored frame.

        Returns:
            An iterator of the restored frames in order, each of its input's shape, on the network's device, not
            clamped.

        Raises:
            ValueError: there are no frames, or they are no frames; `start` and `state` do not fit.
            DataError: a temporary file cannot be written.
        """
        return Stream(self, frames, start, state, progress)

    def state_bytes(self, height: int, width: int) -> int:
        """Bytes of the state of one frame (3, height, width)."""
        parameter = next(self.net.parameters())
        channels = getattr(self.net, 'prop_feat', self.net.config['num_feat'])
        pixels = self.net.padded_side(height) * self.net.padded_side(width) // 4
        return channels * pixels * (self.autocast or parameter.dtype).itemsize

    def plan(self, height: int, width: int) -> Plan:
        """How frames (3, height, width) are restored: whole or in tiles; asking for a `tile` of 'auto' settles it."""
        if self._tiled is None:
            return Plan()
        return self._tiled.plan(1, self.net.padded_side(height), self.net.padded_side(width))

    def _plans(self, batch: int, height: int, width: int) -> list[Plan]:
        if self.tile is None or self.tile == 'auto':
            device = next(self.net.parameters()).device
            return tile_plans(self.net, (batch, height, width), device_memory(device), device.type)
        return [Plan(Size(*self.tile), self.maps)]

    def num_states(self, num_frame: int) -> int:
        """How many states are kept at the same time for a video of so many frames."""
        segments = _segments(range(num_frame), self.interval)
        return len(segments[0]) + max(len(segments) - 2, 0)


class Stream(Iterator[Tensor]):
    """Restored frames as they come; made by calling a `Streamer`.

    Attributes:
        position: number of the frame that comes next.
        state: what is needed, beside the frames, to begin a stream at `position`; None before the first frame.
    """

    def __init__(
        self,
        streamer: Streamer,
        frames: Frames | Iterable[Tensor],
        start: int,
        state: Tensor | None,
        progress: Progress | None,
    ) -> None:
        self._settings, self._stages, self._progress = streamer, streamer.stages, progress
        self._cleanup = ExitStack()
        if not isinstance(frames, Frames):
            frames = self._cleanup.enter_context(closing(spool(frames, streamer.temp_dir)))
        self._frames = _Reader(frames, streamer.net)
        total = len(frames)
        if not total:
            raise ValueError('There are no frames to restore.')
        if not 0 <= start < total or (state is None) != (start == 0):
            raise ValueError(
                f'A stream of {total} frames begins at frame 0, or, given the state of the one before, at a later one; '
                f'got start={start} {"without" if state is None else "with"} a state.'
            )
        self.position = start
        self.state = None if state is None else state.to(self._frames.device)
        self._segments = _segments(range(start, total), streamer.interval)
        self._steps = 0
        self._total_steps = 2 * (total - start) + sum(map(len, self._segments[1:]))
        self._restored = self._restore()

    def __next__(self) -> Tensor:
        # Here and not in the generators: a context entered in one would stay in force while its user does other work.
        try:
            with torch.no_grad(), self._autocast():
                return next(self._restored)
        except BaseException:  # StopIteration, too
            self.close()
            raise

    def close(self) -> None:
        """Give memory and temporary files back; the stream has ended then."""
        self._restored.close()
        self._cleanup.close()

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = self._settings.autocast
        return torch.autocast(self._frames.device.type, dtype=dtype, enabled=dtype is not None)

    def _restore(self) -> Generator[Tensor, None, None]:
        with ExitStack() as stack:
            checkpoints, states = (
                stack.enter_context(closing(make_store(self._settings.store, self._settings.temp_dir)))
                for _ in range(2)
            )
            first, wanted = self._segments[0], {segment.start for segment in self._segments[2:]}
            for t, state in self._backward(range(first.start, self._segments[-1].stop), None):
                if t in first:
                    states.put(t, state)
                elif t in wanted:
                    checkpoints.put(t, state)
            for segment in self._segments:
                if segment is not first:
                    at_end = segment is self._segments[-1]
                    after = None if at_end else checkpoints.take(segment.stop)
                    for t, state in self._backward(segment, after):
                        states.put(t, state)
                for t in segment:
                    yield self._forward(t, states.take(t))

    def _backward(self, segment: range, state: Tensor | None) -> Iterator[tuple[int, Tensor]]:
        """Number and state of each frame of a segment, last frame first; given the state of the frame after it, or
        None at the end of the video."""
        stop = min(segment.stop + self._stages.reach, len(self._frames))
        waiting: deque[Tensor] = deque()  # frames whose features are on their way through the blocks

        def features() -> Iterator[Tensor]:
            for t in reversed(range(stop)):
                waiting.append(self._frames.read(t))
                yield self._stages.encode(self._frames.prepare(waiting[-1]))

        for t, explored in zip(reversed(range(stop)), self._stages.explore(features()), strict=False):
            frame = self._frames.prepare(waiting.popleft())
            if t >= segment.stop:
                continue
            state = self._stages.backward(self._stages.prepare(frame, explored), state)
            self._count_step()
            yield t, state
            if t == segment.start:
                return

    def _forward(self, t: int, backward_state: Tensor) -> Tensor:
        state = self._stages.forward(backward_state, self.state)
        frame = self._frames.read(t)
        restored = self._stages.finish(self._frames.prepare(frame), state)
        self.position, self.state = t + 1, state
        self._count_step()
        return restored[..., : frame.shape[-2], : frame.shape[-1]].reshape(frame.shape).contiguous()

    def _count_step(self) -> None:
        self._steps += 1
        if self._progress is not None:
            self._progress(self._steps, self._total_steps)


class _Reader:
    """Reads frames, checks them, and makes of them what the stages of a network take."""

    def __init__(self, frames: Frames, net: VideoNet) -> None:
        if isinstance(frames, Tensor) and frames.dim() != 4:
            raise ValueError(
                f'As one tensor, frames are (T, 3, H, W); got {tuple(frames.shape)}. Give clip.unbind(1) for clips '
                '(B, T, 3, H, W).'
            )
        self._frames, self._net = frames, net
        parameter = next(net.parameters())
        self.device, self._dtype = parameter.device, parameter.dtype
        self._shape: torch.Size | None = None

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, t: int) -> Tensor:
        """The frame as its source gives it, checked."""
        frame = self._frames[t]
        kind = frame.dtype if isinstance(frame, Tensor) else type(frame).__name__
        if (
            not isinstance(frame, Tensor)
            or frame.dim() not in (3, 4)
            or frame.shape[-3] != 3
            or not (frame.is_floating_point() or frame.dtype == torch.uint8)
        ):
            shape = tuple(getattr(frame, 'shape', ()))
            raise ValueError(
                'Frames are tensors (3, H, W) or (B, 3, H, W), floating point in [0, 1] or uint8; '
                f'frame {t} is {shape} of {kind}.'
            )
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:
            raise ValueError(f'Frame {t} is {tuple(frame.shape)}, others are {tuple(self._shape)}; all must be alike.')
        return frame

    def prepare(self, frame: Tensor) -> Tensor:
        """A frame in the network's terms: (B, 3, H', W') on its device, padded."""
        x = frame.to(self.device).to(self._dtype)
        if frame.dtype == torch.uint8:
            x = x / 255
        x = x if x.dim() == 4 else x.unsqueeze(0)
        x = reflect_pad(x, self._net.padded_side(x.shape[-2]), self._net.padded_side(x.shape[-1]))
        return x.contiguous(memory_format=torch.channels_last)


def _segments(frames: range, interval: int | str | None) -> list[range]:
    """The stretches of frames whose states are kept at the same time."""
    length = math.ceil(math.sqrt(len(frames))) if interval == 'sqrt' else int(interval or len(frames))
    return [frames[i : i + length] for i in range(0, len(frames), length)]

"""Exact streaming: restore a video of any length frame by frame, with the network's result for the complete clip."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from dstnet_arch.archs.derived_weights import DerivedWeights
from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.arguments import Size
from dstnet_arch.ops.reflect_pad import reflect_pad
from dstnet_arch.streaming.graphs import GraphedStages, uses_graphs
from dstnet_arch.streaming.memory import device_memory, tile_plans
from dstnet_arch.streaming.stages import Stages, stages_of
from dstnet_arch.streaming.state_store import StateStore, StoreKind, TensorFile
from dstnet_arch.streaming.tiles import Maps, Plan, TiledStages
from dstnet_arch.streaming.upload import Uploader, to_floating_point

Progress = Callable[[int, int], None]


@runtime_checkable
class Frames(Protocol):
    """Frames that can be read repeatedly and in any order: a list, a tensor (T, 3, H, W), a seekable video file.

    Each is a tensor (3, H, W), or (B, 3, H, W) for B videos processed together, on any device: RGB, floating point in
    [0, 1] or uint8. All have the same shape.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> Tensor: ...


class WeightCache(NamedTuple):
    """What streams can share while the weights do not change.

    Attributes:
        derived_weights: merged and cast weights.
        stages: the network's stages; on a GPU, they are replayed as CUDA graphs.
    """

    derived_weights: DerivedWeights
    stages: Stages


class Streamer:
    """Restore videos frame by frame, exactly as `net` restores complete clips.

    >>> streamer = Streamer(load_checkpoint('GOPRO.pth', 'cuda'))  # doctest: +SKIP
    >>> for frame in streamer(frames):  # doctest: +SKIP
    ...     show(frame)

    Computes on the device and in the precision of the network's parameters, without gradients. Like the network, a
    stream goes through all frames twice. The backward pass keeps the result of the backward propagation of each frame
    (its *state*, C channels at half the frame size) in a store; the forward pass restores the frames in order. Memory
    on the computing device does not depend on the number of frames.

    Args:
        net: a DSTNet or DSTNetPlus.
        autocast: data type for `torch.autocast`; None: no autocast.
        store: where states are kept: on the 'device', in the 'host's memory or in a temporary file on 'disk'. A state
            has 2·B·C·H·W bytes for a network in float32, half of that with a 16-bit `autocast` (C: channels of the
            propagation): 59 MB for a 1280x720 frame with 64 channels.
        interval: None: keep all states. A number S: keep every S-th one, and repeat the backward propagation of S
            frames when the forward pass reaches them: T/S + S states for about 1.5 times the work. 'sqrt': the S that
            keeps the fewest. For each segment of S frames, the CWGDN blocks process 20 frames more (each a seventh of
            the backward propagation's work), so a small S is slow.
        temp_dir: folder for temporary files; None: the system's.
        tile: (width, height) in pixels: process frames in tiles of at most this size (rounded up to multiples of 32),
            with the same result in less memory, see `dstnet_arch.streaming.tiles`. 'auto': use tiles if the free memory
            requires it. None: never.
        maps: with a size as `tile`, where the features of whole frames are kept between the stages: on the 'device', or
            in the 'host's memory, which is slow but leaves little more than a tile on the device.
        cuda_graphs: on a GPU, replay the stages of whole frames as CUDA graphs, see `dstnet_arch.streaming.graphs`.

    Raises:
        TypeError: The network is of another type.
        ValueError: An argument is out of range.
        DataError: `temp_dir` cannot be used.
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
        cuda_graphs: bool = True,
    ) -> None:
        if interval not in (None, 'sqrt') and not (isinstance(interval, int) and interval >= 1):
            raise ValueError(f"interval must be None, 'sqrt' or a number of frames of at least 1; got {interval!r}.")
        StateStore(store, temp_dir).close()  # fail now, not after the first frame
        if tile not in (None, 'auto') and not _is_size(tile):
            raise ValueError(f"tile must be None, 'auto' or a width and a height of at least 1 pixel; got {tile!r}.")
        if maps not in get_args(Maps):
            raise ValueError(f'maps must be one of {", ".join(get_args(Maps))}; got {maps!r}.')
        self.net, self.tile, self.maps, self.cuda_graphs = net, tile, maps, cuda_graphs
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
            frames: the blurry frames, see `Frames`. An iterator, or another iterable that can be read only once, is
                written to a temporary file first.
            start: first frame to restore, to continue an interrupted stream. Earlier frames are only read as
                neighbours.
            state: the interrupted stream's `state` after frame `start - 1`.
            progress: called after each step with (steps done, steps in total). About half of the steps, those of the
                backward propagation, come before the first restored frame.

        Returns:
            An iterator of the restored frames in order, each of the input's shape, on the network's device, not
            clamped.

        Raises:
            ValueError: There are no frames, a frame has an unsupported type or shape, or `start` and `state` do not
                fit.
            DataError: A temporary file cannot be written.
        """
        return Stream(self, frames, start, state, progress, self.make_cache())

    def make_cache(self) -> WeightCache:
        """Return an empty cache for one stream, or for several if the weights do not change between them."""
        stages, device = self.stages, next(self.net.parameters()).device
        if self.cuda_graphs and uses_graphs(device):
            whole_frames = self._tiled.uses_whole_frames if self._tiled else lambda: True
            stages = GraphedStages(stages, stages_of(self.net), whole_frames).stages
        return WeightCache(self.net.derived_weights(), stages)

    def state_bytes(self, height: int, width: int) -> int:
        """Return the size of the state of one frame (3, height, width)."""
        parameter = next(self.net.parameters())
        channels = getattr(self.net, 'prop_feat', self.net.config['num_feat'])
        pixels = self.net.padded_side(height) * self.net.padded_side(width) // 4
        return channels * pixels * (self.autocast or parameter.dtype).itemsize

    def num_states(self, num_frame: int) -> int:
        """Return the largest number of states that are kept at the same time for a video of `num_frame` frames."""
        segments = _segments(range(num_frame), self.interval)
        return len(segments[0]) + max(len(segments) - 2, 0)

    def plan(self, height: int, width: int) -> Plan:
        """Return how frames (3, height, width) are processed; the first call for a size decides for `tile='auto'`."""
        if self._tiled is None:
            return Plan()
        return self._tiled.plan(1, self.net.padded_side(height), self.net.padded_side(width))

    def _plans(self, batch: int, height: int, width: int) -> list[Plan]:
        if self.tile is None or self.tile == 'auto':
            device = next(self.net.parameters()).device
            return tile_plans(self.net, (batch, height, width), device_memory(device), device.type)
        return [Plan(Size(*self.tile), self.maps)]


class Stream(Iterator[Tensor]):
    """Iterator of restored frames, made by calling a `Streamer`.

    Attributes:
        position: number of the next frame.
        state: together with the frames, all that is needed to start a stream at `position`; None before the first
            frame.
    """

    def __init__(
        self,
        streamer: Streamer,
        frames: Frames | Iterable[Tensor],
        start: int,
        state: Tensor | None,
        progress: Progress | None,
        cache: WeightCache,
    ) -> None:
        self._settings, self._progress = streamer, progress
        self._derived_weights, self._stages = cache
        self._cleanup = ExitStack()
        if not isinstance(frames, Frames):
            spool = self._cleanup.enter_context(closing(TensorFile(streamer.temp_dir)))
            for t, frame in enumerate(frames):
                spool.append(check_frame(frame, t))
            frames = spool
        self._frames = _FrameReader(frames, streamer.net)
        total = len(frames)
        if not total:
            raise ValueError('There are no frames to restore.')
        if not 0 <= start < total or (state is None) != (start == 0):
            raise ValueError(
                f'A stream of {total} frames starts at frame 0 without a state, or at a later frame with the state of '
                f'the frame before it; got start={start} {"without" if state is None else "with"} a state.'
            )
        self.position = start
        self.state = None if state is None else state.to(self._frames.device)
        self._segments = _segments(range(start, total), streamer.interval)
        self._steps = 0
        self._total_steps = 2 * (total - start) + sum(map(len, self._segments[1:]))
        self._restored = self._restore()

    def __next__(self) -> Tensor:
        try:
            with self._compute_context():
                return next(self._restored)
        except BaseException:  # including StopIteration
            self.close()
            raise

    def close(self) -> None:
        """Free memory and temporary files; the stream ends."""
        self._restored.close()
        self._cleanup.close()

    def _compute_context(self) -> ExitStack:
        """Return the contexts that the network runs in. A generator would leave them open in its user's code."""
        contexts = ExitStack()
        contexts.enter_context(torch.inference_mode(False))  # later steps may be outside of it, and update tensors
        contexts.enter_context(torch.no_grad())
        contexts.enter_context(self._derived_weights)
        dtype = self._settings.autocast
        # No cache of cast weights: one that is made during the capture of a graph holds nothing until a replay.
        cast = torch.autocast(self._frames.device.type, dtype, enabled=dtype is not None, cache_enabled=False)
        contexts.enter_context(cast)
        return contexts

    def _restore(self) -> Generator[Tensor, None, None]:
        with ExitStack() as stack:
            checkpoints, states = (
                stack.enter_context(closing(StateStore(self._settings.store, self._settings.temp_dir)))
                for _ in range(2)
            )
            first, checkpointed = self._segments[0], {segment.start for segment in self._segments[2:]}
            for t, state in self._backward(range(first.start, self._segments[-1].stop), None):
                if t in first:
                    states.put(t, state)
                elif t in checkpointed:
                    checkpoints.put(t, state)
            for segment in self._segments:
                if segment is not first:
                    at_end = segment is self._segments[-1]
                    next_state = None if at_end else checkpoints.take(segment.stop)
                    for t, state in self._backward(segment, next_state):
                        states.put(t, state)
                for t in segment:
                    yield self._forward(t, states.take(t))

    def _backward(self, segment: range, state: Tensor | None) -> Iterator[tuple[int, Tensor]]:
        """Yield the number and the state of each frame of a segment, last frame first.

        `state` is that of the frame after the segment; None at the end of the video.
        """
        stop = min(segment.stop + self._stages.reach, len(self._frames))
        waiting: deque[Tensor] = deque()  # frames whose features are inside the blocks

        def features() -> Iterator[Tensor]:
            for t in reversed(range(stop)):
                waiting.append(self._frames.read(t))
                yield self._stages.encode(self._frames.prepare(waiting[-1]))

        for t, explored in zip(reversed(range(stop)), self._stages.apply_blocks(features()), strict=False):
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


class _FrameReader:
    """Reads frames, checks them, and converts them to input of a network's stages."""

    def __init__(self, frames: Frames, net: VideoNet) -> None:
        if isinstance(frames, Tensor) and frames.dim() != 4:
            raise ValueError(
                f'Frames in one tensor have the shape (T, 3, H, W); got {tuple(frames.shape)}. For clips '
                '(B, T, 3, H, W), pass clip.unbind(1).'
            )
        self._frames, self._net = frames, net
        parameter = next(net.parameters())
        self.device, self._dtype = parameter.device, parameter.dtype
        self._upload = Uploader(parameter.device)
        self._shape: torch.Size | None = None

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, t: int) -> Tensor:
        """Read a frame as it is in its source, and check it."""
        frame = check_frame(self._frames[t], t)
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:
            raise ValueError(f'Frame {t} is {tuple(frame.shape)}, others are {tuple(self._shape)}; expected one shape.')
        return frame

    def prepare(self, frame: Tensor) -> Tensor:
        """Convert a frame to the network's input: (B, 3, H', W') on its device, padded."""
        x = to_floating_point(self._upload(frame), self._dtype)
        x = x if x.dim() == 4 else x.unsqueeze(0)
        x = reflect_pad(x, self._net.padded_side(x.shape[-2]), self._net.padded_side(x.shape[-1]))
        return x.contiguous(memory_format=torch.channels_last)


def _is_size(tile: Any) -> bool:
    return isinstance(tile, Sequence) and len(tile) == 2 and all(isinstance(n, int) and n >= 1 for n in tile)


def check_frame(frame: Tensor, t: int) -> Tensor:
    """Return frame `t` of a source.

    Raises:
        ValueError: It is of an unsupported type or shape.
    """
    if (
        not isinstance(frame, Tensor)
        or frame.dim() not in (3, 4)
        or frame.shape[-3] != 3
        or not frame.numel()
        or not (frame.is_floating_point() or frame.dtype == torch.uint8)
    ):
        shape = tuple(getattr(frame, 'shape', ()))
        kind = frame.dtype if isinstance(frame, Tensor) else type(frame).__name__
        raise ValueError(
            'Frames are tensors (3, H, W) or (B, 3, H, W), floating point in [0, 1] or uint8; '
            f'frame {t} is {shape} of {kind}.'
        )
    return frame


def _segments(frames: range, interval: int | str | None) -> list[range]:
    """Split frames into segments whose states are kept at the same time."""
    length = math.ceil(math.sqrt(len(frames))) if interval == 'sqrt' else int(interval or len(frames))
    return [frames[i : i + length] for i in range(0, len(frames), length)]

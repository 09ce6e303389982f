"""Functions of a network that process one frame, and its CWGDN blocks run frame by frame, last frame first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, reduce
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from dstnet_arch.archs.cwgdn import GatedBlock
from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.archs.dstnet_plus_arch import DSTNetPlus
from dstnet_arch.archs.propagation import propagate_step

FRAMES_PER_BLOCK = 2
"""Temporal reach of one `GatedBlock`, in frames to each side: its two temporal convolutions reach one frame each."""


class BlockState(NamedTuple):
    """State of a block between two frames, t + 2 and t + 1 having been processed.

    `result1` and `result2` are the block's output as far as it is known; None for a frame after the end of the video.
    """

    norm1: Tensor
    norm2: Tensor
    result1: Tensor | None
    result2: Tensor | None


StepBlock = Callable[[GatedBlock, 'BlockState | None', 'Tensor | None'], 'tuple[Tensor | None, BlockState]']


class Stages(NamedTuple):
    """Stages of a network. Frames are (B, 3, H, W), padded as for `VideoNet.restore`.

    Attributes:
        encode: frame -> input features of `blocks`.
        blocks: modules that use neighbouring frames.
        prepare: (frame, features after `blocks`) -> input features of `backward`.
        backward: one step of the backward propagation: (features of this frame, result of the next frame) -> result.
            The next frame's result is None at the last frame.
        forward: one step of the forward propagation: (backward result of this frame, forward result of the previous
            frame or None) -> result.
        finish: (frame, forward result) -> restored frame.
        step_block: processes one frame by one of `blocks`, like the function of this name.
    """

    encode: Callable[[Tensor], Tensor]
    blocks: Sequence[GatedBlock]
    prepare: Callable[[Tensor, Tensor], Tensor]
    backward: Callable[[Tensor, Tensor | None], Tensor]
    forward: Callable[[Tensor, Tensor | None], Tensor]
    finish: Callable[[Tensor, Tensor], Tensor]
    step_block: StepBlock

    @property
    def reach(self) -> int:
        """Temporal reach of `blocks`, in frames to each side."""
        return FRAMES_PER_BLOCK * len(self.blocks)

    def apply_blocks(self, features: Iterable[Tensor]) -> Iterator[Tensor]:
        """Apply `blocks` to the features of all frames, last frame first; yield each result as soon as it is known."""
        return reduce(partial(apply_block, self.step_block), self.blocks, iter(features))


def stages_of(net: nn.Module) -> Stages:
    """Return the stages of a network.

    Raises:
        TypeError: The network is neither a DSTNet nor a DSTNetPlus.
    """
    if isinstance(net, DSTNet):
        return _dstnet_stages(net)
    if isinstance(net, DSTNetPlus):
        return _dstnet_plus_stages(net)
    raise TypeError(f'Streaming supports DSTNet and DSTNetPlus; got {type(net).__name__}. Process whole clips instead.')


def _dstnet_stages(net: DSTNet) -> Stages:
    blocks = [cast(GatedBlock, block) for block in net.cwgdn]
    if net.propagation == 'none':
        return Stages(net.low_band, blocks, net.synthesize, _keep_current, _keep_current, net.finish, step_block)
    return Stages(
        encode=net.low_band,
        blocks=blocks,
        prepare=lambda frame, low2: net.widen(net.apply_chunked(net.synthesize, frame, low2)),
        backward=partial(propagate_step, net.backward_dtff, boundary=net.boundary),
        forward=partial(propagate_step, net.forward_dtff, boundary=net.boundary),
        finish=lambda frame, result: net.apply_chunked(net.finish, frame, net.narrow(result)),
        step_block=step_block,
    )


def _dstnet_plus_stages(net: DSTNetPlus) -> Stages:
    return Stages(
        encode=net.low_band,
        blocks=(),
        prepare=lambda _, low: low,
        backward=partial(propagate_step, net.backward_dtff, boundary=net.boundary),
        forward=partial(propagate_step, net.forward_dtff, boundary=net.boundary),
        finish=partial(net.apply_chunked, net.finish),
        step_block=step_block,
    )


def _keep_current(current: Tensor, _: Tensor | None) -> Tensor:
    return current


def apply_block(step_block: StepBlock, frames: Iterable[Tensor], block: GatedBlock) -> Iterator[Tensor]:
    """Run a CWGDN block in reverse time, with three frames inside it at a time.

    Args:
        step_block: processes one frame, like the function of this name.
        frames: features (B, C, H, W) of each frame, last frame first.
        block: the block.

    Yields:
        The output of ``block`` for all frames together, last frame first, each one when two more frames have arrived.
    """
    state: BlockState | None = None
    for frame in frames:
        finished, state = step_block(block, state, frame)
        if finished is not None:
            yield finished
    if state is not None:
        finished, state = step_block(block, state, None)
        if finished is not None:
            yield finished
        assert state.result2 is not None
        yield state.result2


def step_block(
    block: GatedBlock, state: BlockState | None, frame: Tensor | None, filters: Tensor | None = None
) -> tuple[Tensor | None, BlockState]:
    """Process frame t. Frame t + 1 then has both of its neighbours, and the result of t + 2 is complete.

    Args:
        block: the block.
        state: its state after frame t + 1; None if t is the last frame.
        frame: features (B, C, H, W) of frame t; None before the first frame.
        filters: as for `GatedBlock.gate_features`.

    Returns:
        The result of frame t + 2, or None if there is no such frame; the new state.
    """
    if state is None:
        assert frame is not None
        return None, BlockState(block.norm(frame), torch.zeros_like(frame), frame, None)
    norm = torch.zeros_like(state.norm1) if frame is None else block.norm(frame)
    wide = block.project_in.gather(norm, state.norm1, state.norm2)
    to_next, to_itself, to_previous = block.project_out.scatter(block.gate_features(wide, filters))
    finished = None if state.result2 is None else state.result2 + to_next
    result = None if frame is None else frame + to_previous
    result1 = None if state.result1 is None else state.result1 + to_itself
    return finished, BlockState(norm, state.norm1, result, result1)

"""A network cut into the parts that see one frame at a time, and the CWGDN blocks run frame by frame, last frame first.

`VideoNet.restore` takes a stage over all frames before it begins the next. Whoever goes through a video frame by frame
puts the same parts together in another order.
"""

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
from dstnet_arch.ops.temporal_conv import temporal_gather, temporal_scatter

FRAMES_PER_BLOCK = 2
"""How far one `GatedBlock` sees, in frames to each side: its two temporal convolutions see one each."""


class Held(NamedTuple):
    """What a block knows of the two frames that arrived last: t + 1 and, before it, t + 2.

    `result` is the block's output as far as it is known; None for a frame beyond the end of the video.
    """

    norm1: Tensor
    norm2: Tensor
    result1: Tensor | None
    result2: Tensor | None


Advance = Callable[[GatedBlock, 'Held | None', 'Tensor | None'], 'tuple[Tensor | None, Held]']
Gate = Callable[[Tensor], Tensor]


class Stages(NamedTuple):
    """The parts of a network. Frames are (B, 3, H, W), their sides such as `VideoNet.restore` takes them.

    Attributes:
        encode: frame -> features for `blocks`.
        blocks: modules that see neighbouring frames, on the features of `encode`.
        prepare: (frame, features after `blocks`) -> features for `backward`.
        backward: one step of the backward propagation: (features of this frame, result of the next frame) -> result.
            The next frame's is None at the last frame.
        forward: one step of the forward propagation: (backward result of this frame, forward result of the frame
            before or None) -> result.
        finish: (frame, forward result) -> restored frame.
        advance: takes one frame into one of `blocks`, as the function of this name.
    """

    encode: Callable[[Tensor], Tensor]
    blocks: Sequence[GatedBlock]
    prepare: Callable[[Tensor, Tensor], Tensor]
    backward: Callable[[Tensor, Tensor | None], Tensor]
    forward: Callable[[Tensor, Tensor | None], Tensor]
    finish: Callable[[Tensor, Tensor], Tensor]
    advance: Advance

    @property
    def reach(self) -> int:
        """How many frames to each side `blocks` see."""
        return FRAMES_PER_BLOCK * len(self.blocks)

    def explore(self, features: Iterable[Tensor]) -> Iterator[Tensor]:
        """`blocks` over the features of all frames, last frame first -> the same, each as soon as it is known."""
        return reduce(partial(explore_backward, self.advance), self.blocks, iter(features))


def stages_of(net: nn.Module) -> Stages:
    """The parts of a network.

    Raises:
        TypeError: it is none of ours.
    """
    if isinstance(net, DSTNet):
        return _dstnet_stages(net)
    if isinstance(net, DSTNetPlus):
        return _dstnet_plus_stages(net)
    raise TypeError(f'Frame by frame works with DSTNet and DSTNetPlus; got {type(net).__name__}. Give it whole clips.')


def _dstnet_stages(net: DSTNet) -> Stages:
    blocks = [cast(GatedBlock, block) for block in net.cwgdn]
    if net.propagation == 'none':
        return Stages(net.low_band, blocks, net.synthesize, keep_current, keep_current, net.finish, advance)
    return Stages(
        encode=net.low_band,
        blocks=blocks,
        prepare=lambda frame, low2: net.widen(net.by_parts(net.synthesize, frame, low2)),
        backward=partial(propagate_step, net.backward_dtff, boundary=net.boundary),
        forward=partial(propagate_step, net.forward_dtff, boundary=net.boundary),
        finish=lambda frame, result: net.by_parts(net.finish, frame, net.narrow(result)),
        advance=advance,
    )


def _dstnet_plus_stages(net: DSTNetPlus) -> Stages:
    return Stages(
        encode=net.low_band,
        blocks=(),
        prepare=lambda _, low: low,
        backward=partial(propagate_step, net.backward_dtff, boundary=net.boundary),
        forward=partial(propagate_step, net.forward_dtff, boundary=net.boundary),
        finish=partial(net.by_parts, net.finish),
        advance=advance,
    )


def keep_current(current: Tensor, previous: Tensor | None) -> Tensor:
    """A step of a propagation that there is not."""
    return current


def explore_backward(advance: Advance, frames: Iterable[Tensor], block: GatedBlock) -> Iterator[Tensor]:
    """A CWGDN block in reverse time, with three frames inside it at a time.

    Args:
        advance: takes one frame into the block, as the function of this name.
        frames: features (B, C, H, W) of each frame, last frame first.
        block: the block.

    Yields:
        What `block` makes of the frames taken together, last frame first; each one after two more have arrived.
    """
    held: Held | None = None
    for frame in frames:
        finished, held = advance(block, held, frame)
        if finished is not None:
            yield finished
    if held is not None:
        finished, held = advance(block, held, None)
        if finished is not None:
            yield finished
        assert held.result2 is not None
        yield held.result2


def advance(
    block: GatedBlock, held: Held | None, frame: Tensor | None, gate: Gate | None = None
) -> tuple[Tensor | None, Held]:
    """Take in frame t, or what lies before the first one (None): frame t + 1 has both neighbours now, and t + 2 is
    finished.

    Args:
        block: the block.
        held: what it knows of the frames after t; None: there are none.
        frame: its features (B, C, H, W).
        gate: in place of the block's own `make_gate`.

    Returns:
        The result of frame t + 2, where there is such a frame; what the block knows now.
    """
    if held is None:
        assert frame is not None
        return None, Held(block.norm(frame), torch.zeros_like(frame), frame, None)
    norm = torch.zeros_like(held.norm1) if frame is None else block.norm(frame)
    wide = temporal_gather(torch.cat([norm, held.norm1, held.norm2]), block.project_in.weight, norm.shape[0])
    to_next, to_itself, to_previous = temporal_scatter(block.gate_features(wide, gate), block.project_out.weight)
    finished = None if held.result2 is None else held.result2 + to_next
    result = None if frame is None else frame + to_previous
    result1 = None if held.result1 is None else held.result1 + to_itself
    return finished, Held(norm, held.norm1, result, result1)

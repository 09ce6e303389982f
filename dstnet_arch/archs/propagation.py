"""Recurrent propagation over the frames of a clip, one routine for both directions: Section 3.3."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Boundary = Literal['zeros', 'paper']


def propagate(
    step: Callable[[Tensor, Tensor], Tensor],
    frames: Sequence[Tensor],
    reverse: bool = False,
    boundary: Boundary = 'zeros',
) -> list[Tensor]:
    """Propagate features from frame to frame.

    Backward, Eq. (7): ``propagate(F, X, reverse=True)``; forward, Eq. (8): ``propagate(F, backward_result)``.

    Args:
        step: F: (features of this frame, result of the frame before it in the order of propagation) -> result.
        frames: T tensors of one shape, in the order of time, as the T results.
        reverse: from the last frame to the first.
        boundary: the result of the first frame. 'zeros' (the released weights): F with zeros for the missing neighbour;
            'paper' (as Eqs. 7 and 8 are printed): the frame's own features.
    """
    results: list[Tensor] = []
    for frame in reversed(frames) if reverse else frames:
        results.append(propagate_step(step, frame, results[-1] if results else None, boundary))
    return results[::-1] if reverse else results


def propagate_step(
    step: Callable[[Tensor, Tensor], Tensor], frame: Tensor, previous: Tensor | None, boundary: Boundary
) -> Tensor:
    """The result of one frame; `previous` is the result of the frame before it in the order of propagation, or None."""
    if previous is not None:
        return step(frame, previous)
    return frame if boundary == 'paper' else step(frame, torch.zeros_like(frame))

"""Copy losses from the device without blocking it, and stop at the first one that is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dstnet_arch.errors import TrainingError


@dataclass
class _Reading:
    """Losses of one iteration, being copied to the host.

    Attributes:
        values: (len(names),) on the host; valid after the event `arrived`.
    """

    iteration: int
    names: list[str]
    values: Tensor
    arrived: torch.cuda.Event | None

    def read(self) -> dict[str, float]:
        if self.arrived is not None:
            self.arrived.synchronize()
        losses = dict(zip(self.names, self.values.tolist(), strict=True))
        if bad := {name: value for name, value in losses.items() if not math.isfinite(value)}:
            which = ', '.join(f'{name} is {value}' for name, value in bad.items())
            raise TrainingError(
                f'Training stopped at iteration {self.iteration}: {which}. The checkpoints before it are valid. Set '
                'train:find_nonfinite=true to find the layer, try a lower train:optim_g:lr, train:grad_clip=0.1 or '
                'train:precision=fp32, and check the data with `python -m data_prep verify PATH`. Continue with '
                '--auto_resume.'
            )
        return losses


class LossWatch:
    """Check that losses are finite.

    Losses on a GPU are checked one iteration late: they are copied in the background, so neither host nor device waits
    for the other. Losses on the CPU are checked at once.
    """

    def __init__(self) -> None:
        self._last: _Reading | None = None

    def add(self, iteration: int, losses: Mapping[str, Tensor]) -> None:
        """Add the losses of an iteration.

        Args:
            iteration: its number.
            losses: detached scalars by name.

        Raises:
            TrainingError: a loss of this iteration (CPU) or the previous one (GPU) is not finite.
        """
        names, values = list(losses), torch.stack(list(losses.values()))
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            host.copy_(values, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
            self.read()
            self._last = _Reading(iteration, names, host, arrived)
        else:
            self._last = _Reading(iteration, names, values, None)
            self.read()

    def read(self) -> Mapping[str, float]:
        """Wait for the losses of the latest iteration and return them; empty before the first iteration.

        Raises:
            TrainingError: one of them is not finite.
        """
        return self._last.read() if self._last else {}

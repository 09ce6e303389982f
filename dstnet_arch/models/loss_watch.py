"""Reading losses off the device without making it wait, and stopping at the first that is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dstnet_arch.errors import TrainingError


@dataclass
class _Reading:
    """The losses of one iteration on their way to the host."""

    iteration: int
    names: list[str]
    values: Tensor  # (len(names),) on the host; valid once `arrived`
    arrived: torch.cuda.Event | None

    def read(self) -> dict[str, float]:
        if self.arrived is not None:
            self.arrived.synchronize()
        losses = dict(zip(self.names, self.values.tolist(), strict=True))
        if bad := {name: value for name, value in losses.items() if not math.isfinite(value)}:
            which = ', '.join(f'{name} is {value}' for name, value in bad.items())
            raise TrainingError(
                f'Training stopped at iteration {self.iteration}: {which}, but a loss has to be finite. '
                'The checkpoints made so far are good. train:find_nonfinite=true says in which layer it begins. '
                'Try a lower train:optim_g:lr or train:grad_clip=0.1, train:amp=none if it was fp16, and look for '
                'damaged frames with `python -m data_prep verify PATH`. Go on with --auto_resume.'
            )
        return losses


class LossWatch:
    """Checks that losses are finite.

    Losses on a GPU are checked one iteration late: by then they have been copied in the background, and neither host
    nor device has waited for the other. Losses on the CPU are checked at once.
    """

    def __init__(self) -> None:
        self._last: _Reading | None = None

    def add(self, iteration: int, losses: Mapping[str, Tensor]) -> None:
        """Take the losses of an iteration, detached scalars by name.

        Raises:
            TrainingError: a loss of this iteration (CPU) or the one before (GPU) is not finite.
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
        """The losses of the latest iteration; waits for them. Empty before the first.

        Raises:
            TrainingError: one of them is not finite.
        """
        return self._last.read() if self._last else {}

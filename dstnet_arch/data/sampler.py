"""Order of training samples as a function of the seed and the position in the run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
from torch.utils.data import Sampler

_PERMUTATION = 0  # stream of the sampler's random numbers; the data set uses another one


class ResumableSampler(Sampler[tuple[int, int]]):
    """Endless shuffled passes over the data set, divided among ranks and epochs; replaces stock `EnlargedSampler`.

    Samples form one endless sequence of shuffled passes, each of which contains every index once. Epoch e is the e-th
    section of it, `ratio` passes rounded up to full batches of all ranks, as stock `train_pipeline` expects. Rank r
    takes the elements r, r + num_replicas, ... of a section, so at every iteration N ranks with batches of B together
    see what one process with batches of N * B sees.

    Elements are pairs (index, draw). The draw is the position in the endless sequence, unique over epochs and ranks.

    Args:
        dataset: the training set. Read from its attributes: `manual_seed` (default 0) and `opt` with
            `batch_size_per_gpu` (default 1) and, in a resumed run, `resume_at` ({'epoch', 'iter'} of the training
            state): samples of that epoch that the run has already seen are skipped,
            also if a loader starts another epoch before.
        num_replicas: number of ranks.
        rank: rank of this process, from 0.
        ratio: passes over the data set per epoch, more than 0, not necessarily an integer.
    """

    def __init__(self, dataset: Sized, num_replicas: int, rank: int, ratio: float = 1) -> None:
        opt: dict[str, Any] = getattr(dataset, 'opt', {})
        batch_size = opt.get('batch_size_per_gpu') or 1
        self.dataset = dataset
        self.num_replicas = num_replicas
        self.rank = rank
        self.seed: int = getattr(dataset, 'manual_seed', 0)
        self.num_samples = math.ceil(len(dataset) * ratio / (num_replicas * batch_size)) * batch_size
        self.epoch = 0
        self._start = (-1, 0)  # an epoch, and how many samples of it are skipped
        if resume_at := opt.get('resume_at'):
            position = resume_at['iter'] * batch_size - resume_at['epoch'] * self.num_samples
            if 0 <= position <= self.num_samples:  # else the run was started with another batch size or world size
                self._start = resume_at['epoch'], position

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration over the sampler."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Samples of this rank in a complete epoch, including those that a resumed run skips."""
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        start = self._start[1] if epoch == self._start[0] else 0
        permutation_of = -1
        for position in range(start, self.num_samples):
            draw = (epoch * self.num_samples + position) * self.num_replicas + self.rank
            number, offset = divmod(draw, len(self.dataset))
            if number != permutation_of:
                permutation = np.random.default_rng((self.seed, _PERMUTATION, number)).permutation(len(self.dataset))
                permutation_of = number
            yield int(permutation[offset]), draw

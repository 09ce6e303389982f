"""The order of training samples: a function of the seed and the position in the run alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
from torch.utils.data import Sampler

_PERMUTATION = 0  # marks the sampler's random numbers; those of the samples themselves are marked otherwise


class VideoDeblurSampler(Sampler[tuple[int, int]]):
    """Endless passes over the data set, dealt out to ranks and cut into epochs, in place of stock `EnlargedSampler`.

    Samples form one endless sequence: shuffled passes over the data set, one after the other, each using every index
    once. Epoch e is the e-th section of it. Rank r takes the elements r, r + num_replicas, ... of each section, so two
    ranks with half the batch each see together, at every iteration, what one process with the whole batch sees.

    Each element is a pair (index, draw), draw being its position in the endless sequence: unique over epochs and ranks.

    An epoch is `ratio` times the data set, rounded up to whole batches of all ranks (`batch_size_per_gpu` of the data
    set's options): the loader then drops nothing, and an epoch has as many iterations as stock `train_pipeline` counts
    on. With fewer, it would end before `total_iter`.

    Args:
        dataset: the training set; of its attributes `opt` gives `batch_size_per_gpu` (1 where it does not), and
            `manual_seed` the seed (0 where there is none). Where a run is resumed, its options hold `resume_at`
            ({'epoch', 'iter'} of the training state): the samples of that epoch already trained on are left out.
        num_replicas: number of ranks.
        rank: of this process, from 0.
        ratio: length of an epoch in passes over the data set; more than 0, and not necessarily whole.
    """

    def __init__(self, dataset: Sized, num_replicas: int, rank: int, ratio: float = 1) -> None:
        if not 0 <= rank < num_replicas:
            raise ValueError(f'rank is {rank}; with {num_replicas} ranks it can be 0 to {num_replicas - 1}')
        if len(dataset) < 1 or not ratio > 0:
            raise ValueError(f'there is nothing to draw from {len(dataset)} samples at a ratio of {ratio}')
        opt: dict[str, Any] = getattr(dataset, 'opt', {})
        batch_size = opt.get('batch_size_per_gpu') or 1
        self.dataset = dataset
        self.num_replicas = num_replicas
        self.rank = rank
        self.seed: int = getattr(dataset, 'manual_seed', 0)
        self.num_samples = math.ceil(len(dataset) * ratio / (num_replicas * batch_size)) * batch_size
        self.total_size = self.num_samples * num_replicas
        self.epoch = 0
        self._start = (-1, 0)
        if resume_at := opt.get('resume_at'):
            epoch = resume_at['epoch']
            position = resume_at['iter'] * batch_size - epoch * self.num_samples
            if 0 <= position <= self.num_samples:  # else the run was begun with another batch or number of ranks
                self.start_at(position, epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self.epoch = epoch

    def start_at(self, position: int, epoch: int) -> None:
        """Leave out the first `position` samples of this rank whenever `epoch` is iterated; other epochs stay whole.

        Resuming a run needs it: `position` is the number of batches of the epoch already trained on, times the batch
        size of this rank. It is tied to the epoch because loaders may begin another one before that, for nothing.
        """
        if not 0 <= position <= self.num_samples:
            raise ValueError(f'position is {position}; in an epoch of this rank it can be 0 to {self.num_samples}')
        self._start = (epoch, position)

    def __len__(self) -> int:
        """Samples of this rank in a whole epoch, whatever `start_at` leaves out."""
        return self.num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        start = self._start[1] if epoch == self._start[0] else 0
        permutation_of = -1
        for position in range(start, self.num_samples):
            draw = epoch * self.total_size + position * self.num_replicas + self.rank
            number, offset = divmod(draw, len(self.dataset))
            if number != permutation_of:
                permutation = np.random.default_rng((self.seed, _PERMUTATION, number)).permutation(len(self.dataset))
                permutation_of = number
            yield int(permutation[offset]), draw

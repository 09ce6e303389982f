"""The order of samples."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstnet_arch.data.sampler import ResumableSampler


class FakeDataset:
    def __init__(self, length: int, batch_size: int = 1, manual_seed: int = 0) -> None:
        self.length = length
        self.opt = {'batch_size_per_gpu': batch_size}
        self.manual_seed = manual_seed

    def __len__(self) -> int:
        return self.length


def epoch_of(sampler: ResumableSampler, epoch: int) -> list[tuple[int, int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


@settings(deadline=None)
@given(
    length=st.integers(1, 40),
    batch=st.integers(1, 4),
    ranks=st.integers(1, 4),
    ratio=st.sampled_from([0.3, 1, 2, 3.5]),
    epochs=st.integers(1, 3),
)
def test_ranks_together_see_what_one_process_sees_at_every_iteration(
    length: int, batch: int, ranks: int, ratio: float, epochs: int
) -> None:
    alone = ResumableSampler(FakeDataset(length, batch * ranks), 1, 0, ratio)
    together = [ResumableSampler(FakeDataset(length, batch), ranks, rank, ratio) for rank in range(ranks)]
    for epoch in range(epochs):
        whole = epoch_of(alone, epoch)
        parts = [epoch_of(sampler, epoch) for sampler in together]
        # As many iterations as stock train_pipeline expects; the loader drops batches that are not full.
        assert len(whole) == -(-length * ratio // (batch * ranks)) * batch * ranks
        assert {len(part) for part in parts} == {len(whole) // ranks} == {len(sampler) for sampler in together}
        for iteration in range(len(whole) // (batch * ranks)):
            seen = [part[iteration * batch : (iteration + 1) * batch] for part in parts]
            expected = whole[iteration * batch * ranks : (iteration + 1) * batch * ranks]
            assert sorted(itertools.chain(*seen)) == sorted(expected)


@settings(deadline=None)
@given(length=st.integers(1, 40), batch=st.integers(1, 4), ratio=st.sampled_from([0.3, 1, 2]))
def test_draws_are_unique_and_no_sample_comes_twice_before_all_came_once(length: int, batch: int, ratio: float) -> None:
    sampler = ResumableSampler(FakeDataset(length, batch), 1, 0, ratio)
    pairs = list(itertools.chain(*(epoch_of(sampler, epoch) for epoch in range(6))))
    assert [draw for _, draw in pairs] == list(range(len(pairs)))
    indices = [index for index, _ in pairs]
    for start in range(0, len(indices) - length + 1, length):
        assert sorted(indices[start : start + length]) == list(range(length))


def test_order_depends_on_epoch_and_seed_alone() -> None:
    sampler = ResumableSampler(FakeDataset(50), 1, 0)
    first, second = epoch_of(sampler, 0), epoch_of(sampler, 1)
    assert [index for index, _ in first] != [index for index, _ in second] != list(range(50))
    assert epoch_of(sampler, 0) == first
    assert epoch_of(ResumableSampler(FakeDataset(50), 1, 0), 1) == second
    assert epoch_of(ResumableSampler(FakeDataset(50, manual_seed=1), 1, 0), 0) != first


@pytest.mark.parametrize('iteration', [0, 1, 7, 8, 13, 16])
def test_resumed_sampler_continues_the_run(iteration: int) -> None:
    batch_size, per_epoch = 2, 8
    whole = ResumableSampler(FakeDataset(16, batch_size), 1, 0)
    assert len(whole) == per_epoch * batch_size
    run = [pair for epoch in range(3) for pair in epoch_of(whole, epoch)]
    dataset = FakeDataset(16, batch_size)
    epoch = max(0, iteration - 1) // per_epoch  # of the iteration that the state was saved after
    dataset.opt['resume_at'] = {'epoch': epoch, 'iter': iteration}
    resumed = ResumableSampler(dataset, 1, 0)
    if epoch:
        assert epoch_of(resumed, 0) == epoch_of(whole, 0)  # a loader may start another epoch first
    assert len(resumed) == len(whole)
    assert [pair for e in range(epoch, 3) for pair in epoch_of(resumed, e)] == run[iteration * batch_size :]


def test_sampler_resumed_with_another_batch_size_starts_the_epoch_again() -> None:
    dataset = FakeDataset(16)
    dataset.opt['resume_at'] = {'epoch': 2, 'iter': 5}
    assert epoch_of(ResumableSampler(dataset, 1, 0), 2) == epoch_of(ResumableSampler(FakeDataset(16), 1, 0), 2)

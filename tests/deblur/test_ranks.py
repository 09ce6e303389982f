"""Sharing work out to ranks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ports import free_port

from dstnet_arch.deblur.ranks import Ranks, in_contact, ranks_here, share

MEETING = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': '29500'}


def test_without_a_launcher_there_is_one_process() -> None:
    assert ranks_here({}) == ranks_here({'RANK': '', 'LOCAL_RANK': '3'}) == Ranks(0, 1, 0, 1)


def test_what_torchrun_sets() -> None:
    variables = {'RANK': '5', 'WORLD_SIZE': '8', 'LOCAL_RANK': '1', 'LOCAL_WORLD_SIZE': '4', **MEETING}
    assert ranks_here(variables) == Ranks(5, 8, 1, 4)
    assert ranks_here({'RANK': '0', 'WORLD_SIZE': '1'}) == Ranks()


@pytest.mark.parametrize(
    ('variables', 'message'),
    [
        ({'RANK': '1'}, r"WORLD_SIZE=''; it must be a whole number.*torchrun"),
        ({'RANK': '-1', 'WORLD_SIZE': '2', **MEETING}, "RANK='-1'"),
        ({'RANK': '2', 'WORLD_SIZE': '2', **MEETING}, 'RANK=2 and WORLD_SIZE=2; ranks count from 0'),
        ({'RANK': '0', 'WORLD_SIZE': '2'}, 'MASTER_ADDR'),
    ],
    ids=['half', 'negative', 'too large', 'nowhere'],
)
def test_an_environment_without_sense(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranks_here(variables)


@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(1, 7))
def test_each_item_has_one_rank_and_no_rank_too_much(sizes: list[int], world_size: int) -> None:
    shares = [share(sizes, rank, world_size) for rank in range(world_size)]
    assert sorted(item for items in shares for item in items) == list(range(len(sizes)))
    assert all(items == sorted(items) for items in shares)
    loads = [sum(sizes[item] for item in items) for items in shares]
    assert max(loads) - min(loads) <= max(sizes, default=0)


def test_equal_and_empty_items_are_dealt_out() -> None:
    assert [share([1, 1, 1, 1, 1], rank, 2) for rank in (0, 1)] == [[0, 2, 4], [1, 3]]
    assert [share([0, 0, 0, 0], rank, 2) for rank in (0, 1)] == [[0, 2], [1, 3]]
    assert share([5], 3, 4) == []


def test_one_process_asks_nobody() -> None:
    with in_contact(Ranks()) as gather:
        assert gather('mine') == ['mine']


def _rank(rank: int, port: int, folder: Path) -> None:
    os.environ.update({'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)})
    with in_contact(Ranks(rank, 3)) as gather:
        (folder / str(rank)).write_text(repr(gather(f'of {rank}')))
        if rank == 2:
            os._exit(0)  # as if it had been killed
        with pytest.raises(ConnectionError, match=f'rank {rank} has lost another rank'):
            gather(None)
        (folder / str(rank)).write_text('heard of it')


def test_ranks_hear_each_other_and_of_a_death(tmp_path: Path) -> None:
    port = free_port()
    torch.multiprocessing.get_context('forkserver').set_forkserver_preload(['test_ranks'])
    torch.multiprocessing.start_processes(_rank, (port, tmp_path), nprocs=3, start_method='forkserver')
    assert (tmp_path / '2').read_text() == "['of 0', 'of 1', 'of 2']"
    assert (tmp_path / '0').read_text() == (tmp_path / '1').read_text() == 'heard of it'

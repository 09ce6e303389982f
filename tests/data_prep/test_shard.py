"""Sharing work out to ranks."""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ports import free_port
from prep_parts import contents, failure
from soak.project import make_videos

from data_prep import convert
from data_prep.__main__ import main
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
    torch.multiprocessing.get_context('forkserver').set_forkserver_preload(['test_shard'])
    torch.multiprocessing.start_processes(_rank, (port, tmp_path), nprocs=3, start_method='forkserver')
    assert (tmp_path / '2').read_text() == "['of 0', 'of 1', 'of 2']"
    assert (tmp_path / '0').read_text() == (tmp_path / '1').read_text() == 'heard of it'


# data_prep


def _gopro(folder: Path) -> Path:
    make_videos(folder / 'made', num_video=2, num_frame=3)
    for split, video in {'train': 'video0', 'test': 'video1'}.items():
        for kind, name in {'blurry': 'blur', 'sharp': 'sharp'}.items():
            (folder / 'raw' / split / video).mkdir(parents=True, exist_ok=True)
            (folder / 'made' / kind / video).rename(folder / 'raw' / split / video / name)
    return folder / 'raw'


def _convert(rank: int, port: int, folder: Path, ends: dict[int, str], dies: int = -1) -> None:
    os.environ.update({'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'RANK': str(rank), 'WORLD_SIZE': '2'})
    os.environ.update({'LOCAL_RANK': str(rank), 'LOCAL_WORLD_SIZE': '2'})
    if rank == dies:
        convert.write_lmdb = lambda *_: os._exit(0)  # type: ignore[assignment]
    with redirect_stderr(io.StringIO()) as err:
        status = main(['gopro', str(folder / 'raw'), '-o', str(folder / 'out')])
    assert status == (2 if rank in ends else 0)
    assert re.search(ends.get(rank, ''), err.getvalue()), err.getvalue()


def _run_two(*arguments: object) -> None:
    port = free_port()
    torch.multiprocessing.start_processes(_convert, (port, *arguments), nprocs=2, start_method='forkserver')


def test_two_ranks_convert_as_one(tmp_path: Path) -> None:
    raw = _gopro(tmp_path)
    assert main(['gopro', str(raw), '-o', str(tmp_path / 'alone')]) == 0
    _run_two(tmp_path, {})
    alone, out = tmp_path / 'alone', tmp_path / 'out'
    names = sorted(path.name for path in alone.iterdir())
    assert len(names) == 5
    assert names == sorted(path.name for path in out.iterdir())
    assert (alone / 'dataset_info.json').read_text() == (out / 'dataset_info.json').read_text()
    for path in alone.glob('*.lmdb'):
        assert contents(path) == contents(out / path.name)


def test_what_fails_on_a_rank_is_told_by_the_first(tmp_path: Path) -> None:
    raw = _gopro(tmp_path)
    path = raw / 'test/video1/sharp/001.png'
    path.write_bytes(path.read_bytes()[:-100])
    _run_two(tmp_path, {0: r'error: rank [01]: .*\n.*test/video1/sharp/001\.png'})
    names = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert names == ['test_blur.lmdb', 'test_sharp.lmdb.partial', 'train_blur.lmdb', 'train_sharp.lmdb']


def test_a_rank_that_dies_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    _gopro(tmp_path)
    _run_two(tmp_path, {0: 'rank 0 has lost another rank'}, 1)
    names = {path.name for path in (tmp_path / 'out').iterdir()}
    assert 'dataset_info.json' not in names
    assert len(names) == 2


def test_an_environment_without_sense_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _gopro(tmp_path)
    monkeypatch.setenv('RANK', '0')
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    assert 'torchrun' in failure(capsys, 'gopro', tmp_path / 'raw', '-o', tmp_path / 'out')

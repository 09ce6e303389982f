"""Several videos, also shared among processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from deblur_utils import Deblur, files, make_frames
from ports import free_port

from dstnet_arch.deblur.batch import Ranks, restore_all, split_inputs
from dstnet_arch.deblur.config import DeblurConfig
from dstnet_arch.errors import DataError, OptionsError


def configs(*names: str, folder: Path) -> list[DeblurConfig]:
    return [DeblurConfig(name, folder / name) for name in names]


def test_outputs_have_the_names_of_their_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'clips' / 'first').mkdir(parents=True)
    monkeypatch.chdir(tmp_path / 'clips' / 'first')
    for name in ('clip.gif', 'pages.tif'):
        Path(name).touch()
    inputs = ['../first/', '../other.mp4', '../frames/%05d.png', '/data/more/*.png', 'clip.gif', 'pages.tif']
    names = ['first', 'other.mp4', 'frames', 'more', 'clip.mp4', 'pages']
    split = split_inputs(inputs, DeblurConfig('', Path('out'), resume=True))
    assert [config.input for config in split] == inputs
    assert [config.output for config in split] == [Path('out', name) for name in names]
    assert all(config.resume for config in split)
    assert split_inputs(['.'], DeblurConfig('', Path('out')))[0].output == Path('out/first')
    with pytest.raises(OptionsError, match='a/clip and b/clip would both be written to out/clip'):
        split_inputs(['a/clip', 'b/clip'], DeblurConfig('', Path('out')))


def test_ranks_are_those_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    assert Ranks.from_environment() == Ranks(0, 1, 0)
    for name, value in (('RANK', '5'), ('WORLD_SIZE', '8'), ('LOCAL_RANK', '1')):
        monkeypatch.setenv(name, value)
    ranks = Ranks.from_environment()
    assert ranks == Ranks(5, 8, 1)
    monkeypatch.setenv('WORLD_SIZE', '5')
    with pytest.raises(OptionsError, match='RANK=5 and WORLD_SIZE=5 contradict'):
        Ranks.from_environment()
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert ranks.device is None
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    assert (ranks.device, Ranks().device) == ('cuda:1', None)


def _write(config: DeblurConfig) -> None:
    if config.input == 'bad':
        raise DataError('it is damaged')
    if config.input == 'bug':
        raise ValueError('unexpected')
    config.output.write_text(f'{config.input} by {os.environ.get("RANK")}')


def test_failed_videos_do_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failures = restore_all(configs('a', 'bad', 'bug', 'c', folder=tmp_path), _write, Ranks())
    assert failures == ['bad: it is damaged', 'bug: ValueError: unexpected']
    assert files(tmp_path) == ['a', 'c']
    assert 'error: bad: it is damaged' in capsys.readouterr().err


def _rank(rank: int, port: int, folder: Path) -> None:
    os.environ.update({'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'RANK': str(rank)})
    failures = restore_all(configs('a', 'b', 'bad', 'c', folder=folder), _write, Ranks(rank, 2, rank))
    (folder / f'failures{rank}').write_text('\n'.join(failures))


@pytest.mark.slow
def test_ranks_share_videos_and_rank_0_reports_failures(tmp_path: Path) -> None:
    torch.multiprocessing.get_context('forkserver').set_forkserver_preload(['test_batch'])
    torch.multiprocessing.start_processes(_rank, (free_port(), tmp_path), nprocs=2, start_method='forkserver')
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        'a': 'a by 0',
        'b': 'b by 1',
        'c': 'c by 1',
        'failures0': 'bad: it is damaged',
        'failures1': '',
    }


def test_several_inputs(deblur: Deblur, tmp_path: Path) -> None:
    for name, count in (('one', 2), ('two', 3), ('bad', 1)):
        make_frames(tmp_path / 'blurry' / name, count)
    (tmp_path / 'blurry' / 'bad' / '000.png').write_bytes(b'not an image')
    inputs: list[Any] = [tmp_path / 'blurry' / name for name in ('one', 'bad', 'two')]
    status, out, err = deblur(*inputs, '-o', tmp_path / 'all')
    assert status == 2
    assert f'2 of 3 videos are in {tmp_path / "all"}.' in out
    assert 'error: 1 video failed:\n' + str(inputs[1]) in err
    assert deblur(inputs[2], '-o', tmp_path / 'alone')[0] == 0
    assert files(tmp_path / 'all') == ['one', 'two']
    for name in files(tmp_path / 'alone'):
        assert (tmp_path / 'all' / 'two' / name).read_bytes() == (tmp_path / 'alone' / name).read_bytes()

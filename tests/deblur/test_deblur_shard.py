"""Several videos, and several processes that share them out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from ports import free_port
from soak.project import make_videos

from dstnet_arch.archs.dstnet_arch import DSTNet
from dstnet_arch.deblur.command import command
from dstnet_arch.deblur.distributed import device_of, outputs_of, ranks, restore_all, size_of
from dstnet_arch.deblur.ranks import Ranks
from dstnet_arch.errors import DataError, DSTNetError, OptionsError

ALONE = Ranks()


def test_each_video_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'clips' / 'first').mkdir(parents=True)
    monkeypatch.chdir(tmp_path / 'clips' / 'first')
    inputs = ['../first/', '../other.mp4', '../frames/%05d.png', '/data/more/*.png']
    assert outputs_of(inputs, Path('out')) == [Path('out', name) for name in ('first', 'other.mp4', 'frames', 'more')]
    assert outputs_of(['.'], Path('out')) == [Path('out/first')]


@pytest.mark.parametrize(
    ('inputs', 'message'),
    [(['a/clip', 'b/clip'], 'a/clip and b/clip would both go to out/clip'), (['a', '-'], 'a pipe, beside others')],
    ids=['same name', 'pipe'],
)
def test_names_that_do_not_work(inputs: list[str], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        outputs_of(inputs, Path('out'))


def test_the_size_is_that_of_the_files(tmp_path: Path) -> None:
    for name, length in {'a': 10, 'b': 5}.items():
        (tmp_path / name).write_bytes(bytes(length))
    assert [size_of(str(tmp_path / name)) for name in ('a', '', '*.png', 'none/c')] == [10, 15, 15, 0]


def test_each_process_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    second = Ranks(5, 8, 1, 4)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert device_of(None, second) is None
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    assert [device_of(None, second), device_of('cpu', second), device_of(None, ALONE)] == ['cuda:1', 'cpu', None]


def test_variables_without_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(OptionsError, match='not set up'):
        ranks()


def _write(text: str, output: Path) -> None:
    if text == 'bad':
        raise DataError('it is damaged')
    output.write_text(f'{text} by {os.environ.get("RANK")}')


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DSTNetError, match='1 could not be restored:\nbad: it is damaged'):
        restore_all(['a', 'bad', 'c'], tmp_path / 'out', _write, ALONE)
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['a', 'c']
    assert '2 of 3 videos' in capsys.readouterr().out


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / 'out').touch()
    with pytest.raises(OptionsError, match='Several videos go to a folder'):
        restore_all(['a', 'b'], tmp_path / 'out', _write, ALONE)


def _rank(rank: int, port: int, folder: Path) -> None:
    os.environ.update({'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'RANK': str(rank)})
    try:
        restore_all(['a', 'b', 'bad', 'c'], folder, _write, Ranks(rank, 2))
    except DSTNetError as error:
        (folder / f'error{rank}').write_text(str(error))


def test_two_processes_share(tmp_path: Path) -> None:
    port = free_port()
    torch.multiprocessing.get_context('forkserver').set_forkserver_preload(['test_deblur_shard'])
    torch.multiprocessing.start_processes(_rank, (port, tmp_path), nprocs=2, start_method='forkserver')
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {
        'a': 'a by 0',
        'b': 'b by 1',
        'c': 'c by 1',
        'error0': '1 could not be restored:\nbad: it is damaged',
    }


def test_several_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_videos(tmp_path, num_video=2, num_frame=2, size=(16, 16))
    torch.manual_seed(0)
    torch.save({'params': DSTNet(num_feat=2, num_block=1, num_cwgdn=1).state_dict()}, tmp_path / 'net.pth')
    inputs = [str(tmp_path / 'blurry' / name) for name in ('video0', 'video1', 'video2')]
    arguments = ['--weights', str(tmp_path / 'net.pth'), '--device', 'cpu', '-o']
    with pytest.raises(DSTNetError, match=r'^1 could not be restored:\n.*video2: '):
        command([*inputs, *arguments, str(tmp_path / 'all')])
    assert '2 of 3 videos' in capsys.readouterr().out
    command([inputs[1], *arguments, str(tmp_path / 'alone')])
    assert sorted(path.name for path in (tmp_path / 'all').iterdir()) == ['video0', 'video1']
    for name in ('000.png', '001.png'):
        assert (tmp_path / 'all' / 'video1' / name).read_bytes() == (tmp_path / 'alone' / name).read_bytes()

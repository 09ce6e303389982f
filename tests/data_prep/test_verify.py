"""data_prep verify."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import lmdb
import pytest
from data_utils import failure, image_bytes, make_gopro

from data_prep.__main__ import main
from data_prep.convert import convert
from data_prep.layouts import GOPRO


@pytest.fixture
def converted(tmp_path, capsys) -> Path:
    make_gopro(tmp_path / 'src')
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    capsys.readouterr()
    return tmp_path / 'out'


def change(path: Path, key: str, value: bytes | None) -> None:
    with lmdb.open(str(path), lock=False, map_size=1 << 20) as env, env.begin(write=True) as transaction:
        if value is None:
            transaction.delete(key.encode())
        else:
            transaction.put(key.encode(), value)


def test_verify_good_data(converted, capsys) -> None:
    assert main(['verify', str(converted)]) == 0
    assert capsys.readouterr().out.count('  ok\n') == 4
    assert main(['verify', str(converted / 'test_blur.lmdb')]) == 0


def test_verify_names_faults(converted, capsys) -> None:
    train, test = converted / 'train_blur.lmdb', converted / 'test_blur.lmdb'
    change(train, 'A_00/000048', None)
    change(train, 'A_00/000049', image_bytes(1)[:-30])
    change(train, 'B_00/002481', image_bytes(1, (5, 6)))
    change(train, 'extra/0', image_bytes(1))
    meta = test / 'meta_info.txt'
    meta.write_text(meta.read_text().replace('C_00/000001.png', 'C_00/000001'))
    assert main(['verify', str(converted)]) == 1
    out = capsys.readouterr().out
    for expected in (
        '  5 faults\n',
        '  1 fault\n',
        'A_00/000048 is in meta_info.txt, but not in the data',
        'A_00/000048 is in train_sharp.lmdb, but not here',
        'A_00/000049 is truncated',
        'B_00/002481 is 6x5, but 16x12 in meta_info.txt',
        'extra/0 is in the data, but not in meta_info.txt',
        'extra/0 is in train_blur.lmdb, but not here',
        f'{meta}, line 1',
    ):
        assert expected in out


def test_verify_unfinished_truncated_and_nothing(converted, tmp_path, capsys) -> None:
    data = converted / 'train_sharp.lmdb/data.mdb'
    os.truncate(data, data.stat().st_size - 4096)
    (converted / 'test_blur.lmdb').rename(converted / 'test_blur.lmdb.partial')
    assert main(['verify', str(converted)]) == 1
    out = capsys.readouterr().out
    assert 'data.mdb is truncated' in out
    assert 'unfinished' in out
    assert 'contains no .lmdb folders' in failure(capsys, 'verify', tmp_path / 'src')
    assert 'does not exist' in failure(capsys, 'verify', tmp_path / 'none.lmdb')


@pytest.mark.skipif(os.name == 'nt', reason='signals are for POSIX')
def test_verify_survives_an_lmdb_that_kills_its_reader(converted, capsys) -> None:
    """LMDB trusts the numbers in its pages: a wrong position of a node ends the process with a signal."""
    path = converted / 'train_blur.lmdb/data.mdb'
    data = bytearray(path.read_bytes())
    leaf = next(at for at in range(0, len(data), 4096) if struct.unpack_from('<H', data, at + 10)[0] == 2)
    data[leaf + 16 : leaf + 18] = b'\xff\xff'
    path.write_bytes(data)
    assert main(['verify', str(converted)]) == 1
    out = capsys.readouterr().out
    assert 'train_blur.lmdb:\n  reading data.mdb ended the process (exit code -' in out
    assert out.count('  ok\n') == 3
    assert 'not here' not in out

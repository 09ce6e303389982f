"""Writing LMDBs: finished, interrupted, killed and damaged ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from data_utils import contents, failure, make_gopro, put, sound

from data_prep import convert as convert_module
from data_prep import lmdb_writer
from data_prep.__main__ import main
from data_prep.convert import convert
from data_prep.layouts import GOPRO
from dstnet_arch.errors import DataError


def test_truncated_images_are_all_named_and_the_rest_is_kept(tmp_path, capsys) -> None:
    files = make_gopro(tmp_path / 'src')
    broken = ['train/A_00/blur/000048.png', 'train/B_00/blur/002482.png']
    for name in broken:
        (tmp_path / 'src' / name).write_bytes(files[name][:-20])
    message = failure(capsys, 'gopro', tmp_path / 'src', '-o', tmp_path / 'out')
    assert '2 of 7 images for train_blur.lmdb cannot be used' in message
    assert all(f'{name} is truncated' in message for name in broken)
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['train_blur.lmdb.partial']

    for name in broken:
        (tmp_path / 'src' / name).write_bytes(files[name])
    assert main(['gopro', str(tmp_path / 'src'), '-o', str(tmp_path / 'out')]) == 0
    assert '5 of 7 frames exist from an earlier run.' in capsys.readouterr().out
    assert contents(tmp_path / 'out/train_blur.lmdb')['A_00/000048'] == files[broken[0]]
    assert sound(tmp_path / 'out')


@pytest.mark.parametrize('raw', [[], ['--raw']])
def test_finished_data_is_kept_and_never_overwritten(tmp_path, capsys, raw: list[str]) -> None:
    def snapshot() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').rglob('*')}

    make_gopro(tmp_path / 'src')
    command = ['gopro', str(tmp_path / 'src'), '-o', str(tmp_path / 'out')]
    assert main(command + raw) == 0
    before = snapshot()
    assert main(command + raw) == 0
    assert capsys.readouterr().out.count('already complete') == 4
    expected = 'train_blur.lmdb exists already and was not made from these files'
    assert expected in failure(capsys, *command, *([] if raw else ['--raw']))
    make_gopro(tmp_path / 'src', {'train/NEW_00': (1, 2)})
    assert expected in failure(capsys, *command, *raw)
    assert snapshot() == before


@pytest.mark.parametrize('mine', ['test_sharp.lmdb/data.mdb', 'train_blur.lmdb', ''])
def test_foreign_files_are_not_touched(tmp_path, capsys, mine: str) -> None:
    make_gopro(tmp_path / 'src')
    path = tmp_path / 'out' / mine
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('mine')
    assert 'another folder' in failure(capsys, 'gopro', tmp_path / 'src', '-o', tmp_path / 'out')
    assert [file for file in tmp_path.rglob('*') if file.is_file() and 'src' not in file.parts] == [path]


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from data_prep import lmdb_writer
from data_prep.convert import convert
from data_prep.layouts import GOPRO

calls = 0
def count(stop_at, action):
    def counted(*args):
        global calls
        calls += 1
        if calls == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return action(*args)
    return counted

place, stop_at = sys.argv[1], int(sys.argv[2])
if place == 'load':
    lmdb_writer._load = count(stop_at, lmdb_writer._load)
elif place == 'text':
    os.replace = count(stop_at, os.replace)
elif place == 'rename':
    Path.rename = count(stop_at, Path.rename)
lmdb_writer.IMAGES_PER_THREAD = 1
convert(GOPRO, Path(sys.argv[3]), Path(sys.argv[4]), threads=2)
"""


@pytest.mark.skipif(os.name == 'nt', reason='SIGKILL is for POSIX')
@pytest.mark.parametrize(
    ('place', 'stop_at', 'kept'),
    [('load', 1, 0), ('load', 7, 6), ('load', 12, 2), ('text', 1, 0), ('text', 2, 8), ('rename', 2, 8)],
)
def test_killed_and_resumed_run_equals_an_uninterrupted_one(
    tmp_path, capsys, root, place: str, stop_at: int, kept: int
) -> None:
    make_gopro(tmp_path / 'src', {'train/A_00': (47, 8), 'test/C_00': (9, 3)})
    command = [sys.executable, '-c', KILLED_RUN, place, str(stop_at), str(tmp_path / 'src'), str(tmp_path / 'out')]
    killed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    (partial,) = (tmp_path / 'out').glob('*.partial')
    assert len(contents(partial)) == kept
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    assert not kept or f'{partial.name}: {kept} of 8 frames exist from an earlier run.' in capsys.readouterr().out
    convert(GOPRO, tmp_path / 'src', tmp_path / 'straight')
    names = [path.name for path in sorted((tmp_path / 'straight').iterdir())]
    assert [path.name for path in sorted((tmp_path / 'out').iterdir())] == names
    for name in names:
        assert contents(tmp_path / 'out' / name) == contents(tmp_path / 'straight' / name)
        for text in ('meta_info.txt', 'source_files.tsv', 'dataset_info.json'):
            assert (tmp_path / 'out' / name / text).read_text() == (tmp_path / 'straight' / name / text).read_text()


@pytest.fixture
def interrupted(tmp_path, root) -> None:
    """A conversion that a full disk stopped after some frames of train_blur."""
    make_gopro(tmp_path / 'src', {'train/A_00': (1, 12)})
    code = (
        'import resource, signal, sys; from data_prep import lmdb_writer; from data_prep.__main__ import main; '
        'signal.signal(signal.SIGXFSZ, signal.SIG_IGN); lmdb_writer.IMAGES_PER_THREAD = 1; '
        'resource.setrlimit(resource.RLIMIT_FSIZE, (36864, 36864)); sys.exit(main(sys.argv[1:]))'
    )
    command = [sys.executable, '-c', code, 'gopro', str(tmp_path / 'src'), '-o', str(tmp_path / 'out'), '--threads=1']
    failed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert 'error: cannot write' in failed.stderr
    assert 'it resumes where it stopped' in failed.stderr
    assert 'Traceback' not in failed.stderr
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['train_blur.lmdb.partial']


def test_resumed_with_changed_files(tmp_path, interrupted) -> None:
    new = put(tmp_path / 'src/train/A_00/blur/000001.png', seed=99, size=(12, 16))
    for side in ('blur', 'sharp'):
        (tmp_path / f'src/train/A_00/{side}/000002.png').unlink()
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    stored = contents(tmp_path / 'out/train_blur.lmdb')
    assert stored['A_00/000001'] == new
    assert len(stored) == 11


def test_unfinished_files_are_replaced_by_raw_pixels(tmp_path, capsys, interrupted) -> None:
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out', raw=True)
    assert '0 of 12 frames exist from an earlier run.' in capsys.readouterr().out
    stored = contents(tmp_path / 'out/train_blur.lmdb')
    assert len(stored) == 12
    assert {data[:13] for data in stored.values()} == {b'P6\n16 12\n255\n'}


def test_damaged_unfinished_lmdb_is_started_again(tmp_path, capsys, interrupted) -> None:
    os.truncate(tmp_path / 'out/train_blur.lmdb.partial/data.mdb', 5000)
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    assert 'is started again' in capsys.readouterr().out
    assert len(contents(tmp_path / 'out/train_blur.lmdb')) == 12


def test_full_disk_is_noticed_before_writing(tmp_path, monkeypatch, capsys) -> None:
    make_gopro(tmp_path / 'src')
    monkeypatch.setattr(convert_module.shutil, 'disk_usage', lambda path: type('Usage', (), {'free': 1000})())
    message = failure(capsys, 'gopro', tmp_path / 'src', '-o', tmp_path / 'a/b/out')
    assert 'MB are free on its disk' in message
    assert not (tmp_path / 'a').exists()


def test_second_writer_is_refused(tmp_path) -> None:
    pytest.importorskip('fcntl')
    make_gopro(tmp_path / 'src')
    partial = tmp_path / 'out/train_blur.lmdb.partial'
    partial.mkdir(parents=True)
    with lmdb_writer.only_writer(partial), pytest.raises(DataError, match='another process is writing'):
        convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')

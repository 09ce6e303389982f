"""Atomic files: what is left on every way out of `atomic_file`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dstnet_arch import files
from dstnet_arch.errors import DataError
from dstnet_arch.files import atomic_file, incomplete_path, output_file, read_json


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


@pytest.fixture(params=[None, b'older and longer'])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that does not exist, or does; a killed process has left an incomplete one."""
    if request.param is not None:
        (tmp_path / 'file.bin').write_bytes(request.param)
    incomplete_path(tmp_path / 'file.bin').write_bytes(b'left behind, and longer than the new content')
    return tmp_path / 'file.bin'


@pytest.mark.parametrize('durable', [False, True])
def test_file_appears_when_it_is_complete(path: Path, durable: bool) -> None:
    before = path.read_bytes() if path.exists() else None
    with atomic_file(path, durable) as file:
        file.write(b'new')
        file.flush()
        assert (path.read_bytes() if path.exists() else None) == before
        assert incomplete_path(path).read_bytes() == b'new'
    assert contents(path.parent) == {'file.bin': b'new'}


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_nothing_changes_if_writing_fails(path: Path, error: type[BaseException]) -> None:
    before = {name: data for name, data in contents(path.parent).items() if name == path.name}

    def fail() -> None:
        with atomic_file(path) as file:
            file.write(b'half of it')
            raise error

    with pytest.raises(error):
        fail()
    assert contents(path.parent) == before


def test_nothing_changes_if_renaming_fails_or_the_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / 'none' / 'file.bin'):
        pytest.fail('nothing can be written there')
    (tmp_path / 'taken').mkdir()
    with pytest.raises(OSError), atomic_file(tmp_path / 'taken') as file:
        file.write(b'new')
    assert [entry.name for entry in tmp_path.iterdir()] == ['taken']


def test_disk_has_a_durable_file_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system may store the new name before the content: after a power cut the file would be empty."""
    path, calls = tmp_path / 'file.bin', []

    def record(descriptor: int) -> None:
        calls.append((os.path.isdir(f'/dev/fd/{descriptor}'), path.exists() and path.read_bytes()))

    monkeypatch.setattr(files.os, 'fsync', record)
    with atomic_file(path, durable=True) as file:
        file.write(b'new')
    assert calls == ([(False, False), (True, b'new')] if os.name == 'posix' else [(False, False)])
    calls.clear()
    with atomic_file(path) as file:
        file.write(b'newer')
    assert calls == []


def test_incomplete_file_is_hidden_and_in_the_same_folder(tmp_path: Path) -> None:
    path = incomplete_path(tmp_path / 'net_g_8.pth')
    assert path.parent == tmp_path
    assert path.name.startswith('.')
    assert path.suffix != '.pth'


@pytest.mark.parametrize('content', [b'', b'{', b'\xff', b'[]', b'null', b'[' * 100_000])
def test_read_json_accepts_objects_only(tmp_path: Path, content: bytes) -> None:
    (tmp_path / 'x.json').write_bytes(content)
    with pytest.raises(ValueError, match=r'.'):
        read_json(tmp_path / 'x.json')
    (tmp_path / 'x.json').write_bytes('{"é": [1]}'.encode())
    assert read_json(tmp_path / 'x.json') == {'é': [1]}


def test_output_file_creates_folders_and_reports_errors(tmp_path: Path) -> None:
    with output_file(tmp_path / 'new/folder/x') as file:
        file.write(b'content')
    assert (tmp_path / 'new/folder/x').read_bytes() == b'content'
    with pytest.raises(DataError, match='y cannot be written'), output_file(tmp_path / 'new/folder/x/y', DataError):
        pytest.fail('nothing can be written there')

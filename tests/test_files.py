"""Files that are complete or not there: what is left on every way out of `atomic_file`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dstnet_arch import files
from dstnet_arch.files import atomic_file, incomplete_path, read_json


@pytest.mark.parametrize('durable', [False, True])
@pytest.mark.parametrize('before', [None, b'older and longer'])
def test_a_file_appears_when_it_is_complete(tmp_path: Path, durable: bool, before: bytes | None) -> None:
    path = tmp_path / 'file.bin'
    if before is not None:
        path.write_bytes(before)
    with atomic_file(path, durable) as file:
        file.write(b'new')
        file.flush()
        assert (path.read_bytes() if path.exists() else None) == before
        assert incomplete_path(path).read_bytes() == b'new'
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {'file.bin': b'new'}


@pytest.mark.parametrize('error', [ValueError, OSError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize('before', [None, b'older'])
def test_nothing_changes_if_the_writing_fails(tmp_path: Path, error: type[BaseException], before: bytes | None) -> None:
    path = tmp_path / 'file.bin'
    if before is not None:
        path.write_bytes(before)

    def fail() -> None:
        with atomic_file(path) as file:
            file.write(b'half of it')
            raise error

    with pytest.raises(error):
        fail()
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([] if before is None else [before])


def test_nothing_changes_if_the_renaming_fails(tmp_path: Path) -> None:
    path = tmp_path / 'taken'
    path.mkdir()
    with pytest.raises(OSError), atomic_file(path) as file:
        file.write(b'new')
    assert [entry.name for entry in tmp_path.iterdir()] == ['taken']


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / 'none' / 'file.bin'):
        pytest.fail('nothing can be written there')


def test_what_a_killed_process_has_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / 'file.bin'
    incomplete_path(path).write_bytes(b'left behind, and longer than what comes')
    with atomic_file(path) as file:
        file.write(b'new')
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {'file.bin': b'new'}


def test_the_disk_holds_a_durable_file_before_its_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system may bring the new name to the disk before the content: then a power cut leaves an empty file."""
    path, calls = tmp_path / 'file.bin', []

    def record(descriptor: int) -> None:
        # What the system sees here is what the disk would hold from now on.
        there = path.exists() and path.read_bytes()
        calls.append((os.path.isdir(f'/dev/fd/{descriptor}'), there))

    monkeypatch.setattr(files.os, 'fsync', record)
    with atomic_file(path, durable=True) as file:
        file.write(b'new')
    assert calls == ([(False, False), (True, b'new')] if os.name == 'posix' else [(False, False)])
    calls.clear()
    with atomic_file(path) as file:
        file.write(b'newer')
    assert calls == []


def test_an_incomplete_file_is_beside_and_hidden(tmp_path: Path) -> None:
    path = incomplete_path(tmp_path / 'net_g_8.pth')
    assert path.parent == tmp_path
    assert path.name.startswith('.')
    assert path.suffix != '.pth'


@pytest.mark.parametrize('content', [b'', b'{', b'\xff', b'[]', b'null', b'[' * 100_000])
def test_what_is_no_json_object_is_a_value_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / 'x.json').write_bytes(content)
    with pytest.raises(ValueError, match=r'.'):
        read_json(tmp_path / 'x.json')
    (tmp_path / 'x.json').write_bytes('{"é": [1]}'.encode())
    assert read_json(tmp_path / 'x.json') == {'é': [1]}


def test_it_needs_the_standard_library_alone() -> None:
    """It is used where importing anything else would cost time, or may fail."""
    code = f'import sys; sys.path.insert(0, {str(Path(files.__file__).parent)!r}); import files; files.atomic_file'
    result = subprocess.run([sys.executable, '-I', '-S', '-c', code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, '')

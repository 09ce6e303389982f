"""Frame sources: folders of images and LMDBs."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_utils import encode, encode_raw, write_folder, write_lmdb
from tiny_videos import HEIGHT, VIDEOS, WIDTH, picture, pictures_of, sharp

from dstnet_arch.data import lmdb_file
from dstnet_arch.data.frame_source import FolderSource, FrameSource, LMDBSource, open_source
from dstnet_arch.errors import DataError, OptionsError


def test_sources_know_names_and_sizes_and_read_rgb(roots: dict[str, str]) -> None:
    source = open_source(roots['dataroot_lq'])
    assert isinstance(source, LMDBSource if roots['dataroot_lq'].endswith('.lmdb') else FolderSource)
    assert list(source.clips.items()) == list(VIDEOS.items())
    for clip, frames in VIDEOS.items():
        for frame in frames:
            assert source.shape(clip, frame) == (HEIGHT, WIDTH)
            image = source.read(clip, frame)
            assert image.dtype == np.uint8
            assert image.flags.c_contiguous
            np.testing.assert_array_equal(image, picture(clip, frame))


def test_folder_source_reads_unusual_names_and_ignores_other_files(tmp_path: Path) -> None:
    clip = tmp_path / 'ünï clip'
    clip.mkdir()
    (clip / 'a.b.PNG').write_bytes(encode(picture('b9', '1')))
    for other in ('.1.png', 'Thumbs.db', '../readme.txt'):
        (clip / other).write_bytes(b'')
    (clip / 'folder.png').mkdir()
    (tmp_path / 'notes').mkdir()
    for number, extension in enumerate(('.bmp', '.tif', '.TIFF', '.webp', '.jpeg')):
        (clip / f'{number}{extension}').write_bytes(encode(picture('b9', '2'), extension.lower()))
    source = FolderSource(tmp_path)
    assert source.clips == {'ünï clip': ['0', '1', '2', '3', '4', 'a.b']}
    for frame, expected in {'a.b': '1', '0': '2', '1': '2', '2': '2'}.items():
        np.testing.assert_array_equal(source.read('ünï clip', frame), picture('b9', expected))
    assert all(source.shape('ünï clip', frame) == (HEIGHT, WIDTH) for frame in source.clips['ünï clip'])


@pytest.mark.parametrize('damage', ['empty', 'half', 'text', 'missing'])
def test_damaged_frames_are_named(tmp_path: Path, damage: str) -> None:
    data = encode(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    (tmp_path / 'clip').mkdir()
    path = tmp_path / 'clip/007.png'
    path.write_bytes({'empty': b'', 'half': data[: len(data) // 2], 'text': b'no picture'}.get(damage, data))
    source = FolderSource(tmp_path)
    if damage == 'missing':
        path.unlink()
    with pytest.raises(DataError, match=f'^{tmp_path}/clip/007.png '):
        source.read('clip', '007')


def test_frames_of_another_size_than_listed_are_refused(tmp_path: Path) -> None:
    root = write_lmdb(tmp_path / 'a.lmdb', pictures_of(height=40), encoder=encode_raw)
    lines = (root / 'meta_info.txt').read_text().replace('(40,', f'({HEIGHT},')
    (root / 'meta_info.txt').write_text(lines)
    with pytest.raises(DataError, match=f'has {WIDTH}x40 pixels, but {WIDTH}x{HEIGHT} are listed'):
        LMDBSource(root).read('b9', '1', np.s_[0:16, 0:16])
    folder = write_folder(tmp_path / 'a', pictures_of())
    source = FolderSource(folder)
    assert source.shape('b9', '1') == (HEIGHT, WIDTH)
    write_folder(folder, pictures_of(height=8))
    with pytest.raises(DataError, match=f'has {WIDTH}x8 pixels, but {WIDTH}x{HEIGHT} are listed'):
        source.read('b9', '1')


@pytest.mark.skipif(sys.platform != 'linux', reason='file systems elsewhere have no such names')
def test_folder_source_refuses_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b'cl\xffip/0.png')
    os.mkdir(os.path.dirname(path))
    with open(path, 'wb') as file:
        file.write(encode(picture('b9', '1')))
    with pytest.raises(DataError, match='is not UTF-8'):
        open_source(tmp_path)


def test_lmdb_is_opened_once_per_process_and_again_after_it_was_replaced(tmp_path: Path) -> None:
    root = write_lmdb(tmp_path / 'a.lmdb', pictures_of())
    (tmp_path / 'link.lmdb').symlink_to(root)
    for source in (LMDBSource(root), LMDBSource(str(root)), LMDBSource(tmp_path / 'link.lmdb')):
        np.testing.assert_array_equal(source.read('b9', '2'), picture('b9', '2'))
    write_lmdb(tmp_path / 'b.lmdb', {key: sharp(image) for key, image in pictures_of().items()})
    shutil.rmtree(root)
    (tmp_path / 'b.lmdb').rename(root)
    np.testing.assert_array_equal(LMDBSource(root).read('b9', '1'), sharp(picture('b9', '1')))


def _read_and_send(source: FrameSource, connection: Any) -> None:
    inherited = list(lmdb_file._environments)
    connection.send((inherited, [source.read('b9', '1') for _ in range(2)]))


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='processes are not forked here')
@pytest.mark.filterwarnings('ignore:This process:DeprecationWarning')  # fork beside threads
def test_forked_child_reads_while_the_parent_has_the_lmdb_open(tmp_path: Path) -> None:
    source = LMDBSource(write_lmdb(tmp_path / 'a.lmdb', pictures_of()))
    context = multiprocessing.get_context('fork')
    for _ in range(2):
        np.testing.assert_array_equal(source.read('b9', '1'), picture('b9', '1'))
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_read_and_send, args=(source, sender))
        child.start()
        assert receiver.poll(60)
        inherited, images = receiver.recv()
        assert inherited == []  # LMDB does not support the use of a parent's environment
        for image in images:
            np.testing.assert_array_equal(image, picture('b9', '1'))
        child.join()
        assert child.exitcode == 0


def test_lmdb_errors_name_key_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'a\.lmdb lacks b9/4, b9/5, .* and 1 more, which its meta_info\.txt lists'):
        LMDBSource(write_lmdb(tmp_path / 'a.lmdb', pictures_of(), also_listed=[f'b9/{n}' for n in range(4, 10)]))
    source = LMDBSource(write_lmdb(tmp_path / 'b.lmdb', pictures_of()))
    source._path = str(write_lmdb(tmp_path / 'c.lmdb', pictures_of({'b9': ['1']})))
    with pytest.raises(DataError, match=r'b9/2 in .*b\.lmdb does not exist'):
        source.read('b9', '2')

    folder = tmp_path / 'd.lmdb'
    folder.mkdir()
    with pytest.raises(DataError, match=r'd\.lmdb has no meta_info\.txt'):
        LMDBSource(folder)
    (folder / 'meta_info.txt').write_text('b9/1.png (20,24,3) 1\n')
    with pytest.raises(DataError, match=r'd\.lmdb contains no data\.mdb'):
        LMDBSource(folder)
    (folder / 'data.mdb').write_bytes(b'garbage' * 1000)
    with pytest.raises(DataError, match=r'd\.lmdb cannot be read as an LMDB'):
        LMDBSource(folder)
    (folder / 'meta_info.txt').write_text('1.png (20,24,3) 1\n')
    with pytest.raises(DataError, match="lists '1', expected <clip>/<frame>"):
        LMDBSource(folder)
    truncated = write_lmdb(tmp_path / 'e.lmdb', pictures_of())
    os.truncate(truncated / 'data.mdb', 3 * 4096)  # reading it would kill the process
    with pytest.raises(DataError, match='is truncated: 12288 of'):
        LMDBSource(truncated)


def test_open_source_chooses_the_backend(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / 'folder', pictures_of())
    database = write_lmdb(tmp_path / 'database', pictures_of())
    assert isinstance(open_source(folder), FolderSource)
    assert isinstance(open_source(database), LMDBSource)
    with pytest.raises(DataError, match=r'folder has no meta_info\.txt'):
        open_source(folder, 'lmdb')
    with pytest.raises(DataError, match=r'database contains no frames in the layout <clip>/<frame>\.png'):
        open_source(database, 'disk')
    with pytest.raises(OptionsError, match=r"'hdf5', expected one of: auto, lmdb, disk"):
        open_source(folder, 'hdf5')
    with pytest.raises(DataError, match=r'nowhere does not exist.*current folder'):
        open_source(tmp_path / 'nowhere')
    with pytest.raises(DataError, match=r'1\.png is not a folder'):
        open_source(folder / 'b9' / '1.png')

"""Frame sources and the two data sets, on tiny pictures whose values say where they come from."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, default_collate

from dstnet_arch.data import frame_source
from dstnet_arch.data.decoding import decode
from dstnet_arch.data.frame_source import FolderSource, FrameSource, LMDBSource, open_source
from dstnet_arch.data.lmdb_format import MetaEntry, format_meta_line, raw_header
from dstnet_arch.data.sampler import VideoDeblurSampler
from dstnet_arch.data.video_recurrent_deblur_dataset import VideoRecurrentDeblurDataset, VideoRecurrentDeblurTestDataset
from dstnet_arch.errors import DataError, OptionsError

HEIGHT, WIDTH, CROP = 20, 24, 16
# Numbering starts anywhere, and is not always padded: natural order is not that of text.
CLIPS = {
    'GOPR0372_07_00': [f'{number:06d}' for number in range(47, 54)],
    'b10': ['8', '9', '10', '11'],
    'b9': ['1', '2', '3'],
}
VIDEOS = {'GOPR0372_07_00': CLIPS['GOPR0372_07_00'], 'b9': CLIPS['b9'], 'b10': CLIPS['b10']}

Pixels = NDArray[np.uint8]


def picture(clip: str, frame: str, height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    """RGB: the row, the column, and the frame's number plus ten times the clip's."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, int(frame) + 10 * sorted(CLIPS).index(clip))], -1).astype(
        np.uint8
    )


def sharp(image: Pixels) -> Pixels:
    """Ground truth that any crop and flip commutes with."""
    return 255 - image


def encode(image: Pixels, extension: str = '.png') -> bytes:
    return cv2.imencode(extension, image[..., ::-1])[1].tobytes()


def encode_raw(image: Pixels) -> bytes:
    return raw_header(*image.shape[:2]) + image.tobytes()


def noisy(key: str) -> Pixels:
    return np.random.default_rng(list(key.encode())).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def write_folder(root: Path, pictures: Mapping[str, Pixels]) -> Path:
    for key, image in pictures.items():
        path = root / f'{key}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))
    return root


def write_lmdb(
    root: Path,
    pictures: Mapping[str, Pixels],
    also_listed: Iterable[str] = (),
    encoder: Callable[[Pixels], bytes] = encode,
) -> Path:
    entries = [MetaEntry(key, '.png', (*image.shape[:2], 3)) for key, image in pictures.items()]
    entries += [MetaEntry(key, '.png', (HEIGHT, WIDTH, 3)) for key in also_listed]
    with lmdb.open(str(root), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for key, image in pictures.items():
            transaction.put(key.encode(), encoder(image))
    root.joinpath('meta_info.txt').write_text('\n'.join(map(format_meta_line, entries)) + '\n')
    return root


def pictures_of(clips: Mapping[str, Iterable[str]] = CLIPS, **size: int) -> dict[str, Pixels]:
    return {f'{clip}/{frame}': picture(clip, frame, **size) for clip, frames in clips.items() for frame in frames}


@pytest.fixture(params=['disk', 'lmdb'])
def roots(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    write, suffix = (write_folder, '') if request.param == 'disk' else (write_lmdb, '.lmdb')
    lq = pictures_of()
    gt = {key: sharp(image) for key, image in lq.items()}
    return {
        'dataroot_lq': str(write(tmp_path / f'blur{suffix}', lq)),
        'dataroot_gt': str(write(tmp_path / f'sharp{suffix}', gt)),
    }


def train_opt(roots: Mapping[str, str], **opt: Any) -> dict[str, Any]:
    return {'name': 'Tiny', 'num_frame': 3, 'gt_size': CROP, **roots, **opt}


def to_pixels(tensor: torch.Tensor) -> Pixels:
    """(T, 3, H, W) in [0, 1] -> (T, H, W, 3) uint8; fails where values are no multiples of 1/255."""
    scaled = tensor.mul(255)
    assert torch.equal(scaled.round() / 255, tensor)
    return scaled.round().byte().permute(0, 2, 3, 1).numpy()


# Frame sources


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


def test_folder_passes_over_what_is_no_frame(tmp_path: Path) -> None:
    write_folder(tmp_path, {'b9/1': picture('b9', '1')})
    (tmp_path / 'b9' / '.1.png').write_bytes(b'')
    (tmp_path / 'b9' / 'Thumbs.db').write_bytes(b'')
    (tmp_path / 'b9' / 'folder.png').mkdir()
    (tmp_path / 'notes').mkdir()
    (tmp_path / 'readme.txt').write_text('')
    assert FolderSource(tmp_path).clips == {'b9': ['1']}


def test_unusual_names_and_extensions(tmp_path: Path) -> None:
    clip = tmp_path / 'ünï clip'
    clip.mkdir()
    (clip / 'a.b.PNG').write_bytes(encode(picture('b9', '1')))
    (clip / 'c.bmp').write_bytes(encode(picture('b9', '2'), '.bmp'))
    source = FolderSource(tmp_path)
    assert source.clips == {'ünï clip': ['a.b', 'c']}
    np.testing.assert_array_equal(source.read('ünï clip', 'a.b'), picture('b9', '1'))
    np.testing.assert_array_equal(source.read('ünï clip', 'c'), picture('b9', '2'))


@pytest.mark.parametrize('kind', ['gray', 'gray16', 'rgb16', 'alpha'])
def test_every_kind_of_png_becomes_8_bit_rgb(tmp_path: Path, kind: str) -> None:
    rgb = picture('b9', '1')
    gray = rgb[..., 0]
    stored = {
        'gray': gray,
        'gray16': gray.astype(np.uint16) * 257,
        'rgb16': rgb[..., ::-1].astype(np.uint16) * 257,
        'alpha': np.dstack([rgb[..., ::-1], gray]),
    }[kind]
    (tmp_path / 'clip').mkdir()
    (tmp_path / 'clip' / '0.png').write_bytes(cv2.imencode('.png', stored)[1].tobytes())
    expected = np.dstack([gray] * 3) if kind.startswith('gray') else rgb
    np.testing.assert_array_equal(FolderSource(tmp_path).read('clip', '0'), expected)


def test_pixels_are_read_as_stored_whatever_the_orientation_tag(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter for display
    (tmp_path / 'clip').mkdir()
    Image.new('RGB', (WIDTH, HEIGHT)).save(tmp_path / 'clip' / '0.jpg', exif=exif)
    assert FolderSource(tmp_path).read('clip', '0').shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize('damage', ['empty', 'half', 'almost whole', 'text'])
@pytest.mark.parametrize('extension', ['.png', '.jpg'])
def test_damaged_pictures_name_themselves(tmp_path: Path, damage: str, extension: str) -> None:
    whole = encode(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), extension)
    (tmp_path / 'clip').mkdir()
    path = tmp_path / 'clip' / f'007{extension}'
    contents = {'empty': b'', 'half': whole[: len(whole) // 2], 'almost whole': whole[:-40], 'text': b'no picture'}
    path.write_bytes(contents[damage])
    source = FolderSource(tmp_path)
    with pytest.raises(DataError, match='007'):
        source.read('clip', '007')
    path.unlink()
    with pytest.raises(DataError, match='007'):
        source.read('clip', '007')


def test_truncated_jpeg_is_refused_where_opencv_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'clip').mkdir()
    (tmp_path / 'clip' / '0.jpg').write_bytes(encode(picture('b9', '1'), '.jpg')[:-40])
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: picture('b9', '1'))
    with pytest.raises(DataError, match=r'0\.jpg cannot be decoded'):
        FolderSource(tmp_path).read('clip', '0')


@pytest.mark.parametrize('kind', ['.png', '.jpg', 'raw'])
def test_windows_are_cut_out_of_the_whole_picture(kind: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    data = encode_raw(image) if kind == 'raw' else encode(image, kind)
    stored = np.frombuffer(data, np.uint8)
    whole, shape = decode(stored) or pytest.fail('not decoded')
    assert shape == (HEIGHT, WIDTH)
    if kind != '.jpg':
        np.testing.assert_array_equal(whole, image)
    for window in [np.s_[0:HEIGHT, 0:WIDTH], np.s_[3:4, 7:8], np.s_[5:HEIGHT, 0:9], np.s_[0:1, 2:WIDTH]]:
        part, shape = decode(stored, window) or pytest.fail('not decoded')
        assert shape == (HEIGHT, WIDTH)
        np.testing.assert_array_equal(part, whole[window])
        assert part.flags.c_contiguous
        assert not np.shares_memory(part, stored)  # which is gone after the transaction
    assert decode(stored[: len(stored) // 2]) is None


def test_raw_frames_give_the_same_samples_as_compressed_ones(tmp_path: Path) -> None:
    lq = {key: noisy(key) for key in pictures_of()}
    gt = {key: noisy(f'sharp {key}') for key in lq}
    roots = {
        kind: {
            'dataroot_lq': str(write_lmdb(tmp_path / f'{kind}_blur.lmdb', lq, encoder=encoder)),
            'dataroot_gt': str(write_lmdb(tmp_path / f'{kind}_sharp.lmdb', gt, encoder=encoder)),
        }
        for kind, encoder in (('png', encode), ('raw', encode_raw))
    }
    opt = {'random_reverse': True, 'interval_list': [1, 2]}
    png, raw = (VideoRecurrentDeblurDataset(train_opt(roots[kind], **opt)) for kind in ('png', 'raw'))
    pairs = list(VideoDeblurSampler(png, 1, 0, ratio=8))
    assert pairs == list(VideoDeblurSampler(raw, 1, 0, ratio=8))
    for pair in pairs:
        assert_same(raw[pair], png[pair])
    for ours, theirs in zip(*(VideoRecurrentDeblurTestDataset(roots[kind]) for kind in ('raw', 'png')), strict=True):
        assert torch.equal(ours['lq'], theirs['lq'])
        assert torch.equal(ours['gt'], theirs['gt'])


def test_raw_frames_of_another_size_than_announced_are_refused(tmp_path: Path) -> None:
    root = write_lmdb(tmp_path / 'a.lmdb', pictures_of(height=40), encoder=encode_raw)
    lines = (root / 'meta_info.txt').read_text().replace('(40,', f'({HEIGHT},')
    (root / 'meta_info.txt').write_text(lines)
    with pytest.raises(DataError, match=f'has {WIDTH}x40 pixels, but {WIDTH}x{HEIGHT}'):
        LMDBSource(root).read('b9', '1', np.s_[0:16, 0:16])


def test_pictures_that_change_after_they_were_listed_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, pictures_of())
    source = FolderSource(tmp_path)
    assert source.shape('b9', '1') == (HEIGHT, WIDTH)
    write_folder(tmp_path, pictures_of(height=8))
    with pytest.raises(DataError, match=f'has {WIDTH}x8 pixels, but {WIDTH}x{HEIGHT}'):
        source.read('b9', '1')


def test_lmdb_is_opened_once_in_a_process(tmp_path: Path) -> None:
    root = write_lmdb(tmp_path / 'a.lmdb', pictures_of())
    (tmp_path / 'link.lmdb').symlink_to(root)
    for source in (LMDBSource(root), LMDBSource(str(root)), LMDBSource(tmp_path / 'link.lmdb')):
        np.testing.assert_array_equal(source.read('b9', '2'), picture('b9', '2'))


def test_lmdb_made_anew_is_read_anew(tmp_path: Path) -> None:
    root = write_lmdb(tmp_path / 'a.lmdb', pictures_of())
    LMDBSource(root).read('b9', '1')
    write_lmdb(tmp_path / 'b.lmdb', {key: sharp(image) for key, image in pictures_of().items()})
    shutil.rmtree(root)
    (tmp_path / 'b.lmdb').rename(root)
    np.testing.assert_array_equal(LMDBSource(root).read('b9', '1'), sharp(picture('b9', '1')))


def _read_and_send(source: FrameSource, connection: Any) -> None:
    inherited = list(frame_source._environments)
    connection.send((inherited, [source.read('b9', '1') for _ in range(2)]))


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='processes are not forked here')
@pytest.mark.filterwarnings('ignore:This process:DeprecationWarning')  # fork beside threads
def test_forked_child_reads_while_the_parent_has_the_database_open(tmp_path: Path) -> None:
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
    np.testing.assert_array_equal(source.read('b9', '1'), picture('b9', '1'))


def test_lmdb_errors_name_key_and_database(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r'a\.lmdb lacks b9/4, b9/5, .* and 1 more, though its meta_info\.txt lists them'
    ):
        LMDBSource(write_lmdb(tmp_path / 'a.lmdb', pictures_of(), also_listed=[f'b9/{n}' for n in range(4, 10)]))

    source = LMDBSource(write_lmdb(tmp_path / 'b.lmdb', pictures_of()))
    source._path = str(write_lmdb(tmp_path / 'c.lmdb', pictures_of({'b9': ['1']})))
    with pytest.raises(DataError, match=r'b9/2 in .*b\.lmdb does not exist'):
        source.read('b9', '2')

    (tmp_path / 'd.lmdb').mkdir()
    with pytest.raises(DataError, match=r'd\.lmdb has no meta_info\.txt'):
        LMDBSource(tmp_path / 'd.lmdb')
    (tmp_path / 'd.lmdb' / 'meta_info.txt').write_text('b9/1.png (20,24,3) 1\n')
    with pytest.raises(DataError, match=r'd\.lmdb cannot be read as an LMDB'):
        LMDBSource(tmp_path / 'd.lmdb')
    (tmp_path / 'd.lmdb' / 'data.mdb').write_bytes(b'garbage' * 1000)
    with pytest.raises(DataError, match=r'd\.lmdb cannot be read as an LMDB'):
        LMDBSource(tmp_path / 'd.lmdb')
    (tmp_path / 'd.lmdb' / 'meta_info.txt').write_text('1.png (20,24,3) 1\n')
    with pytest.raises(DataError, match="'1', which names no clip"):
        LMDBSource(tmp_path / 'd.lmdb')


def test_lmdb_that_was_cut_short_does_not_kill_the_process(tmp_path: Path) -> None:
    root = write_lmdb(tmp_path / 'a.lmdb', pictures_of())
    os.truncate(root / 'data.mdb', 3 * 4096)
    with pytest.raises(DataError, match='cut short'):
        LMDBSource(root)


def test_backend_is_found_by_what_the_root_is(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / 'folder', pictures_of())
    database = write_lmdb(tmp_path / 'database', pictures_of())
    assert isinstance(open_source(folder), FolderSource)
    assert isinstance(open_source(database), LMDBSource)
    with pytest.raises(DataError, match=r'folder has no meta_info\.txt'):
        open_source(folder, 'lmdb')
    with pytest.raises(DataError, match=r'database holds no frames in the layout <clip>/<frame>\.png'):
        open_source(database, 'disk')
    with pytest.raises(OptionsError, match=r"'hdf5'; it can be auto, lmdb, disk"):
        open_source(folder, 'hdf5')
    with pytest.raises(DataError, match=r'nowhere does not exist.*current folder'):
        open_source(tmp_path / 'nowhere')
    with pytest.raises(DataError, match=r'1\.png is not a folder'):
        open_source(folder / 'b9' / '1.png')


def test_two_files_of_one_frame_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {'b9/1': picture('b9', '1')})
    (tmp_path / 'b9' / '1.jpg').write_bytes(encode(picture('b9', '1'), '.jpg'))
    with pytest.raises(DataError, match=r'b9 holds both 1\.jpg and 1\.png'):
        FolderSource(tmp_path)


# The training set


def test_item_is_exactly_the_decoded_frames(roots: dict[str, str]) -> None:
    dataset = VideoRecurrentDeblurDataset(train_opt(roots, gt_size=HEIGHT, use_hflip=False, use_rot=False))
    assert len(dataset) == 5 + 1 + 2
    starts = [(clip, start) for clip, frames in VIDEOS.items() for start in range(len(frames) - 2)]
    for index, (clip, start) in enumerate(starts):
        item = dataset[index]
        frames = VIDEOS[clip][start : start + 3]
        assert item['key'] == f'{clip}/{frames[0]}'
        left = round(float(item['lq'][0, 1, 0, 0] * 255))
        expected = np.stack([picture(clip, frame)[:, left : left + HEIGHT] for frame in frames])
        for name, pixels in (('lq', expected), ('gt', sharp(expected))):
            assert item[name].dtype == torch.float32
            assert item[name].is_contiguous()
            np.testing.assert_array_equal(item[name].permute(0, 2, 3, 1), pixels.astype(np.float32) / np.float32(255))
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    assert len(list(dataset)) == len(dataset)


def symmetries(image: Pixels) -> list[Pixels]:
    return [np.rot90(flipped, turns) for flipped in (image, image[:, ::-1]) for turns in range(4)]


@pytest.mark.parametrize(
    ('use_hflip', 'use_rot', 'reachable'), [(True, True, 8), (False, True, 4), (True, False, 2), (False, False, 1)]
)
def test_augmentation_is_one_for_all_frames_of_both(
    roots: dict[str, str], use_hflip: bool, use_rot: bool, reachable: int
) -> None:
    dataset = VideoRecurrentDeblurDataset(train_opt(roots, use_hflip=use_hflip, use_rot=use_rot))
    reached, corners = set(), set()
    for draw in range(100):
        item = dataset[1, draw]
        lq, gt = to_pixels(item['lq']), to_pixels(item['gt'])
        np.testing.assert_array_equal(gt, sharp(lq))
        top, left = (int(lq[0, ..., channel].min()) for channel in (0, 1))
        crops = [
            symmetries(picture('GOPR0372_07_00', f'{number:06d}')[top : top + CROP, left : left + CROP])
            for number in (48, 49, 50)
        ]
        [symmetry] = [s for s in range(8) if np.array_equal(lq[0], crops[0][s])]
        np.testing.assert_array_equal(lq, np.stack([crop[symmetry] for crop in crops]))
        reached.add(symmetry)
        corners.add((top, left))
    assert len(reached) == reachable
    assert {top for top, _ in corners} == set(range(HEIGHT - CROP + 1))
    assert {left for _, left in corners} == set(range(WIDTH - CROP + 1))


def test_intervals_and_reversal(roots: dict[str, str]) -> None:
    dataset = VideoRecurrentDeblurDataset(train_opt(roots, interval_list=[3, 1], random_reverse=True))
    seen = set()
    for index in (0, 1, 4):
        for draw in range(40):
            item = dataset[index, draw]
            numbers = to_pixels(item['lq'])[:, 0, 0, 2].tolist()
            assert item['key'] == f'GOPR0372_07_00/{numbers[0]:06d}'
            np.testing.assert_array_equal(to_pixels(item['gt']), sharp(to_pixels(item['lq'])))
            seen.add((index, *numbers))
    # From the last start only the smaller interval fits.
    forward = {(0, 47, 48, 49), (0, 47, 50, 53), (1, 48, 49, 50), (4, 51, 52, 53)}
    assert seen == forward | {(index, *numbers[::-1]) for index, *numbers in forward}


def test_draw_alone_decides(roots: dict[str, str]) -> None:
    opt = train_opt(roots, random_reverse=True)
    dataset, again = VideoRecurrentDeblurDataset(opt), VideoRecurrentDeblurDataset(opt)
    items = [dataset[2, draw] for draw in range(6)]
    torch.manual_seed(5)
    for draw in reversed(range(6)):
        assert_same(again[2, draw], items[draw])
    different = {item['lq'].numpy().tobytes() for item in items}
    assert len(different) == 6
    other_seed = VideoRecurrentDeblurDataset({**opt, 'manual_seed': 1})
    assert different.isdisjoint(other_seed[2, draw]['lq'].numpy().tobytes() for draw in range(6))


def test_plain_index_draws_from_torch(roots: dict[str, str]) -> None:
    dataset = VideoRecurrentDeblurDataset(train_opt(roots))
    torch.manual_seed(0)
    first = [dataset[0] for _ in range(4)]
    torch.manual_seed(0)
    for item in first:
        assert_same(dataset[0], item)
    assert len({item['lq'].numpy().tobytes() for item in first}) == 4


def assert_same(item: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert item.keys() == other.keys()
    assert item['key'] == other['key']
    assert torch.equal(item['lq'], other['lq'])
    assert torch.equal(item['gt'], other['gt'])


def test_batches(roots: dict[str, str]) -> None:
    dataset = VideoRecurrentDeblurDataset(train_opt(roots))
    batch = default_collate([dataset[0, 0], dataset[7, 1]])
    assert batch['lq'].shape == batch['gt'].shape == (2, 3, 3, CROP, CROP)
    assert batch['key'] == ['GOPR0372_07_00/000047', dataset[7, 1]['key']]


def test_each_item_decodes_only_its_own_frames(roots: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = FrameSource.read

    def counted(source: FrameSource, clip: str, frame: str, *window: Any) -> Pixels:
        read.append(f'{clip}/{frame}')
        return original(source, clip, frame, *window)

    monkeypatch.setattr(FrameSource, 'read', counted)
    train = VideoRecurrentDeblurDataset(train_opt(roots))
    test = VideoRecurrentDeblurTestDataset({**roots, 'clip_length': 3})
    assert read == []
    train[7, 0]
    assert sorted(read) == sorted(2 * [f'b10/{number}' for number in (9, 10, 11)])
    read.clear()
    test[3]
    assert sorted(read) == sorted(2 * [f'b9/{number}' for number in (1, 2, 3)])


def test_pickles_after_use(roots: dict[str, str]) -> None:
    dataset = VideoRecurrentDeblurDataset(train_opt(roots))
    item = dataset[3, 9]
    assert_same(pickle.loads(pickle.dumps(dataset))[3, 9], item)
    test = VideoRecurrentDeblurTestDataset(dict(roots))
    lq = test[1]['lq']
    assert torch.equal(pickle.loads(pickle.dumps(test))[1]['lq'], lq)


@pytest.mark.filterwarnings('ignore:This DataLoader will create')  # machines with one core
def test_spawned_persistent_workers_give_what_the_main_process_gives(tmp_path: Path) -> None:
    lq = write_lmdb(tmp_path / 'blur.lmdb', pictures_of())
    gt = write_lmdb(tmp_path / 'sharp.lmdb', {key: sharp(image) for key, image in pictures_of().items()})
    opt = train_opt({'dataroot_lq': str(lq), 'dataroot_gt': str(gt)}, batch_size_per_gpu=2, random_reverse=True)
    dataset = VideoRecurrentDeblurDataset(opt)
    dataset[0]  # the parent has the databases open
    sampler = dataset.sampler_class(dataset, 1, 0)
    assert isinstance(sampler, VideoDeblurSampler)
    loader = DataLoader(
        dataset,
        2,
        sampler=sampler,
        num_workers=2,
        multiprocessing_context='spawn',
        persistent_workers=True,
        drop_last=True,
    )
    keys = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        pairs = list(sampler)
        batches = list(loader)
        assert len(batches) == len(dataset) // 2
        for number, batch in enumerate(batches):
            expected = default_collate([dataset[pair] for pair in pairs[2 * number : 2 * number + 2]])
            assert_same(batch, expected)
            keys += batch['key']
    assert len(keys) == 2 * len(dataset)


def write_pair(tmp_path: Path, lq: Mapping[str, Pixels], gt: Mapping[str, Pixels]) -> dict[str, str]:
    return {
        'dataroot_lq': str(write_folder(tmp_path / 'lq', lq)),
        'dataroot_gt': str(write_folder(tmp_path / 'gt', gt)),
    }


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    lq = pictures_of()
    gt = pictures_of()
    lq['only_lq/1'] = lq['b9/1']
    gt['only_gt/1'] = lq['b9/1']
    del gt['GOPR0372_07_00/000049'], lq['b10/9']
    lq['b9/3'] = picture('b9', '3', height=30)
    gt |= {key: picture('b10', '8', height=40) for key in gt if key.startswith('b10')}
    roots = write_pair(tmp_path, lq, gt)
    Path(roots['dataroot_gt'], 'b9', '2.png').write_bytes(b'no picture')
    with pytest.raises(DataError) as caught:
        VideoRecurrentDeblurDataset(train_opt(roots, num_frame=4, interval_list=[1, 2, 9]))
    message = str(caught.value)
    for problem in (
        'data set Tiny cannot use its data',
        'in lq but not in gt: 1 clip (only_lq)',
        'in gt but not in lq: 1 clip (only_gt)',
        'clip GOPR0372_07_00: in lq but not in gt: 1 frame (000049)',
        'clip b10: in gt but not in lq: 1 frame (9)',
        f'clip b10 is {WIDTH}x{HEIGHT} in lq, but {WIDTH}x40 in gt',
        f'mixes sizes: {WIDTH}x{HEIGHT} (2 from 1), {WIDTH}x30 (1 from 3)',
        '2.png cannot be read as a picture',
        'clip b9 has 3 frames, but num_frame 4 at interval 1 takes 4',
        'interval 9 takes 28 frames, but the longest clip has 7',
        roots['dataroot_lq'],
        roots['dataroot_gt'],
    ):
        assert problem in message, message
    assert 'interval 2' not in message


def test_frames_smaller_than_the_crop_are_named(roots: dict[str, str]) -> None:
    with pytest.raises(DataError, match=f'clip b10 is {WIDTH}x{HEIGHT}, smaller than the crop of 21x21'):
        VideoRecurrentDeblurDataset(train_opt(roots, gt_size=21))
    assert VideoRecurrentDeblurDataset(train_opt(roots, gt_size=20))[0]['lq'].shape == (3, 3, 20, 20)


def test_crops_of_a_single_pixel_come_flipped_as_well(roots: dict[str, str]) -> None:
    dataset = VideoRecurrentDeblurDataset(train_opt(roots, gt_size=1, use_hflip=True, use_rot=True))
    assert all(dataset[0, draw]['lq'].shape == (3, 3, 1, 1) for draw in range(8))


def test_a_list_that_announces_too_much_takes_no_memory(tmp_path: Path) -> None:
    write_lmdb(tmp_path / 'huge.lmdb', pictures_of())
    meta = tmp_path / 'huge.lmdb/meta_info.txt'
    meta.write_text(re.sub(r'\(\d+,\d+,', '(99999999,99999999,', meta.read_text()))
    dataset = VideoRecurrentDeblurTestDataset({'name': 'x', 'dataroot_lq': str(tmp_path / 'huge.lmdb')})
    with pytest.raises(DataError, match=r'frames of .* in .*huge\.lmdb, said to be of 99999999x99999999'):
        dataset[0]


@pytest.mark.skipif(sys.platform != 'linux', reason='file systems elsewhere have no such names')
@pytest.mark.parametrize('name', [b'cl\xffip/0.png', b'clip/\xff0.png'])
def test_names_that_no_table_can_hold_are_refused_before_any_work(tmp_path: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    os.mkdir(os.path.dirname(path))
    with open(path, 'wb') as file:
        file.write(encode(picture('b9', '1')))
    with pytest.raises(DataError, match='is no UTF-8'):
        open_source(tmp_path)


def test_long_lists_of_problems_are_cut(tmp_path: Path) -> None:
    pictures = {f'clip{number}/1': picture('b9', '1') for number in range(60)}
    roots = write_pair(tmp_path, pictures, pictures)
    with pytest.raises(DataError) as caught:
        VideoRecurrentDeblurDataset(train_opt(roots))
    assert 'and 20 problems more' in str(caught.value)
    assert 'clip39' in str(caught.value)
    assert 'clip40' not in str(caught.value)


def test_roots_that_cannot_be_opened_are_named_together(tmp_path: Path) -> None:
    roots = {'dataroot_lq': str(tmp_path / 'a.lmdb'), 'dataroot_gt': str(tmp_path / 'b.lmdb')}
    with pytest.raises(DataError, match=r'(?s)dataroot_lq: .*a\.lmdb does not exist.*dataroot_gt: .*b\.lmdb does not'):
        VideoRecurrentDeblurDataset(train_opt(roots))


@pytest.mark.parametrize(
    ('opt', 'message'),
    [
        ({'dataroot_gt': None}, 'needs dataroot_gt'),
        ({'dataroot_lq': None}, 'needs dataroot_lq'),
        ({'num_frame': 0}, 'num_frame is 0'),
        ({'gt_size': '256'}, "gt_size is '256'"),
        ({'interval_list': []}, r'interval_list is \[\]'),
        ({'interval_list': [0]}, r'interval_list is \[0\]'),
        ({'interval_list': 1}, 'interval_list is 1'),
        ({'io_backend': {'type': 'petrel'}}, "'petrel'; it can be auto, lmdb, disk"),
    ],
)
def test_impossible_options_are_refused(roots: dict[str, str], opt: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        VideoRecurrentDeblurDataset(train_opt(roots) | opt)


# The test set


@pytest.mark.parametrize('clip_length', [1, 3, 4, 30, None])
@pytest.mark.parametrize('with_gt', [True, False])
def test_clips_put_together_are_the_videos(roots: dict[str, str], clip_length: int | None, with_gt: bool) -> None:
    opt = {**roots, 'clip_length': clip_length}
    if not with_gt:
        opt['dataroot_gt'] = None
    dataset = VideoRecurrentDeblurTestDataset(opt)
    assert dataset.opt == opt
    assert dataset.has_gt is with_gt
    assert dataset.videos == VIDEOS
    assert dataset.num_frames == 14
    restored: list[tuple[str, str]] = []
    for item in dataset:
        assert item['lq'].shape[0] == len(item['frames']) == min(clip_length or 99, len(VIDEOS[item['video']]))
        assert item['lq'].dtype == torch.float32
        assert item['lq'].is_contiguous()
        expected = np.stack([picture(item['video'], frame) for frame in item['frames']])
        np.testing.assert_array_equal(to_pixels(item['lq']), expected)
        assert ('gt' in item) is with_gt
        if with_gt:
            np.testing.assert_array_equal(to_pixels(item['gt']), sharp(expected))
        assert item['lq_path'] == f'{roots["dataroot_lq"]}/{item["video"]}'
        restored += [(item['video'], frame) for frame in item['frames'][slice(*item['keep'])]]
    assert restored == [(video, frame) for video, frames in VIDEOS.items() for frame in frames]


def test_last_clip_is_shifted_back(roots: dict[str, str]) -> None:
    dataset = VideoRecurrentDeblurTestDataset({**roots, 'clip_length': 3})
    assert len(dataset) == 3 + 1 + 2
    item = dataset[2]
    assert item['frames'] == ['000051', '000052', '000053']
    assert item['keep'] == (2, 3)
    with pytest.raises(IndexError):
        dataset[6]


def test_clip_length_is_that_of_the_paper_unless_given(tmp_path: Path) -> None:
    write_folder(tmp_path, {f'b9/{number}': picture('b9', str(number), 2, 2) for number in range(31)})
    dataset = VideoRecurrentDeblurTestDataset({'dataroot_lq': str(tmp_path)})
    assert [len(item['frames']) for item in dataset] == [30, 30]
    with pytest.raises(OptionsError, match='clip_length is 0'):
        VideoRecurrentDeblurTestDataset({'dataroot_lq': str(tmp_path), 'clip_length': 0})


def test_videos_may_differ_in_size_but_not_their_partners(tmp_path: Path) -> None:
    lq = pictures_of({'b9': ['1', '2']}) | pictures_of({'b10': ['1']}, height=1, width=3)
    dataset = VideoRecurrentDeblurTestDataset(write_pair(tmp_path, lq, lq))
    assert [tuple(item['gt'].shape) for item in dataset] == [(2, 3, HEIGHT, WIDTH), (1, 3, 1, 3)]
    gt = lq | {'b10/1': picture('b10', '1', 2, 3)}
    with pytest.raises(DataError, match='clip b10 is 3x1 in lq, but 3x2 in gt'):
        VideoRecurrentDeblurTestDataset(write_pair(tmp_path, lq, gt))

"""The two data sets, on tiny pictures whose values say where they come from."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_utils import Pixels, encode, encode_raw, write_folder, write_lmdb
from tiny_videos import HEIGHT, VIDEOS, WIDTH, picture, pictures_of, sharp
from torch.utils.data import DataLoader, default_collate

from dstnet_arch.data.frame_source import FrameSource
from dstnet_arch.data.sampler import ResumableSampler
from dstnet_arch.data.video_recurrent_deblur_dataset import (
    VideoRecurrentDeblurDataset,
    VideoRecurrentDeblurTestDataset,
    clip_schedule,
)
from dstnet_arch.errors import DataError, OptionsError

CROP = 16


def train_set(roots: Mapping[str, str], **opt: Any) -> VideoRecurrentDeblurDataset:
    return VideoRecurrentDeblurDataset({'name': 'Tiny', 'num_frame': 3, 'gt_size': CROP, **roots, **opt})


def to_pixels(tensor: torch.Tensor) -> Pixels:
    """(T, 3, H, W) in [0, 1] -> (T, H, W, 3) uint8; fails if values are not multiples of 1/255."""
    scaled = tensor.mul(255)
    assert torch.equal(scaled.round() / 255, tensor)
    return scaled.round().byte().permute(0, 2, 3, 1).numpy()


def assert_same(item: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert item.keys() == other.keys()
    assert item['key'] == other['key']
    assert torch.equal(item['lq'], other['lq'])
    assert torch.equal(item['gt'], other['gt'])


def write_pair(folder: Path, lq: Mapping[str, Pixels], gt: Mapping[str, Pixels]) -> dict[str, str]:
    return {
        'dataroot_lq': str(write_folder(folder / 'lq', lq)),
        'dataroot_gt': str(write_folder(folder / 'gt', gt)),
    }


# The training set


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_raw_frames_give_the_same_samples_as_compressed_ones(tmp_path: Path, dtype: type) -> None:
    """And all of their bits reach the tensors."""
    rng, levels = np.random.default_rng(0), np.iinfo(dtype).max
    lq, gt = (
        {key: rng.integers(0, levels, (HEIGHT, WIDTH, 3), dtype, endpoint=True) for key in pictures_of()}
        for _ in range(2)
    )
    roots = {
        kind: {
            'dataroot_lq': str(write_lmdb(tmp_path / f'{kind}_blur.lmdb', lq, encoder=encoder)),
            'dataroot_gt': str(write_lmdb(tmp_path / f'{kind}_sharp.lmdb', gt, encoder=encoder)),
        }
        for kind, encoder in (('png', encode), ('raw', encode_raw))
    }
    png, raw = (train_set(roots[kind], random_reverse=True, interval_list=[1, 2]) for kind in ('png', 'raw'))
    assert png.bit_depth == raw.bit_depth == 8 * np.dtype(dtype).itemsize
    for pair in ResumableSampler(png, 1, 0, ratio=4):
        assert_same(raw[pair], png[pair])
    for ours, theirs in zip(*(VideoRecurrentDeblurTestDataset(roots[kind]) for kind in ('raw', 'png')), strict=True):
        assert torch.equal(ours['lq'], theirs['lq'])
        assert torch.equal(ours['gt'], theirs['gt'])
        expected = np.stack([lq[f'{ours["video"]}/{frame}'] for frame in ours['frames']]) / levels
        np.testing.assert_array_equal(ours['lq'].permute(0, 2, 3, 1), expected.astype(np.float32))


def test_item_is_exactly_the_decoded_frames(roots: dict[str, str]) -> None:
    dataset = train_set(roots, gt_size=HEIGHT, use_hflip=False, use_rot=False)
    assert len(dataset) == len(list(dataset)) == 5 + 1 + 2
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


@pytest.mark.parametrize(
    ('use_hflip', 'use_rot', 'reachable'), [(True, True, 8), (False, True, 4), (True, False, 2), (False, False, 1)]
)
def test_augmentation_is_one_for_all_frames_of_both(
    roots: dict[str, str], use_hflip: bool, use_rot: bool, reachable: int
) -> None:
    dataset = train_set(roots, use_hflip=use_hflip, use_rot=use_rot)
    reached, corners = set(), set()
    for draw in range(100):
        item = dataset[1, draw]
        lq, gt = to_pixels(item['lq']), to_pixels(item['gt'])
        np.testing.assert_array_equal(gt, sharp(lq))
        top, left = (int(lq[0, ..., channel].min()) for channel in (0, 1))
        crops = []
        for number in (48, 49, 50):
            crop = picture('GOPR0372_07_00', f'{number:06d}')[top : top + CROP, left : left + CROP]
            crops.append([np.rot90(flipped, turns) for flipped in (crop, crop[:, ::-1]) for turns in range(4)])
        [symmetry] = [s for s in range(8) if np.array_equal(lq[0], crops[0][s])]
        np.testing.assert_array_equal(lq, np.stack([crop[symmetry] for crop in crops]))
        reached.add(symmetry)
        corners.add((top, left))
    assert len(reached) == reachable
    assert {top for top, _ in corners} == set(range(HEIGHT - CROP + 1))
    assert {left for _, left in corners} == set(range(WIDTH - CROP + 1))


def test_intervals_and_reversal(roots: dict[str, str]) -> None:
    dataset = train_set(roots, interval_list=[3, 1], random_reverse=True)
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


def test_item_is_a_function_of_seed_and_draw(roots: dict[str, str]) -> None:
    dataset = train_set(roots, random_reverse=True)
    items = [dataset[2, draw] for draw in range(6)]
    again = pickle.loads(pickle.dumps(dataset))
    torch.manual_seed(5)
    for draw in reversed(range(6)):
        assert_same(again[2, draw], items[draw])
    different = {item['lq'].numpy().tobytes() for item in items}
    assert len(different) == 6
    torch.manual_seed(5)
    plain = dataset[2]  # without a draw, torch's random numbers decide
    torch.manual_seed(5)
    assert_same(dataset[2], plain)
    other_seed = train_set(roots, random_reverse=True, manual_seed=1)
    assert different.isdisjoint(other_seed[2, draw]['lq'].numpy().tobytes() for draw in range(6))


def test_each_item_decodes_only_its_own_frames(roots: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = FrameSource.read

    def recorded(source: FrameSource, clip: str, frame: str, *window: Any) -> Pixels:
        read.append(f'{clip}/{frame}')
        return original(source, clip, frame, *window)

    monkeypatch.setattr(FrameSource, 'read', recorded)
    train, test = train_set(roots), VideoRecurrentDeblurTestDataset({**roots, 'clip_length': 3})
    assert read == []
    train[7, 0]
    assert sorted(read) == sorted(2 * [f'b10/{number}' for number in (9, 10, 11)])
    read.clear()
    test[3]
    assert sorted(read) == sorted(2 * [f'b9/{number}' for number in (1, 2, 3)])


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:This DataLoader will create')  # machines with one core
def test_spawned_persistent_workers_give_what_the_main_process_gives(tmp_path: Path) -> None:
    lq = write_lmdb(tmp_path / 'blur.lmdb', pictures_of())
    gt = write_lmdb(tmp_path / 'sharp.lmdb', {key: sharp(image) for key, image in pictures_of().items()})
    dataset = train_set({'dataroot_lq': str(lq), 'dataroot_gt': str(gt)}, batch_size_per_gpu=2, random_reverse=True)
    dataset[0]  # the parent has the databases open
    sampler = dataset.sampler_class(dataset, 1, 0)
    workers = {'num_workers': 2, 'multiprocessing_context': 'spawn', 'persistent_workers': True}
    loader = DataLoader(dataset, 2, sampler=sampler, drop_last=True, **workers)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        pairs = list(sampler)
        batches = list(loader)
        assert len(batches) == len(dataset) // 2
        for number, batch in enumerate(batches):
            assert_same(batch, default_collate([dataset[pair] for pair in pairs[2 * number : 2 * number + 2]]))


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    lq, gt = pictures_of(), pictures_of()
    lq['only_lq/1'] = lq['b9/1']
    gt['only_gt/1'] = lq['b9/1']
    del gt['GOPR0372_07_00/000049'], lq['b10/9']
    lq['b9/3'] = picture('b9', '3', height=30)
    gt |= {key: picture('b10', '8', height=40) for key in gt if key.startswith('b10')}
    roots = write_pair(tmp_path, lq, gt)
    Path(roots['dataroot_gt'], 'b9', '2.png').write_bytes(b'no picture')
    with pytest.raises(DataError) as caught:
        train_set(roots, num_frame=4, interval_list=[1, 2, 9], gt_size=25)
    message = str(caught.value)
    for problem in (
        'data set Tiny cannot be used',
        '1 clip without sharp frames: only_lq',
        '1 clip without blurry frames: only_gt',
        'clip GOPR0372_07_00: 1 frame without a sharp partner: 000049',
        'clip b10: 1 frame without a blurry partner: 9',
        f'clip b10 is {WIDTH}x{HEIGHT}, but its sharp frames are {WIDTH}x40',
        f'clip b10 is {WIDTH}x{HEIGHT}, smaller than the crop of 25x25',
        f'mixes sizes: {WIDTH}x{HEIGHT} from 1, {WIDTH}x30 from 3',
        '2.png is not a readable image',
        'clip b9 has 3 frames, but num_frame 4 at interval 1 needs 4',
        'interval 9 needs 28 frames, but the longest clip has 7',
        roots['dataroot_lq'],
        roots['dataroot_gt'],
    ):
        assert problem in message, message
    assert 'interval 2' not in message


def test_absurd_sizes_in_meta_info_are_one_error(tmp_path: Path) -> None:
    write_lmdb(tmp_path / 'huge.lmdb', pictures_of())
    meta = tmp_path / 'huge.lmdb/meta_info.txt'
    meta.write_text(re.sub(r'\(\d+,\d+,', '(99999999,99999999,', meta.read_text()))
    dataset = VideoRecurrentDeblurTestDataset({'name': 'x', 'dataroot_lq': str(tmp_path / 'huge.lmdb')})
    with pytest.raises(DataError, match=r'Not enough memory for 7 frames of 99999999x99999999 pixels .*huge\.lmdb'):
        dataset[0]


def test_both_roots_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    roots = {'dataroot_lq': str(tmp_path / 'a.lmdb'), 'dataroot_gt': str(tmp_path / 'b.lmdb')}
    with pytest.raises(DataError, match=r'(?s)dataroot_lq: .*a\.lmdb does not exist.*dataroot_gt: .*b\.lmdb does not'):
        train_set(roots)
    with pytest.raises(OptionsError, match='data set Tiny needs dataroot_gt'):
        train_set({'dataroot_lq': str(tmp_path)})


# The test set


@pytest.mark.parametrize(('clip_length', 'with_gt'), [(1, True), (3, False), (4, True), (None, False)])
def test_kept_frames_of_all_clips_are_the_videos(roots: dict[str, str], clip_length: int | None, with_gt: bool) -> None:
    opt = {**roots, 'clip_length': clip_length} | ({} if with_gt else {'dataroot_gt': None})
    dataset = VideoRecurrentDeblurTestDataset(opt)
    assert (dataset.opt, dataset.has_gt, dataset.num_frames) == (opt, with_gt, 14)
    assert dataset.videos == VIDEOS
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


def test_clip_length_is_that_of_the_paper_unless_given(tmp_path: Path) -> None:
    write_folder(tmp_path, {f'b9/{number}': picture('b9', str(number), 2, 2) for number in range(31)})
    dataset = VideoRecurrentDeblurTestDataset({'dataroot_lq': str(tmp_path)})
    assert [(len(item['frames']), item['keep']) for item in dataset] == [(30, (0, 30)), (30, (29, 30))]


def test_videos_may_differ_in_size_but_not_their_partners(tmp_path: Path) -> None:
    lq = pictures_of({'b9': ['1', '2']}) | pictures_of({'b10': ['1']}, height=1, width=3)
    dataset = VideoRecurrentDeblurTestDataset(write_pair(tmp_path, lq, lq))
    assert [tuple(item['gt'].shape) for item in dataset] == [(2, 3, HEIGHT, WIDTH), (1, 3, 1, 3)]
    gt = lq | {'b10/1': picture('b10', '1', 2, 3)}
    with pytest.raises(DataError, match='clip b10 is 3x1, but its sharp frames are 3x2'):
        VideoRecurrentDeblurTestDataset(write_pair(tmp_path, lq, gt))


def test_schedule_of_known_videos() -> None:
    assert clip_schedule(77, 30) == [(0, 30, 0, 30), (30, 60, 30, 60), (47, 77, 60, 77)]
    assert clip_schedule(60, 30) == [(0, 30, 0, 30), (30, 60, 30, 60)]
    assert clip_schedule(12, 30) == clip_schedule(12, None) == [(0, 12, 0, 12)]
    with pytest.raises(ValueError, match='clip_length is 0'):
        clip_schedule(77, 0)

"""One folder for blurry and sharp frames, through the data sets."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_utils import make_gopro, write_folder, write_lmdb
from tiny_videos import picture, pictures_of

from dstnet_arch.data.video_recurrent_deblur_dataset import VideoRecurrentDeblurDataset, VideoRecurrentDeblurTestDataset
from dstnet_arch.errors import DataError


def both(root: Path, **opt: Any) -> dict[str, Any]:
    return {'name': 'Tiny', 'dataroot_lq': str(root), 'dataroot_gt': str(root), 'num_frame': 2, 'gt_size': 8, **opt}


def pixels(item: dict[str, Any], key: str) -> np.ndarray:
    return item[key].mul(255).round().byte().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ('pattern', 'blur', 'sharp'),
    [
        ('{split}/{clip}/{side}', 'blur', 'sharp'),
        ('{clip}/{side}', 'blur', 'sharp'),
        ('{clip}/{side}', 'input', 'target'),
        ('{clip}/{side}', 'input', 'GT'),
        ('{side}/{clip}', 'input', 'target'),
        ('{side}/{clip}', 'Blur', 'gt'),
        ('{split}/{side}/{clip}', 'input', 'target'),
        ('{split}/{clip}/{side}/RGB', 'Blur', 'Sharp'),
        ('{clip}/{side}', 'blur_gamma', 'sharp'),
    ],
)
def test_both_roots_may_name_one_folder(tmp_path: Path, pattern: str, blur: str, sharp: str) -> None:
    clips = {'train/A_00': (47, 4), 'test/C_00': (1, 3)}
    if '{split}' not in pattern:
        clips.pop('test/C_00')
    files = make_gopro(tmp_path, clips, pattern, blur, sharp)
    opt = both(tmp_path, blur='blur_gamma') if blur == 'blur_gamma' else both(tmp_path)
    train = VideoRecurrentDeblurDataset(opt)
    assert train.lq.clips == {'A_00': ['000047', '000048', '000049', '000050']}
    test = VideoRecurrentDeblurTestDataset(opt | {'phase': 'test'})
    name, first = ('C_00', '000001') if '{split}' in pattern else ('A_00', '000047')
    assert list(test.videos) == [name]
    paths = (tmp_path / pattern.format(split='test', clip=name, side=side) / f'{first}.png' for side in (blur, sharp))
    for key, path in zip(('lq', 'gt'), paths, strict=True):
        relative = path.relative_to(tmp_path).as_posix()
        assert path.read_bytes() == files[relative]
        source = test.lq if key == 'lq' else test.gt
        assert source is not None
        assert source.describe(name, first) == str(path)
    assert not np.array_equal(pixels(test[0], 'lq'), pixels(test[0], 'gt'))


def test_log_names_folders_that_are_read_and_a_blur_without_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_gopro(tmp_path / 'gopro')
    plain = write_folder(tmp_path / 'plain', pictures_of())
    with caplog.at_level(logging.INFO, logger='basicsr'):
        VideoRecurrentDeblurTestDataset(both(tmp_path / 'gopro'))
        VideoRecurrentDeblurTestDataset({'dataroot_lq': str(plain), 'blur': 'blur_gamma'})
    for text in (
        f'data set Tiny: dataroot_lq read from 1 folder such as {tmp_path}/gopro/test/C_00/blur',
        f'dataroot_gt read from 1 folder such as {tmp_path}/gopro/test/C_00/sharp',
        f'blur: blur_gamma has no effect, {plain} contains no such folders',
    ):
        assert text in caplog.text


def test_a_split_alone_a_clip_alone_and_no_ground_truth(tmp_path: Path) -> None:
    make_gopro(tmp_path)
    assert list(VideoRecurrentDeblurTestDataset(both(tmp_path / 'train')).videos) == ['A_00', 'B_00']
    clip = VideoRecurrentDeblurTestDataset(both(tmp_path / 'test/C_00'))
    assert clip.videos == {'C_00': ['000001', '000002']}, 'a clip is named after its folder'
    dataset = VideoRecurrentDeblurTestDataset({'dataroot_lq': str(tmp_path), 'phase': 'val'})
    assert list(dataset.videos) == ['C_00']
    assert not dataset.has_gt


def test_plain_folders_keep_their_meaning(tmp_path: Path) -> None:
    """Clips whose names are those of sides, in folders that are different roots."""
    lq = write_folder(tmp_path / 'lq', {'input/1': picture('b9', '1'), 'other/1': picture('b9', '2')})
    gt = write_folder(tmp_path / 'gt', {'input/1': picture('b9', '1'), 'other/1': picture('b9', '2')})
    opt = {'dataroot_lq': str(lq), 'dataroot_gt': str(gt)}
    assert list(VideoRecurrentDeblurTestDataset(opt).videos) == ['input', 'other']


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    for plain in (write_folder(tmp_path / 'plain', pictures_of()), write_lmdb(tmp_path / 'x.lmdb', pictures_of())):
        with pytest.raises(DataError, match='both dataroot_lq and dataroot_gt, but has no folders of blurry'):
            VideoRecurrentDeblurTestDataset(both(plain))
    make_gopro(tmp_path / 'gamma', blur='blur_gamma')
    with pytest.raises(DataError, match=r'no frames for test in a folder blur or input.*key blur.*blur_gamma'):
        VideoRecurrentDeblurTestDataset(both(tmp_path / 'gamma'))
    make_gopro(tmp_path / 'sharpest', sharp='sharpest')
    with pytest.raises(DataError, match='no frames for test in a folder sharp, target or gt'):
        VideoRecurrentDeblurTestDataset(both(tmp_path / 'sharpest'))
    make_gopro(tmp_path / 'train only', {'train/A_00': (1, 3)})
    with pytest.raises(DataError, match='no frames for test'):
        VideoRecurrentDeblurTestDataset(both(tmp_path / 'train only'))

"""data_prep dvd and bsd: layouts as distributed and re-arranged, and their traps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_utils import contents, failure, put, seed_of
from torch.utils.data import DataLoader

from data_prep.__main__ import main
from data_prep.convert import _differences_from_published, convert
from data_prep.layouts import BSD, DVD, Clip, Layout
from dstnet_arch.data.lmdb_format import read_meta_info
from dstnet_arch.data.sampler import ResumableSampler
from dstnet_arch.data.video_recurrent_deblur_dataset import VideoRecurrentDeblurDataset, VideoRecurrentDeblurTestDataset

LANDSCAPE, PORTRAIT, LARGE = (18, 32), (32, 18), (27, 48)

# video: (first number, frames, size)
DVD_TREE = {
    'IMG_0009': (30, 5, LANDSCAPE),
    'IMG_0051': (0, 4, PORTRAIT),
    'C0036': (0, 4, LARGE),
    'IMG_0030': (0, 4, LANDSCAPE),
    '720p_240fps_2': (0, 3, PORTRAIT),
}
DVD_TEST = {'IMG_0030', '720p_240fps_2'}
DISTRIBUTED = 'DeepVideoDeblurring_Dataset'
SIDES = {'lq': 'blur', 'gt': 'sharp'}
BSD_TREE = {'train': ('003', '017', '112'), 'valid': ('021',), 'test': ('000', '156')}


def make_dvd(
    root: Path,
    pattern: str = '{video}/{side}',
    sides: tuple[str, str] = ('input', 'GT'),
    videos: Iterable[str] = tuple(DVD_TREE),
) -> dict[tuple[str, str], bytes]:
    """A tree of JPEG files; their bytes by ('blur' or 'sharp', key)."""
    files = {}
    for video in videos:
        first, count, size = DVD_TREE[video]
        split = 'test' if video in DVD_TEST else 'train'
        for side, folder in zip(('blur', 'sharp'), sides, strict=True):
            for number in range(first, first + count):
                path = root / pattern.format(split=split, video=video, side=folder) / f'{number:05d}.jpg'
                files[side, f'{video}/{number:05d}'] = put(path, seed_of(f'{video}{folder}{number}'), size)
    return files


def make_bsd(
    root: Path,
    pattern: str = '{split}/{clip}/{side}/RGB',
    sides: tuple[str, str] = ('Blur', 'Sharp'),
    tree: Mapping[str, Iterable[str]] = BSD_TREE,
    num_frames: int = 3,
) -> dict[tuple[str, str], bytes]:
    """A tree of one exposure, with RAW beside RGB; bytes of the RGB files by ('blur' or 'sharp', 'split/key')."""
    files = {}
    for split, clips in tree.items():
        for clip in clips:
            for side, name in zip(('blur', 'sharp'), sides, strict=True):
                folder = root / pattern.format(split=split, clip=clip, side=name)
                for number in range(num_frames):
                    seed = seed_of(f'{root.name}{clip}{name}{number}')
                    files[side, f'{split}/{clip}/{number:08d}'] = put(folder / f'{number:08d}.png', seed)
                    if folder.name == 'RGB':
                        put(folder.with_name('RAW') / f'{number:08d}.tiff', seed)
    return files


def stored(output: Path, split: str) -> dict[tuple[str, str], bytes]:
    return {
        (side, key): data
        for side in ('blur', 'sharp')
        for key, data in contents(output / f'{split}_{side}.lmdb').items()
    }


def prepare(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """Run a command that must succeed; what it printed."""
    assert main([str(argument) for argument in argv]) == 0
    return capsys.readouterr().out


# DVD


@pytest.mark.parametrize('source', ['.', DISTRIBUTED, f'{DISTRIBUTED}/quantitative_datasets'])
def test_dvd_as_distributed(tmp_path, capsys, source: str) -> None:
    distributed = tmp_path / 'src' / DISTRIBUTED
    files = make_dvd(distributed / 'quantitative_datasets')
    put(distributed / 'qualitative_datasets/alley/input/00000.jpg')  # without ground truth
    output = tmp_path / 'out'
    printed = prepare(capsys, 'dvd', tmp_path / 'src' / source, '-o', output)

    assert sorted(path.name for path in output.iterdir()) == [
        'dataset_info.json', 'test_blur.lmdb', 'test_sharp.lmdb', 'train_blur.lmdb', 'train_sharp.lmdb',
    ]  # fmt: skip
    test = {name: data for name, data in files.items() if name[1].split('/')[0] in DVD_TEST}
    assert stored(output, 'test') == test
    assert stored(output, 'train') == {name: data for name, data in files.items() if name not in test}
    entries = read_meta_info(output / 'train_sharp.lmdb')
    assert {entry.clip: entry.shape for entry in entries} == {
        'C0036': (*LARGE, 3), 'IMG_0009': (*LANDSCAPE, 3), 'IMG_0051': (*PORTRAIT, 3),
    }  # fmt: skip
    numbers = [entry.frame for entry in entries if entry.clip == 'IMG_0009']
    assert numbers == ['00030', '00031', '00032', '00033', '00034']
    assert {entry.extension for entry in entries} == {'.jpg'}
    info = json.loads((output / 'dataset_info.json').read_text())
    assert info['data_set'].startswith('DVD')
    assert info['splits']['test']['clips'] == {'720p_240fps_2': 3, 'IMG_0030': 4}

    assert 'train has 3 clips and 13 frames, as distributed 61 and 5708.' in printed
    assert (
        'test has 2 clips and 7 frames, as distributed 10 and 1000; missing: IMG_0003, IMG_0021, IMG_0031 and 5 more'
        in printed
    )
    assert 'numbering' not in printed
    assert prepare(capsys, 'verify', output).count('  ok\n') == 4


@pytest.mark.parametrize(
    ('pattern', 'sides'),
    [
        ('{split}/{video}/{side}', ('input', 'GT')),
        ('{split}/{side}/{video}', ('blur', 'gt')),
        ('{split}/{side}/{video}', ('input', 'GT')),
        ('{side}/{video}', ('blur', 'gt')),
        ('{side}/{video}', ('input', 'GT')),
    ],
)
def test_dvd_rearranged(tmp_path, pattern: str, sides: tuple[str, str]) -> None:
    """With one video a split, `{clip}/input` explains as many folders of `{split}/input/{clip}`: `train` is no clip."""
    files = make_dvd(tmp_path / 'src', pattern, sides, ('C0036', 'IMG_0030'))
    convert(DVD, tmp_path / 'src', tmp_path / 'out')
    for split, video in (('train', 'C0036'), ('test', 'IMG_0030')):
        expected = {name: data for name, data in files.items() if name[1].startswith(video)}
        assert stored(tmp_path / 'out', split) == expected


def test_dvd_one_split_alone(tmp_path, capsys) -> None:
    """Videos keep their split by their names where SOURCE is a split's folder itself."""
    make_dvd(tmp_path / 'src', '{split}/{side}/{video}')
    convert(DVD, tmp_path / 'src/test', tmp_path / 'out')
    assert {entry.clip for entry in read_meta_info(tmp_path / 'out/test_blur.lmdb')} == DVD_TEST
    assert "no part 'train'" in capsys.readouterr().out


def test_dvd_test_videos_in_train_are_noted(tmp_path, capsys) -> None:
    make_dvd(tmp_path / 'src', 'train/{video}/{side}')
    convert(DVD, tmp_path / 'src', tmp_path / 'out')
    assert 'train/IMG_0030 belongs to test as distributed' in capsys.readouterr().out


def clips(split: str, lengths: Mapping[str, int]) -> dict[Clip, int]:
    return {Clip(split, name, Path(), Path()): length for name, length in lengths.items()}


BSD_LENGTHS = {
    'train': {f'{number:03d}': 100 for number in range(60)},
    'test': {f'{number:03d}': 150 for number in range(20)},
}


@pytest.mark.parametrize(
    ('layout', 'found', 'notes'),
    [
        (DVD, clips('test', DVD.clips['test']), []),
        (
            DVD,
            clips('test', {name: 100 for name in DVD.clips['test'] if name != 'IMG_0049'}),
            ['test has 9 clips and 900 frames, as distributed 10 and 1000; missing: IMG_0049'],
        ),
        (
            DVD,
            clips('test', {**DVD.clips['test'], 'IMG_0049': 99}),
            [
                'test has 10 clips and 999 frames, as distributed 10 and 1000',
                'test/IMG_0049 has 99 frames, 100 as distributed',
            ],
        ),
        (BSD, clips('train', BSD_LENGTHS['train']) | clips('test', BSD_LENGTHS['test']), []),
        (
            BSD,
            clips('test', dict.fromkeys(BSD_LENGTHS['test'], 100)),
            ['test has 20 clips and 2000 frames, as distributed 20 and 3000'],
        ),
    ],
    ids=['DVD', 'video missing', 'frame missing', 'BSD', 'BSD_test100'],
)
def test_differences_from_the_published_set(layout: Layout, found: dict[Clip, int], notes: list[str]) -> None:
    assert _differences_from_published(layout, found) == notes


# BSD


@pytest.fixture
def bsd(tmp_path) -> dict[str, dict[tuple[str, str], bytes]]:
    """Three exposures side by side in tmp_path/src; the bytes of their files, by exposure."""
    assert BSD.choice is not None
    return {exposure: make_bsd(tmp_path / f'src/BSD_{exposure}') for exposure in BSD.choice.values}


@pytest.mark.parametrize(('exposure', 'inside'), [('2ms16ms', False), ('3ms24ms', True)])
def test_bsd_as_distributed(tmp_path, monkeypatch, capsys, bsd, exposure: str, inside: bool) -> None:
    """SOURCE is the folder that holds BSD_<exposure>, or, where `inside`, that folder itself, given as `.`."""
    source = tmp_path / 'src'
    if inside:
        monkeypatch.chdir(source / f'BSD_{exposure}')
        source = Path()
    output = tmp_path / 'out'
    printed = prepare(capsys, 'bsd', source, '-o', output, '--exposure', exposure)
    names = [f'{split}_{side}.lmdb' for split in ('test', 'train', 'valid') for side in ('blur', 'sharp')]
    assert sorted(path.name for path in output.iterdir()) == ['dataset_info.json', *names]
    files = bsd[exposure]
    for split in BSD_TREE:
        expected = {(side, key.partition('/')[2]): files[side, key] for side, key in files if key.startswith(split)}
        assert stored(output, split) == expected
    assert ('SOURCE contains no other' if inside else 'SOURCE also contains 1ms8ms and 3ms24ms') in printed
    assert 'ignored' not in printed
    assert 'as distributed 60 and 6000' in printed
    recorded = json.loads((output / 'dataset_info.json').read_text())['splits']['valid']['exposure']
    assert recorded['value'] == exposure
    assert recorded['meaning'].startswith(f'sharp frames exposed for {exposure[0]} ms')
    assert recorded['confirmed_by_folder_name']
    assert prepare(capsys, 'verify', output).count('  ok\n') == 6


@pytest.mark.parametrize('source', ['src', 'src/BSD_2ms16ms', 'src/bsd_2MS16MS'])
def test_bsd_never_converts_another_exposure(tmp_path, capsys, source: str) -> None:
    make_bsd(tmp_path / (source if source != 'src' else 'src/BSD_2ms16ms'))
    message = failure(capsys, 'bsd', tmp_path / source, '-o', tmp_path / 'out', '--exposure', '1ms8ms')
    assert "contains no '1ms8ms' frames, only '2ms16ms'" in message
    assert 'add --exposure 2ms16ms' in message
    assert not (tmp_path / 'out').exists()
    prepare(capsys, 'bsd', tmp_path / source, '-o', tmp_path / 'out', '--exposure', '2ms16ms')


def test_bsd_rearranged(tmp_path, capsys) -> None:
    files = make_bsd(tmp_path / 'mine', '{split}/{side}/{clip}', ('blur', 'GT'))
    make_bsd(tmp_path / 'mine/BSD_2ms16ms', tree={'test': ('000',)})  # says nothing about what lies beside it
    printed = prepare(capsys, 'bsd', tmp_path / 'mine', '-o', tmp_path / 'out', '--exposure', '3ms24ms')
    assert stored(tmp_path / 'out', 'test')['sharp', '156/00000002'] == files['sharp', 'test/156/00000002']
    assert 'no folder name confirms it, set it with --exposure' in printed


# Videos of different sizes in the data sets


def test_crops_and_clips_of_portrait_and_landscape_videos(tmp_path) -> None:
    files = make_dvd(tmp_path / 'src')
    convert(DVD, tmp_path / 'src', tmp_path / 'out')
    roots = {
        split: {f'dataroot_{key}': str(tmp_path / f'out/{split}_{side}.lmdb') for key, side in SIDES.items()}
        for split in ('train', 'test')
    }
    train = VideoRecurrentDeblurDataset({**roots['train'], 'num_frame': 2, 'gt_size': 16})
    assert len(train) == 4 + 3 + 3
    loader = DataLoader(train, batch_size=5, sampler=ResumableSampler(train, 1, 0))
    batches = list(loader)
    assert [tuple(batch['lq'].shape) for batch in batches] == [(5, 2, 3, 16, 16)] * 2
    assert {key.split('/')[0] for batch in batches for key in batch['key']} == {'IMG_0009', 'IMG_0051', 'C0036'}
    test = VideoRecurrentDeblurTestDataset({**roots['test'], 'clip_length': 3})
    shapes = [(tuple(item['lq'].shape), item['frames'][0], item['keep']) for item in test]
    assert shapes == [
        ((3, 3, *PORTRAIT), '00000', (0, 3)),
        ((3, 3, *LANDSCAPE), '00000', (0, 3)),
        ((3, 3, *LANDSCAPE), '00001', (2, 3)),
    ]
    frame = test[2]['gt'][2].mul(255).round().byte().permute(1, 2, 0).numpy()
    expected = cv2.imdecode(np.frombuffer(files['sharp', 'IMG_0030/00003'], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(frame, expected)

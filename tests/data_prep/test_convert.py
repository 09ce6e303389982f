"""data_prep gopro and what all converters share: finding clips, checks, kinds of images, the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_utils import contents, encode, failure, make_gopro, put, sound
from PIL import Image

from data_prep import lmdb_writer
from data_prep.__main__ import main
from data_prep.convert import convert
from data_prep.layouts import GOPRO
from dstnet_arch.data.frame_source import LMDBSource
from dstnet_arch.data.lmdb_format import read_meta_info
from dstnet_arch.errors import DataError

ROOT = Path(__file__).resolve().parents[2]


# Layouts


def test_gopro_as_distributed(tmp_path, capsys) -> None:
    files = make_gopro(tmp_path / 'src')
    output = tmp_path / 'out'
    assert main(['gopro', str(tmp_path / 'src'), '-o', str(output)]) == 0

    keys = [f'A_00/{n:06d}' for n in range(47, 51)] + [f'B_00/{n:06d}' for n in range(2481, 2484)]
    for side in ('blur', 'sharp'):
        stored = contents(output / f'train_{side}.lmdb')
        assert stored == {key: files[f'train/{key.replace("/", f"/{side}/")}.png'] for key in keys}
        lines = (output / f'train_{side}.lmdb/meta_info.txt').read_text().splitlines()
        assert lines == [f'{key}.png (12,16,3) 1' for key in keys]
        assert len(contents(output / f'test_{side}.lmdb')) == 2
    assert sorted(path.name for path in output.iterdir()) == [
        'dataset_info.json', 'test_blur.lmdb', 'test_sharp.lmdb', 'train_blur.lmdb', 'train_sharp.lmdb',
    ]  # fmt: skip
    info = json.loads((output / 'dataset_info.json').read_text())
    assert info['splits']['train']['clips'] == {'A_00': 4, 'B_00': 3}
    assert info['splits']['test']['num_frames'] == 2
    assert info['splits']['train']['blur']['value'] == 'blur'
    assert 'linear' in info['splits']['train']['blur']['meaning']
    assert 'SOURCE contains no other' in capsys.readouterr().out
    assert sound(output)


@pytest.mark.parametrize(
    ('pattern', 'blur', 'sharp'),
    [
        ('{split}/{side}/{clip}', 'blur', 'gt'),
        ('{split}/{side}/{clip}', 'input', 'GT'),
        ('{split}/{side}/{clip}', 'Blur', 'sharp'),
        ('GOPRO_Large/{split}/{clip}/{side}', 'blur', 'sharp'),
    ],
)
def test_rearrangements(tmp_path, pattern: str, blur: str, sharp: str) -> None:
    files = make_gopro(tmp_path / 'src', pattern=pattern, blur=blur, sharp=sharp)
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    stored = contents(tmp_path / 'out/train_blur.lmdb')
    assert len(stored) == 7
    assert stored['A_00/000047'] == files[pattern.format(split='train', clip='A_00', side=blur) + '/000047.png']
    described = json.loads((tmp_path / 'out/dataset_info.json').read_text())['splits']['train']['blur']
    assert described['confirmed_by_folder_name'] == (blur != 'input')


def test_without_split_folders_the_published_lists_decide(tmp_path) -> None:
    clips = {'train/GOPR0372_07_00': (47, 2), 'test/GOPR0384_11_00': (1, 2)}
    make_gopro(tmp_path / 'src', clips, '{side}/{clip}', sharp='gt')
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    assert set(contents(tmp_path / 'out/train_blur.lmdb')) == {'GOPR0372_07_00/000047', 'GOPR0372_07_00/000048'}
    assert set(contents(tmp_path / 'out/test_sharp.lmdb')) == {'GOPR0384_11_00/000001', 'GOPR0384_11_00/000002'}


def test_without_split_folders_an_unknown_clip_is_an_error(tmp_path) -> None:
    make_gopro(tmp_path / 'src', {'train/GOPR0372_07_00': (47, 2), 'train/MINE': (1, 2)}, '{side}/{clip}', sharp='gt')
    with pytest.raises(DataError, match=r'MINE: no folder says whether it belongs to train or test'):
        convert(GOPRO, tmp_path / 'src', tmp_path / 'out')


def test_published_lists_add_up() -> None:
    counts = {split: (len(clips), sum(clips.values())) for split, clips in GOPRO.clips.items()}
    assert counts == GOPRO.totals
    assert not GOPRO.clips['train'].keys() & GOPRO.clips['test'].keys()


def test_blur_gamma_is_taken_when_asked_for(tmp_path, capsys) -> None:
    make_gopro(tmp_path / 'src')
    files = make_gopro(tmp_path / 'src', blur='blur_gamma')
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out', 'blur_gamma')
    assert contents(tmp_path / 'out/test_blur.lmdb')['C_00/000001'] == files['test/C_00/blur_gamma/000001.png']
    info = json.loads((tmp_path / 'out/dataset_info.json').read_text())
    assert info['splits']['test']['blur']['value'] == 'blur_gamma'
    assert 'gamma 2.2' in info['splits']['test']['blur']['meaning']
    assert 'SOURCE also contains blur,' in capsys.readouterr().out


def test_the_other_blur_is_never_taken_silently(tmp_path, capsys) -> None:
    make_gopro(tmp_path / 'src', blur='blur_gamma')
    message = failure(capsys, 'gopro', tmp_path / 'src', '-o', tmp_path / 'out')
    assert 'add --blur blur_gamma' in message
    assert not (tmp_path / 'out').exists()


def test_one_part_alone_and_the_other_one_later(tmp_path, capsys) -> None:
    clips = {'train/A_00': (47, 4)}
    make_gopro(tmp_path / 'src', clips)
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    assert "no part 'test'" in capsys.readouterr().out
    make_gopro(tmp_path / 'src2', {'test/C_00': (1, 2)})
    convert(GOPRO, tmp_path / 'src2', tmp_path / 'out')
    info = json.loads((tmp_path / 'out/dataset_info.json').read_text())
    assert info['splits']['train']['source'].endswith('src')
    assert info['splits']['test']['source'].endswith('src2')


def test_incomplete_download_is_noted(tmp_path, capsys) -> None:
    make_gopro(tmp_path / 'src', {'train/GOPR0374_11_03': (2481, 40)})
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    out = capsys.readouterr().out
    assert 'GOPR0374_11_03 has 40 frames, 48 as distributed' in out
    expected = 'train has 1 clip and 40 frames, as distributed 22 and 2103; missing: GOPR0372_07_00, GOPR0372_07_01, '
    assert expected in out


def test_unpadded_numbers_litter_and_gaps(tmp_path, capsys) -> None:
    for side in ('blur', 'sharp'):
        for number in (8, 9, 10, 12):
            put(tmp_path / f'src/train/A_00/{side}/{number}.PNG')
        (tmp_path / f'src/train/A_00/{side}/.DS_Store').write_bytes(b'x')
        (tmp_path / f'src/train/A_00/{side}/._8.PNG').write_bytes(b'x')
        (tmp_path / f'src/train/A_00/{side}/Thumbs.db').write_bytes(b'x')
    (tmp_path / 'src/train/A_00/blur/notes.txt').write_text('x')
    (tmp_path / 'src/__MACOSX/train').mkdir(parents=True)
    (tmp_path / 'src/train/__MACOSX').mkdir()
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    entries = read_meta_info(tmp_path / 'out/train_blur.lmdb')
    assert [entry.frame for entry in entries] == ['8', '9', '10', '12']
    out = capsys.readouterr().out
    assert 'train/A_00: the numbering has a gap, 12 follows 10' in out
    assert 'ignored: notes.txt' in out
    assert 'DS_Store' not in out


def test_convert_names_what_is_wrong_with_source(tmp_path, capsys) -> None:
    make_gopro(tmp_path / 'src')
    assert 'does not exist' in failure(capsys, 'gopro', tmp_path / 'absent', '-o', tmp_path / 'out')
    (tmp_path / 'file').write_text('x')
    assert 'is not a folder' in failure(capsys, 'gopro', tmp_path / 'file', '-o', tmp_path / 'out')
    (tmp_path / 'empty').mkdir()
    assert 'It contains: nothing' in failure(capsys, 'gopro', tmp_path / 'empty', '-o', tmp_path / 'out')
    message = failure(capsys, 'gopro', tmp_path / 'src/train', '-o', tmp_path / 'out')
    assert 'It contains: A_00, B_00' in message
    assert f'Did you mean {tmp_path / "src"}' in message


# What is wrong with a clip, and the message


def make_empty(clip: Path, *sides: str) -> None:
    (clip.parent / 'EMPTY').mkdir()
    for side in sides:
        (clip.parent / 'EMPTY' / side).mkdir()


def rename_frame(clip: Path) -> None:
    for side in ('blur', 'sharp'):
        (clip / side / '000047.png').rename(clip / side / '47.final.png')


def write_two_pages(clip: Path) -> None:
    (clip / 'blur/000047.png').unlink()
    pages = [Image.new('RGB', (16, 12)) for _ in range(2)]
    pages[0].save(clip / 'blur/000047.tif', save_all=True, append_images=pages[1:])


PROBLEMS: dict[str, tuple[Callable[[Path], object], str]] = {
    'no sharp frame': (
        lambda clip: (clip / 'sharp/000048.png').unlink(),
        'train/A_00/blur/000048.png: no sharp frame of that name',
    ),
    'no blurry frame': (
        lambda clip: (clip / 'blur/000050.png').unlink(),
        'train/A_00/sharp/000050.png: no blurry frame of that name',
    ),
    'no sharp folder': (
        lambda clip: (clip / 'sharp').rename(clip / 'sharpest'),
        'train/A_00: no folder of sharp frames',
    ),
    'no folders': (make_empty, 'train/EMPTY: no folder of blurry and no folder of sharp frames'),
    'no frames': (lambda clip: make_empty(clip, 'blur', 'sharp'), 'train/EMPTY: no frames'),
    'other size': (
        lambda clip: put(clip / 'blur/000049.png', size=(12, 18)),
        'train/A_00/blur/000049.png is 18x12, other frames of the clip are 16x12',
    ),
    'empty file': (
        lambda clip: (clip / 'sharp/000047.png').write_bytes(b''),
        'train/A_00/sharp/000047.png is empty',
    ),
    'no image': (
        lambda clip: (clip / 'sharp/000047.png').write_bytes(b'<html>404</html>'),
        'train/A_00/sharp/000047.png is not a readable image',
    ),
    'two pages': (write_two_pages, 'train/A_00/blur/000047.tif contains 2 images (a multi-page TIFF)'),
    'dot in clip': (
        lambda clip: clip.rename(clip.with_name('A.00')),
        "(1 problem):\n  train/A.00: 'A.00' contains a dot",
    ),
    'dot in frame': (rename_frame, "train/A_00: 'A_00/47.final' contains a dot"),
    'not ASCII': (
        lambda clip: clip.rename(clip.with_name('Übung')),
        "(1 problem):\n  train/Übung: 'Übung' is not ASCII",
    ),
    'two files of a name': (
        lambda clip: put(clip / 'blur/000047.jpg'),
        'train/A_00/blur/000047.png: 000047.jpg has the same name',
    ),
}


@pytest.mark.parametrize('problem', PROBLEMS)
def test_problems_are_named_before_anything_is_written(tmp_path, capsys, problem: str) -> None:
    make_gopro(tmp_path / 'src')
    change, expected = PROBLEMS[problem]
    change(tmp_path / 'src/train/A_00')
    message = failure(capsys, 'gopro', tmp_path / 'src', '-o', tmp_path / 'out')
    assert expected in message
    assert 'Nothing was written' in message
    assert not (tmp_path / 'out').exists()


def test_longest_names_work(tmp_path) -> None:
    """The most a file system allows, 255 bytes for a name, is within LMDB's 511 for both."""
    for side in ('blur', 'sharp'):
        put(tmp_path / 'src/train' / ('y' * 255) / side / f'{"x" * 251}.png')
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    assert [len(key) for key in contents(tmp_path / 'out/train_blur.lmdb')] == [255 + 1 + 251]


def test_problems_are_listed_together(tmp_path, capsys) -> None:
    make_gopro(tmp_path / 'src', {'train/A_00': (1, 30), 'test/C_00': (1, 3)})
    for number in range(1, 13):
        (tmp_path / f'src/train/A_00/sharp/{number:06d}.png').unlink()
    put(tmp_path / 'src/test/C_00/sharp/000002.png', size=(4, 4))
    message = failure(capsys, 'gopro', tmp_path / 'src', '-o', tmp_path / 'out')
    assert '(13 problems)' in message
    assert message.count('no sharp frame') == 10
    assert '... and 3 more' in message


# Kinds of images


def test_16_bit_frames_keep_their_depth_with_raw(tmp_path) -> None:
    rng = np.random.default_rng(0)
    images = {}
    for side in ('blur', 'sharp'):
        for number, extension in enumerate(('.png', '.tif')):
            image = rng.integers(0, 65536, (12, 16, 3), np.uint16)
            path = tmp_path / f'src/train/A_00/{side}/{number}{extension}'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(image, extension))
            images[side, str(number)] = image
    for output, raw in (('files', False), ('raw', True)):
        convert(GOPRO, tmp_path / 'src', tmp_path / output, raw=raw)
        assert sound(tmp_path / output)
        stored = {key[-1]: data for key, data in contents(tmp_path / output / 'train_blur.lmdb').items()}
        assert json.loads((tmp_path / output / 'dataset_info.json').read_text())['splits']['train']['bit_depth'] == 16
        for side in ('blur', 'sharp'):
            source = LMDBSource(tmp_path / output / f'train_{side}.lmdb')
            assert source.bit_depth() == 16
            for number in ('0', '1'):
                np.testing.assert_array_equal(source.read('A_00', number), images[side, number])
    assert {data[:15] for data in stored.values()} == {b'P6\n16 12\n65535\n'}
    for number in ('0', '1'):  # stock BasicSR decodes with OpenCV
        decoded = cv2.imdecode(np.frombuffer(stored[number], np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(decoded[..., ::-1], images['blur', number])


@pytest.mark.parametrize('extension', ['.jpg', '.bmp', '.tif', '.tiff', '.webp'])
def test_image_formats_are_copied_byte_for_byte(tmp_path, extension: str) -> None:
    files = make_gopro(tmp_path / 'src', {'train/A_00': (1, 2)}, extension=extension)
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    stored = contents(tmp_path / 'out/train_sharp.lmdb')
    assert stored == {f'A_00/00000{n}': files[f'train/A_00/sharp/00000{n}{extension}'] for n in (1, 2)}
    assert sound(tmp_path / 'out')


def test_gray_frames_are_noted(tmp_path, capsys) -> None:
    make_gopro(tmp_path / 'src')
    gray = encode(np.zeros((12, 16), np.uint8))
    (tmp_path / 'src/train/A_00/blur/000047.png').write_bytes(gray)
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    assert '1 frame in gray or with alpha, e.g. train/A_00/blur/000047.png' in capsys.readouterr().out
    assert read_meta_info(tmp_path / 'out/train_blur.lmdb')[0].shape == (12, 16, 1)


# Command line and stock BasicSR


def test_ctrl_c_is_one_line_and_status_130(tmp_path, monkeypatch, capsys) -> None:
    make_gopro(tmp_path / 'src')

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lmdb_writer, '_write', interrupt)
        assert main(['gopro', str(tmp_path / 'src'), '-o', str(tmp_path / 'out')]) == 130
    assert capsys.readouterr().err.strip() == 'interrupted; run the same command again to resume'
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    assert sound(tmp_path / 'out')


def test_help_is_quick_and_complete() -> None:
    code = (
        'import sys; before = set(sys.modules); from data_prep.__main__ import build_parser; build_parser(); '
        'print(*set(sys.modules) - before)'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split('.')[0] for name in done.stdout.split()}
    assert loaded - sys.stdlib_module_names == {'data_prep', 'dstnet_arch'}


def test_help_of_every_command(capsys) -> None:
    for command in ('gopro', 'dvd', 'bsd', 'verify', 'sample'):
        with pytest.raises(SystemExit) as stop:
            main([command, '--help'])
        assert stop.value.code == 0
        assert f'example:\n  python -m data_prep {command}' in capsys.readouterr().out


@pytest.mark.parametrize('argv', [[], ['gopro'], ['gopro', 'x'], ['gopro', 'x', '-o', 'y', '--blur', 'raw'],
                                  ['gopro', 'x', '-o', 'y', '--threads', '0'],
        ['sample', '-o', 'y', '--seed', '-1'], ['dvdd'], ['bsd', 'x', '-o', 'y']])  # fmt: skip
def test_wrong_usage(argv: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2


@pytest.mark.parametrize('raw', [False, True])
def test_stock_basicsr_reads_it(tmp_path, raw: bool) -> None:
    from basicsr.data.paired_image_dataset import PairedImageDataset

    make_gopro(tmp_path / 'src')
    gray = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16)
    cv2.imwrite(str(tmp_path / 'src/train/A_00/blur/000047.png'), gray)
    cv2.imwrite(str(tmp_path / 'src/train/A_00/sharp/000047.png'), np.dstack([gray] * 3 + [gray[::-1]]))  # with alpha
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out', raw=raw)
    roots = {'dataroot_lq': f'{tmp_path}/out/train_blur.lmdb', 'dataroot_gt': f'{tmp_path}/out/train_sharp.lmdb'}
    dataset = PairedImageDataset({**roots, 'io_backend': {'type': 'lmdb'}, 'phase': 'val', 'scale': 1})
    assert len(dataset) == 7
    for item in (dataset[0], dataset[6]):
        for key, side in (('lq', 'blur'), ('gt', 'sharp')):
            clip, frame = item[f'{key}_path'].split('/')
            expected = cv2.imread(str(tmp_path / f'src/train/{clip}/{side}/{frame}.png'))[..., ::-1]
            np.testing.assert_allclose(item[key].permute(1, 2, 0), expected / np.float32(255), atol=1e-6)
    for client in dataset.file_client.client._client.values():
        client.close()

"""data_prep gopro, dvd and bsd: finding clips, checks, kinds of images, the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from data_utils import contents, encode, failure, make_gopro, put, sound
from PIL import Image

from data_prep import lmdb_writer
from data_prep.__main__ import main
from data_prep.convert import convert
from data_prep.layouts import BSD, DVD, GOPRO
from dstnet_arch.data.frame_source import LMDBSource
from dstnet_arch.data.lmdb_format import read_meta_info


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """Run a command that must succeed; what it printed."""
    assert main([str(argument) for argument in argv]) == 0
    return capsys.readouterr().out


def info(output: Path, name: str = 'train_blur') -> dict[str, Any]:
    return json.loads((output / f'{name}.lmdb/dataset_info.json').read_text())


# Layouts


def test_gopro_as_distributed(tmp_path, capsys) -> None:
    files = make_gopro(tmp_path / 'src')
    output = tmp_path / 'out'
    out = run(capsys, 'gopro', tmp_path / 'src', '-o', output)

    keys = [f'A_00/{n:06d}' for n in range(47, 51)] + [f'B_00/{n:06d}' for n in range(2481, 2484)]
    for side in ('blur', 'sharp'):
        stored = contents(output / f'train_{side}.lmdb')
        assert stored == {key: files[f'train/{key.replace("/", f"/{side}/")}.png'] for key in keys}
        lines = (output / f'train_{side}.lmdb/meta_info.txt').read_text().splitlines()
        assert lines == [f'{key}.png (12,16,3) 1' for key in keys]
        assert len(contents(output / f'test_{side}.lmdb')) == 2
    assert len(list(output.iterdir())) == 4
    convert(GOPRO, tmp_path / 'src/test', tmp_path / 'alone')  # the folder names the split
    assert sorted(path.name for path in (tmp_path / 'alone').iterdir()) == ['test_blur.lmdb', 'test_sharp.lmdb']
    assert info(output)['blur']['value'] == 'blur'
    assert 'linear' in info(output)['blur']['meaning']
    assert info(output)['stored'] == 'files'
    assert 'train has 2 clips and 7 frames, as distributed 22 and 2103' in out
    assert sound(output)


@pytest.mark.parametrize(
    ('layout', 'pattern', 'blur', 'sharp'),
    [
        (GOPRO, 'GOPRO_Large/{split}/{clip}/{side}', 'blur', 'sharp'),
        (GOPRO, '{split}/{side}/{clip}', 'Blur', 'target'),
        (GOPRO, '{side}/{clip}', 'blur', 'gt'),
        (DVD, 'quantitative_datasets/{split}/{clip}/{side}', 'input', 'GT'),
        (DVD, 'DeepVideoDeblurring_Dataset/quantitative_datasets/{clip}/{side}', 'input', 'GT'),
        (BSD, '{split}/{clip}/{side}/RGB', 'Blur', 'Sharp'),
        (BSD, 'BSD_2ms16ms/{split}/{clip}/{side}/RGB', 'Blur', 'Sharp'),
        (BSD, 'BSD_2ms16ms/BSD_2ms16ms/{split}/{clip}/{side}/RGB', 'Blur', 'Sharp'),
        (GOPRO, 'unpacked/GOPRO_Large_all/{split}/{clip}/{side}', 'blur', 'sharp'),
    ],
)
def test_arrangements(tmp_path, layout, pattern: str, blur: str, sharp: str) -> None:
    test = layout.test_clips[0] if layout.test_clips else '003'
    files = make_gopro(tmp_path / 'src', {'train/A_00': (47, 4), f'test/{test}': (1, 2)}, pattern, blur, sharp)
    if 'RGB' in pattern:
        for path in list((tmp_path / 'src').rglob('RGB')):
            put(path.with_name('RAW') / '000047.tiff')
    convert(layout, tmp_path / 'src', tmp_path / 'out', '2ms16ms' if layout is BSD else None)
    for split, clip, numbers in (('train', 'A_00', range(47, 51)), ('test', test, range(1, 3))):
        for side, folder in (('blur', blur), ('sharp', sharp)):
            path = pattern.format(split=split, clip=clip, side=folder)
            expected = {f'{clip}/{number:06d}': files[f'{path}/{number:06d}.png'] for number in numbers}
            assert contents(tmp_path / f'out/{split}_{side}.lmdb') == expected


def test_blur_gamma_is_converted_only_if_chosen(tmp_path, capsys) -> None:
    files = make_gopro(tmp_path / 'src', blur='blur_gamma')
    message = failure(capsys, 'gopro', tmp_path / 'src', '-o', tmp_path / 'out')
    assert 'contains no clips of GoPro (GOPRO_Large) for --blur blur. It contains: test, train.' in message
    assert 'blur|blur_gamma|input' in message
    assert not (tmp_path / 'out').exists()
    make_gopro(tmp_path / 'src')
    out = run(capsys, 'gopro', tmp_path / 'src', '-o', tmp_path / 'out', '--blur', 'blur_gamma')
    assert '--blur blur_gamma: averaged with a gamma 2.2 camera response' in out
    assert contents(tmp_path / 'out/test_blur.lmdb')['C_00/000001'] == files['test/C_00/blur_gamma/000001.png']
    assert info(tmp_path / 'out', 'test_sharp')['blur']['value'] == 'blur_gamma'


@pytest.mark.parametrize('source', ['src', 'src/bsd_2MS16MS'])
def test_bsd_never_converts_another_exposure(tmp_path, monkeypatch, capsys, source: str) -> None:
    folder = tmp_path / (source if source != 'src' else 'src/BSD_2ms16ms')
    make_gopro(folder, pattern='{split}/{clip}/{side}/RGB', blur='Blur', sharp='Sharp')
    monkeypatch.chdir(tmp_path / source)
    message = failure(capsys, 'bsd', '.', '-o', tmp_path / 'out', '--exposure', '1ms8ms')
    assert 'add --exposure 2ms16ms' in message
    assert not (tmp_path / 'out').exists()
    run(capsys, 'bsd', '.', '-o', tmp_path / 'out', '--exposure', '2ms16ms')
    assert info(tmp_path / 'out')['exposure']['meaning'].startswith('sharp frames exposed for 2 ms')


def test_test_clips_among_training_clips_are_noted(tmp_path, capsys) -> None:
    make_gopro(tmp_path / 'src', {'train/IMG_0030': (0, 3)})
    out = run(capsys, 'dvd', tmp_path / 'src', '-o', tmp_path / 'out')
    assert 'clips for testing are among those for training, e.g. train/IMG_0030' in out


def test_unpadded_numbers_and_litter(tmp_path) -> None:
    for side in ('blur', 'sharp'):
        for number in (8, 9, 10, 12):
            put(tmp_path / f'src/train/A_00/{side}/{number}.PNG')
        for litter in ('.DS_Store', '._8.PNG', 'Thumbs.db', 'notes.txt'):
            (tmp_path / f'src/train/A_00/{side}' / litter).write_bytes(b'x')
    (tmp_path / 'src/train/__MACOSX/blur').mkdir(parents=True)
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    entries = read_meta_info(tmp_path / 'out/train_blur.lmdb')
    assert [entry.frame for entry in entries] == ['8', '9', '10', '12']


def test_convert_names_what_is_wrong_with_source(tmp_path, capsys) -> None:
    (tmp_path / 'file').write_text('x')
    (tmp_path / 'empty').mkdir()
    for name, message in {'absent': 'does not exist', 'file': 'not a folder', 'empty': 'contains: nothing'}.items():
        assert message in failure(capsys, 'gopro', tmp_path / name, '-o', tmp_path / 'out')


# What is wrong with a clip, and the message


def rename_frame(clip: Path) -> None:
    for side in ('blur', 'sharp'):
        (clip / side / '000047.png').rename(clip / side / '47.final.png')


def write_two_pages(clip: Path) -> None:
    (clip / 'blur/000047.png').unlink()
    pages = [Image.new('RGB', (16, 12)) for _ in range(2)]
    pages[0].save(clip / 'blur/000047.tif', save_all=True, append_images=pages[1:])


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (lambda clip: (clip / 'sharp/000048.png').unlink(), 'clip A_00: 1 frame without a sharp partner: 000048'),
        (lambda clip: (clip / 'sharp').rename(clip / 'x'), '1 clip without sharp frames: A_00'),
        (lambda clip: put(clip / 'blur/000049.png', size=(12, 18)), 'mixes sizes: 16x12 from 000047, 18x12 from 00004'),
        (lambda clip: (clip / 'sharp/000047.png').write_bytes(b'404'), 'A_00/sharp/000047.png is not a readable image'),
        (write_two_pages, 'train/A_00/blur/000047.tif contains 2 images (a multi-page TIFF)'),
        (lambda clip: clip.rename(clip.with_name('A.00')), "(1 problem):\n  train/A.00: 'A.00' is not a valid key"),
        (rename_frame, "train/A_00: 'A_00/47.final' is not a valid key"),
        (lambda clip: put(clip / 'blur/000047.jpg'), 'contains both 000047.jpg and 000047.png'),
    ],
)
def test_problems_are_named_before_anything_is_written(
    tmp_path, capsys, change: Callable[[Path], object], expected: str
) -> None:
    make_gopro(tmp_path / 'src')
    change(tmp_path / 'src/train/A_00')
    message = failure(capsys, 'gopro', tmp_path / 'src', '-o', tmp_path / 'out')
    assert expected in message
    assert not (tmp_path / 'out').exists()


def test_problems_of_all_splits_are_listed_together(tmp_path, capsys) -> None:
    make_gopro(tmp_path / 'src')
    (tmp_path / 'src/train/A_00/sharp/000047.png').unlink()
    put(tmp_path / 'src/test/C_00/sharp/000002.png', size=(4, 4))
    message = failure(capsys, 'gopro', tmp_path / 'src', '-o', tmp_path / 'out')
    assert '(2 problems)' in message
    assert 'Nothing was written' in message


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
        assert info(tmp_path / output)['bit_depth'] == 16
        stored = contents(tmp_path / output / 'train_blur.lmdb')
        source = LMDBSource(tmp_path / output / 'train_blur.lmdb')
        for number in ('0', '1'):
            np.testing.assert_array_equal(source.read('A_00', number), images['blur', number])
            decoded = cv2.imdecode(np.frombuffer(stored[f'A_00/{number}'], np.uint8), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(decoded[..., ::-1], images['blur', number])  # as stock BasicSR decodes
    assert all(data.startswith(b'P6\n16 12\n65535\n') for data in stored.values())


@pytest.mark.parametrize('extension', ['.jpg', '.bmp', '.tif', '.webp'])
def test_image_formats_are_copied_byte_for_byte(tmp_path, extension: str) -> None:
    files = make_gopro(tmp_path / 'src', {'train/A_00': (1, 2)}, extension=extension)
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    stored = contents(tmp_path / 'out/train_sharp.lmdb')
    assert stored == {f'A_00/00000{n}': files[f'train/A_00/sharp/00000{n}{extension}'] for n in (1, 2)}
    assert sound(tmp_path / 'out')


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


# Command line


def test_ctrl_c_is_one_line_and_status_130(tmp_path, monkeypatch, capsys) -> None:
    make_gopro(tmp_path / 'src')

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lmdb_writer, '_copy', interrupt)
    assert main(['gopro', str(tmp_path / 'src'), '-o', str(tmp_path / 'out')]) == 130
    assert capsys.readouterr().err.strip() == 'Interrupted. Run the same command again to resume.'


def test_help_imports_the_standard_library_only(root) -> None:
    code = (
        'import sys; before = set(sys.modules); from data_prep.__main__ import build_parser; build_parser(); '
        'print(*set(sys.modules) - before)'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=root, capture_output=True, text=True, check=True)
    loaded = {name.split('.')[0] for name in done.stdout.split()}
    assert loaded - sys.stdlib_module_names == {'data_prep', 'dstnet_arch'}


@pytest.mark.parametrize('command', ['gopro', 'dvd', 'bsd', 'verify', 'sample', 'synthesize'])
def test_help_has_an_example(capsys, command: str) -> None:
    with pytest.raises(SystemExit, match='0'):
        main([command, '--help'])
    assert f'example:\n  python -m data_prep {command}' in capsys.readouterr().out


@pytest.mark.parametrize(
    'arguments',
    [
        'gopro x', 'gopro x -o y --blur raw', 'dvdd', 'bsd x -o y', 'synthesize v -o y --window 6',
        'synthesize v -o y --window 13-7', 'synthesize v -o y --duty-cycle 0', 'synthesize v -o y --scale 2',
        'synthesize v -o y --scale 0.5 --max-size 100', 'synthesize v -o y --test a --train-share 0.5',
    ],
)  # fmt: skip
def test_wrong_usage(arguments: str) -> None:
    with pytest.raises(SystemExit, match='2'):
        main(arguments.split())

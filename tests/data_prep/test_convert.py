"""data_prep gopro and what all converters share: finding clips, checks, writing, resuming."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
from prep_parts import contents, encode, failure, make_gopro, put

from data_prep import convert as convert_module
from data_prep import lmdb_writer
from data_prep.__main__ import main
from data_prep.convert import convert
from data_prep.layouts import GOPRO
from data_prep.lmdb_writer import default_threads
from data_prep.verify import verify_lmdb
from dstnet_arch.data.frame_source import LMDBSource
from dstnet_arch.data.lmdb_format import read_meta_info
from dstnet_arch.errors import DataError

ROOT = Path(__file__).resolve().parents[2]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob('*')
        if path.is_file()
    }


def is_sound(output: Path) -> bool:
    """True if no LMDB has a fault, checked in this process."""
    return not any(verify_lmdb(path, default_threads()).problems for path in output.glob('*.lmdb'))


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
    assert is_sound(output)


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
    stated_by = json.loads((tmp_path / 'out/dataset_info.json').read_text())['splits']['train']['blur']['stated_by']
    assert ('nobody' in stated_by) == (blur == 'input')


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


# Traps: each is named before anything is written.


def missing_sharp(clip: Path) -> str:
    (clip / 'sharp/000048.png').unlink()
    return 'train/A_00/blur/000048.png: no sharp frame of that name'


def missing_blurry(clip: Path) -> str:
    (clip / 'blur/000050.png').unlink()
    return 'train/A_00/sharp/000050.png: no blurry frame of that name'


def missing_folder(clip: Path) -> str:
    (clip / 'sharp').rename(clip / 'sharpest')
    return 'train/A_00: no folder of sharp frames'


def missing_folders(clip: Path) -> str:
    (clip.parent / 'EMPTY').mkdir()
    return 'train/EMPTY: no folder of blurry and no folder of sharp frames'


def no_frames(clip: Path) -> str:
    for side in ('blur', 'sharp'):
        (clip.parent / 'EMPTY' / side).mkdir(parents=True)
    return 'train/EMPTY: no frames'


def other_size(clip: Path) -> str:
    put(clip / 'blur/000049.png', size=(12, 18))
    return 'train/A_00/blur/000049.png is 18x12, other frames of the clip are 16x12'


def empty_file(clip: Path) -> str:
    (clip / 'sharp/000047.png').write_bytes(b'')
    return 'train/A_00/sharp/000047.png is empty'


def no_image(clip: Path) -> str:
    (clip / 'sharp/000047.png').write_bytes(b'<html>404</html>')
    return 'train/A_00/sharp/000047.png is not a readable image'


def dot_in_clip(clip: Path) -> str:
    clip.rename(clip.with_name('A.00'))
    return "(1 problem):\n  train/A.00: 'A.00' contains a dot"


def dot_in_frame(clip: Path) -> str:
    for side in ('blur', 'sharp'):
        (clip / side / '000047.png').rename(clip / side / '47.final.png')
    return "train/A_00: 'A_00/47.final' contains a dot"


def not_ascii(clip: Path) -> str:
    clip.rename(clip.with_name('Übung'))
    return "(1 problem):\n  train/Übung: 'Übung' is not ASCII"


def twice(clip: Path) -> str:
    put(clip / 'blur/000047.jpg')
    return 'train/A_00/blur/000047.png: 000047.jpg has the same name'


TRAPS = [missing_sharp, missing_blurry, missing_folder, missing_folders, no_frames, other_size, empty_file, no_image,
         dot_in_clip, dot_in_frame, not_ascii, twice]  # fmt: skip


@pytest.mark.parametrize('trap', TRAPS, ids=lambda trap: trap.__name__)
def test_problems_are_named_before_anything_is_written(tmp_path, capsys, trap) -> None:
    make_gopro(tmp_path / 'src')
    expected = trap(tmp_path / 'src/train/A_00')
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


# Writing


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
    assert is_sound(tmp_path / 'out')


def test_finished_data_is_left_alone(tmp_path, capsys) -> None:
    make_gopro(tmp_path / 'src')
    command = ['gopro', str(tmp_path / 'src'), '-o', str(tmp_path / 'out')]
    assert main(command) == 0
    before = snapshot(tmp_path / 'out')
    del before['dataset_info.json']
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.count('already complete') == 4
    after = snapshot(tmp_path / 'out')
    del after['dataset_info.json']
    assert after == before


def test_raw_pixels_are_what_stock_basicsr_decodes_from_the_files(tmp_path, capsys) -> None:
    from basicsr.utils import FileClient, imfrombytes

    files = make_gopro(tmp_path / 'src')
    gray = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16)
    odd = {'train/A_00/blur/000047.png': gray, 'train/A_00/sharp/000047.png': np.dstack([gray] * 3 + [gray[::-1]])}
    for name, image in odd.items():  # gray, and with alpha
        files[name] = cv2.imencode('.png', image)[1].tobytes()
        (tmp_path / 'src' / name).write_bytes(files[name])
    command = ['gopro', str(tmp_path / 'src'), '-o', str(tmp_path / 'out'), '--raw']
    assert main(command) == 0
    assert json.loads((tmp_path / 'out/dataset_info.json').read_text())['splits']['train']['stored'] == 'raw pixels'
    for side in ('blur', 'sharp'):
        path = tmp_path / f'out/train_{side}.lmdb'
        assert (path / 'meta_info.txt').read_text().startswith('A_00/000047.ppm (12,16,3) 1\nA_00/000048.ppm')
        keys = list(contents(path))
        client = FileClient('lmdb', db_paths=[str(path)], client_keys=[side])
        for key in keys:
            source = files[f'train/{key.replace("/", f"/{side}/")}.png']
            ours, theirs = (imfrombytes(data) for data in (client.get(key, side), source))
            np.testing.assert_array_equal(ours, theirs)
        client.client._client[side].close()  # LMDB opens nothing twice
    assert is_sound(tmp_path / 'out')
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.count('already complete') == 4
    message = failure(capsys, *command[:-1])
    assert 'train_blur.lmdb exists already and contains raw pixels of these frames, not files' in message


def test_unfinished_files_are_replaced_by_raw_pixels(tmp_path, capsys) -> None:
    files = make_gopro(tmp_path / 'src')
    broken = tmp_path / 'src/train/B_00/blur/002482.png'
    broken.write_bytes(broken.read_bytes()[:-20])
    failure(capsys, 'gopro', tmp_path / 'src', '-o', tmp_path / 'out')
    broken.write_bytes(files['train/B_00/blur/002482.png'])
    assert main(['gopro', str(tmp_path / 'src'), '-o', str(tmp_path / 'out'), '--raw']) == 0
    assert '0 of 7 frames exist from an earlier run; 6 were made from other files' in capsys.readouterr().out
    stored = contents(tmp_path / 'out/train_blur.lmdb')
    assert len(stored) == 7
    assert {data[:13] for data in stored.values()} == {b'P6\n16 12\n255\n'}


def test_finished_data_of_other_files_is_not_overwritten(tmp_path, capsys) -> None:
    make_gopro(tmp_path / 'src')
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    before = snapshot(tmp_path / 'out')
    make_gopro(tmp_path / 'src', {'train/NEW_00': (1, 2)})
    message = failure(capsys, 'gopro', tmp_path / 'src', '-o', tmp_path / 'out')
    assert f'{tmp_path / "out/train_blur.lmdb"} exists already and was made from other files' in message
    assert 'choose another folder with -o' in message
    assert snapshot(tmp_path / 'out') == before


@pytest.mark.parametrize('what', ['folder', 'file', 'info', 'output'])
def test_foreign_files_are_not_touched(tmp_path, capsys, what: str) -> None:
    make_gopro(tmp_path / 'src')
    output = tmp_path / 'out'
    mine = {'folder': 'test_sharp.lmdb/data.mdb', 'file': 'train_blur.lmdb', 'info': 'dataset_info.json', 'output': ''}
    (output / mine[what]).parent.mkdir(parents=True, exist_ok=True)
    (output / mine[what]).write_text('{"mine": 1}')
    message = failure(capsys, 'gopro', tmp_path / 'src', '-o', output)
    assert 'another folder with -o' in message
    assert [path for path in tmp_path.rglob('*') if path.is_file() and 'src' not in path.parts] == [output / mine[what]]


def test_damaged_result_is_not_complete(tmp_path, capsys) -> None:
    make_gopro(tmp_path / 'src')
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    data = tmp_path / 'out/test_blur.lmdb/data.mdb'
    os.truncate(data, data.stat().st_size // 2)
    message = failure(capsys, 'gopro', tmp_path / 'src', '-o', tmp_path / 'out')
    assert 'test_blur.lmdb is damaged' in message
    assert 'truncated' in message


def test_map_grows(tmp_path, monkeypatch) -> None:
    files = make_gopro(tmp_path / 'src', {'train/A_00': (1, 40)})
    monkeypatch.setattr(lmdb_writer, '_map_size', lambda frames: 6 * 4096)
    monkeypatch.setattr(lmdb_writer, 'BATCH_BYTES', 5000)
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    stored = contents(tmp_path / 'out/train_blur.lmdb')
    assert len(stored) == 40
    assert stored['A_00/000040'] == files['train/A_00/blur/000040.png']


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from data_prep import lmdb_writer
from data_prep.convert import convert
from data_prep.layouts import GOPRO

def kill(*args):
    os.kill(os.getpid(), signal.SIGKILL)

calls = 0
def count(stop_at, action):
    def counted(*args):
        global calls
        calls += 1
        return kill() if calls == stop_at else action(*args)
    return counted

def half_a_batch(env, batch):
    with env.begin(write=True) as transaction:
        for key, data in list(batch.items())[: len(batch) // 2 + 1]:
            transaction.put(key.encode(), data)
        kill()

original_write = lmdb_writer._write
place, stop_at = sys.argv[1], int(sys.argv[2])
if place == 'load':
    lmdb_writer._load = count(stop_at, lmdb_writer._load)
elif place == 'commit':
    def write(env, batch):
        global calls
        calls += bool(batch)
        return half_a_batch(env, batch) if calls == stop_at else original_write(env, batch)
    lmdb_writer._write = write
elif place == 'text':
    lmdb_writer.os.replace = count(stop_at, os.replace)
elif place == 'rename':
    Path.rename = count(stop_at, Path.rename)
lmdb_writer.BATCH_BYTES = 1500
convert(GOPRO, Path(sys.argv[3]), Path(sys.argv[4]), threads=2)
"""


@pytest.mark.skipif(os.name == 'nt', reason='SIGKILL is for POSIX')
@pytest.mark.parametrize(
    ('place', 'stop_at'),
    [('load', 1), ('load', 7), ('load', 12), ('commit', 3), ('commit', 6), ('text', 2), ('rename', 2)],
)
def test_killed_and_resumed_run_equals_an_uninterrupted_one(tmp_path, capsys, place: str, stop_at: int) -> None:
    make_gopro(tmp_path / 'src', {'train/A_00': (47, 8), 'test/C_00': (9, 3)})
    command = [sys.executable, '-c', KILLED_RUN, place, str(stop_at), str(tmp_path / 'src'), str(tmp_path / 'out')]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    (partial,) = (tmp_path / 'out').glob('*.partial')
    kept = len(contents(partial))
    assert kept > 0 or place == 'load'
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    continued = capsys.readouterr().out
    assert not kept or f'{partial.name}: {kept} of 8 frames exist from an earlier run.' in continued
    convert(GOPRO, tmp_path / 'src', tmp_path / 'straight')
    names = [path.name for path in sorted((tmp_path / 'straight').iterdir())]
    assert [path.name for path in sorted((tmp_path / 'out').iterdir())] == names
    for name in names:
        if name.endswith('.lmdb'):
            assert contents(tmp_path / 'out' / name) == contents(tmp_path / 'straight' / name)
            for text in ('meta_info.txt', 'source_files.tsv'):
                assert (tmp_path / 'out' / name / text).read_text() == (tmp_path / 'straight' / name / text).read_text()


def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A conversion that stopped after a few frames of train_blur."""
    files = make_gopro(tmp_path / 'src', {'train/A_00': (1, 12)})
    original = lmdb_writer._write
    commits = []

    def fail_later(env, batch) -> None:
        commits.append(len(batch))
        if len(commits) == 4:  # the first one of each run deletes what is stale: nothing, here
            raise lmdb.DiskError('mdb_txn_commit: No space left on device')
        original(env, batch)

    with monkeypatch.context() as patch:
        patch.setattr(lmdb_writer, '_write', fail_later)
        patch.setattr(lmdb_writer, 'BATCH_BYTES', 2500)
        with pytest.raises(DataError, match=r'(?s)No space left on device.* MB are free.*it resumes where it stopped'):
            convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['train_blur.lmdb.partial']
    return files


def test_disk_that_fills_up_is_one_error_and_resumable(tmp_path, monkeypatch, capsys) -> None:
    files = interrupted(tmp_path, monkeypatch)
    kept = contents(tmp_path / 'out/train_blur.lmdb.partial')
    assert 0 < len(kept) < 12
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    assert f'{len(kept)} of 12 frames exist' in capsys.readouterr().out
    assert contents(tmp_path / 'out/train_blur.lmdb')['A_00/000012'] == files['train/A_00/blur/000012.png']
    assert is_sound(tmp_path / 'out')


@pytest.mark.skipif(os.name == 'nt', reason='file size limits are for POSIX')
def test_failing_write_is_one_error(tmp_path) -> None:
    """A real failing write, in a process that may not make files of more than 16 kB."""
    make_gopro(tmp_path / 'src', {'train/A_00': (1, 12)})
    code = (
        'import resource, signal, sys; from data_prep.__main__ import main; '
        'signal.signal(signal.SIGXFSZ, signal.SIG_IGN); '
        'resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384)); sys.exit(main(sys.argv[1:]))'
    )
    command = [sys.executable, '-c', code, 'gopro', str(tmp_path / 'src'), '-o', str(tmp_path / 'out')]
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert 'error: cannot write' in failed.stderr
    assert 'Traceback' not in failed.stderr
    assert not list((tmp_path / 'out').glob('*.lmdb'))
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    assert is_sound(tmp_path / 'out')


def test_full_disk_is_noticed_before_writing(tmp_path, monkeypatch, capsys) -> None:
    make_gopro(tmp_path / 'src')
    monkeypatch.setattr(convert_module.shutil, 'disk_usage', lambda path: type('Usage', (), {'free': 1000})())
    message = failure(capsys, 'gopro', tmp_path / 'src', '-o', tmp_path / 'a/b/out')
    assert 'MB are free on its disk' in message
    assert not (tmp_path / 'a').exists()


def test_resumed_with_changed_files(tmp_path, monkeypatch, capsys) -> None:
    interrupted(tmp_path, monkeypatch)
    new = put(tmp_path / 'src/train/A_00/blur/000001.png', seed=99, size=(12, 16))
    for side in ('blur', 'sharp'):
        (tmp_path / f'src/train/A_00/{side}/000002.png').unlink()
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    assert '2 were made from other files' in capsys.readouterr().out
    stored = contents(tmp_path / 'out/train_blur.lmdb')
    assert stored['A_00/000001'] == new
    assert len(stored) == 11


def test_resumed_with_another_source(tmp_path, monkeypatch, capsys) -> None:
    interrupted(tmp_path, monkeypatch)
    files = make_gopro(tmp_path / 'src', {'train/A_00': (1, 12)}, blur='blur_gamma')
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out', 'blur_gamma')
    assert '0 of 12 frames exist' in capsys.readouterr().out
    expected = {Path(name).stem: data for name, data in files.items() if 'blur_gamma' in name}
    assert contents(tmp_path / 'out/train_blur.lmdb') == {f'A_00/{stem}': data for stem, data in expected.items()}


@pytest.mark.parametrize('damage', ['truncated', 'garbage'])
def test_damaged_unfinished_lmdb_is_started_again(tmp_path, monkeypatch, capsys, damage: str) -> None:
    interrupted(tmp_path, monkeypatch)
    data = tmp_path / 'out/train_blur.lmdb.partial/data.mdb'
    if damage == 'truncated':
        os.truncate(data, 5000)
    else:
        data.write_bytes(b'\xa5' * 20000)
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    assert 'is started again' in capsys.readouterr().out
    assert len(contents(tmp_path / 'out/train_blur.lmdb')) == 12


def test_second_writer_is_refused(tmp_path) -> None:
    pytest.importorskip('fcntl')
    make_gopro(tmp_path / 'src')
    (tmp_path / 'out/train_blur.lmdb.partial').mkdir(parents=True)
    with (
        lmdb_writer.only_writer(tmp_path / 'out/train_blur.lmdb.partial'),
        pytest.raises(DataError, match='another process is writing'),
    ):
        convert(GOPRO, tmp_path / 'src', tmp_path / 'out')
    convert(GOPRO, tmp_path / 'src', tmp_path / 'out')


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
        assert is_sound(tmp_path / output)
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
    assert is_sound(tmp_path / 'out')


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
    assert is_sound(tmp_path / 'out')


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

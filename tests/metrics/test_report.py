import csv
import itertools
import json
import math
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest

from dstnet_arch.metrics import report
from dstnet_arch.metrics.protocols import PROTOCOLS
from dstnet_arch.metrics.report import Column, ScoreBook

REPORT_FILE = Path(report.__file__)
PROTOCOL = 'protocol dstnet: every frame counts, rounded to 8 bits, mean over all frames'


def book_of(scores, metrics=('psnr', 'ssim3d'), dataset='GoPro', **arguments):
    """A book of {(row, video, frame): (one score for each metric)}."""
    book = ScoreBook(metrics, dataset, **arguments)
    for (row, video, frame), values in scores.items():
        book.add(row, video, frame, dict(zip(metrics, values, strict=True)))
    return book


def two_clips():
    """Two clips of two and one frames: means over frames and over clips differ."""
    return {
        ('input', 'clip2', '000009'): (20.0, 0.5),
        ('input', 'clip2', '000010'): (22.0, 0.6),
        ('input', 'clip10', '000047'): (30.0, 0.7),
        ('restored', 'clip2', '000009'): (25.0, 0.8),
        ('restored', 'clip2', '000010'): (26.0, 0.9),
        ('restored', 'clip10', '000047'): (36.0, 0.7),
    }


def read_csv(path):
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.reader(file))


def test_means_over_frames_and_over_clips():
    book = book_of(two_clips())
    assert book.mean('input') == {'psnr': 24.0, 'ssim3d': pytest.approx(0.6)}
    assert book.mean('restored') == {'psnr': 29.0, 'ssim3d': pytest.approx(0.8)}
    assert book.mean('input', over='clips') == {'psnr': 25.5, 'ssim3d': pytest.approx(0.625)}
    means = book.clip_means('restored')
    assert list(means) == ['clip2', 'clip10']
    assert means['clip2'] == {'psnr': 25.5, 'ssim3d': pytest.approx(0.85)}
    assert (book.num_frames, book.num_videos) == (3, 2)


def test_means_are_rounded_once():
    book = book_of({('input', 'a', str(frame)): (0.1,) for frame in range(10)}, metrics=['ssim'])
    assert book.mean('input') == {'ssim': 0.1}


def test_table():
    assert book_of(two_clips()).table().splitlines() == [
        'GoPro, 3 frames of 2 videos  PSNR (dB)  SSIM-3D',
        'blurry input                     24.00   0.6000',
        'restored                         29.00   0.8000',
        'gain                             +5.00  +0.2000',
        PROTOCOL,
    ]


def test_table_in_the_callers_words():
    columns = {'lpips': Column('LPIPS', 3, higher_is_better=False), 'psnr': Column('PSNR-Y', 1)}
    scores = {('input', 'a', '0'): (20.0, 0.5, 1.0), ('restored', 'a', '0'): (19.0, 0.125, 1.0)}
    book = book_of(scores, metrics=('psnr', 'lpips', 'own'), dataset='Mini', columns=columns)
    assert book.table().splitlines() == [
        'Mini, 1 frame of 1 video  PSNR-Y   LPIPS      own',
        'blurry input                20.0   0.500   1.0000',
        'restored                    19.0   0.125   1.0000',
        'gain                        -1.0  +0.375  +0.0000',
        'LPIPS: lower is better',
        PROTOCOL,
    ]


def test_table_of_one_row():
    restored = {key: values for key, values in two_clips().items() if key[0] == 'restored'}
    assert book_of(restored).table().splitlines() == [
        'GoPro, 3 frames of 2 videos  PSNR (dB)  SSIM-3D',
        'restored                         29.00   0.8000',
        PROTOCOL,
    ]


def test_table_of_rows_with_different_frames():
    scores = two_clips()
    del scores['input', 'clip10', '000047']
    lines = book_of(scores).table().splitlines()
    assert not any(line.startswith('gain') for line in lines)
    assert lines[-2] == 'blurry input: 2 of 3 frames have scores'


def test_the_protocol_says_which_mean_counts(tmp_path):
    book = book_of(two_clips(), protocol=PROTOCOLS['basicsr'])
    assert book.mean('input') == book.mean('input', over='clips') == {'psnr': 25.5, 'ssim3d': pytest.approx(0.625)}
    assert book.mean('input', over='frames')['psnr'] == 24.0
    lines = book.table().splitlines()
    assert lines[1].split() == ['blurry', 'input', '25.50', '0.6250']
    assert lines[3].split() == ['gain', '+5.25', '+0.1500']
    assert lines[-1].startswith('protocol basicsr: ')
    summary = book.summary()
    assert (summary['protocol'], summary['mean_over']) == ('basicsr', 'clips')
    assert summary['mean_over_frames']['input']['psnr'] == 24.0
    for path in book.write_csv(tmp_path):
        assert {line[-1] for line in read_csv(path)[1:]} == {'basicsr'}


def test_infinite_scores_are_left_out_and_counted(tmp_path):
    scores = two_clips()
    scores['restored', 'clip2', '000010'] = (math.inf, 1.0)
    book = book_of(scores)
    assert book.mean('restored') == {'psnr': 30.5, 'ssim3d': pytest.approx(2.5 / 3)}
    assert book.clip_means('restored')['clip2']['psnr'] == 25.0
    assert book.infinite('restored') == {'psnr': 1, 'ssim3d': 0}
    assert book.infinite('input') == {'psnr': 0, 'ssim3d': 0}
    assert book.table().splitlines()[-2] == 'PSNR (dB), restored: 1 infinite (identical frames), left out of the mean'
    frames, _ = book.write_csv(tmp_path)
    assert float(read_csv(frames)[2][3]) == math.inf
    summary = json.loads(book.write_json(tmp_path / 'summary.json').read_text())
    assert summary['infinite_left_out']['restored'] == {'psnr': 1, 'ssim3d': 0}


def test_nothing_but_infinite_scores(tmp_path):
    book = book_of({('input', 'a', '0'): (30.0, 0.9), ('restored', 'a', '0'): (math.inf, 1.0)})
    assert book.mean('restored')['psnr'] == math.inf
    assert book.mean('restored', over='clips')['psnr'] == math.inf
    lines = book.table().splitlines()
    assert lines[2].split() == ['restored', 'inf', '1.0000']
    assert lines[3].split() == ['gain', '-', '+0.1000']
    text = book.write_json(tmp_path / 'summary.json').read_text()
    assert json.loads(text)['mean_over_frames']['restored'] == {'psnr': None, 'ssim3d': 1.0}


def test_no_frames(tmp_path):
    book = ScoreBook(['psnr'], 'GoPro')
    assert book.table() == 'GoPro: no frame was scored'
    assert book.mean('input') == book.mean('restored', over='clips') == book.clip_means('input') == {}
    assert book.records == []
    frames, clips = book.write_csv(tmp_path)
    assert read_csv(frames) == [['video', 'frame', 'input_psnr', 'restored_psnr', 'protocol']]
    assert read_csv(clips) == [['video', 'frames', 'input_psnr', 'restored_psnr', 'protocol']]
    assert json.loads(book.write_json(tmp_path / 's.json').read_text())['mean_over_frames'] == {}


def test_csv(tmp_path):
    scores = two_clips()
    del scores['input', 'clip10', '000047']
    frames, clips = book_of(scores).write_csv(tmp_path / 'new' / 'folder')
    assert (frames.name, clips.name) == ('GoPro_frames.csv', 'GoPro_clips.csv')
    header = ['input_psnr', 'restored_psnr', 'input_ssim3d', 'restored_ssim3d', 'protocol']
    assert read_csv(frames) == [
        ['video', 'frame', *header],
        ['clip2', '000009', '20.0', '25.0', '0.5', '0.8', 'dstnet'],
        ['clip2', '000010', '22.0', '26.0', '0.6', '0.9', 'dstnet'],
        ['clip10', '000047', '', '36.0', '', '0.7', 'dstnet'],
    ]
    lines = read_csv(clips)
    assert lines[0] == ['video', 'frames', *header]
    assert lines[1][:4] == ['clip2', '2', '21.0', '25.5']
    assert lines[2] == ['clip10', '1', '', '36.0', '', '0.7', 'dstnet']


def test_csv_keeps_every_digit_and_awkward_names(tmp_path):
    score = 0.1 + 0.2
    frames, _ = book_of({('restored', 'a, "b"\nü', 'frame,1'): (score, 1 / 3)}).write_csv(tmp_path, stem='x_5000')
    assert frames.name == 'x_5000_frames.csv'
    video, frame, _, psnr, _, ssim, _ = read_csv(frames)[1]
    assert (video, frame, float(psnr), float(ssim)) == ('a, "b"\nü', 'frame,1', score, 1 / 3)


def test_json(tmp_path):
    path = book_of(two_clips()).write_json(tmp_path / 'GoPro_summary.json', run='x', iteration=5000)
    assert json.loads(path.read_text(encoding='utf-8')) == {
        'dataset': 'GoPro',
        'frames': 3,
        'videos': 2,
        'mean_over_frames': {
            'input': {'psnr': 24.0, 'ssim3d': pytest.approx(0.6)},
            'restored': {'psnr': 29.0, 'ssim3d': pytest.approx(0.8)},
        },
        'mean_over_clips': {
            'input': {'psnr': 25.5, 'ssim3d': pytest.approx(0.625)},
            'restored': {'psnr': 30.75, 'ssim3d': pytest.approx(0.775)},
        },
        'infinite_left_out': {'input': {'psnr': 0, 'ssim3d': 0}, 'restored': {'psnr': 0, 'ssim3d': 0}},
        'protocol': 'dstnet',
        'protocol_in_words': PROTOCOL.removeprefix('protocol '),
        'mean_over': 'frames',
        'run': 'x',
        'iteration': 5000,
    }


def test_json_refuses_before_it_writes(tmp_path):
    book = book_of(two_clips())
    path = tmp_path / 's.json'
    with pytest.raises(ValueError, match='frames'):
        book.write_json(path, frames=3)
    with pytest.raises(ValueError):
        book.write_json(path, loss=math.nan)
    with pytest.raises(TypeError):
        book.write_json(path, where=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = book_of(two_clips()).write_json(tmp_path / 's.json')
    before = path.read_text()

    def fail(*_):
        raise OSError('disk full')

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(OSError, match='disk full'):
        book_of(two_clips()).write_json(path, note='new')
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_stem_must_be_a_name(tmp_path):
    for stem in ('a/b', '../x'):
        with pytest.raises(ValueError, match='file name'):
            book_of(two_clips()).write_csv(tmp_path, stem=stem)
    assert list(tmp_path.iterdir()) == []


def test_order_of_adding_does_not_matter(tmp_path):
    generator = random.Random(0)
    scores = {
        (row, f'clip{clip}', f'{frame}'): (generator.uniform(15, 45), generator.random())
        for row, clip, frame in itertools.product(('input', 'restored'), range(12), range(8, 23))
    }
    shuffled = list(scores.items())
    generator.shuffle(shuffled)
    books = [book_of(scores), book_of(dict(shuffled))]
    assert books[0].records == books[1].records
    assert books[0].records[0][1:3] == ('clip0', '8')
    assert books[0].table() == books[1].table()
    files = [
        [path.read_bytes() for path in (*book.write_csv(tmp_path / str(i)), book.write_json(tmp_path / f'{i}.json'))]
        for i, book in enumerate(books)
    ]
    assert files[0] == files[1]


def test_books_of_several_processes():
    whole = book_of(two_clips())
    parts = [book_of(dict(itertools.islice(two_clips().items(), rank, None, 2))) for rank in (1, 0)]
    gathered = [pickle.loads(pickle.dumps(part.records)) for part in parts]
    merged = ScoreBook(whole.metrics, whole.dataset)
    for records in gathered:
        merged.merge(records)
    assert merged.records == whole.records
    with pytest.raises(ValueError, match=r"'clip2', frame '000009' \(input\).* already"):
        merged.merge(gathered[1])
    with pytest.raises(ValueError, match='got 2 scores'):
        ScoreBook(['psnr'], 'GoPro').merge(whole.records)


@pytest.mark.parametrize(
    'last', [('input', 'a', '0', (1.0,)), ('input', 'b', '0', (math.nan,)), ('x', 'b', '0', (1.0,))]
)
def test_records_are_merged_all_or_none(last):
    book = ScoreBook(['psnr'], 'GoPro')
    with pytest.raises(ValueError):
        book.merge([('input', 'a', '0', (1.0,)), ('restored', 'a', '0', (2.0,)), last])
    assert book.records == []


@pytest.mark.parametrize(
    ('row', 'values', 'message'),
    [
        ('input', {'psnr': math.nan, 'ssim3d': 0.5}, r"'clip1', frame '000007' \(input\): psnr is nan"),
        ('restored', {'psnr': 20.0, 'ssim3d': -math.inf}, r'\(restored\): ssim3d is -inf'),
        ('sharp', {'psnr': 20.0, 'ssim3d': 0.5}, r'\(sharp\).*input, restored'),
        ('input', {'psnr': 20.0}, r'for psnr, expected psnr, ssim3d'),
        ('input', {}, 'for nothing, expected'),
        ('input', {'psnr': 20.0, 'ssim3d': 0.5, 'ssim': 0.5}, 'expected psnr, ssim3d'),
    ],
)
def test_refused_scores(row, values, message):
    book = ScoreBook(('psnr', 'ssim3d'), 'GoPro')
    with pytest.raises(ValueError, match=message):
        book.add(row, 'clip1', '000007', values)
    assert book.records == []


def test_a_frame_is_scored_once():
    book = book_of(two_clips())
    with pytest.raises(ValueError, match=r"'clip2', frame '000009' \(restored\).* already"):
        book.add('restored', 'clip2', '000009', {'psnr': 1.0, 'ssim3d': 1.0})
    assert book.mean('restored')['psnr'] == 29.0


def test_metrics_are_named_once():
    with pytest.raises(ValueError, match='psnr, psnr'):
        ScoreBook(['psnr', 'psnr'], 'GoPro')


def test_needs_neither_torch_nor_basicsr():
    code = (
        'import runpy, sys\n'
        'sys.path.insert(0, sys.argv[2])\n'
        'names = runpy.run_path(sys.argv[1])\n'
        'assert names["ScoreBook"](["psnr"], "x").table() == "x: no frame was scored"\n'
        'print({"torch", "basicsr", "numpy"} & set(sys.modules))\n'
    )
    command = [sys.executable, '-c', code, str(REPORT_FILE), str(REPORT_FILE.parents[2])]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == 'set()'

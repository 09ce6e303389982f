"""ScoreBook: means, tables, CSV and JSON."""

from __future__ import annotations

import csv
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest

from dstnet_arch.errors import DataError
from dstnet_arch.metrics.protocols import PROTOCOLS
from dstnet_arch.metrics.report import Record, ScoreBook

METRICS: dict[str, dict[str, Any]] = {'psnr': {}, 'ssim3d': {}}

# Two clips of two and one frames: means over frames and over clips differ.
RECORDS = [
    Record('input', 'clip2', '000009', (20.0, 0.5)),
    Record('input', 'clip2', '000010', (22.0, 0.6)),
    Record('input', 'clip10', '000047', (30.0, 0.7)),
    Record('restored', 'clip2', '000009', (25.0, 0.8)),
    Record('restored', 'clip2', '000010', (26.0, 0.9)),
    Record('restored', 'clip10', '000047', (36.0, 0.7)),
]


def make_book(
    records: list[Record], metrics: dict[str, dict[str, Any]] = METRICS, protocol: str = 'dstnet'
) -> ScoreBook:
    return ScoreBook('GoPro', metrics, PROTOCOLS[protocol], records)


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline='', encoding='utf-8') as file:
        return list(csv.reader(file))


def test_table_shows_means_and_gain() -> None:
    assert make_book(RECORDS).table(['A note']).splitlines() == [
        '### GoPro: 3 frames of 2 videos',
        '',
        '|              | PSNR (dB) | SSIM-3D |',
        '| ------------ | --------: | ------: |',
        '| blurry input |     24.00 |  0.6000 |',
        '| restored     |     29.00 |  0.8000 |',
        '| gain         |     +5.00 | +0.2000 |',
        '',
        'Protocol dstnet: all frames, rounded to the bit depth of the data, mean over all frames',
        '',
        'A note',
    ]


def test_table_gain_is_positive_where_lower_is_better() -> None:
    book = make_book(RECORDS, {'psnr': {}, 'lpips': {'better': 'lower'}})
    assert book.table().splitlines()[6:9] == ['| gain         |     +5.00 | -0.2000 |', '', 'lpips: lower is better']


def test_protocol_selects_the_mean(tmp_path: Path) -> None:
    frames, clips = {'psnr': 24.0, 'ssim3d': pytest.approx(0.6)}, {'psnr': 25.5, 'ssim3d': pytest.approx(0.625)}
    for protocol, over, mean in (('dstnet', 'frames', frames), ('basicsr', 'clips', clips)):
        book = make_book(RECORDS, protocol=protocol)
        assert book.mean('input') == mean
        assert (book.mean('input', 'frames'), book.mean('input', 'clips')) == (frames, clips)
        summary = book.summary()
        assert (summary['protocol'], summary['mean_over']) == (protocol, over)
        assert {line[-1] for line in read_csv(book.write(tmp_path, 'GoPro'))[1:]} == {protocol}


def test_infinite_scores_are_left_out_and_counted(tmp_path: Path) -> None:
    records = [*RECORDS[:4], Record('restored', 'clip2', '000010', (math.inf, 1.0)), RECORDS[5]]
    book = make_book(records)
    assert book.mean('restored') == {'psnr': 30.5, 'ssim3d': pytest.approx(2.5 / 3)}
    assert book.infinite('restored') == {'psnr': 1, 'ssim3d': 0}
    assert 'psnr, restored: 1 infinite (identical frames), not included in the mean' in book.table()
    assert float(read_csv(book.write(tmp_path, 'x'))[2][3]) == math.inf

    book = make_book([Record('input', 'a', '0', (30.0, 0.9)), Record('restored', 'a', '0', (math.inf, 1.0))])
    assert book.mean('restored')['psnr'] == book.mean('restored', over='clips')['psnr'] == math.inf
    assert book.table().splitlines()[6].split() == ['|', 'gain', '|', '-', '|', '+0.1000', '|']
    book.write(tmp_path, 'y')
    means = json.loads((tmp_path / 'y_summary.json').read_text())['mean_over_frames']
    assert means['restored'] == {'psnr': None, 'ssim3d': 1.0}


def test_write_csv_and_json(tmp_path: Path) -> None:
    frames = make_book(RECORDS).write(tmp_path / 'new' / 'folder', 'GoPro', run='x')
    header = ['input_psnr', 'restored_psnr', 'input_ssim3d', 'restored_ssim3d', 'protocol']
    assert read_csv(frames) == [
        ['video', 'frame', *header],
        ['clip2', '000009', '20.0', '25.0', '0.5', '0.8', 'dstnet'],
        ['clip2', '000010', '22.0', '26.0', '0.6', '0.9', 'dstnet'],
        ['clip10', '000047', '30.0', '36.0', '0.7', '0.7', 'dstnet'],
    ]
    lines = read_csv(frames.with_name('GoPro_clips.csv'))
    assert lines[0] == ['video', 'frames', *header]
    assert lines[1][:4] == ['clip2', '2', '21.0', '25.5']
    assert lines[2] == ['clip10', '1', '30.0', '36.0', '0.7', '0.7', 'dstnet']
    assert json.loads(frames.with_name('GoPro_summary.json').read_text(encoding='utf-8')) == {
        'dataset': 'GoPro',
        'protocol': 'dstnet',
        'protocol_description': str(PROTOCOLS['dstnet']),
        'mean_over': 'frames',
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
        'run': 'x',
    }


def test_interrupted_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_book(RECORDS).write(tmp_path, 's')
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(*_: Any) -> None:
        raise OSError('disk full')

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(DataError, match=r's_frames\.csv cannot be written: disk full'):
        make_book(RECORDS[1:3] + RECORDS[4:]).write(tmp_path, 's')
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_files_keep_all_digits_and_names_and_do_not_depend_on_the_order(tmp_path: Path) -> None:
    generator = random.Random(0)
    records = [
        Record(row, f'a, "ü"\n{clip}', f'{frame}', (generator.uniform(15, 45), generator.random()))
        for row in ('input', 'restored')
        for clip in range(12)
        for frame in range(8, 23)
    ]
    for folder in ('a', 'b'):
        rows = read_csv(make_book(records).write(tmp_path / folder, 'x'))
        assert [row[:2] for row in rows[1:]] == [list(record[1:3]) for record in sorted_records(records)]
        assert float(rows[1][2]) == sorted_records(records)[0].scores[0]
        generator.shuffle(records)
    for path in (tmp_path / 'a').iterdir():
        assert path.read_bytes() == (tmp_path / 'b' / path.name).read_bytes()


def sorted_records(records: list[Record]) -> list[Record]:
    """The records of the blurry input by the numbers in their names."""
    inputs = [record for record in records if record.row == 'input']
    return sorted(inputs, key=lambda record: (int(record.video.split('\n')[1]), int(record.frame)))


@pytest.mark.parametrize(
    ('record', 'message'),
    [
        (Record('input', 'c', '7', (math.nan, 0.5)), r'GoPro, video c, frame 7 \(blurry input\): psnr is nan'),
        (Record('restored', 'c', '7', (20.0, -math.inf)), r'\(restored\): ssim3d is -inf'),
        (Record('restored', 'clip2', '000009', (1.0, 1.0)), r'video clip2, frame 000009 .* was scored twice'),
    ],
)
def test_scorebook_refuses_undefined_and_repeated_scores(record: Record, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_book([*RECORDS, record])

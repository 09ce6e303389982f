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

PROTOCOL = 'Protocol dstnet: all frames, rounded to the bit depth of the data, mean over all frames'
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
    records: list[Record],
    metrics: dict[str, dict[str, Any]] = METRICS,
    protocol: str = 'dstnet',
    dataset: str = 'GoPro',
) -> ScoreBook:
    book = ScoreBook(dataset, metrics, PROTOCOLS[protocol])
    book.add(records)
    return book


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline='', encoding='utf-8') as file:
        return list(csv.reader(file))


def test_mean_over_frames_and_over_clips() -> None:
    book = make_book(RECORDS)
    assert book.mean('input') == {'psnr': 24.0, 'ssim3d': pytest.approx(0.6)}
    assert book.mean('restored') == {'psnr': 29.0, 'ssim3d': pytest.approx(0.8)}
    assert book.mean('input', over='clips') == {'psnr': 25.5, 'ssim3d': pytest.approx(0.625)}
    means = book.clip_means('restored')
    assert list(means) == ['clip2', 'clip10']
    assert means['clip2'] == {'psnr': 25.5, 'ssim3d': pytest.approx(0.85)}


def test_table_shows_means_and_gain() -> None:
    assert make_book(RECORDS).table('A note').text().splitlines() == [
        'GoPro: 3 frames of 2 videos',
        '              PSNR (dB)  SSIM-3D',
        'blurry input      24.00   0.6000',
        'restored          29.00   0.8000',
        'gain              +5.00  +0.2000',
        PROTOCOL,
        'A note',
    ]
    restored = make_book([record for record in RECORDS if record.row == 'restored'])
    assert [line[:8] for line in restored.table().text().splitlines()] == ['GoPro: 3', ' ' * 8, 'restored', 'Protocol']


def test_table_gain_is_positive_where_lower_is_better() -> None:
    metrics = {'psnr': {}, 'lpips': {'better': 'lower'}}
    book = make_book(
        [Record('input', 'a', '0', (20.0, 0.5)), Record('restored', 'a', '0', (19.0, 0.125))], metrics, dataset='Mini'
    )
    assert book.table().text().splitlines() == [
        'Mini: 1 frame of 1 video',
        '              PSNR (dB)    lpips',
        'blurry input      20.00   0.5000',
        'restored          19.00   0.1250',
        'gain              -1.00  +0.3750',
        'lpips: lower is better',
        PROTOCOL,
    ]


def test_protocol_selects_the_mean(tmp_path: Path) -> None:
    book = make_book(RECORDS, protocol='basicsr')
    assert book.mean('input') == {'psnr': 25.5, 'ssim3d': pytest.approx(0.625)}
    assert book.mean('input', over='frames')['psnr'] == 24.0
    summary = book.summary()
    assert (summary['protocol'], summary['mean_over']) == ('basicsr', 'clips')
    assert {line[-1] for line in read_csv(book.write(tmp_path, 'GoPro'))[1:]} == {'basicsr'}


def test_infinite_scores_are_left_out_and_counted(tmp_path: Path) -> None:
    records = [*RECORDS[:4], Record('restored', 'clip2', '000010', (math.inf, 1.0)), RECORDS[5]]
    book = make_book(records)
    assert book.mean('restored') == {'psnr': 30.5, 'ssim3d': pytest.approx(2.5 / 3)}
    assert book.infinite('restored') == {'psnr': 1, 'ssim3d': 0}
    note = 'PSNR (dB), restored: 1 infinite (identical frames), not included in the mean'
    assert book.table().text().splitlines()[-2] == note
    assert float(read_csv(book.write(tmp_path, 'x'))[2][3]) == math.inf

    book = make_book([Record('input', 'a', '0', (30.0, 0.9)), Record('restored', 'a', '0', (math.inf, 1.0))])
    assert book.mean('restored')['psnr'] == book.mean('restored', over='clips')['psnr'] == math.inf
    assert book.table().text().splitlines()[4].split() == ['gain', '-', '+0.1000']
    book.write(tmp_path, 'y')
    means = json.loads((tmp_path / 'y_summary.json').read_text())['mean_over_frames']
    assert means['restored'] == {'psnr': None, 'ssim3d': 1.0}


def test_write_csv_and_json(tmp_path: Path) -> None:
    frames = make_book([RECORDS[0], RECORDS[1], *RECORDS[3:]]).write(tmp_path / 'new' / 'folder', 'GoPro', run='x')
    assert frames.name == 'GoPro_frames.csv'
    header = ['input_psnr', 'restored_psnr', 'input_ssim3d', 'restored_ssim3d', 'protocol']
    assert read_csv(frames) == [
        ['video', 'frame', *header],
        ['clip2', '000009', '20.0', '25.0', '0.5', '0.8', 'dstnet'],
        ['clip2', '000010', '22.0', '26.0', '0.6', '0.9', 'dstnet'],
        ['clip10', '000047', '', '36.0', '', '0.7', 'dstnet'],
    ]
    lines = read_csv(frames.with_name('GoPro_clips.csv'))
    assert lines[0] == ['video', 'frames', *header]
    assert lines[1][:4] == ['clip2', '2', '21.0', '25.5']
    assert lines[2] == ['clip10', '1', '', '36.0', '', '0.7', 'dstnet']
    assert json.loads(frames.with_name('GoPro_summary.json').read_text(encoding='utf-8')) == {
        'dataset': 'GoPro',
        'protocol': 'dstnet',
        'protocol_description': PROTOCOL.removeprefix('Protocol '),
        'mean_over': 'frames',
        'frames': 3,
        'videos': 2,
        'mean_over_frames': {
            'input': {'psnr': 21.0, 'ssim3d': pytest.approx(0.55)},
            'restored': {'psnr': 29.0, 'ssim3d': pytest.approx(0.8)},
        },
        'mean_over_clips': {
            'input': {'psnr': 21.0, 'ssim3d': pytest.approx(0.55)},
            'restored': {'psnr': 30.75, 'ssim3d': pytest.approx(0.775)},
        },
        'infinite_left_out': {'input': {'psnr': 0, 'ssim3d': 0}, 'restored': {'psnr': 0, 'ssim3d': 0}},
        'run': 'x',
    }


def test_csv_keeps_all_digits_and_unusual_names(tmp_path: Path) -> None:
    score = 0.1 + 0.2
    frames = make_book([Record('restored', 'a, "b"\nü', 'frame,1', (score, 1 / 3))]).write(tmp_path, 'x_5000')
    video, frame, _, psnr, _, ssim, _ = read_csv(frames)[1]
    assert (video, frame, float(psnr), float(ssim)) == ('a, "b"\nü', 'frame,1', score, 1 / 3)


def test_interrupted_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_book(RECORDS).write(tmp_path, 's')
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(*_: Any) -> None:
        raise OSError('disk full')

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(DataError, match=r'Cannot write .*s_frames\.csv: disk full'):
        make_book(RECORDS[:4]).write(tmp_path, 's')
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_order_of_adding_does_not_matter(tmp_path: Path) -> None:
    generator = random.Random(0)
    records = [
        Record(row, f'clip{clip}', f'{frame}', (generator.uniform(15, 45), generator.random()))
        for row in ('input', 'restored')
        for clip in range(12)
        for frame in range(8, 23)
    ]
    for folder in ('a', 'b'):
        make_book(records).write(tmp_path / folder, 'x')
        generator.shuffle(records)
    for path in (tmp_path / 'a').iterdir():
        assert path.read_bytes() == (tmp_path / 'b' / path.name).read_bytes()


@pytest.mark.parametrize(
    ('record', 'message'),
    [
        (Record('input', 'c', '7', (math.nan, 0.5)), r'GoPro, video c, frame 7 \(blurry input\): psnr is nan'),
        (Record('restored', 'c', '7', (20.0, -math.inf)), r'\(restored\): ssim3d is -inf'),
        (Record('restored', 'clip2', '000009', (1.0, 1.0)), r'video clip2, frame 000009 .* was scored twice'),
    ],
)
def test_add_refuses_undefined_and_repeated_scores(record: Record, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_book([*RECORDS, record])

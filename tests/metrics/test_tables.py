"""Result tables: published and measured rows, and `dstnet tables`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dstnet_arch.__main__ import main
from dstnet_arch.metrics.protocols import PROTOCOLS
from dstnet_arch.metrics.report import Record, ScoreBook
from dstnet_arch.metrics.tables import measured_row, published, published_for, result_tables

METRICS = {
    'sharpness': {'type': 'calculate_niqe', 'crop_border': 0},
    'psnr_y': {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_channel': True},
    'p': {'type': 'calculate_psnr', 'crop_border': 0},
    'ssim2d': {'type': 'calculate_ssim', 'crop_border': 0},
    'ssim_inner': {'type': 'calculate_ssim3d', 'crop_border': 4},
    's': {'type': 'calculate_ssim3d', 'crop_border': 0, 'better': 'higher'},
}
PROVENANCE: dict[str, Any] = {
    'run': 'test_DSTNet_GoPro',
    'weights': 'weights/GOPRO_x.pth',
    'network': {'type': 'DSTNet'},
    'precision': 'fp32',
    'self_ensemble': False,
    'metrics': METRICS,
    'date': '2025-03-07',
}


def summary(dataset: str = 'GoPro', psnr: float = 34.2, protocol: str = 'dstnet', **provenance: Any) -> dict[str, Any]:
    """The summary of a test of 3 frames of 2 videos."""
    metrics = provenance.get('metrics', METRICS)
    records = [
        Record(row, video, frame, tuple(psnr + more if n == 'p' else 0.9 + i / 1000 for i, n in enumerate(metrics)))
        for video, frame, more in (('a', '1', 0.0), ('a', '2', 0.0), ('b', '1', 3.0))
        for row in ('input', 'restored')
    ]
    book = ScoreBook(dataset, metrics, PROTOCOLS[protocol], records)
    content: dict[str, Any] = json.loads(json.dumps(book.summary(**{**PROVENANCE, **provenance})))
    return content


def cells(table: str) -> list[list[str]]:
    """The rows of Markdown tables without their rules."""
    lines = [line.strip('| ').split(' | ') for line in table.splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in line] for line in lines if '---' not in line[0] + line[-1]]


def test_published_rows() -> None:
    tables = {table['dataset']: table for table in published()}
    assert {name: len(table['rows']) for name, table in tables.items()} == {
        'GoPro': 18 + 3,
        'DVD': 14 + 3,
        'BSD 1ms-8ms': 6 + 5,
        'BSD 2ms-16ms': 7,
        'BSD 3ms-24ms': 7,
    }
    own = [
        (name, row['psnr'], row['ssim'], row['origin'])
        for name, table in tables.items()
        for row in table['rows']
        if row['method'] in ('DSTNet', 'DSTNet-L')
    ]
    assert own == [
        ('GoPro', 34.16, 0.9679, 'paper'),
        ('GoPro', 35.05, 0.9733, 'paper'),
        ('DVD', 33.79, 0.9615, 'paper'),
        ('BSD 1ms-8ms', 34.45, 0.9548, 'paper'),
        ('BSD 2ms-16ms', 32.86, None, 'quoted'),
        ('BSD 3ms-24ms', 32.56, None, 'quoted'),
    ]
    for row in (row for table in tables.values() for row in table['rows']):
        assert row.keys() == {'method', 'psnr', 'ssim', 'origin', 'source'}
        assert 25 < row['psnr'] < 36
        assert row['ssim'] is None or 0.77 < row['ssim'] < 0.98
        assert row['origin'] == ('paper' if row['source'].startswith('Table ') else 'quoted')


@pytest.mark.parametrize(
    ('dataset', 'table'),
    [
        *((table['dataset'], table['dataset']) for table in published()),
        ('gopro_test', 'GoPro'),
        ('BSD_3ms24ms', 'BSD 3ms-24ms'),
        ('BSD', None),
        ('my GoPro', None),
        ('', None),
    ],
)
def test_published_for_recognises_names_of_sets(dataset: str, table: str | None) -> None:
    found = published_for(dataset)
    assert (found and found['dataset']) == table


def test_measured_row_is_ranked_among_published_rows() -> None:
    row = measured_row(summary(psnr=34.16 + 0.01 - 1))  # mean over frames: 1 more
    assert (row.psnr, row.ssim) == (pytest.approx(34.17), pytest.approx(0.905))
    table = result_tables([row])
    assert cells(table)[0] == ['#', 'Method', 'PSNR (dB)', 'SSIM', 'Origin', 'Details']
    assert [line[1] for line in cells(table)[1:9]] == [
        *('DSTNet+L', 'Shift-Net', 'DSTNet-L', 'RVRT', 'DSTNet+', '**test_DSTNet_GoPro**', 'DSTNet', 'BasicVSR++')
    ]
    assert cells(table)[6:8] == [
        [
            *('6', '**test_DSTNet_GoPro**', '34.17', '0.9050', 'measured'),
            '2025-03-07, 3 frames of GoPro, DSTNet, GOPRO_x.pth',
        ],
        ['7', 'DSTNet', '34.16', '0.9679', 'paper', 'Table 1'],
    ]
    lines = table.splitlines()
    assert lines[0] == '### GoPro (Table 1 of the paper)'
    assert len({len(line) for line in lines[2:25]}) == 1, 'columns are aligned'
    assert 'test_DSTNet_GoPro: 3 of the 1111 frames, so not comparable.' in lines
    assert lines[-1].endswith('so the ranks follow PSNR.')


def test_scores_of_other_protocols_get_their_own_table() -> None:
    metrics = {'p': {'type': 'calculate_psnr', 'crop_border': 4}, 's': {'type': 'calculate_ssim'}}
    row = measured_row(summary(metrics=metrics))
    assert (row.psnr, row.ssim) == (None, None)
    assert cells(result_tables([row]))[-1][:4] == ['22', '**test_DSTNet_GoPro**', '-', '-']

    cdvd = PROTOCOLS['cdvd']
    rows = [measured_row(summary(protocol=name, metrics=cdvd.metrics | METRICS)) for name in ('basicsr', 'cdvd')]
    table = result_tables(rows)
    assert [line for line in table.splitlines() if '#' in line[:1]] == [
        '### GoPro, protocol basicsr',
        '### GoPro, protocol cdvd',
    ]
    assert len(cells(table)) == 2 + 2
    # Stock BasicSR's mean is over clips, and its SSIM the 2-D one; CDVD-TSP's leave out the border.
    assert (rows[0].psnr, rows[0].ssim) == (pytest.approx(35.7), pytest.approx(0.905))
    assert rows[1].psnr == pytest.approx(0.9)
    assert f'Protocol {cdvd}.' in table


def test_result_tables_combine_runs_of_one_set() -> None:
    summaries = [
        summary(psnr=40, run='best', self_ensemble=True, precision='bf16'),
        summary('sample', psnr=20, run='x', weights=None),
        summary('gopro_gamma', psnr=10, run='a|b<i>'),
        summary('sample', psnr=21, run='x', iteration=500),
    ]
    gopro, sample = result_tables(map(measured_row, summaries)).split('\n### ')
    assert sample.startswith('sample, protocol dstnet')
    assert sample.splitlines()[3].startswith('| -: | -'), 'a rule needs a dash in each column'
    assert cells(gopro)[1][1] == '**best (self-ensemble, bf16)**'
    assert r'| **a\|b\<i>** ' in gopro
    assert 'frames of gopro_gamma' in gopro
    assert [(line[1], line[5].split(', ')[-1]) for line in cells(sample)[1:]] == [
        ('**x (iteration 500)**', 'GOPRO_x.pth'),
        ('**x**', 'no weights given'),
    ]


def run(*arguments: object) -> int:
    return main(['tables', *map(str, arguments)])


def write(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = summary(**changes)
    (folder / f'{content["dataset"]}_summary.json').write_text(json.dumps(content))
    return folder


def test_tables_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / 'results/a', run='a\x1b[2J', psnr=30)
    write(a, run='a', dataset='sample')
    b = write(tmp_path / 'results/b', run='b', psnr=31)
    assert run(a.parent, b, a / 'sample_summary.json') == 0  # folders at any depth, some of them twice
    text = capsys.readouterr().out
    measured = [line[1] for line in cells(text) if line[4] == 'measured']
    assert measured == ['**b**', r'**a\\x1b\[2J**', '**a**']


def test_tables_command_reports_wrong_summaries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def message(path: Path) -> str:
        assert run(path) == 2
        printed = capsys.readouterr()
        assert printed.out == ''
        return printed.err

    assert 'dataroot_gt' in message(tmp_path)
    assert 'nowhere: No such file' in message(tmp_path / 'nowhere')
    file = tmp_path / 'x_summary.json'
    for content, said in [
        ('{"dataset": ', 'x_summary.json is damaged or of another version (JSONDecodeError'),
        (json.dumps(summary() | {'protocol': 'reds'}), "(KeyError: 'reds')"),
        (json.dumps(summary() | {'mean_over_frames': {}}), "(KeyError: 'restored')"),
        (json.dumps(summary() | {'metrics': []}), '(AttributeError: '),
    ]:
        file.write_text(content)
        assert said in message(file)

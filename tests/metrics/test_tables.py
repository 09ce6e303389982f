"""Result tables: published and measured rows, and `dstnet tables`."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from dstnet_arch.__main__ import main
from dstnet_arch.metrics.protocols import PROTOCOLS
from dstnet_arch.metrics.report import Record, ScoreBook
from dstnet_arch.metrics.tables import Row, measured_row, published, published_for, render, result_tables

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
    book = ScoreBook(dataset, metrics, PROTOCOLS[protocol])
    for video, frame, more in (('a', '1', 0.0), ('a', '2', 0.0), ('b', '1', 3.0)):
        scores = tuple(psnr + more if name == 'p' else 0.9 + i / 1000 for i, name in enumerate(metrics))
        book.add([Record('restored', video, frame, scores)])
    text = json.dumps(book.summary(**{**PROVENANCE, **provenance}))
    return json.loads(text)


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
    for table in tables.values():
        for row in table['rows']:
            assert row.keys() == {'method', 'psnr', 'ssim', 'origin', 'source'}
            assert row['origin'] in ('paper', 'quoted')
            assert 25 < row['psnr'] < 36
            assert row['ssim'] is None or 0.77 < row['ssim'] < 0.98
            assert (row['origin'] == 'paper') == row['source'].startswith('Table ')


@pytest.mark.parametrize(
    ('dataset', 'table'),
    [
        *((table['dataset'], table['dataset']) for table in published()),
        ('gopro_test', 'GoPro'),
        ('BSD1ms8ms', 'BSD 1ms-8ms'),
        ('BSD_3ms24ms', 'BSD 3ms-24ms'),
        ('BSD', None),
        ('sample', None),
        ('my GoPro', None),
        ('', None),
    ],
)
def test_published_for_recognises_names_of_sets(dataset: str, table: str | None) -> None:
    found = published_for(dataset)
    assert (found and found['dataset']) == table


def test_measured_row_is_ranked_among_published_rows() -> None:
    (table,) = result_tables([measured_row(summary(psnr=34.16 + 0.01 - 1))])  # mean over frames: 1 more
    assert [row.method for row in table.rows[:8]] == [
        *('DSTNet+L', 'Shift-Net', 'DSTNet-L', 'RVRT', 'DSTNet+', 'test_DSTNet_GoPro', 'DSTNet', 'BasicVSR++')
    ]
    row = table.rows[5]
    assert (row.psnr, row.ssim) == (pytest.approx(34.17), pytest.approx(0.905))
    assert sum(row.origin == 'measured' for row in table.rows) == 1
    lines = render([table], 'text').splitlines()
    assert lines[0] == 'GoPro (Table 1 of the paper)'
    assert re.split(r' {2,}', lines[7].strip()) == [
        *('*', '6', 'test_DSTNet_GoPro', '34.17', '0.9050', 'measured'),
        '2025-03-07, 3 frames of GoPro, DSTNet, GOPRO_x.pth',
    ]
    assert re.split(r' {2,}', lines[8].strip()) == ['7', 'DSTNet', '34.16', '0.9679', 'paper', 'Table 1']
    assert 'test_DSTNet_GoPro: 3 of the 1111 frames, so not comparable.' in lines
    assert lines[-1].endswith('so the ranks follow PSNR.')
    markdown = render([table], 'markdown').splitlines()
    assert markdown[9] == (
        r'| **6** | **test\_DSTNet\_GoPro** | **34.17** | **0.9050** | **measured** '
        r'| **2025-03-07, 3 frames of GoPro, DSTNet, GOPRO\_x.pth** |'
    )
    assert markdown[10] == '| 7 | DSTNet | 34.16 | 0.9679 | paper | Table 1 |'
    lines_csv = list(csv.DictReader(io.StringIO(render([table], 'csv'))))
    assert len(lines_csv) == len(table.rows) == 22
    assert lines_csv[5] == {
        'table': 'GoPro (Table 1 of the paper)',
        'rank': '6',
        'method': 'test_DSTNet_GoPro',
        'psnr': str(row.psnr),
        'ssim': str(row.ssim),
        'origin': 'measured',
        'source': 'DSTNet',
        'protocol': 'dstnet',
        'date': '2025-03-07',
        'dataset': 'GoPro',
        'frames': '3',
        'weights': 'GOPRO_x.pth',
    }


def test_scores_of_other_protocols_get_their_own_table() -> None:
    metrics = {'p': {'type': 'calculate_psnr', 'crop_border': 4}, 's': {'type': 'calculate_ssim'}}
    row = measured_row(summary(metrics=metrics))
    assert (row.psnr, row.ssim) == (None, None)
    (table,) = result_tables([row])
    assert table.rows[-1] == row
    assert render([table], 'text').splitlines()[-4].split()[3:5] == ['-', '-']

    cdvd = PROTOCOLS['cdvd']
    tables = result_tables(
        measured_row(summary(protocol=name, metrics=cdvd.metrics | METRICS)) for name in ('basicsr', 'cdvd')
    )
    assert [table.title for table in tables] == ['GoPro, protocol basicsr', 'GoPro, protocol cdvd']
    assert [len(table.rows) for table in tables] == [1, 1]
    # Stock BasicSR's mean is over clips, and its SSIM the 2-D one; CDVD-TSP's leave out the border.
    assert (tables[0].rows[0].psnr, tables[0].rows[0].ssim) == (pytest.approx(35.7), pytest.approx(0.905))
    assert tables[1].rows[0].psnr == pytest.approx(0.9)
    assert tables[1].notes == (f'Protocol {cdvd}.',)


def test_result_tables_combine_runs_of_one_set() -> None:
    summaries = [
        summary(psnr=40, run='best', self_ensemble=True, precision='bf16'),
        summary('sample', psnr=20, run='x', weights=None),
        summary('gopro_gamma', psnr=10, run='worst'),
        summary('sample', psnr=21, run='x', iteration=500),
    ]
    tables = result_tables(map(measured_row, summaries))
    assert [table.title for table in tables] == ['GoPro (Table 1 of the paper)', 'sample, protocol dstnet']
    measured = [row for row in tables[0].rows if row.origin == 'measured']
    assert [(row.method, row.dataset) for row in measured] == [
        ('best (self-ensemble, bf16)', 'GoPro'),
        ('worst', 'gopro_gamma'),
    ]
    assert tables[0].rows[0] == measured[0]
    assert tables[0].rows[-1] == measured[1]
    assert [(row.method, row.weights) for row in tables[1].rows] == [
        ('x (iteration 500)', 'GOPRO_x.pth'),
        ('x', 'no weights given'),
    ]
    whole = list(csv.reader(io.StringIO(render(tables, 'csv'))))
    assert whole[0] == ['table', 'rank', *Row._fields]
    assert len(whole) == 1 + 23 + 2
    assert render(tables, 'markdown').count('### ') == 2


def run(*arguments: object) -> int:
    return main(['tables', *map(str, arguments)])


def write(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = summary(**changes)
    (folder / f'{content["dataset"]}_summary.json').write_text(json.dumps(content))
    return folder


def test_tables_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / 'results/a', run='a', psnr=30)
    write(a, run='a', dataset='sample')
    b = write(tmp_path / 'results/b', run='b', psnr=31)
    assert run(a.parent, b, a / 'sample_summary.json') == 0  # folders at any depth, some of them twice
    text = capsys.readouterr().out
    (line_a,) = re.findall(r'^\* .* a  .*3 frames of GoPro.*$', text, re.MULTILINE)
    assert text.index(' b  ') < text.index(line_a)
    assert text.count('frames of sample,') == 1

    file = tmp_path / 'new' / 'table.md'
    assert run(a, b, '-o', file) == 0
    assert file.read_text().startswith('### GoPro (Table 1 of the paper)\n')
    assert run(a, '-o', file) == 2
    assert 'table.md exists. Pass another file' in capsys.readouterr().err
    assert run(a, '-o', file, '--format', 'csv', '--overwrite') == 0
    assert file.read_text().startswith('table,rank,method')
    assert [path.name for path in file.parent.iterdir()] == ['table.md']


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
        ('[' * 100_000, 'too many nested brackets'),
        (json.dumps(summary() | {'protocol': 'reds'}), "(KeyError: 'reds')"),
        (json.dumps(summary() | {'mean_over_frames': {}}), "(KeyError: 'restored')"),
        (json.dumps(summary() | {'metrics': []}), '(AttributeError: '),
    ]:
        file.write_text(content)
        assert said in message(file)
    file.write_text(json.dumps(summary() | {'run': 'a\x1b[2J\x07b'}))
    assert main(['tables', str(file)]) == 0
    assert 'a\\x1b[2J\\x07b' in capsys.readouterr().out

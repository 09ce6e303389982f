"""The record of what was tried on other versions of Python and of the libraries agrees with setup.py and the docs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from compatibility import matrix
from compatibility.matrix import OLDEST, PAGE, RESULTS, ROWS, Outcome


def outcome(row: str, **more: object) -> Outcome:
    return Outcome(row=row, date='2026-01-02T03:04:05+00:00', commit='0123456789', machine='a machine', **more)  # type: ignore[arg-type]


def setup_argument(root: Path, name: str) -> list[str]:
    """Return a list that setup.py passes to setup(); the installed metadata may be older."""
    tree = ast.parse((root / 'setup.py').read_text('utf-8'))
    (value,) = (node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == name)
    return list(ast.literal_eval(value))


def test_page_is_made_from_the_results() -> None:
    assert PAGE.read_text('utf-8') == matrix.page(matrix.read_results(RESULTS)), (
        'docs/compatibility.md is out of date: run tests/compatibility/matrix.py --page'
    )


def test_every_python_of_the_metadata_has_a_row(root: Path) -> None:
    named = {found[1] for line in setup_argument(root, 'classifiers') if (found := re.search(r':: (3\.\d+)$', line))}
    assert {python for python, _ in ROWS.values()} == named


def test_oldest_libraries_are_the_bounds_of_the_metadata(root: Path) -> None:
    pins = dict(line.split('==') for line in OLDEST.read_text('utf-8').split())
    needed = [line for line in setup_argument(root, 'install_requires') if 'python_version' not in line]
    names = {re.split(r'[^\w-]', line)[0].lower() for line in needed}
    assert pins.keys() == names
    bounds = dict(found.groups() for line in needed if (found := re.match(r'([\w-]+)>=([\d.]+)(?:,|$)', line)))
    for name, bound in bounds.items():
        assert (pins[name] + '.').startswith(bound + '.'), f'{name}: {bound} in setup.py, {pins[name]} was tried'


def test_results_of_other_rows_are_kept(tmp_path: Path) -> None:
    path = tmp_path / 'results.json'
    assert matrix.read_results(path) == {}
    first, second = outcome('oldest', psnr=30.0), outcome('newest-3.10', failure='train: status 1\nTraceback')
    matrix.write_results({first.row: first, second.row: second, 'dropped': outcome('dropped')}, path)
    assert matrix.read_results(path) == {first.row: first, second.row: second}
    table = [line for line in matrix.page(matrix.read_results(path)).splitlines() if line[:1] == '|']
    assert len({line.count('|') for line in table}) == 1
    assert 'works | 30.0000 dB |' in table[2]
    assert '**fails** in `train` |' in table[3]


def test_missing_python_is_named() -> None:
    with pytest.raises(matrix.StepError, match=r'Python 2\.6 is not installed'):
        matrix.find_python('2.6')

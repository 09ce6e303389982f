"""The record of what was tried on other Pythons and libraries: that it is whole, and says what setup.py says."""

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
    """A list that setup.py passes to setup(); what is installed here may be of an older one."""
    tree = ast.parse((root / 'setup.py').read_text('utf-8'))
    (value,) = (node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == name)
    return list(ast.literal_eval(value))


def test_the_page_is_made_from_the_results() -> None:
    assert PAGE.read_text('utf-8') == matrix.page(matrix.read_results(RESULTS)), (
        'docs/compatibility.md is not what its results make: run tests/compatibility/matrix.py --page'
    )


def test_every_python_of_the_metadata_has_a_row(root: Path) -> None:
    named = {found[1] for line in setup_argument(root, 'classifiers') if (found := re.search(r':: (3\.\d+)$', line))}
    assert {row.python for row in ROWS} == named


def test_the_oldest_libraries_are_the_bounds_of_the_metadata(root: Path) -> None:
    pins = dict(line.split('==') for line in OLDEST.read_text('utf-8').split())
    needed = [line for line in setup_argument(root, 'install_requires') if 'python_version' not in line]
    names = {re.split(r'[^\w-]', line)[0].lower() for line in needed}
    assert pins.keys() == names - {'basicsr'}  # of which there is one version, and it is installed by name
    bounds = dict(found.groups() for line in needed if (found := re.match(r'([\w-]+)>=([\d.]+)(?:,|$)', line)))
    bounds.pop('basicsr')
    for name, bound in bounds.items():
        assert (pins[name] + '.').startswith(bound + '.'), f'{name}: {bound} in setup.py, {pins[name]} was tried'


def test_results_survive_a_row_that_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / 'results.json'
    assert matrix.read_results(path) == {}
    first, second = outcome(ROWS[0].name, psnr=30.0), outcome(ROWS[1].name, failure='train: status 1\nTraceback')
    matrix.write_results({first.row: first, second.row: second, 'dropped': outcome('dropped')}, path)
    assert matrix.read_results(path) == {first.row: first, second.row: second}


def test_the_page_tells_failures_from_successes() -> None:
    works = outcome('oldest', python='3.10.1', versions={'torch': '9.8.7'}, psnr=31.25, tests='7 passed in 3 s')
    fails = outcome('newest-3.10', failure='train: status 1 of python\nTraceback')
    table = [line for line in matrix.page({'oldest': works, 'newest-3.10': fails}).splitlines() if line[:1] == '|']
    assert len(table) == 4
    assert len({line.count('|') for line in table}) == 1
    assert 'works' in table[2]
    assert '31.2500 dB | 7 passed |' in table[2]
    assert '9.8.7' in table[2]
    assert '**fails** in `train` |' in table[3]


def test_a_python_that_is_not_there() -> None:
    with pytest.raises(matrix.StepFailed, match=r'no Python 2\.6 here'):
        matrix.find_python('2.6')

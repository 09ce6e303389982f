"""The page of what was tried on other versions of Python and of the libraries agrees with setup.py."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from compatibility import matrix
from compatibility.matrix import LIBRARIES, OLDEST, PAGE, ROWS, STEPS


def setup_argument(root: Path, name: str) -> list[str]:
    """Return a list that setup.py passes to setup(); the installed metadata may be older."""
    tree = ast.parse((root / 'setup.py').read_text('utf-8'))
    (value,) = (node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == name)
    return list(ast.literal_eval(value))


def test_page_has_all_rows_columns_and_steps() -> None:
    text = PAGE.read_text('utf-8')
    header, _, *rows = (line.strip('| ').split(' | ') for line in text.splitlines() if line.startswith('|'))
    assert header == ['Row', 'Python', *LIBRARIES, 'outcome', 'PSNR', 'tests', 'commit', 'date']
    assert [row[0] for row in rows] == list(ROWS)
    assert {len(row) for row in rows} == {len(header)}
    assert re.findall(r'^\d\. `(\w+)`: (.*)', text, re.MULTILINE) == [(step.__name__, step.__doc__) for step in STEPS]


def test_row_of_a_page_is_replaced() -> None:
    page = 'text\n\n| oldest | 1 |\n| newest-3.10 | 2 |\n'
    assert matrix.with_row(page, ['oldest', '3']) == 'text\n\n| oldest | 3 |\n| newest-3.10 | 2 |\n'
    with pytest.raises(ValueError, match='newest has 0 rows'):
        matrix.with_row(page, ['newest', '3'])


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

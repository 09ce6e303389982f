"""Damaged files of every kind end in this project's own errors: what fuzzing found, and random changes.

``python tests/fuzz/run.py`` searches for more, see docs/fuzzing.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.run import NAMES
from fuzz.targets import OWN_ERRORS, TARGETS, check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FOUND = Path(__file__).parent / 'fuzz/found'

# Libraries warn about what they skip in damaged files.
pytestmark = pytest.mark.filterwarnings('ignore')


def test_runner_knows_all_targets() -> None:
    assert set(NAMES) == set(TARGETS)


@pytest.mark.parametrize('path', sorted(FOUND.rglob('*.bin')), ids=lambda path: f'{path.parent.name}-{path.stem}')
def test_inputs_that_failed_before(path: Path, tmp_path: Path) -> None:
    check(TARGETS[path.parent.name], path.read_bytes(), tmp_path)


@pytest.mark.parametrize('name', NAMES)
def test_good_files_are_read(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    refused = 0
    for i, seed in enumerate(seeds):
        (tmp_path / str(i)).mkdir()
        try:
            target.run(seed, tmp_path / str(i))
        except OWN_ERRORS:
            refused += 1
    assert refused < len(seeds), 'otherwise the changes start from nothing'


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    """A good file with some bytes changed, removed or repeated, or with its end missing."""
    data = bytearray(draw(st.sampled_from(TARGETS[name].seeds())))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(1, 16))
        match draw(st.sampled_from(('change', 'change', 'remove', 'repeat', 'cut'))):
            case 'change':
                data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case 'remove':
                del data[at : at + length]
            case 'repeat':
                data[at:at] = data[at : at + length]
            case 'cut':
                del data[at:]
    return bytes(data)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('examples', [15, pytest.param(300, marks=pytest.mark.extended)])
def test_damaged_files_end_in_a_clear_error(name: str, examples: int, tmp_path: Path) -> None:
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(damaged(name))
    def test(data: bytes) -> None:
        check(TARGETS[name], data, tmp_path)

    test()

"""Keys, meta_info.txt and raw frames, as stock BasicSR reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstnet_arch.data.lmdb_format import (
    MAX_KEY_BYTES,
    MetaEntry,
    check_key,
    format_meta_line,
    natural_key,
    parse_meta_line,
    parse_raw_header,
    raw_header,
    read_meta_info,
)

NAMES = st.text('abcXYZ019_- ()+', min_size=1, max_size=20).filter(str.strip)
SIDES = st.integers(1, 99999)


@given(NAMES, NAMES, st.sampled_from(['.png', '.jpg', '.JPEG']), st.tuples(SIDES, SIDES, st.integers(1, 4)))
def test_meta_line_round_trip(clip: str, frame: str, extension: str, shape: tuple[int, int, int]) -> None:
    entry = MetaEntry(f'{clip}/{frame}', extension, shape)
    line = format_meta_line(entry)
    assert parse_meta_line(line + '\n') == entry
    assert (entry.clip, entry.frame) == (clip, frame)
    assert line.split('.')[0] == entry.key, 'stock BasicSR takes the text before the first dot'


def test_meta_line_is_the_one_that_basicsr_writes() -> None:
    entry = MetaEntry('GOPR0372_07_00/000047', '.png', (720, 1280, 3))
    assert format_meta_line(entry) == 'GOPR0372_07_00/000047.png (720,1280,3) 1'
    assert parse_meta_line('baboon.png (120,125,3) 1') == MetaEntry('baboon', '.png', (120, 125, 3))
    assert parse_meta_line('a/b/0.jpg (1,2,1)').clip == 'a/b'


@pytest.mark.parametrize(
    'line',
    [
        '', 'clip/000047', 'clip/000047.png 720,1280,3 1', 'clip/000047.png (720,1280) 1',
        'clip/000047.png (0,1280,3) 1', 'clip/000047.png (720,1280,99999999999999999999) 1',
        'clip/../000047.png (720,1280,3) 1', '/etc/000047.png (720,1280,3) 1', 'C:/000047.png (720,1280,3) 1',
        'clip\\000047.png (720,1280,3) 1', 'cl\x00ip/000047.png (720,1280,3) 1', 'clíp/000047.png (720,1280,3) 1',
    ],
)  # fmt: skip
def test_parse_meta_line_refuses(line: str) -> None:
    with pytest.raises(ValueError):
        parse_meta_line(line)


def test_key_length_limit() -> None:
    check_key('c/' + 'x' * (MAX_KEY_BYTES - 2))
    with pytest.raises(ValueError, match='at most 511 bytes'):
        check_key('c/' + 'x' * (MAX_KEY_BYTES - 1))


def test_natural_order() -> None:
    names = ['frame10', 'frame9', 'frame009', 'b1', 'frame', '10', '9', 'a2c10', 'a2c9']
    ordered = ['9', '10', 'a2c9', 'a2c10', 'b1', 'frame', 'frame009', 'frame9', 'frame10']
    assert sorted(names, key=natural_key) == ordered


@pytest.mark.parametrize('bit_depth', [8, 16])
def test_raw_header_round_trip_and_truncation(bit_depth: int) -> None:
    data = raw_header(31, 17, bit_depth) + bytes(31 * 17 * 3 * bit_depth // 8)
    header = parse_raw_header(data)
    assert header is not None
    assert header[:3] == (31, 17, bit_depth)
    assert header.num_bytes == len(data)
    with pytest.raises(ValueError, match='truncated'):
        parse_raw_header(data[:-1])
    assert parse_raw_header(b'\x89PNG\r\n\x1a\n' + data) is None


def test_read_meta_info(tmp_path: Path) -> None:
    (tmp_path / 'meta_info.txt').write_text('b/2.png (1,2,3) 1\r\n\na/10.jpg (4,5,3) 1')
    assert read_meta_info(tmp_path) == [MetaEntry('b/2', '.png', (1, 2, 3)), MetaEntry('a/10', '.jpg', (4, 5, 3))]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'is empty'),
        (b'a/0.png (1,1,3) 1\nnonsense\n', 'line 2'),
        (b'a/0.png (1,1,3) 1\na/1.png (1,1,3) 1\na/0.jpg (1,1,3) 1\n', r"line 3: 'a/0' is listed twice"),
        ('a/é.png (1,1,3) 1'.encode(), 'not ASCII'),
    ],
)
def test_read_meta_info_names_the_fault(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / 'meta_info.txt').write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_meta_info(tmp_path)

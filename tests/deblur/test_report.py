"""The page of `dstnet deblur --report`: what it contains, and that a browser shows it."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from browser import open_browser
from numpy.typing import NDArray
from PIL import Image

from dstnet_arch.deblur.report import Report, sharpness
from dstnet_arch.errors import DataError
from dstnet_arch.html import save_page, spaced_positions


def smooth(height: int = 32, width: int = 48, seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 3))


def make_page(path: Path, num_frame: int = 7, size: tuple[int, int] = (32, 48), num_shown: int = 5) -> str:
    """Write a report on `smooth` frames that are mirrored by the restoration."""
    facts = {'weights': '<GoPro> & "others"', 'duration': '7 s'}
    report = Report('a <b> & c', [f'f{t}' for t in range(num_frame)], facts, num_shown)
    for t in range(num_frame):
        frame = smooth(*size, seed=t)
        report.add(t, frame, frame[:, ::-1])
    save_page(path, report.html())
    return path.read_text('utf-8')


def images(page: str) -> list[NDArray[np.uint8]]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_page_contains_everything_and_loads_nothing(tmp_path: Path) -> None:
    page = make_page(tmp_path / 'report.html', num_shown=3)
    assert [entry.name for entry in tmp_path.iterdir()] == ['report.html']
    markup = re.sub(r'base64,[^"]*', '', page)
    assert all(source.startswith('data:') for source in re.findall(r'(?:src|href)="([^"]*)', markup))
    assert not re.search(r'url\(|@import|https?:', markup)
    assert "default-src 'none'" in page
    assert '<h1>a &lt;b&gt; &amp; c</h1>' in page
    assert '<dt>weights</dt><dd>&lt;GoPro&gt; &amp; &#34;others&#34;</dd>' in page
    assert re.findall(r'Frame (f\d) before', page) == ['f0', 'f3', 'f6']

    shown = images(page)
    for number, t in enumerate((0, 3, 6)):
        assert np.abs(shown[2 * number].astype(int) - smooth(seed=t)).max() < 24
        assert np.abs(shown[2 * number + 1].astype(int) - smooth(seed=t)[:, ::-1]).max() < 24
    profile = np.stack([smooth(seed=t)[:, 24] for t in range(7)], axis=1)
    assert shown[6].shape == (32, 7 * 68, 3)
    assert np.abs(shown[6][:, 34::68].astype(int) - profile).max() < 24


def test_page_plots_sharpness(tmp_path: Path) -> None:
    page = make_page(tmp_path / 'report.html')
    values = [sharpness(smooth(seed=t)) for t in range(7)]
    assert f'The median is {np.median(values):.4g} before and {np.median(values):.4g} after, 1.00 times' in page
    chart = re.search(r'src="data:image/svg\+xml;base64,([^"]*)"', page)
    assert chart is not None
    assert ElementTree.fromstring(base64.b64decode(chart[1])).tag.endswith('svg')


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    image = smooth()
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(float)
    inner = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:] - 4 * gray[1:-1, 1:-1]
    assert sharpness(image) == pytest.approx(inner.var(), rel=0.2)  # except for the border
    assert sharpness(cv2.GaussianBlur(image, (0, 0), 2)) < sharpness(image)
    assert sharpness(np.full((8, 8, 3), 7, np.uint8)) == 0


def test_positions_are_evenly_spaced() -> None:
    for num_frame, count, expected in ((1, 5, {0}), (2, 5, {0, 1}), (9, 5, {0, 2, 4, 6, 8}), (9, 1, {4})):
        assert spaced_positions(num_frame, count) == expected


def test_page_of_a_long_video_stays_small(tmp_path: Path) -> None:
    report = Report('long', [str(t) for t in range(4000)], {}, 2)
    for t in range(4000):
        report.add(t, smooth(8, 8), smooth(8, 8, seed=1))
    page = report.html()
    assert images(page)[-1].shape == (8, 1334, 3)
    assert 'from one of every 3 frames' in page
    assert 'averaged over 3 frames' in page
    assert images(make_page(tmp_path / 'wide.html', 1, (20, 4000)))[0].shape == (10, 1920, 3)


def test_page_of_flat_frames_and_undecodable_names(tmp_path: Path) -> None:
    report = Report('one', ['f\udcff0'], {'input': '\udcff'})
    report.add(0, np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1, 3), np.uint8))
    save_page(tmp_path / 'report.html', report.html())
    page = (tmp_path / 'report.html').read_text('utf-8')
    assert 'f?0' in page
    assert 'times as much' not in page
    with pytest.raises(DataError, match=r'report\.html cannot be written'):
        save_page(tmp_path / 'report.html' / 'report.html', report.html())


@pytest.mark.extended
@pytest.mark.parametrize('width', [1200, 420])
def test_browser_shows_the_page(tmp_path: Path, width: int) -> None:
    make_page(tmp_path / 'report.html', 3, (90, 1600), num_shown=3)
    with open_browser(tmp_path / 'browser') as page:
        page.open((tmp_path / 'report.html').as_uri(), width)
        page.wait('[...document.images].every(image => image.complete && image.naturalWidth > 0)')
        page.run("""
            slider = document.querySelectorAll('.before-after input')[1];
            frame = slider.parentElement;
            cut = () => getComputedStyle(frame.querySelectorAll('img')[1]).clipPath;
            fits = () => document.documentElement.scrollWidth <= innerWidth;
        """)
        assert (page.run('cut()'), page.run('fits()')) == ('inset(0px 0px 0px 50%)', True)
        page.run("slider.value = 25; slider.dispatchEvent(new Event('input'))")
        assert page.run('cut()') == 'inset(0px 0px 0px 25%)'
        assert page.run('frame.getBoundingClientRect().width') <= width
        page.run('document.querySelector(".full-size").click()')
        assert page.run('frame.getBoundingClientRect().width') == 1600
        assert page.run('fits()')  # the frame scrolls, not the page
        assert [address for address in page.requests if not address.startswith(('file:', 'data:'))] == []

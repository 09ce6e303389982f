"""The page that `dstnet deblur --report` makes: what stands in it, and that a browser shows it."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dstnet_arch.deblur.report import Report, Sharpness, chart, sharpness, spread_positions
from dstnet_arch.errors import DataError
from dstnet_arch.visualize.profile import temporal_profile

Image = NDArray[np.uint8]


def smooth(height: int = 32, width: int = 48, seed: int = 0) -> Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 3))


def make(path: Path, num_frame: int = 7, size: tuple[int, int] = (32, 48), **settings: Any) -> str:
    """A report on `smooth` frames, which come out mirrored."""
    facts = {'weights': '<GoPro> & "others"', 'time': '7 s'}
    report = Report(path, [f'f{t}' for t in range(num_frame)], facts, 'a <b> & c', **settings)
    for t in range(num_frame):
        report.see(t, smooth(*size, seed=t), smooth(*size, seed=t)[:, ::-1])
    assert report.finish() == path
    report.close()
    return path.read_text('utf-8')


_EMPTY = ('meta', 'img', 'input', 'line', 'path', 'circle', 'polyline')


class Page(HTMLParser):
    """The elements of a page: (tag, attributes)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in _EMPTY:  # browsers close those of SVG, too
            assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def pictures(page: Page) -> list[Image]:
    data = [base64.b64decode(image['src'].removeprefix('data:image/jpeg;base64,')) for image in page.all('img')]
    return [np.asarray(cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_COLOR))[..., ::-1] for d in data]


def test_the_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    text = make(tmp_path / 'report.html', 7, count=3)
    page = Page(text)
    assert page.open == []
    assert [entry.name for entry in tmp_path.iterdir()] == ['report.html']
    for _, attributes in page.elements:
        for key in ('src', 'href', 'data', 'action'):
            assert attributes.get(key, 'data:').startswith('data:')
    assert not re.search(r'url\(|@import|https?:', re.sub(r'base64,[^"]*', '', text))
    assert "default-src 'none'" in text
    assert '<h1>a &lt;b&gt; &amp; c</h1>' in text
    assert '<dt>weights</dt><dd>&lt;GoPro&gt; &amp; &quot;others&quot;</dd>' in text
    assert '$' not in re.sub(r'base64,[^"]*', '', text)


def test_the_frames_are_the_right_ones(tmp_path: Path) -> None:
    page = Page(make(tmp_path / 'report.html', 7, count=3))
    shown = pictures(page)
    assert len(shown) == 2 * 3 + 2
    for number, t in enumerate((0, 3, 6)):
        for image, wanted in zip(shown[2 * number :], (smooth(seed=t), smooth(seed=t)[:, ::-1]), strict=False):
            assert np.abs(image.astype(int) - wanted).mean() < 3
    sliders = [element for element in page.all('input') if element['type'] == 'range']
    assert [slider['aria-label'][:8] for slider in sliders] == ['Frame f0', 'Frame f3', 'Frame f6']
    assert all(image['alt'] for image in page.all('img'))


def test_the_profile_is_that_of_the_frames(tmp_path: Path) -> None:
    before, after = pictures(Page(make(tmp_path / 'report.html', 7)))[-2:]
    wanted = temporal_profile([smooth(seed=t) for t in range(7)], column=24)
    stretch = before.shape[1] // 7
    assert before.shape == after.shape == (32, 7 * stretch, 3)
    assert np.abs(before[:, stretch // 2 :: stretch].astype(int) - wanted).mean() < 4
    mirrored = temporal_profile([smooth(seed=t)[:, ::-1] for t in range(7)], column=24)
    assert np.abs(after[:, stretch // 2 :: stretch].astype(int) - mirrored).mean() < 4


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    image = smooth()
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(float)
    inner = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:] - 4 * gray[1:-1, 1:-1]
    assert sharpness(np.pad(image, ((8, 8), (8, 8), (0, 0)), 'edge')) < sharpness(image) * 1.5
    assert sharpness(image) == pytest.approx(inner.var(), rel=0.2)  # but for the border
    assert sharpness(cv2.GaussianBlur(image, (0, 0), 2)) < sharpness(image)
    assert sharpness(np.full((8, 8, 3), 7, np.uint8)) == 0


@pytest.mark.parametrize('count', [1, 2, 40, 41, 5000])
def test_the_chart(count: int) -> None:
    values = [Sharpness(100.0, 200.0 + 50 * (t == count // 2)) for t in range(count)]
    svg = ElementTree.fromstring(f'<svg>{chart(values)}</svg>')
    before, after = (
        [tuple(map(float, point.split(','))) for point in line.attrib['points'].split()]
        for line in svg.findall('polyline')
    )
    assert len(before) == len(after) == (count if count <= 1600 else 1250)
    assert {y for _, y in before} == {before[0][1]}
    assert min(y for _, y in after) < after[0][1] < before[0][1] or count <= 2
    assert all(62 <= x <= 426 and 14 <= y <= 210 for x, y in (*before, *after))
    assert [x for x, _ in after] == sorted(x for x, _ in after)
    assert len(svg.findall('circle')) == (2 * count if count <= 40 else 0)
    texts = [text.text for text in svg.findall('text')]
    assert {'frame', 'sharpness', '0', '300' if count > 0 else ''} <= set(texts)
    assert len(texts) == len(set(map(str, [(t.text, t.attrib['x'], t.attrib['y']) for t in svg.findall('text')])))


def test_flat_and_single_frames(tmp_path: Path) -> None:
    flat = np.zeros((1, 1, 3), np.uint8)
    report = Report(tmp_path / 'one.html', ['only'], {}, 'one')
    report.see(0, flat, flat)
    assert 'times as much' not in report.page()
    assert len(pictures(Page(report.page()))) == 4
    assert spread_positions(1, 5) == [0]
    assert spread_positions(2, 5) == [0, 1]
    assert spread_positions(9, 5) == [0, 2, 4, 6, 8]
    assert spread_positions(9, 1) == [4]


def test_long_and_large_videos_stay_small(tmp_path: Path) -> None:
    names = [str(t) for t in range(4000)]
    report = Report(tmp_path / 'long.html', names, {}, 'long', count=2)
    for t in range(4000):
        report.see(t, smooth(8, 8), smooth(8, 8, seed=1))
    page = Page(report.page())
    assert pictures(page)[-1].shape == (8, 1334, 3)  # every third frame
    assert len(page.all('tr')) == 1 + 236
    assert 'taken from one of every 3 frames;' in report.page()
    wide = Page(make(tmp_path / 'wide.html', 1, (20, 4000)))
    assert pictures(wide)[0].shape == (10, 1920, 3)


def test_a_name_that_is_no_text_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    report = Report(tmp_path / 'report.html', ['f\udcff0'], {'input': '\udcff'}, 'title')
    report.see(0, smooth(32, 48), smooth(32, 48))
    assert 'f?0' in report.finish().read_text('utf-8')


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    report = Report(tmp_path / 'nowhere' / 'report.html', ['a'], {}, 'a')
    report.see(0, smooth(), smooth())
    with pytest.raises(DataError, match=r'nowhere.*cannot be written'):
        report.finish()


# In a browser

_PROBE = """
<script>
const input = document.querySelectorAll('.frame input')[1];
const frame = input.parentElement;
const cut = () => getComputedStyle(frame.querySelectorAll('img')[1]).clipPath;
const found = [cut()];
input.focus();
input.value = 25;
input.dispatchEvent(new Event('input'));
found.push(cut(), input.getAttribute('aria-valuetext'), document.activeElement === input);
const wide = () => frame.getBoundingClientRect().width;
found.push(document.documentElement.scrollWidth <= innerWidth, Math.round(wide()) <= innerWidth);
document.getElementById('full').click();
found.push(Math.round(wide()), document.documentElement.scrollWidth <= innerWidth);
found.push([...document.images].every(image => image.complete && image.naturalWidth > 0));
document.body.dataset.found = JSON.stringify(found);
</script>
"""


@pytest.mark.slow
@pytest.mark.parametrize('width', [1200, 500])
def test_a_browser_shows_it(tmp_path: Path, width: int) -> None:
    browser = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if browser is None:
        pytest.skip('no Chromium or Chrome here')
    page = tmp_path / 'report.html'
    text = make(page, 3, (90, 1600), count=3)
    page.write_text(text.replace('</body>', f'{_PROBE}</body>'), 'utf-8')
    flags = '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
    flags += f'--disable-component-update --disable-sync --hide-scrollbars --window-size={width},800 --dump-dom'
    done = subprocess.run(
        [browser, *flags.split(), f'--user-data-dir={tmp_path / "profile"}', page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    body = next(attributes for tag, attributes in Page(done.stdout).elements if tag == 'body')
    assert body['data-found'] == (
        '["inset(0px 0px 0px 50%)","inset(0px 0px 0px 25%)","25 % before, 75 % after",true,true,true,1600,true,true]'
    )

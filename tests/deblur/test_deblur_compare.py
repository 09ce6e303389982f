"""`dstnet deblur --compare` and `--report`: what is made beside the result, and when."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from deblur_parts import Deblur, deblur_with, make_weights
from numpy.typing import NDArray

from dstnet_arch.deblur.compare import MODES, compare_pictures, compose
from dstnet_arch.deblur.preview import Wanted, as_image, look
from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.video.images import read_picture
from dstnet_arch.video.sinks import PictureSink
from dstnet_arch.video.sources import open_source
from dstnet_arch.visualize.canvas import WHITE


def picture(seed: int, height: int = 16, width: int = 160) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Folders 'blurry' and 'sharp' of three frames each."""
    for t in range(3):
        save(tmp_path / 'blurry' / f'{t}.png', picture(t))
        save(tmp_path / 'sharp' / f'{t}.png', picture(t + 10))
    return tmp_path


@pytest.mark.parametrize('size', [(16, 160), (15, 161), (1, 1), (3, 2)], ids=str)
def test_both_frames_are_in_the_picture(size: tuple[int, int]) -> None:
    before, after = picture(0, *size), picture(1, *size)
    height, width = size
    side = compose(before, after, 'side')
    assert side.shape[0] % 2 == side.shape[1] % 2 == 0
    np.testing.assert_array_equal(side[32 : 32 + height, :width], before)
    np.testing.assert_array_equal(side[32 : 32 + height, width + 8 : 2 * width + 8], after)
    if height % 2:
        assert (side[-1] == WHITE).all()
    if width < 8:
        return
    split = compose(before, after, 'split')
    assert split.shape == (32 + height + height % 2, width + width % 2, 3)
    half = width // 2
    np.testing.assert_array_equal(split[32 : 32 + height, : half - 2], before[:, : half - 2])
    np.testing.assert_array_equal(split[32 : 32 + height, half + 2 : width], after[:, half + 2 :])


@pytest.mark.parametrize('mode', MODES)
def test_a_folder_of_comparisons(videos: Path, mode: Any) -> None:
    comparison = compare_pictures(videos / 'compared', ['0', '1', '2'], mode)
    made = look(
        open_source(str(videos / 'blurry')), open_source(str(videos / 'sharp')), [comparison], show_progress=False
    )
    assert made == [videos / 'compared']
    assert files(videos) == ['blurry', 'compared', 'sharp']
    for t in range(3):
        expected = compose(picture(t), picture(t + 10), mode)
        np.testing.assert_array_equal(read_picture(videos / 'compared' / f'{t}.png'), expected)


def test_an_error_leaves_nothing(videos: Path) -> None:
    (videos / 'sharp' / '2.png').write_bytes((videos / 'sharp' / '2.png').read_bytes()[:200])
    comparison = compare_pictures(videos / 'compared', ['0', '1', '2'], 'split')
    with pytest.raises(DataError, match=r'2\.png'):
        look(open_source(str(videos / 'blurry')), open_source(str(videos / 'sharp')), [comparison], False)
    assert files(videos) == ['blurry', 'sharp']
    (videos / 'sharp' / '2.png').unlink()
    comparison = compare_pictures(videos / 'compared', ['0', '1', '2'], 'split')
    with pytest.raises(DataError, match='3 frames of 160x16, the restored one 2 of'):
        look(open_source(str(videos / 'blurry')), open_source(str(videos / 'sharp')), [comparison], False)
    assert files(videos) == ['blurry', 'sharp']


def test_where_they_are_put(tmp_path: Path) -> None:
    def wanted(output: str, **settings: Any) -> Wanted:
        given = {'compare': 'side', 'report': True, 'overwrite': False, 'resume': False, **settings}
        return Wanted.of(argparse.Namespace(output=Path(output), **given))

    os.mkdir(tmp_path / 'v1.5')
    for output, compare, report in (
        ('restored', 'restored_compare', 'restored_report.html'),
        ('v1.5', 'v1.5_compare', 'v1.5_report.html'),
        ('out.mp4', 'out_compare.mp4', 'out_report.html'),
    ):
        found = wanted(f'{tmp_path}/{output}')
        assert (found.compare, found.report) == (tmp_path / compare, tmp_path / report)
        assert found.mode == 'side'
    assert not wanted('restored', compare=None, report=False)
    with pytest.raises(OptionsError, match='--report: what has gone into a pipe'):
        wanted('-', compare=None)
    (tmp_path / 'x_report.html').write_text('mine')
    with pytest.raises(OptionsError, match=r'x_report\.html exists already'):
        wanted(f'{tmp_path}/x')
    assert wanted(f'{tmp_path}/x', overwrite=True).report is not None
    assert wanted(f'{tmp_path}/x', resume=True)[::2] == (tmp_path / 'x_compare', None)


# The command


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp('weights'))


@pytest.fixture
def deblur(weights: Path, capsys: pytest.CaptureFixture[str]) -> Deblur:
    return deblur_with(weights, capsys)


def assert_compared(folder: Path, names: list[str], mode: Any) -> None:
    for name in names:
        expected = compose(read_picture(folder / 'blurry' / name), read_picture(folder / 'out' / name), mode)
        np.testing.assert_array_equal(read_picture(folder / 'out_compare' / name), expected)


def test_both_are_put_beside_a_folder(deblur: Deblur, videos: Path) -> None:
    status, out, _ = deblur(videos / 'blurry', '-o', videos / 'out', '--compare', '--report')
    assert status == 0
    assert files(videos) == ['blurry', 'out', 'out_compare', 'out_report.html', 'sharp']
    assert_compared(videos, ['0.png', '1.png', '2.png'], 'split')
    page = (videos / 'out_report.html').read_text('utf-8')
    assert '<h1>out: before and after</h1>' in page
    for fact in ('3 of 160x16', 'tiny.pth', 'fp32', 'cpu'):
        assert f'<dd>{fact}' in page
    assert out.splitlines()[-1] == f'To look at: {videos / "out_report.html"}, {videos / "out_compare"}'


def test_what_is_in_the_way_is_said_before_any_work(deblur: Deblur, videos: Path) -> None:
    (videos / 'out_report.html').write_text('mine')
    status, _, err = deblur(videos / 'blurry', '-o', videos / 'out', '--report')
    assert status == 2
    assert 'out_report.html exists already' in err
    assert files(videos) == ['blurry', 'out_report.html', 'sharp']
    assert deblur(videos / 'blurry', '-o', videos / 'out', '--report', '--overwrite')[0] == 0
    assert '<html' in (videos / 'out_report.html').read_text('utf-8')


def test_they_can_be_made_later(deblur: Deblur, videos: Path) -> None:
    assert deblur(videos / 'blurry', '-o', videos / 'out')[0] == 0
    status, out, _ = deblur(videos / 'blurry', '-o', videos / 'out', '--resume', '--compare', 'side', '--report')
    assert status == 0
    assert 'nothing is to be done' not in out
    assert_compared(videos, ['0.png', '1.png', '2.png'], 'side')
    assert (videos / 'out_report.html').exists()


def test_a_resumed_run_shows_all_frames(deblur: Deblur, videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = PictureSink.write

    def interrupted(self: PictureSink, position: int, make: Any) -> None:
        if position == 2:
            raise KeyboardInterrupt
        write(self, position, make)

    with monkeypatch.context() as patch:
        patch.setattr(PictureSink, 'write', interrupted)
        assert deblur(videos / 'blurry', '-o', videos / 'out', '--compare', '--report')[0] == 130
    assert files(videos) == ['blurry', 'out.partial', 'sharp']
    status, out, _ = deblur(videos / 'blurry', '-o', videos / 'out', '--compare', '--report', '--resume')
    assert status == 0
    assert '2 frames are there already' in out
    assert_compared(videos, ['0.png', '1.png', '2.png'], 'split')
    page = (videos / 'out_report.html').read_text('utf-8')
    assert page.count('<th scope="row">') == 3
    assert 's for 1 frames, with all' in page


@pytest.mark.slow
@pytest.mark.parametrize('mode', MODES)
def test_a_video_gets_a_video(deblur: Deblur, videos: Path, mode: str) -> None:
    pytest.importorskip('av')
    source = videos / 'in.mkv'
    assert deblur(videos / 'blurry', '-o', source, '--codec', 'ffv1', '--fps', 12)[0] == 0
    assert deblur(source, '-o', videos / 'out.mkv', '--codec', 'ffv1', '--compare', mode, '--report')[0] == 0
    assert files(videos) == ['blurry', 'in.mkv', 'out.mkv', 'out_compare.mkv', 'out_report.html', 'sharp']
    before, after, compared = (open_source(str(videos / name)) for name in ('in.mkv', 'out.mkv', 'out_compare.mkv'))
    assert len(compared) == 3
    assert compared.timing.rate == 12
    for t in range(3):
        expected = compose(as_image(before[t]), as_image(after[t]), mode)
        assert expected.shape[:2] == compared.size
        assert np.abs(as_image(compared[t]).astype(int) - expected).max() <= 1

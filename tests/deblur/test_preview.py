"""``dstnet deblur --compare`` and ``--report``: where and when they are written, and what is in a comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from deblur_utils import Deblur, files, load, make_frames, noise
from video_clips import make_clip

from dstnet_arch.deblur.config import CompareMode, DeblurConfig
from dstnet_arch.deblur.preview import compose, label_height, to_image, write_previews
from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.video.sources import open_source

MODES = get_args(CompareMode)


@pytest.mark.parametrize('size', [(16, 160), (15, 161), (1, 1), (3, 2), (1080, 30)], ids=str)
def test_compose_shows_both_frames(size: tuple[int, int]) -> None:
    before, after = noise(*size, seed=0), noise(*size, seed=1)
    height, width = size
    strip = label_height(height)
    side = compose(before, after, 'side')
    assert side.shape[0] % 2 == side.shape[1] % 2 == 0
    np.testing.assert_array_equal(side[strip : strip + height, :width], before)
    np.testing.assert_array_equal(side[strip : strip + height, width + 8 : 2 * width + 8], after)
    split = compose(before, after, 'split')
    assert split.shape == (strip + height + height % 2, width + width % 2, 3)
    half = width // 2
    np.testing.assert_array_equal(split[strip : strip + height, : max(half - 2, 0)], before[:, : max(half - 2, 0)])
    np.testing.assert_array_equal(split[strip : strip + height, half + 2 : width], after[:, half + 2 :])
    if width > 100:
        for picture in (side, split):  # a label above each frame
            middle = picture.shape[1] // 2
            assert picture[:strip, :middle].min() < 128
            assert picture[:strip, middle:].min() < 128


def test_previews_are_next_to_the_output(tmp_path: Path) -> None:
    (tmp_path / 'v1.5').mkdir()
    config = DeblurConfig('in.mp4', tmp_path / 'x', compare='side', report=True)
    for output, compare, report in (
        ('restored', 'restored_compare', 'restored_report.html'),
        ('v1.5', 'v1.5_compare', 'v1.5_report.html'),
        ('out.webm', 'out_compare.mp4', 'out_report.html'),
    ):
        found = replace(config, output=tmp_path / output)
        assert (found.compare_path, found.report_path) == (tmp_path / compare, tmp_path / report)
    none = replace(config, compare=None, report=False)
    assert none.compare_path is none.report_path is None
    (tmp_path / 'x_report.html').write_text('mine')
    assert replace(config, resume=True).compare_path == tmp_path / 'x_compare'
    assert replace(config, resume=True).report_path is None
    with pytest.raises(OptionsError, match=r'x_report\.html exists'):
        replace(config, input=str(tmp_path)).check()
    replace(config, input=str(tmp_path / 'v1.5'), overwrite=True).check()


def test_failed_previews_leave_nothing(tmp_path: Path) -> None:
    blurry, sharp = make_frames(tmp_path / 'blurry'), make_frames(tmp_path / 'sharp')
    config = DeblurConfig(str(blurry), sharp, compare='split', report=True)
    data = (sharp / '002.png').read_bytes()
    (sharp / '002.png').write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r'002\.png'):
        write_previews(config, open_source(str(blurry)), {}, lambda *_: None)
    (sharp / '002.png').unlink()
    with pytest.raises(DataError, match=r'has 3 frames of 24x16, but .* has 2 of 24x16'):
        write_previews(config, open_source(str(blurry)), {}, lambda *_: None)
    assert files(tmp_path) == ['blurry', 'sharp']


@pytest.mark.parametrize('mode', MODES)
def test_comparison_of_a_folder_is_a_folder(deblur: Deblur, tmp_path: Path, mode: Any) -> None:
    make_frames(tmp_path / 'blurry')
    arguments = tmp_path / 'blurry', '-o', tmp_path / 'out', '--compare', mode, '--report'
    status, out, _ = deblur(*arguments)
    assert status == 0
    assert files(tmp_path) == ['blurry', 'out', 'out_compare', 'out_report.html']
    for t, name in enumerate(files(tmp_path / 'out')):
        expected = compose(noise(seed=t), load(tmp_path / 'out' / name), mode)
        np.testing.assert_array_equal(load(tmp_path / 'out_compare' / name), expected)
    page = (tmp_path / 'out_report.html').read_text('utf-8')
    assert '<h1>out: before and after</h1>' in page
    for fact in ('3 of 24x16', 'tiny.pth', 'fp32 (float32)', 'cpu', 'PNG files'):
        assert f'<dd>{fact}' in page
    assert out.endswith(f'Written: {tmp_path / "out_compare"}\nWritten: {tmp_path / "out_report.html"}\n')
    assert deblur(*arguments, '--overwrite')[0] == 0
    assert files(tmp_path) == ['blurry', 'out', 'out_compare', 'out_report.html']


def test_comparison_of_a_video_is_a_video(deblur: Deblur, tmp_path: Path) -> None:
    source = make_clip(tmp_path / 'in.mp4', 3, (64, 96), rate=12)
    assert deblur(source, '-o', tmp_path / 'out.mkv', '--codec', 'ffv1', '--compare', '--report')[0] == 0
    assert files(tmp_path) == ['in.mp4', 'out.mkv', 'out_compare.mp4', 'out_report.html']
    before, after, compared = (open_source(str(tmp_path / f'{n}')) for n in ('in.mp4', 'out.mkv', 'out_compare.mp4'))
    assert len(compared) == 3
    assert float(compared.timing.rate) == 12
    for t in range(3):
        expected = compose(to_image(before[t]), to_image(after[t]), 'split')
        assert expected.shape[:2] == compared.size
        difference = np.abs(to_image(compared[t]).astype(int) - expected)
        assert difference[:, :46].mean() < 6  # the other half is noise, whose chroma H.264 loses

"""dstnet visualize: figures show the frames' pixels and captions, and wrong requests are refused before the work."""

from __future__ import annotations

import json
import re
import shlex
import weakref
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.__main__ import main as data_prep
from dstnet_arch.__main__ import main
from dstnet_arch.metrics.psnr import psnr
from dstnet_arch.metrics.ssim import calculate_ssim3d
from dstnet_arch.visualize.figures import (
    GAP,
    compare_figure,
    crops_figure,
    find_crop,
    profile_figure,
    scores,
    temporal_profile,
)

Image = NDArray[np.uint8]

HEIGHT, WIDTH = 61, 90
FRAMES = ['000007', '000008', '000009', '000010']
STRIP = 32
TEST = 'name: tiny\nval: {suffix: x}\ndatasets: {val: {name: stripes, dataroot_lq: blurry, dataroot_gt: sharp}}'


def pictures(seed: int, shape: tuple[int, int] = (HEIGHT, WIDTH), count: int = len(FRAMES)) -> list[Image]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, *shape, 3), dtype=np.uint8))


def write_clip(folder: Path, images: list[Image], names: list[str] = FRAMES) -> None:
    folder.mkdir(parents=True)
    for name, image in zip(names, images, strict=True):
        cv2.imwrite(str(folder / f'{name}.png'), image[..., ::-1])


def read(path: Path | str) -> Image:
    image = cv2.imread(str(path))
    assert image is not None
    return image[..., ::-1]


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Image]]:
    """Two clips, blurry, restored with a suffix, and sharp, below the current folder."""
    monkeypatch.chdir(tmp_path)
    frames = {}
    for number, clip in enumerate(('GOPR1', 'GOPR2')):
        for other, name in enumerate(('blurry', 'restored', 'sharp')):
            frames[f'{name}/{clip}'] = pictures(10 * number + other)
            names = [f'{frame}_x' for frame in FRAMES] if name == 'restored' else FRAMES
            write_clip(tmp_path / name / clip, frames[f'{name}/{clip}'], names)
    return frames


def visualize(command: str) -> int:
    return main(['visualize', *shlex.split(command)])


def assert_shows(path: str, *frames: Image) -> None:
    """A comparison shows these frames side by side, pixel by pixel."""
    sheet = read(path)
    assert sheet.shape == (STRIP + HEIGHT, len(frames) * (WIDTH + GAP) - GAP, 3)
    for number, frame in enumerate(frames):
        left = number * (WIDTH + GAP)
        np.testing.assert_array_equal(sheet[STRIP:, left : left + WIDTH], frame)


def refused(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The message with which a command ends without changing a file."""
    before = {path: path.stat().st_mtime_ns for path in Path().rglob('*')}
    capsys.readouterr()
    try:
        status = visualize(command)
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    assert before == {path: path.stat().st_mtime_ns for path in Path().rglob('*')}, 'something was left behind'
    return capsys.readouterr().err


# Drawing


@pytest.mark.parametrize('split', [False, True])
def test_compare_figure_shows_the_pixels(tmp_path: Path, split: bool) -> None:
    blurry, sharp = pictures(4, count=2)
    compare_figure({'blurry': blurry, 'sharp': sharp}, split).savefig(tmp_path / 'sheet.png')
    if split:
        sheet = read(tmp_path / 'sheet.png')
        assert sheet.shape == (STRIP + HEIGHT, WIDTH, 3)
        np.testing.assert_array_equal(sheet[STRIP:, :45], blurry[:, :45])
        np.testing.assert_array_equal(sheet[STRIP:, 47:], sharp[:, 47:])
        assert (sheet[:, 45:47][STRIP:] == 255).all()
    else:
        assert_shows(str(tmp_path / 'sheet.png'), blurry, sharp)
        assert read(tmp_path / 'sheet.png')[:STRIP].min() < 128  # captions


def test_scores_are_in_the_captions_at_full_depth() -> None:
    sharp = pictures(4, count=1)[0].astype(np.uint16) * 257
    close = np.where(sharp > 99, sharp - 99, sharp)  # less than half a grey level
    blurry = pictures(5, count=1)[0]
    expected = 10 * np.log10(65535**2 / np.mean((close.astype(float) - sharp) ** 2))
    sharp_8 = (sharp // 257).astype(np.uint8)
    assert scores({'close': close, 'blurry': blurry, 'sharp': sharp}) == {
        'close': f'close: {expected:.2f} dB, 1.0000',
        'blurry': f'blurry: {psnr(blurry, sharp_8):.2f} dB, {calculate_ssim3d(blurry, sharp_8):.4f}',
        'sharp': 'sharp',
    }
    assert scores({'a': close}) == {'a': 'a'}


@pytest.mark.parametrize('count', [3, 5])
def test_crops_figure_shows_marked_areas_of_each_source(count: int) -> None:
    frames = {f'source {number}': image for number, image in enumerate(pictures(1, count=count))}
    crops = [(3, 5, 20, 10), (70, 51, 20, 10)]
    figure = crops_figure(frames, crops, {name: f'of {name}' for name in frames}, 'a title')
    overview, *others = figure.axes
    np.testing.assert_array_equal(overview.images[0].get_array(), frames['source 0'])
    assert overview.get_xlabel() == 'a title'
    assert [patch.get_bbox().bounds for patch in overview.patches] == [(2.5, 4.5, 20, 10), (69.5, 50.5, 20, 10)]
    shown = iter(others)
    for (x, y, w, h), patch in zip(crops, overview.patches, strict=True):
        for image in frames.values():
            axes = next(shown)
            np.testing.assert_array_equal(axes.images[0].get_array(), image[y : y + h, x : x + w])
            assert axes.spines['left'].get_edgecolor() == patch.get_edgecolor()
    assert [axes.get_xlabel() for axes in others[-count:]] == [f'of {name}' for name in frames]
    figure.canvas.draw()
    boxes = [axes.get_window_extent() for axes in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize(('height', 'width'), [(5, 7), (30, 40), (1, 1)])
def test_find_crop_is_where_frames_differ_most(height: int, width: int) -> None:
    a, b = pictures(2, (30, 40), count=2)
    difference = (a.astype(int) - b) ** 2
    areas = {
        (left, top): difference[top : top + height, left : left + width].sum()
        for top in range(31 - height)
        for left in range(41 - width)
    }
    left, top = max(areas, key=areas.__getitem__)
    assert find_crop([a, b], width, height) == (left, top, width, height)


def test_temporal_profile_collects_columns_and_holds_one_frame() -> None:
    images = pictures(0)
    alive: list[weakref.ref[Image]] = []

    def frames() -> Iterator[Image]:
        for image in images:
            frame = image.copy()
            alive.append(weakref.ref(frame))
            yield frame
            del frame
            assert sum(reference() is not None for reference in alive) <= 1

    columns = temporal_profile(frames(), 5)
    assert columns.shape == (HEIGHT, len(FRAMES), 3)
    for time, image in enumerate(images):
        np.testing.assert_array_equal(columns[:, time], image[:, 5])


def test_profile_figure_shows_frame_mark_and_profiles() -> None:
    frames = {'blurry': pictures(0), 'restored': pictures(1)}
    profiles = {name: temporal_profile(images, 40) for name, images in frames.items()}
    first, *others = profile_figure(frames['blurry'][2], 40, profiles, 'GOPR2/000009').axes
    np.testing.assert_array_equal(first.images[0].get_array(), frames['blurry'][2])
    assert first.lines[0].get_xdata()[0] == 40
    assert [axes.get_title() for axes in (first, *others)] == ['GOPR2/000009', 'blurry', 'restored']
    for axes, profile in zip(others, profiles.values(), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), profile)


# The command


def test_visualize_compare_of_named_sources(clips: dict[str, list[Image]], capsys: pytest.CaptureFixture[str]) -> None:
    command = 'compare blurry=blurry restored=restored sharp=sharp --suffix x'
    assert visualize(command) == 0
    assert capsys.readouterr().out == 'Frame GOPR1/000009\nWritten: compare.png\n'
    assert_shows('compare.png', *(clips[f'{name}/GOPR1'][2] for name in ('blurry', 'restored', 'sharp')))
    assert visualize(f'{command} --frame GOPR2/000007 --split -o b.png') == 0
    np.testing.assert_array_equal(read('b.png')[STRIP:, 62:], clips['sharp/GOPR2'][0][:, 62:])


def test_visualize_compare_of_a_test(
    clips: dict[str, list[Image]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path('test.yml').write_text(TEST)
    assert 'val:save_img=true' in refused('compare -opt test.yml', capsys)
    Path('results/tiny/visualization').mkdir(parents=True)
    Path('results/tiny/visualization/stripes').symlink_to(tmp_path / 'restored')
    write_clip(tmp_path / 'peer' / 'GOPR2', clips['blurry/GOPR1'])  # has the second clip only
    assert visualize('compare -opt test.yml peer=peer') == 0
    names = ('blurry/GOPR2', 'restored/GOPR2', 'blurry/GOPR1', 'sharp/GOPR2')
    assert_shows('compare.png', *(clips[name][2] for name in names))


def test_visualize_report_of_a_test(
    clips: dict[str, list[Image]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path('test.yml').write_text(TEST)
    Path('results/tiny/visualization').mkdir(parents=True)
    Path('results/tiny/visualization/stripes').symlink_to(tmp_path / 'restored')
    means = {'input': {'psnr': 21.5}, 'restored': {'psnr': None}}
    summary = {'metrics': {'psnr': {}}, 'mean_over': 'clips', 'mean_over_clips': means, 'frames': 6, 'videos': 2}
    facts = {'run': '<tiny>', 'network': {'type': 'DSTNet', 'num_feat': 2}, 'streaming': False}
    Path('results/tiny/stripes_summary.json').write_text(json.dumps({**summary, **facts}))
    of_clips = ['GOPR1,3,20,31,dstnet', 'GOPR2,3,23,inf,dstnet']
    of_frames = [f'{clip},{frame},20.5,30.25,dstnet' for clip in ('GOPR1', 'GOPR2') for frame in FRAMES]
    for kind, lines in (('frames', of_frames), ('clips', of_clips)):
        header = f'video,{kind.removesuffix("s") if kind == "frames" else "frames"},input_psnr,restored_psnr,protocol'
        Path(f'results/tiny/stripes_{kind}.csv').write_text('\n'.join([header, *lines]))
    assert visualize('report -opt test.yml --clip GOPR2') == 0
    page = Path('report.html').read_text('utf-8')
    assert '<td>blurry input</td><td>21.50</td>' in page
    assert '<td>restored</td><td>infinite</td>' in page
    assert 'Means over 6 frames of 2 clips.' in page
    assert '<td>GOPR1</td><td>3</td><td>20.00</td><td>31.00</td>' in page
    assert '<dd>&lt;tiny&gt;</dd>' in page
    assert '<dd>type: DSTNet, num_feat: 2</dd>' in page
    assert page.count('data:image/svg+xml') == 1
    assert page.count('data:image/jpeg') == 2 * len(FRAMES) + 3
    captions = scores({name: clips[f'{name}/GOPR2'][0] for name in ('blurry', 'restored', 'sharp')})
    assert f'{captions["blurry"]}; {captions["restored"]}' in page
    markup = re.sub(r'base64,[^"]*', '', page)
    assert all(source.startswith('data:') for source in re.findall(r'(?:src|href)="([^"]*)', markup))

    assert 'report.html exists' in refused('report -opt test.yml', capsys)
    Path('results/tiny/stripes_clips.csv').write_text('video\n?')
    assert 'stripes_*.csv and .json are damaged' in refused('report -opt test.yml -o r.html', capsys)
    assert 'only one was given' in refused('report a=blurry -o r.html', capsys)
    assert visualize('report a=blurry b=sharp -o r.html') == 0
    assert 'Comparison of a, b' in Path('r.html').read_text('utf-8')


def test_visualize_reads_lmdb_clips_and_clip(clips: dict[str, list[Image]], tmp_path: Path) -> None:
    for name, kind in (('blurry', 'blur'), ('sharp', 'sharp')):
        write_clip(tmp_path / 'raw' / 'test' / 'GOPR1' / kind, clips[f'{name}/GOPR1'])
    assert data_prep(['gopro', str(tmp_path / 'raw'), '-o', str(tmp_path / 'lmdb')]) in (0, None)
    sources = 'lmdb=lmdb/test_blur.lmdb clips=blurry clip=raw/test/GOPR1/blur'
    assert visualize(f'compare {sources} --frame 000008 --clip GOPR1') == 0
    assert_shows('compare.png', *[clips['blurry/GOPR1'][1]] * 3)


def test_visualize_crops_and_profile(clips: dict[str, list[Image]], capsys: pytest.CaptureFixture[str]) -> None:
    sources = 'blurry=blurry restored=restored sharp=sharp --suffix x'
    assert visualize(f'crops {sources} --frame GOPR1/000008 --crop 3,5,20,10 -o c.png') == 0
    captions = scores({name: clips[f'{name}/GOPR1'][1] for name in ('blurry', 'restored', 'sharp')})
    lines = capsys.readouterr().out.splitlines()
    assert lines == ['Frame GOPR1/000008, crops 3,5,20,10', *captions.values(), 'Written: c.png']
    assert visualize(f'profile {sources} --clip GOPR2 --column 40 -o out/p.png') == 0
    assert visualize('profile sharp=sharp/GOPR1 --start 000008 -o p.pdf') == 0
    assert Path('p.pdf').read_bytes().startswith(b'%PDF')
    for path in ('c.png', 'out/p.png'):
        assert read(path).shape[0] > 600
        assert np.ptp(read(path)) > 200


def test_visualize_refuses_wrong_requests(clips: dict[str, list[Image]], capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(Path('short/GOPR1'), clips['blurry/GOPR1'][1:3], FRAMES[1:3])
    write_clip(Path('small/GOPR1'), pictures(0, (HEIGHT, 80)))
    write_clip(Path('other/DVD'), clips['blurry/GOPR1'])
    messages = {
        'compare a=blurry b=short --frame 000007': 'Not all sources have the frame 000007. Frames in all: 000008 to',
        'profile a=blurry --start 000009 --end 000008': '--start 000009 comes after --end 000008',
        'compare a=blurry b=restored': '000007_x in b. If names end in "_NAME", use --suffix NAME',
        'crops a=blurry b=small': '90x61 in a, 80x61 in b',
        'compare a=blurry b=other': 'do not have a clip in common. Their clips are: a: GOPR1, GOPR2; b: DVD',
        'compare a=blurry b=sharp --clip GOPR3': 'do not have the clip GOPR3',
        'compare a=blurry b=sharp/GOPR1': 'Some sources are the folder of one clip, others have 2. Choose with --clip',
        'compare a=blurry a=sharp': 'Two sources have the same name',
        'compare a=none': 'none does not exist',
        'crops blurry': "'blurry' is not a source; write NAME=FOLDER",
        'crops': 'No source was given',
        'crops a=blurry --crop 80,0,11,10': '--crop 80,0,11,10 is empty or exceeds the frames of 90x61',
        'crops a=blurry --crop 0,0,0,2': 'is empty',
        'crops a=blurry --crop 1,2,3': "'1,2,3' is not an area; write LEFT,TOP,WIDTH,HEIGHT",
        'profile a=blurry --column 90': '--column is 90; it must be from 0 to 89',
        'compare a=blurry -o p.gif': 'unsupported file type. Use one of .png, .pdf, .svg',
        'compare a=blurry -o sharp/GOPR1/000007.png': '000007.png exists.',
        'compare a=blurry -o sharp/GOPR1/000007.png/p.png': 'is not a writable folder',
    }
    for command, message in messages.items():
        assert message in refused(command, capsys), command
    assert visualize('compare a=blurry -o sharp/GOPR1/000007.png --overwrite') == 0


def test_visualize_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ('compare', 'crops', 'profile', 'report'):
        with pytest.raises(SystemExit, match='0'):
            visualize(f'{kind} --help')
        assert f'dstnet visualize {kind} -opt' in capsys.readouterr().out

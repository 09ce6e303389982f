"""dstnet visualize: figures show the frames' pixels and labels, and wrong requests are refused before the work."""

from __future__ import annotations

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
from dstnet_arch.errors import DataError
from dstnet_arch.metrics.psnr import psnr
from dstnet_arch.metrics.ssim3d import calculate_ssim3d
from dstnet_arch.visualize.compare import side_by_side, split_view
from dstnet_arch.visualize.crops import Crop, crops_figure, find_crop
from dstnet_arch.visualize.figures import labelled, save_picture
from dstnet_arch.visualize.profile import profile_figure, temporal_profile

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


def refused(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The message with which a command ends."""
    before = {path: path.stat().st_mtime_ns for path in Path().rglob('*')}
    capsys.readouterr()
    try:
        status = visualize(command)
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    assert before == {path: path.stat().st_mtime_ns for path in Path().rglob('*')}, 'something was left behind'
    return capsys.readouterr().err


# Profiles


def test_temporal_profile_collects_columns_and_rows() -> None:
    images = pictures(0)
    columns, rows = temporal_profile(iter(images), column=5), temporal_profile(iter(images), row=60)
    assert columns.shape == (HEIGHT, len(FRAMES), 3)
    assert rows.shape == (len(FRAMES), WIDTH, 3)
    for time, image in enumerate(images):
        np.testing.assert_array_equal(columns[:, time], image[:, 5])
        np.testing.assert_array_equal(rows[time], image[60])
    for wrong in ({}, {'column': 1, 'row': 1}):
        with pytest.raises(ValueError, match='either column or row'):
            temporal_profile(images, **wrong)


@pytest.mark.parametrize('where', [{'column': 40}, {'row': 3}])
def test_profile_figure_shows_frame_mark_and_profiles(where: dict[str, int]) -> None:
    frames = {'blurry': pictures(0), 'restored': pictures(1)}
    profiles = {name: temporal_profile(images, **where) for name, images in frames.items()}
    figure = profile_figure(frames['blurry'][2], profiles, **where, title='GOPR2/000009', time='frames 7 to 10')
    first, *others = figure.axes
    np.testing.assert_array_equal(first.images[0].get_array(), frames['blurry'][2])
    (line,) = first.lines
    assert line.get_xdata()[0] == 40 if 'column' in where else line.get_ydata()[0] == 3
    assert [axes.get_title() for axes in figure.axes] == ['GOPR2/000009', 'blurry', 'restored']
    for axes, profile in zip(others, profiles.values(), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), profile)
        assert axes.images[0].get_interpolation() == 'nearest'


def test_visualize_profile_writes_a_figure(clips: dict[str, list[Image]], capsys: pytest.CaptureFixture[str]) -> None:
    sources = 'blurry=blurry restored=restored --suffix x --clip GOPR2'
    assert visualize(f'profile {sources} --column 40 -o out/p.png') == 0
    assert capsys.readouterr().out == 'Temporal profile, column 40 of 4 frames of GOPR2: out/p.png\n'
    sheet = read('out/p.png')
    assert sheet.shape[0] > 600
    assert np.ptp(sheet) > 200
    assert visualize('profile sharp=sharp/GOPR1 --row 3 --start 000008 -o p.pdf') == 0
    assert Path('p.pdf').read_bytes().startswith(b'%PDF')


def test_temporal_profile_holds_one_frame() -> None:
    alive: list[weakref.ref[Image]] = []

    def frames() -> Iterator[Image]:
        for _ in range(5):
            frame = np.zeros((8, 8, 3), np.uint8)
            alive.append(weakref.ref(frame))
            yield frame
            del frame
            assert sum(reference() is not None for reference in alive) <= 1

    temporal_profile(frames(), column=3)
    temporal_profile(frames(), row=3)


# Crops


@pytest.mark.parametrize('count', [3, 5])
def test_crops_figure_shows_marked_areas_of_each_source(count: int) -> None:
    frames = {f'source {number}': image for number, image in enumerate(pictures(1, count=count))}
    crops = [Crop(3, 5, 20, 10), Crop(70, 51, 20, 10)]
    figure = crops_figure(frames, crops, {name: f'of {name}' for name in frames}, 'a title')
    overview, *others = figure.axes
    np.testing.assert_array_equal(overview.images[0].get_array(), frames['source 0'])
    assert overview.get_xlabel() == 'a title'
    assert [patch.get_bbox().bounds for patch in overview.patches] == [(2.5, 4.5, 20, 10), (69.5, 50.5, 20, 10)]
    shown = iter(others)
    for crop, patch in zip(crops, overview.patches, strict=True):
        for image in frames.values():
            axes = next(shown)
            np.testing.assert_array_equal(axes.images[0].get_array(), crop.of(image))
            assert axes.spines['left'].get_edgecolor() == patch.get_edgecolor()
    assert [axes.get_xlabel() for axes in others[-count:]] == [f'of {name}' for name in frames]
    figure.canvas.draw()
    boxes = [axes.get_window_extent() for axes in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_visualize_crops_prints_scores_of_the_frame(clips, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = '--suffix x --frame GOPR1/000008 --crop 3,5,20,10'
    assert visualize(f'crops blurry=blurry restored=restored sharp=sharp {arguments} -o c.jpg') == 0
    out = capsys.readouterr().out
    sharp = clips['sharp/GOPR1'][1]
    for name in ('blurry', 'restored'):
        image = clips[f'{name}/GOPR1'][1]
        score = f'{psnr(image, sharp):.2f} / {calculate_ssim3d(image, sharp):.4f}'
        assert f'  {name}: {score}\n' in out
    assert read('c.jpg').shape[0] > 600


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
    assert find_crop([a, b], height, width) == (left, top, width, height)


def test_find_crop_of_equal_frames_is_where_edges_are() -> None:
    frame = np.full((40, 40, 3), 128, np.uint8)
    frame[30, 31] = 255
    left, top, _, _ = find_crop([frame, frame], 8, 8)
    assert left <= 31 < left + 8
    assert top <= 30 < top + 8


# Comparisons


def test_side_by_side_and_split_view_show_the_pixels() -> None:
    blurry, sharp = pictures(4, count=2)
    frames = {'blurry': blurry, 'sharp': sharp}
    label = f'blurry  {psnr(blurry, sharp):.2f} dB'
    sheet = side_by_side(frames)
    assert sheet.shape == (STRIP + HEIGHT, 2 * WIDTH + 8, 3)
    np.testing.assert_array_equal(sheet[:, :WIDTH], labelled(blurry, label))
    np.testing.assert_array_equal(sheet[STRIP:, :WIDTH], blurry)
    np.testing.assert_array_equal(sheet[STRIP:, WIDTH + 8 :], sharp)
    assert (sheet[:, WIDTH : WIDTH + 8] == 255).all()
    five = side_by_side({str(number): blurry for number in range(5)})
    assert five.shape == (2 * (STRIP + HEIGHT) + 8, 3 * WIDTH + 16, 3)
    np.testing.assert_array_equal(five[-STRIP - HEIGHT :, :WIDTH], labelled(blurry, '3'))
    assert (five[-HEIGHT:, 2 * WIDTH + 8 :] == 255).all()

    split = split_view(frames)
    assert split.shape == (STRIP + HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(split[STRIP:, :44], blurry[:, :44])
    np.testing.assert_array_equal(split[STRIP:, 46:], sharp[:, 46:])
    assert (split[:, 44:46][STRIP:] == 255).all()


def test_side_by_side_scores_16_bit_frames_at_full_depth() -> None:
    sharp = pictures(4, count=1)[0].astype(np.uint16) * 257
    close = np.where(sharp > 99, sharp - 99, sharp)  # less than half a grey level
    sheet = side_by_side({'restored': close, 'sharp': sharp})
    expected = 10 * np.log10(65535**2 / np.mean((close.astype(float) - sharp) ** 2))
    np.testing.assert_array_equal(sheet[:, :WIDTH], labelled(close, f'restored  {expected:.2f} dB'))
    np.testing.assert_array_equal(sheet[STRIP:, WIDTH + 8 :], sharp // 257)


def test_labelled_makes_long_texts_smaller() -> None:
    ends = []
    for width in (400, 80):
        label = labelled(np.zeros((720, width, 3), np.uint8), 'a long name')[:45]
        ends.append(int(np.flatnonzero((label < 128).any(axis=(0, 2)))[-1]))
    assert 100 < ends[0] < 390
    assert 60 < ends[1] < 80
    for width in (1, 3, 12, 40):
        labelled(np.zeros((100, width, 3), np.uint8), 'a name much longer than the strip, with é and ж')


def test_visualize_compare_of_named_sources(clips: dict[str, list[Image]], capsys: pytest.CaptureFixture[str]) -> None:
    command = 'compare blurry=blurry restored=restored sharp=sharp --suffix x'
    assert visualize(f'{command} -o a.png') == 0
    assert capsys.readouterr().out == 'Before and after, frame GOPR1/000009: a.png\n'
    frames = {name: clips[f'{name}/GOPR1'][2] for name in ('blurry', 'restored', 'sharp')}
    np.testing.assert_array_equal(read('a.png'), side_by_side(frames))
    assert visualize(f'{command} --frame GOPR2/000007 --mode split -o b.png') == 0
    frames = {name: clips[f'{name}/GOPR2'][0] for name in frames}
    np.testing.assert_array_equal(read('b.png'), split_view(frames))
    assert visualize(f'{command} -o c.jpg') == 0
    assert read('c.jpg').shape == read('a.png').shape


def test_visualize_compare_adds_sources_to_a_test(clips: dict[str, list[Image]], tmp_path: Path) -> None:
    Path('test.yml').write_text(TEST)
    Path('results/tiny/visualization').mkdir(parents=True)
    Path('results/tiny/visualization/stripes').symlink_to(tmp_path / 'restored')
    write_clip(tmp_path / 'peer' / 'GOPR2', clips['blurry/GOPR1'])  # has the second clip only
    assert visualize('compare -opt test.yml peer=peer -o peer.png') == 0
    names = ('blurry/GOPR2', 'restored/GOPR2', 'blurry/GOPR1', 'sharp/GOPR2')
    for number, name in enumerate(names):
        top, left = number // 2 * (STRIP + HEIGHT + 8) + STRIP, number % 2 * (WIDTH + 8)
        np.testing.assert_array_equal(read('peer.png')[top : top + HEIGHT, left : left + WIDTH], clips[name][2])


def test_visualize_compare_of_a_test(clips, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path('test.yml').write_text(TEST)
    assert 'val:save_img=true' in refused('compare -opt test.yml', capsys)
    Path('results/tiny/visualization').mkdir(parents=True)
    Path('results/tiny/visualization/stripes').symlink_to(tmp_path / 'restored')
    assert visualize('compare -opt test.yml') == 0
    assert capsys.readouterr().out == 'Before and after, frame GOPR1/000009: compare.png\n'
    frames = {name: clips[f'{name}/GOPR1'][2] for name in ('blurry', 'restored', 'sharp')}
    np.testing.assert_array_equal(read('compare.png'), side_by_side(frames))
    assert 'test.yml has no data set three. Its data sets: val.' in refused(
        'compare -opt test.yml --dataset three -o p.png', capsys
    )


# Sources


def test_visualize_reads_lmdb_clips_and_clip(clips: dict[str, list[Image]], tmp_path: Path) -> None:
    for name, kind in (('blurry', 'blur'), ('sharp', 'sharp')):
        write_clip(tmp_path / 'raw' / 'test' / 'GOPR1' / kind, clips[f'{name}/GOPR1'])
    assert data_prep(['gopro', str(tmp_path / 'raw'), '-o', str(tmp_path / 'lmdb')]) in (0, None)
    sources = 'lmdb=lmdb/test_blur.lmdb clips=blurry clip=raw/test/GOPR1/blur'
    assert visualize(f'compare {sources} --frame 000008 --clip GOPR1') == 0
    expected = dict.fromkeys(('lmdb', 'clips', 'clip'), clips['blurry/GOPR1'][1])
    np.testing.assert_array_equal(read('compare.png'), side_by_side(expected))


def test_visualize_compare_of_gopro_layout_in_options(clips: dict[str, list[Image]], tmp_path: Path) -> None:
    for name, kind in (('blurry', 'blur'), ('sharp', 'sharp')):
        write_clip(tmp_path / 'raw' / 'test' / 'GOPR1' / kind, clips[f'{name}/GOPR1'])
    write_clip(tmp_path / 'results/tiny/visualization/stripes/GOPR1', clips['restored/GOPR1'])
    Path('test.yml').write_text('name: tiny\ndatasets: {val: {name: stripes, dataroot_lq: raw, dataroot_gt: raw}}')
    assert visualize('compare -opt test.yml') == 0
    expected = {name: clips[f'{name}/GOPR1'][2] for name in ('blurry', 'restored', 'sharp')}
    np.testing.assert_array_equal(read('compare.png'), side_by_side(expected))


def test_visualize_names_sources_that_do_not_match(
    clips: dict[str, list[Image]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(Path('short/GOPR1'), clips['blurry/GOPR1'][1:3], FRAMES[1:3])
    write_clip(Path('small/GOPR1'), pictures(0, (HEIGHT, 80)))
    write_clip(Path('other/DVD'), clips['blurry/GOPR1'])
    told = {
        'profile a=blurry b=short -o p.png': 'b lacks the frames 000007, 000010. Use --start and --end',
        'profile a=blurry b=short --end 9 -o p.png': '--end 9 is not a frame. The frames are 000007 to 000010',
        'compare a=blurry b=short --frame 000007 -o p.png': 'Not all sources have the frame 000007. Frames in all: 000',
        'compare a=blurry b=restored -o p.png': '000007_x in b. If names end in "_NAME", use --suffix NAME',
        'crops a=blurry b=small -o p.png': '90x61 in a, 80x61 in b',
        'compare a=blurry b=other -o p.png': 'do not have a clip in common. Their clips are: a: GOPR1, GOPR2; b: DVD',
        'compare a=blurry b=other/DVD -o p.png': 'others have 2. Choose with --clip',
        'compare a=blurry b=sharp --clip GOPR3 -o p.png': 'do not have the clip GOPR3',
        'profile a=blurry b=sharp --start 000009 --end 000008 -o p.png': '--start 000009 comes after --end 000008',
        'crops a=blurry a=sharp -o p.png': 'Two sources have the same name',
        'crops a=nowhere -o p.png': 'nowhere does not exist',
        'crops blurry -o p.png': "'blurry' is not a source; write NAME=FOLDER",
        'crops -o p.png': 'No source was given',
        'crops a=. -o p.png': 'contains no frames in the layout',
    }
    for command, message in told.items():
        assert message in refused(command, capsys), command
    assert visualize('profile a=blurry b=short --start 000008 --end 000009 -o p.png') == 0
    assert visualize('compare a=blurry b=short -o q.png') == 0  # the middle one of those that both have
    assert 'frame GOPR1/000009' in capsys.readouterr().out


def test_visualize_refuses_wrong_arguments(clips: dict[str, list[Image]], capsys: pytest.CaptureFixture[str]) -> None:
    told = {
        'crops a=blurry --crop 80,0,11,10 -o p.png': '--crop 80,0,11,10 is empty or exceeds the frames of 90x61',
        'crops a=blurry --crop 0,60,10,2 -o p.png': 'exceeds',
        'crops a=blurry --crop 0,0,0,2 -o p.png': 'is empty',
        'crops a=blurry --crop 1,2,3 -o p.png': "'1,2,3' is not an area; write LEFT,TOP,WIDTH,HEIGHT",
        'profile a=blurry --column 90 -o p.png': '--column is 90; in frames of 90x61 it must be from 0 to 89',
        'profile a=blurry --row -1 -o p.png': '--row is -1;',
        'profile a=blurry --row 1 --column 1 -o p.png': 'not allowed with argument',
        'compare a=blurry -o p.png': 'A comparison needs two',
        'compare a=blurry b=sharp -o p.gif': 'unsupported file type. Use one of .png, .jpg',
        'crops a=blurry b=sharp -o sharp': 'unsupported file type',
        'compare a=blurry b=sharp -o sharp/GOPR1/000007.png': '000007.png exists.',
    }
    for command, message in told.items():
        assert message in refused(command, capsys), command


def test_visualize_overwrites_only_with_overwrite(
    clips: dict[str, list[Image]], capsys: pytest.CaptureFixture[str]
) -> None:
    commands = ('compare a=blurry b=sharp', 'crops a=blurry', 'profile a=blurry')
    for command in commands:
        file = 'p.png'
        Path(file).write_text('mine')
        assert f'{file} exists.' in refused(f'{command} -o {file}', capsys)
        assert visualize(f'{command} -o {file} --overwrite') == 0
        assert Path(file).stat().st_size > 1000
    with pytest.raises(DataError, match='cannot be written'):
        save_picture(clips['sharp/GOPR1'][0], Path('p.png', 'below', 'a file.png'))


def test_help_names_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ('', 'compare', 'crops', 'profile'):
        with pytest.raises(SystemExit) as exit:
            visualize(f'{kind} --help')
        assert exit.value.code == 0
        text = capsys.readouterr().out
        assert ('examples:' if kind else 'profile ') in text

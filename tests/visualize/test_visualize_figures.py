"""Figures: their pixels are those of the frames, their text is where it belongs, and wrong requests are refused."""

from __future__ import annotations

import shlex
import weakref
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.__main__ import main as data_prep
from dstnet_arch.__main__ import main
from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.metrics.psnr import psnr
from dstnet_arch.metrics.ssim3d import calculate_ssim3d
from dstnet_arch.visualize.canvas import COLORS, Lettering, enlarge, mark_box, mark_line
from dstnet_arch.visualize.compare import side_by_side, split_view
from dstnet_arch.visualize.crops import Crop, crops_sheet, find_crop
from dstnet_arch.visualize.output import save_picture, video_writer
from dstnet_arch.visualize.profile import profile_sheet, temporal_profile
from dstnet_arch.visualize.sources import Spec, open_footage

Image = NDArray[np.uint8]

HEIGHT, WIDTH = 61, 90
FRAMES = ['000007', '000008', '000009', '000010']
LABEL = Lettering(14)  # of frames as small as these
STRIP = 32


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


def holds(sheet: Image, part: Image) -> list[tuple[int, int]]:
    """(top, left) of all places where the sheet holds exactly this picture."""
    windows = np.lib.stride_tricks.sliding_window_view(sheet, part.shape)[:, :, 0]
    places = np.argwhere((windows[..., 0, 0, :] == part[0, 0]).all(-1))
    return [(int(y), int(x)) for y, x in places if (windows[y, x] == part).all()]


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


def test_profiles_are_the_columns_and_rows_of_the_frames() -> None:
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


def test_profile_of_a_column(clips: dict[str, list[Image]]) -> None:
    command = 'profile blurry=blurry restored=restored --suffix x --column 40 --clip GOPR2 --stretch 3 -o out/p.png'
    assert visualize(command) == 0
    sheet = read('out/p.png')
    blurry, restored = clips['blurry/GOPR2'], clips['restored/GOPR2']
    length = 3 * len(FRAMES)
    assert sheet.shape == (HEIGHT + 2 * STRIP, WIDTH + 16 + 2 * length + 8, 3)
    rows = slice(STRIP, STRIP + HEIGHT)
    for number, images in enumerate((blurry, restored)):
        left = WIDTH + 16 + number * (length + 8)
        for time, image in enumerate(images):
            for pixel in range(3):
                np.testing.assert_array_equal(sheet[rows, left + 3 * time + pixel], image[:, 40])
        name = ('blurry', 'restored')[number]
        np.testing.assert_array_equal(sheet[:STRIP, left : left + length], LABEL.strip(name, length))
    np.testing.assert_array_equal(sheet[:STRIP, :WIDTH], LABEL.strip('blurry', WIDTH))
    np.testing.assert_array_equal(sheet[STRIP + HEIGHT :, :WIDTH], LABEL.strip('GOPR2/000009, column 40', WIDTH))

    # The frame is untouched but for the two columns of the dotted line.
    changed = (sheet[rows, :WIDTH] != blurry[2]).any(axis=(0, 2))
    assert np.flatnonzero(changed).tolist() == [40, 41]
    np.testing.assert_array_equal(sheet[rows, :WIDTH], mark_line(blurry[2], 40, 0))


def test_profile_of_a_row(clips: dict[str, list[Image]]) -> None:
    assert visualize('profile sharp=sharp/GOPR1 --row 3 --start 000008 --frame 000007 -o p.png') == 0
    sheet = read('p.png')
    stretch = 8  # 61 rows are room for more
    top = 3 * STRIP + HEIGHT
    np.testing.assert_array_equal(sheet[top : top + 3 * stretch : stretch], [i[3] for i in clips['sharp/GOPR1'][1:]])
    np.testing.assert_array_equal(sheet[STRIP : STRIP + HEIGHT], mark_line(clips['sharp/GOPR1'][0], 3, 1))
    assert sheet.shape == (top + 3 * stretch + STRIP, WIDTH, 3)


def test_profile_takes_about_the_room_of_the_frame_by_default() -> None:
    frame = np.zeros((100, 200, 3), np.uint8)
    for count, time, stretch in ((1, 50, 4), (2, 50, 2), (3, 500, 1), (1, 2, 8)):
        profiles = {str(number): np.zeros((100, time, 3), np.uint8) for number in range(count)}
        width = profile_sheet(frame, profiles, column=0).shape[1] - 200 - 16 - 8 * (count - 1)
        assert width == count * time * stretch


@pytest.mark.parametrize('position', [0, 1, 59, 60])
def test_dotted_line_stays_inside_at_the_edges(position: int) -> None:
    black = np.zeros((61, 61, 3), np.uint8)
    marked = mark_line(black, position, 0)
    assert marked.any(axis=(0, 2))[position]
    assert marked.any(axis=(1, 2)).sum() < 61  # dotted
    np.testing.assert_array_equal(mark_line(black, position, 1), marked.transpose(1, 0, 2))


def test_profiles_of_long_videos_do_not_keep_the_frames() -> None:
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


def test_crops_hold_the_pixels_enlarged(clips: dict[str, list[Image]], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = '--suffix x --frame GOPR1/000008 --crop 3,5,20,10 --crop 70,51,20,10'
    assert visualize(f'crops blurry=blurry restored=restored sharp=sharp {arguments} --zoom 4 -o c.png') == 0
    sheet, told = read('c.png'), capsys.readouterr().out
    sharp = clips['sharp/GOPR1'][1]
    tops = set()
    for name in ('blurry', 'restored', 'sharp'):
        image = clips[f'{name}/GOPR1'][1]
        for number, crop in enumerate((image[5:15, 3:23], image[51:61, 70:90])):
            ((top, left),) = holds(sheet, np.kron(crop, np.ones((4, 4, 1), np.uint8)))
            tops.add((number, top))
            assert tuple(sheet[top - 1, left]) == tuple(sheet[top + 40, left + 80]) == COLORS[number]
        score = 'PSNR / SSIM-3D'
        if name != 'sharp':
            score = f'{psnr(image, sharp):.2f} / {calculate_ssim3d(image, sharp):.4f}'
            assert f'  {name}: PSNR (dB) / SSIM-3D of the whole frame: {score}\n' in told
        assert holds(sheet, LABEL.strip(f'{name}\n{score}', 84)), name
    assert len(tops) == 2, 'the sources do not stand side by side'
    # The frame is made as high as the crops beside it: 2 * (40 + 2 * 2) + 4 pixels.
    text = LABEL.strip('GOPR1/000008 (blurry)\nPSNR (dB) / SSIM-3D of the whole frame', round(WIDTH * 92 / HEIGHT))
    assert holds(sheet, text) == [(92, 0)]


def test_crops_in_rows_and_without_ground_truth() -> None:
    frames = {str(number): image for number, image in enumerate(pictures(1, (40, 60), count=5))}
    crop = Crop(2, 3, 9, 7)
    sheet = crops_sheet(frames, [crop], zoom=3)
    places = [holds(sheet, enlarge(crop.of(image), 3))[0] for image in frames.values()]
    assert len({top for top, _ in places}) == 2
    assert [left for _, left in places[:2]] == [left for _, left in places[3:]]
    smooth = crops_sheet(frames, [crop], zoom=3, smooth=True)
    assert smooth.shape == sheet.shape
    assert not holds(smooth, enlarge(crop.of(frames['0']), 3))
    single = crops_sheet(frames, [crop], zoom=3, columns=1, whole='4')
    assert len({holds(single, enlarge(crop.of(image), 3))[0][1] for image in frames.values()}) == 1


@pytest.mark.parametrize(('height', 'width'), [(5, 7), (30, 40), (1, 1)])
def test_crop_is_found_where_frames_differ_most(height: int, width: int) -> None:
    a, b = pictures(2, (30, 40), count=2)
    difference = (a.astype(int) - b) ** 2
    areas = {
        (left, top): difference[top : top + height, left : left + width].sum()
        for top in range(31 - height)
        for left in range(41 - width)
    }
    left, top = max(areas, key=areas.__getitem__)
    assert find_crop([a, b], height, width) == (left, top, width, height)


def test_crop_of_frames_that_are_the_same_is_where_edges_are() -> None:
    frame = np.full((40, 40, 3), 128, np.uint8)
    frame[30, 31] = 255
    left, top, _, _ = find_crop([frame, frame], 8, 8)
    assert left <= 31 < left + 8
    assert top <= 30 < top + 8


def test_box_leaves_what_it_marks_visible() -> None:
    frame = pictures(3, (60, 60), count=1)[0]
    marked = mark_box(frame, 20, 10, 15, 25, COLORS[1], line=2)
    np.testing.assert_array_equal(marked[11:34, 21:34], frame[11:34, 21:34])
    for row, column in ((9, 25), (35, 25), (20, 19), (20, 35)):
        assert tuple(marked[row, column]) == COLORS[1]
    whole = mark_box(frame, 0, 0, 60, 60, COLORS[1], line=2)  # there is no room around it
    for row, column in ((1, 30), (2, 30), (57, 30), (58, 30), (30, 1), (30, 58)):
        assert tuple(whole[row, column]) == COLORS[1]
    np.testing.assert_array_equal(whole[4:56, 4:56], frame[4:56, 4:56])


# Comparisons


def test_side_by_side_and_split_views() -> None:
    blurry, sharp = pictures(4, count=2)
    frames = {'blurry': blurry, 'sharp': sharp}
    label = f'blurry  {psnr(blurry, sharp):.2f} dB'
    sheet = side_by_side(frames)
    assert sheet.shape == (STRIP + HEIGHT, 2 * WIDTH + 8, 3)
    np.testing.assert_array_equal(sheet[STRIP:, :WIDTH], blurry)
    np.testing.assert_array_equal(sheet[STRIP:, WIDTH + 8 :], sharp)
    np.testing.assert_array_equal(sheet[:STRIP, :WIDTH], LABEL.strip(label, WIDTH))
    assert (sheet[:, WIDTH : WIDTH + 8] == 255).all()
    np.testing.assert_array_equal(side_by_side(frames, None)[:STRIP, :WIDTH], LABEL.strip('blurry', WIDTH))
    assert side_by_side(frames, columns=1).shape == (2 * (STRIP + HEIGHT) + 8, WIDTH, 3)
    four = side_by_side({str(number): blurry for number in range(4)})
    assert four.shape == (2 * (STRIP + HEIGHT) + 8, 2 * WIDTH + 8, 3)

    split = split_view(frames)
    assert split.shape == (STRIP + HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(split[STRIP:, :44], blurry[:, :44])
    np.testing.assert_array_equal(split[STRIP:, 46:], sharp[:, 46:])
    assert (split[:, 44:46][STRIP:] == 255).all()
    np.testing.assert_array_equal(split[:STRIP, :45], LABEL.strip(label, 45))


def test_text_grows_with_the_frames_and_shrinks_to_fit() -> None:
    assert [Lettering.beside(height).size for height in (16, 270, 720, 2160)] == [14, 14, 20, 60]
    lettering = Lettering.beside(720)
    assert lettering.strip('restored', 400).shape == (45, 400, 3)
    assert lettering.strip('a\nb', 400).shape == (45 + 28, 400, 3)
    dark = [np.flatnonzero((lettering.strip('a long name', width) < 128).any(axis=(0, 2))) for width in (400, 80)]
    assert len(dark[0]) > len(dark[1]) > 30
    for width in (1, 3, 12, 40):  # cut off
        lettering.strip('a name much longer than there is room', width)
    with pytest.raises(OptionsError, match=r'has no é, which .* --font FILE'):
        lettering.strip('é', 100)
    with pytest.raises(OptionsError, match=r'The font nothing\.ttf cannot be read'):
        Lettering(14, Path('nothing.ttf')).strip('a', 100)


def test_compare_of_named_sources(clips: dict[str, list[Image]], capsys: pytest.CaptureFixture[str]) -> None:
    command = 'compare blurry=blurry restored=restored sharp=sharp --suffix x'
    assert visualize(f'{command} -o a.png') == 0
    assert capsys.readouterr().out == 'Before and after, frame GOPR1/000009: a.png\n'
    frames = {name: clips[f'{name}/GOPR1'][2] for name in ('blurry', 'restored', 'sharp')}
    np.testing.assert_array_equal(read('a.png'), side_by_side(frames))
    assert visualize(f'{command} --frame GOPR2/000007 --mode split --sharp blurry -o b.png') == 0
    frames = {name: clips[f'{name}/GOPR2'][0] for name in frames}
    np.testing.assert_array_equal(read('b.png'), split_view(frames, 'blurry'))
    assert visualize(f'{command} -o c.jpg') == 0
    assert read('c.jpg').shape == read('a.png').shape


def test_results_of_others_stand_beside_those_of_a_test(clips: dict[str, list[Image]], tmp_path: Path) -> None:
    Path('test.yml').write_text(
        'name: tiny\nval: {suffix: x}\ndatasets: {val: {name: stripes, dataroot_lq: blurry, dataroot_gt: sharp}}'
    )
    Path('results/tiny/visualization').mkdir(parents=True)
    Path('results/tiny/visualization/stripes').symlink_to(tmp_path / 'restored')
    write_clip(tmp_path / 'peer' / 'GOPR2', clips['blurry/GOPR1'])  # has the second clip only
    assert visualize('compare -opt test.yml peer=peer --columns 4 -o peer.png') == 0
    names = ('blurry/GOPR2', 'restored/GOPR2', 'blurry/GOPR1', 'sharp/GOPR2')
    for number, name in enumerate(names):
        left = number * (WIDTH + 8)
        np.testing.assert_array_equal(read('peer.png')[STRIP:, left : left + WIDTH], clips[name][2])


# Videos


def test_videos_hold_all_frames(clips: dict[str, list[Image]]) -> None:
    command = 'video blurry=blurry sharp=sharp --clip GOPR2 --fps 30000/1001'
    for output in ('v.mp4', 'v.mkv', 'v'):
        assert visualize(f'{command} -o {output}') == 0
    sheets = [
        side_by_side({'blurry': blurry, 'sharp': sharp})
        for blurry, sharp in zip(clips['blurry/GOPR2'], clips['sharp/GOPR2'], strict=True)
    ]
    assert [path.stem for path in sorted(Path('v').iterdir())] == FRAMES
    for frame, sheet in zip(FRAMES, sheets, strict=True):
        np.testing.assert_array_equal(read(f'v/{frame}.png'), sheet)
    for file in ('v.mp4', 'v.mkv'):
        reader = cv2.VideoCapture(file)
        assert reader.get(cv2.CAP_PROP_FPS) == pytest.approx(30000 / 1001, abs=1e-3)
        for sheet in sheets:
            done, image = reader.read()
            assert done
            assert image.shape == (94, 188, 3)  # one row more: sides are even
            if file == 'v.mkv':  # without loss
                np.testing.assert_array_equal(image[:-1, :, ::-1], sheet)
                assert (image[-1] == 255).all()
        assert not reader.read()[0]
        reader.release()
    assert visualize(f'{command} --mode split --start 000008 --end 000009 -o s') == 0
    assert [path.stem for path in sorted(Path('s').iterdir())] == FRAMES[1:3]


def write_video(path: Path, images: Iterable[Image]) -> None:
    with video_writer(path, Fraction(24), overwrite=True) as write:
        for number, image in enumerate(images):
            write(image, str(number))


def test_an_interrupted_video_leaves_nothing(tmp_path: Path) -> None:
    def frames() -> Iterator[Image]:
        yield np.zeros((16, 16, 3), np.uint8)
        raise KeyboardInterrupt

    (tmp_path / 'old.mkv').write_bytes(b'old')
    for name in ('old.mkv', 'new.mp4', 'folder'):
        with pytest.raises(KeyboardInterrupt):
            write_video(tmp_path / name, frames())
    assert [path.name for path in tmp_path.iterdir()] == ['old.mkv']
    assert (tmp_path / 'old.mkv').read_bytes() == b'old'


def test_a_video_that_lost_frames_is_refused(tmp_path: Path) -> None:
    # OpenCV drops a frame of another size as silently as one for which the disk has no room.
    with pytest.raises(DataError, match='1 of 2 frames arrived'):
        write_video(tmp_path / 'v.mkv', [np.zeros((height, 16, 3), np.uint8) for height in (16, 18)])
    assert not list(tmp_path.iterdir())


# Sources


def test_lmdb_folder_of_clips_and_clip_folder_are_the_same(clips: dict[str, list[Image]], tmp_path: Path) -> None:
    for name, kind in (('blurry', 'blur'), ('sharp', 'sharp')):
        for split in ('train', 'test'):
            write_clip(tmp_path / 'raw' / split / 'GOPR1' / kind, clips[f'{name}/GOPR1'])
    assert data_prep(['gopro', str(tmp_path / 'raw'), '-o', str(tmp_path / 'lmdb')]) in (0, None)
    specs = {
        'lmdb': tmp_path / 'lmdb' / 'test_blur.lmdb',
        'root': tmp_path / 'blurry',
        'clip': tmp_path / 'raw' / 'test' / 'GOPR1' / 'blur',
    }
    footage = open_footage([Spec(name, path) for name, path in specs.items()], 'GOPR1')
    assert footage.clip == 'GOPR1'
    assert footage.choose_frames() == FRAMES
    for frame, expected in zip(FRAMES, clips['blurry/GOPR1'], strict=True):
        for image in footage.read(frame).values():
            np.testing.assert_array_equal(image, expected)
    raw = [Spec(kind, tmp_path / 'raw' / 'test' / 'GOPR1' / kind) for kind in ('blur', 'sharp')]
    assert open_footage(raw).title('000007') == 'GOPR1/000007'
    assert open_footage(raw[:1]).title('000007') == 'blur/000007'


def test_sources_that_do_not_fit_are_named(clips: dict[str, list[Image]], capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(Path('short/GOPR1'), clips['blurry/GOPR1'][1:3], FRAMES[1:3])
    write_clip(Path('small/GOPR1'), pictures(0, (HEIGHT, 80)))
    write_clip(Path('other/DVD'), clips['blurry/GOPR1'])
    told = {
        'profile a=blurry b=short -o p.png': 'b (short, clip GOPR1) lacks 000007, 000010\nAll have 2 from 000008 to',
        'profile a=blurry b=short --end 000008 -o p.png': 'lacks 000007\n',
        'compare a=blurry b=short --frame 000007 -o p.png': 'lacks 000007\n',
        'video a=blurry b=restored -o p': '000007 in a, 000007_x in b. Where names end in "_NAME", --suffix NAME',
        'crops a=blurry b=small -o p.png': '90x61 in a (frame 000009), 80x61 in b (frame 000009)',
        'video a=blurry b=other -o p': 'no clip in common; rename or choose others:\n- a (blurry): GOPR1, GOPR2\n- b',
        'video a=blurry b=other/DVD -o p': 'others have several: GOPR1, GOPR2. Choose with --clip',
        'video a=blurry b=sharp --clip GOPR3 -o p': 'There is no clip GOPR3 in a (blurry), which has GOPR1, GOPR2. Did',
        'crops a=blurry --frame 9 -o p.png': '--frame 9 is in none of the sources, whose frames are 000007 to 000010.',
        'crops a=blurry --frame GOPR1/00009 -o p.png': 'Did you mean 000009?',
        'crops a=blurry --frame GOPR1/000009 --clip GOPR2 -o p.png': 'names the clip GOPR1, --clip GOPR2',
        'video a=blurry b=sharp --start 000009 --end 000008 -o p': '--start 000009 comes after --end 000008',
        'crops a=blurry a=sharp -o p.png': 'Two sources are called a',
        'crops a=nowhere -o p.png': 'nowhere does not exist',
        'crops blurry -o p.png': "'blurry' is no source: give NAME=FOLDER",
        'crops -o p.png': 'No source was given',
        'crops a=. -o p.png': 'holds no frames in the layout',
    }
    for command, message in told.items():
        assert message in refused(command, capsys), command
    assert visualize('profile a=blurry b=short --start 000008 --end 000009 -o p.png') == 0
    assert visualize('compare a=blurry b=short -o q.png') == 0  # the middle one of those that both have
    assert 'frame GOPR1/000009' in capsys.readouterr().out


def test_requests_that_cannot_be_met(clips: dict[str, list[Image]], capsys: pytest.CaptureFixture[str]) -> None:
    told = {
        'crops a=blurry --crop 80,0,11,10 -o p.png': '--crop 80,0,11,10 is not inside the frames, which are 90x61',
        'crops a=blurry --crop 0,60,10,2 -o p.png': 'not inside',
        'crops a=blurry --crop 0,0,0,2 -o p.png': 'is empty',
        'crops a=blurry --crop 1,2,3 -o p.png': "'1,2,3' is no area: give LEFT,TOP,WIDTH,HEIGHT",
        'crops a=blurry --zoom 0 -o p.png': '--zoom is 0; it can be 1 or more',
        'crops a=blurry --whole b -o p.png': '--whole b is no source; they are a',
        'crops a=blurry --sharp b -o p.png': '--sharp b is no source; they are a',
        'profile a=blurry --column 90 -o p.png': '--column 90 is outside the frames of 90x61: 0 to 89 are in',
        'profile a=blurry --row -1 -o p.png': '--row -1 is outside',
        'profile a=blurry --row 1 --column 1 -o p.png': 'not allowed with argument',
        'profile a=blurry --stretch 0 -o p.png': '--stretch is 0',
        'compare a=blurry -o p.png': 'There is only a: a comparison needs two',
        'compare a=blurry b=sharp --columns 0 -o p.png': '--columns is 0',
        'compare a=blurry b=sharp': 'Give its name with -o',
        'compare a=blurry é=sharp -o p.png': 'has no é',
        'video a=blurry b=sharp --fps 0 -o p': "'0' is no frame rate",
        'video a=blurry b=sharp -o p.gif': 'a video is saved as .mp4, .mkv, or as PNG files in a folder',
        'video a=blurry b=sharp -o sharp': 'there is something in this folder',
        'compare a=blurry b=sharp -o p.gif': 'a picture is saved as .png, .jpg',
        'compare a=blurry b=sharp -o sharp/GOPR1/000007.png': '000007.png exists already',
    }
    for command, message in told.items():
        assert message in refused(command, capsys), command


def test_nothing_is_overwritten_unasked(clips: dict[str, list[Image]], capsys: pytest.CaptureFixture[str]) -> None:
    commands = ('compare a=blurry b=sharp', 'crops a=blurry', 'profile a=blurry')
    for command in (*commands, 'video a=blurry b=sharp'):
        file = 'v.mkv' if command.startswith('video') else 'p.png'
        Path(file).write_text('mine')
        assert f'{file} exists already' in refused(f'{command} -o {file}', capsys)
        assert visualize(f'{command} -o {file} --overwrite') == 0
        assert Path(file).stat().st_size > 1000
    with pytest.raises(DataError, match='cannot be written'):
        save_picture(clips['sharp/GOPR1'][0], Path('p.png', 'below', 'a file.png'))


def test_help_names_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ('', 'compare', 'crops', 'profile', 'video'):
        with pytest.raises(SystemExit) as exit:
            visualize(f'{kind} --help')
        assert exit.value.code == 0
        text = capsys.readouterr().out
        assert ('examples:' if kind else 'profile ') in text

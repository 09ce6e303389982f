"""Public data sets and where their frames are.

A new data set is one more `Layout` in `LAYOUTS`: the command line, the checks and the converter follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dstnet_arch.data.folder_layouts import BLUR_NAMES, DEFAULT_BLUR, PATTERNS, SHARP_NAMES, SPLITS, find_layout
from dstnet_arch.errors import DataError, Problems


@dataclass(frozen=True)
class Choice:
    """Variants that a data set contains; one of them is converted.

    Attributes:
        option: on the command line, e.g. `--blur`.
        values: each value and its meaning, which is recorded with the converted data.
        default: the value if the option is absent; None: the option is required.
    """

    option: str
    values: Mapping[str, str]
    default: str | None = None


@dataclass(frozen=True)
class Layout:
    """A data set as distributed; folders inside it are found by `dstnet_arch.data.folder_layouts`.

    Attributes:
        command: name of the sub-command.
        title: name of the data set.
        roots: folders below SOURCE that may contain the data set; `{choice}` stands for the chosen value.
        blur: name of the folders of blurry frames; `{choice}` stands for the chosen value.
        choice: the variants, or None.
        test_clips: clips for testing if no folder names the split; all others are for training.
        totals: numbers of clips and frames by split as distributed.
        remark: what else the user should know, for the help text.
    """

    command: str
    title: str
    roots: tuple[str, ...]
    blur: str = DEFAULT_BLUR
    choice: Choice | None = None
    test_clips: tuple[str, ...] = ()
    totals: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    remark: str = ''


@dataclass(frozen=True)
class Clip:
    """A video: a folder of blurry frames and one of sharp frames."""

    split: str
    name: str
    blur: Path
    sharp: Path

    @property
    def label(self) -> str:
        """`<split>/<name>`."""
        return f'{self.split}/{self.name}'


_GOPRO_TEST_CLIPS = (
    'GOPR0384_11_00', 'GOPR0384_11_05', 'GOPR0385_11_01', 'GOPR0396_11_00', 'GOPR0410_11_00', 'GOPR0854_11_00',
    'GOPR0862_11_00', 'GOPR0868_11_00', 'GOPR0869_11_00', 'GOPR0871_11_00', 'GOPR0881_11_01',
)  # fmt: skip
_DVD_TEST_CLIPS = (
    '720p_240fps_2', 'IMG_0003', 'IMG_0021', 'IMG_0030', 'IMG_0031', 'IMG_0032', 'IMG_0033', 'IMG_0037', 'IMG_0039',
    'IMG_0049',
)  # fmt: skip

GOPRO = Layout(
    command='gopro',
    title='GoPro (GOPRO_Large)',
    roots=('GOPRO_Large',),
    blur='{choice}',
    choice=Choice(
        option='--blur',
        values={
            'blur': 'averaged with a linear camera response: the stored values themselves',
            'blur_gamma': 'averaged with a gamma 2.2 camera response: in linear light',
        },
        default='blur',
    ),
    test_clips=_GOPRO_TEST_CLIPS,
    totals={'train': (22, 2103), 'test': (11, 1111)},
)
DVD = Layout(
    command='dvd',
    title='DVD (DeepVideoDeblurring)',
    roots=('quantitative_datasets', 'DeepVideoDeblurring_Dataset/quantitative_datasets'),
    test_clips=_DVD_TEST_CLIPS,
    totals={'train': (61, 5708), 'test': (10, 1000)},
)
BSD = Layout(
    command='bsd',
    title='BSD (Beam-Splitter Deblurring)',
    roots=('BSD_{choice}',),
    choice=Choice(
        option='--exposure',
        values={
            '1ms8ms': 'sharp frames exposed for 1 ms, blurry ones for 8 ms',
            '2ms16ms': 'sharp frames exposed for 2 ms, blurry ones for 16 ms',
            '3ms24ms': 'sharp frames exposed for 3 ms, blurry ones for 24 ms',
        },
    ),
    totals={'train': (60, 6000), 'test': (20, 3000)},
    remark='RAW frames are ignored. Convert each exposure to a separate folder. Test sequences have 150 frames; in the '
    'older BSD_test100 they have 100, and scores on it are not comparable.',
)
LAYOUTS = (GOPRO, DVD, BSD)


def find_clips(layout: Layout, source: Path, choice: str | None) -> list[Clip]:
    """Find the clips of a data set in a folder, by split and name.

    Args:
        layout: the data set's description.
        source: the folder that the user gave.
        choice: a value of `layout.choice`; None if the layout has no choice.

    Raises:
        DataError: `source` contains no clip or only frames of another variant, or a clip has blurry or sharp frames
            only.
    """
    if not source.is_dir():
        what = 'is not a folder' if source.exists() else 'does not exist'
        raise DataError(f'SOURCE {source} {what}; give the folder that {layout.title} was unpacked to')
    name = source.absolute().name.casefold()
    if layout.choice:
        names = [root for root in layout.roots if '{choice}' in root]
        values = {root.format(choice=value).casefold(): value for root in names for value in layout.choice.values}
        if values.get(name, choice) != choice:
            raise DataError(f'SOURCE is {source}; to convert it, add {layout.choice.option} {values[name]}')
    roots = [source, *(source / root.format(choice=choice) for root in layout.roots)]
    blur = layout.blur.format(choice=choice)
    found = max((find_layout(root, blur) for root in roots if root.is_dir()), key=lambda found: found.num_pairs)
    if not found.num_pairs:
        names = sorted(path.name for path in source.iterdir() if not path.name.startswith('.'))
        contents = ', '.join(names[:8]) + (', ...' if len(names) > 8 else '') if names else 'nothing'
        chosen = f' for {layout.choice.option} {choice}' if layout.choice else ''
        raise DataError(
            f'SOURCE {source} contains no clips of {layout.title}{chosen}. It contains: {contents}.\n'
            f'Known folders of frames:\n{describe_folders(layout)}'
        )
    problems = Problems()
    for side, folders, partners in (('sharp', found.blur, found.sharp), ('blurry', found.sharp, found.blur)):
        for key in folders.keys() - partners.keys():
            problems.add(f'{folders[key].relative_to(source)}: no {side} frames belong to it')
    problems.found.sort()
    problems.raise_if_any(f'{source} contains incomplete clips', 'Nothing was written.')

    def split_of(clip: str) -> str:
        return name if name in SPLITS else 'test' if clip in layout.test_clips else 'train'

    clips = [
        Clip(key.split or split_of(key.clip), key.clip, folder, found.sharp[key]) for key, folder in found.blur.items()
    ]
    return sorted(clips, key=lambda clip: SPLITS.index(clip.split))


def describe_folders(layout: Layout) -> str:
    """Return the paths of folders of frames for messages."""
    paths = '\n'.join(f'  {pattern}' for pattern in PATTERNS).replace('{', '<').replace('}', '>')
    choices = '|'.join(layout.choice.values if layout.choice else ())
    blur = '|'.join(dict.fromkeys((*layout.blur.format(choice=choices).split('|'), *BLUR_NAMES)))
    roots = ' or '.join(layout.roots).format(choice=choices)
    text = (
        f'{paths}\nin SOURCE or in its folder {roots}. <side> is {blur} or {"|".join(SHARP_NAMES)}, '
        f'<split> is {"|".join(SPLITS)}.'
    )
    if layout.test_clips:
        text += '\nIf no folder names the split, the usual test clips are for testing, all others for training.'
    return text

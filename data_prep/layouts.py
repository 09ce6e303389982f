"""Public data sets and where their frames are. A new data set is one more `Layout` in `LAYOUTS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dstnet_arch.data.folder_layouts import BLUR_NAMES, DEFAULT_BLUR, PATTERNS, SHARP_NAMES, SPLITS, find_layout
from dstnet_arch.errors import DataError

Clips = dict[str, Path]
"""Folder of each clip by the clip's name."""


@dataclass(frozen=True)
class Layout:
    """A data set as distributed; folders inside it are found by `dstnet_arch.data.folder_layouts`."""

    command: str  # name of the sub-command
    title: str
    root: str  # folder below SOURCE that may contain the data set; `{choice}` stands for the chosen variant
    option: str = ''  # command-line option that chooses a variant; empty if there is only one
    choices: Mapping[str, str] = field(default_factory=dict)  # the variants and their meanings, which are recorded
    default: str | None = None  # the variant if the option is absent; None: the option is required
    blur: str = DEFAULT_BLUR  # name of the folders of blurry frames; `{choice}` stands for the chosen variant
    test_clips: tuple[str, ...] = ()  # if no folder names the split; all others are for training
    totals: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # clips and frames by split, as distributed


GOPRO = Layout(
    command='gopro',
    title='GoPro (GOPRO_Large)',
    root='GOPRO_Large',
    option='--blur',
    choices={
        'blur': 'averaged with a linear camera response: the stored values themselves',
        'blur_gamma': 'averaged with a gamma 2.2 camera response: in linear light',
    },
    default='blur',
    blur='{choice}',
    test_clips=(
        'GOPR0384_11_00', 'GOPR0384_11_05', 'GOPR0385_11_01', 'GOPR0396_11_00', 'GOPR0410_11_00', 'GOPR0854_11_00',
        'GOPR0862_11_00', 'GOPR0868_11_00', 'GOPR0869_11_00', 'GOPR0871_11_00', 'GOPR0881_11_01',
    ),
    totals={'train': (22, 2103), 'test': (11, 1111)},
)  # fmt: skip
DVD = Layout(
    command='dvd',
    title='DVD (DeepVideoDeblurring)',
    root='DeepVideoDeblurring_Dataset/quantitative_datasets',
    test_clips=(
        '720p_240fps_2', 'IMG_0003', 'IMG_0021', 'IMG_0030', 'IMG_0031', 'IMG_0032', 'IMG_0033', 'IMG_0037',
        'IMG_0039', 'IMG_0049',
    ),
    totals={'train': (61, 5708), 'test': (10, 1000)},
)  # fmt: skip
BSD = Layout(
    command='bsd',
    title='BSD (Beam-Splitter Deblurring)',
    root='BSD_{choice}',
    option='--exposure',
    choices={
        '1ms8ms': 'sharp frames exposed for 1 ms, blurry ones for 8 ms',
        '2ms16ms': 'sharp frames exposed for 2 ms, blurry ones for 16 ms',
        '3ms24ms': 'sharp frames exposed for 3 ms, blurry ones for 24 ms',
    },
    totals={'train': (60, 6000), 'test': (20, 3000)},
)
LAYOUTS = (GOPRO, DVD, BSD)


def find_clips(layout: Layout, source: Path, choice: str | None) -> dict[str, tuple[Clips, Clips]]:
    """Return the blurry and the sharp clips of each split in a folder.

    Args:
        layout: the data set's description.
        source: the folder that the user gave.
        choice: the variant; None if the layout has only one.

    Raises:
        DataError: `source` contains no clip, or only frames of another variant.
    """
    if not source.is_dir():
        what = 'is not a folder' if source.exists() else 'does not exist'
        raise DataError(f'SOURCE {source} {what}; give the folder that {layout.title} was unpacked to')
    name = source.absolute().name.casefold()
    # The folder around the data set, the data set itself, or the folder that the distributed archive contains.
    parts = Path(layout.root.format(choice=choice)).parts
    roots = [source, *(source.joinpath(*parts[start:]) for start in range(len(parts)))]
    blur = layout.blur.format(choice=choice)
    found = max((find_layout(root, blur) for root in roots if root.is_dir()), key=lambda found: found.num_pairs)
    if not found.num_pairs:
        contents = ', '.join(sorted(path.name for path in source.iterdir())[:8]) or 'nothing'
        chosen = f' for {layout.option} {choice}' if choice else ''
        raise DataError(
            f'SOURCE {source} contains no clips of {layout.title}{chosen}. It contains: {contents}.\n'
            f'Known folders of frames:\n{describe_folders(layout)}'
        )
    example = next(iter(found.blur.values())).absolute()
    folders_above = {part.casefold() for part in example.parts}
    for other in layout.choices:
        root = layout.root.format(choice=other)
        if root != layout.root.format(choice=choice) and root.casefold() in folders_above:
            raise DataError(f'SOURCE {source} contains {example}; to convert it, add {layout.option} {other}')
    clips: dict[str, tuple[Clips, Clips]] = {}
    for side, folders in enumerate(found):
        for key, folder in folders.items():
            split = key.split or (name if name in SPLITS else 'test' if key.clip in layout.test_clips else 'train')
            clips.setdefault(split, ({}, {}))[side][key.clip] = folder
    return clips


def describe_folders(layout: Layout) -> str:
    """Return the paths of folders of frames for messages."""
    paths = '\n'.join(f'  {pattern}' for pattern in PATTERNS).replace('{', '<').replace('}', '>')
    choices = '|'.join(layout.choices)
    blur = '|'.join(dict.fromkeys([*layout.blur.format(choice=choices).split('|'), *BLUR_NAMES]))
    text = (
        f'{paths}\nin SOURCE or in its folder {layout.root.format(choice=choices)}. <side> is {blur} or '
        f'{"|".join(SHARP_NAMES)}, <split> is {"|".join(SPLITS)}.'
    )
    if layout.test_clips:
        text += '\nIf no folder names the split, the usual test clips are for testing, all others for training.'
    return text

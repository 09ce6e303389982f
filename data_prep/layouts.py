"""Public data sets as they lie on disk, each as a short description, and the search for clips that all share.

A new data set is one more `Layout` in `LAYOUTS`: the command line, the checks and the converter follow from it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dstnet_arch.data.lmdb_format import natural_key
from dstnet_arch.errors import DataError, Problems, counted

IMAGE_EXTENSIONS = ('.png', '.jpg', '.jpeg')
# What file managers and archivers leave behind, besides names that begin with a dot.
_LITTER = frozenset({'__macosx', 'thumbs.db', 'desktop.ini', '@eadir'})


@dataclass(frozen=True)
class Choice:
    """Variants that a data set holds side by side; one of them is converted."""

    option: str
    """On the command line, e.g. `--blur`."""
    what: str
    """What the variants are, for the help text, e.g. `which blurry frames to take`."""
    values: Mapping[str, str]
    """Each value, and what it means (recorded with the converted data)."""
    default: str | None
    """The value taken when the option is absent; None: it must be given."""


@dataclass(frozen=True)
class Arrangement:
    """Where the folders with a clip's frames are, below SOURCE.

    A path is made of folder names, compared without regard to case, with `|` between alternatives, and of the
    placeholders `{split}`, `{clip}` and `{choice}` (the chosen value).
    """

    blur: str
    sharp: str


@dataclass(frozen=True)
class Layout:
    """A data set as distributed, and the re-arrangements of it that are in use."""

    command: str
    title: str
    arrangements: tuple[Arrangement, ...]
    splits: tuple[str, ...] = ('train', 'test')
    roots: tuple[str, ...] = ()
    """Where SOURCE may hold the data set, besides holding it directly: paths of folder names as in `Arrangement`."""
    choice: Choice | None = None
    clips: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """The clips of each split as distributed, with their numbers of frames, as far as they are known."""
    totals: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """How many clips and frames each split has as distributed."""
    split_of_other_clips: str | None = None
    """Where no folder says which split a clip belongs to, and `clips` does not name it either; None: an error."""
    extensions: tuple[str, ...] = IMAGE_EXTENSIONS
    remark: str = ''
    """What else the user should know before, for the help text."""

    def spelt_out(self, arrangement: Arrangement, choice: str | None = None) -> str:
        """The arrangement for a reader; without a `choice` with all its values."""
        choices = choice or '|'.join(self.choice.values if self.choice else ())
        text = f'{arrangement.blur}  with  {arrangement.sharp}'
        return text.replace('{split}', '|'.join(self.splits)).replace('{clip}', '<clip>').replace('{choice}', choices)


@dataclass(frozen=True)
class Clip:
    """A video: a folder of blurry frames and one of sharp frames."""

    split: str
    name: str
    blur: Path
    sharp: Path

    @property
    def label(self) -> str:
        return f'{self.split}/{self.name}'


@dataclass(frozen=True)
class Found:
    """What `find_clips` found in SOURCE."""

    clips: tuple[Clip, ...]
    arrangement: Arrangement
    choices: tuple[str, ...]
    """The values of the layout's choice that SOURCE holds in this arrangement; empty where no folder says it."""


GOPRO = Layout(
    command='gopro',
    title='GoPro (GOPRO_Large)',
    roots=('GOPRO_Large',),
    arrangements=(
        Arrangement('{split}/{clip}/{choice}', '{split}/{clip}/sharp'),
        Arrangement('{split}/{choice}/{clip}', '{split}/gt|sharp/{clip}'),
        Arrangement('{split}/input/{clip}', '{split}/gt|sharp/{clip}'),
        Arrangement('{choice}/{clip}', 'gt|sharp/{clip}'),
        Arrangement('input/{clip}', 'gt|sharp/{clip}'),
    ),
    choice=Choice(
        option='--blur',
        what='which blurry frames to take',
        values={
            'blur': 'averaged with a linear camera response: the stored values themselves',
            'blur_gamma': 'averaged with a gamma 2.2 camera response: in linear light',
        },
        default='blur',
    ),
    clips={
        'train': {
            'GOPR0372_07_00': 100,
            'GOPR0372_07_01': 75,
            'GOPR0374_11_00': 150,
            'GOPR0374_11_01': 80,
            'GOPR0374_11_02': 100,
            'GOPR0374_11_03': 48,
            'GOPR0378_13_00': 110,
            'GOPR0379_11_00': 100,
            'GOPR0380_11_00': 60,
            'GOPR0384_11_01': 100,
            'GOPR0384_11_02': 100,
            'GOPR0384_11_03': 100,
            'GOPR0384_11_04': 100,
            'GOPR0385_11_00': 100,
            'GOPR0386_11_00': 100,
            'GOPR0477_11_00': 80,
            'GOPR0857_11_00': 100,
            'GOPR0868_11_01': 100,
            'GOPR0868_11_02': 100,
            'GOPR0871_11_01': 100,
            'GOPR0881_11_00': 100,
            'GOPR0884_11_00': 100,
        },
        'test': {
            'GOPR0384_11_00': 100,
            'GOPR0384_11_05': 100,
            'GOPR0385_11_01': 100,
            'GOPR0396_11_00': 100,
            'GOPR0410_11_00': 134,
            'GOPR0854_11_00': 100,
            'GOPR0862_11_00': 77,
            'GOPR0868_11_00': 100,
            'GOPR0869_11_00': 100,
            'GOPR0871_11_00': 100,
            'GOPR0881_11_01': 100,
        },
    },
    totals={'train': (22, 2103), 'test': (11, 1111)},
)

_DVD_TEST_VIDEOS = (
    '720p_240fps_2',
    'IMG_0003',
    'IMG_0021',
    'IMG_0030',
    'IMG_0031',
    'IMG_0032',
    'IMG_0033',
    'IMG_0037',
    'IMG_0039',
    'IMG_0049',
)
DVD = Layout(
    command='dvd',
    title='DVD (DeepVideoDeblurring)',
    roots=('quantitative_datasets', 'DeepVideoDeblurring_Dataset/quantitative_datasets'),
    arrangements=(
        Arrangement('{clip}/input', '{clip}/GT'),
        Arrangement('{split}/{clip}/input', '{split}/{clip}/GT'),
        Arrangement('{split}/blur|input/{clip}', '{split}/gt|sharp/{clip}'),
        Arrangement('blur|input/{clip}', 'gt|sharp/{clip}'),
    ),
    clips={'test': dict.fromkeys(_DVD_TEST_VIDEOS, 100)},
    totals={'train': (61, 5708), 'test': (10, 1000)},
    split_of_other_clips='train',
    remark='Where no folder says what is for testing, the ten videos of the published results are: '
    f'{", ".join(_DVD_TEST_VIDEOS)}. All others are for training.',
)

BSD = Layout(
    command='bsd',
    title='BSD (Beam-Splitter Deblurring)',
    splits=('train', 'valid', 'test'),
    roots=('BSD_{choice}',),
    arrangements=(
        Arrangement('{split}/{clip}/Blur/RGB', '{split}/{clip}/Sharp/RGB'),
        Arrangement('{split}/blur|input/{clip}', '{split}/gt|sharp/{clip}'),
    ),
    choice=Choice(
        option='--exposure',
        what='which exposure times to take',
        values={
            '1ms8ms': 'sharp frames exposed for 1 ms, blurry ones for 8 ms',
            '2ms16ms': 'sharp frames exposed for 2 ms, blurry ones for 16 ms',
            '3ms24ms': 'sharp frames exposed for 3 ms, blurry ones for 24 ms',
        },
        default=None,
    ),
    totals={'train': (60, 6000), 'test': (20, 3000)},
    remark='RAW frames are left alone. Each exposure needs a folder of its own for its result. A test sequence has 150 '
    'frames; in the older BSD_test100 it has 100, and scores on that do not compare.',
)

LAYOUTS = (GOPRO, DVD, BSD)


def is_litter(name: str) -> bool:
    """Hidden files, what other systems leave behind, and our own output."""
    return name.startswith('.') or name.casefold() in _LITTER or name.endswith(('.lmdb', '.lmdb.partial'))


def find_clips(layout: Layout, source: Path, choice: str | None) -> Found:
    """Find the clips of a data set in a folder.

    Args:
        layout: The data set's description.
        source: The folder that the user gave.
        choice: A value of `layout.choice`; None where the layout has no choice.

    Raises:
        DataError: `source` holds no clip in any known arrangement, not the chosen variant, or a clip lacks one of its
            folders, or belongs to no known split.
    """
    if not source.is_dir():
        what = 'is not a folder' if source.exists() else 'does not exist'
        raise DataError(f'SOURCE {source} {what}; give the folder that {layout.title} was unpacked to')
    roots = _roots(layout, source)
    candidates = [
        _search(layout, root, arrangement, choice)
        for root, told in roots.items()
        if told in (None, choice)
        for arrangement in layout.arrangements
    ]
    # The arrangement that explains most of what is there, whole clips first; the first one of equals.
    best = max(candidates, key=lambda candidate: (candidate.num_pairs, candidate.num_folders), default=None)
    choices = _choices_present(layout, roots, best)
    if (best is None or not best.blur) and choices and choice not in choices and layout.choice is not None:
        value = choices[0]
        raise DataError(
            f'SOURCE {source} holds no {choice!r} frames, only {value!r} ({layout.choice.values[value]}); '
            f'to convert these, add {layout.choice.option} {value}'
        )
    if best is None or best.num_folders == 0:
        raise DataError(_nothing_found(layout, source))
    return Found(_complete_clips(layout, best, choice), best.arrangement, choices)


@dataclass(frozen=True)
class _Search:
    """The folders that one arrangement finds below one root, by (split, clip)."""

    root: Path
    arrangement: Arrangement
    seen: frozenset[tuple[str | None, str]]
    blur: Mapping[tuple[str | None, str], Path]
    sharp: Mapping[tuple[str | None, str], Path]

    @property
    def num_pairs(self) -> int:
        return len(self.blur.keys() & self.sharp.keys())

    @property
    def num_folders(self) -> int:
        return len(self.blur) + len(self.sharp)


def _roots(layout: Layout, source: Path) -> dict[Path, str | None]:
    """The folders that may hold the data set, SOURCE first, and the value of the choice that their names tell."""
    roots: dict[Path, str | None] = {source: None}
    for template in layout.roots:
        values = layout.choice.values if layout.choice is not None and '{choice}' in template else (None,)
        for value in values:
            names = template.replace('{choice}', value or '')
            if value is not None and Path(os.path.abspath(source)).name.casefold() == names.casefold():
                roots[source] = value
            roots.update((root, value) for _, root in _expand(layout, source, names.split('/'), value))
    return roots


def _search(layout: Layout, root: Path, arrangement: Arrangement, choice: str | None) -> _Search:
    blur, sharp = (
        dict(_expand(layout, root, template.split('/'), choice)) for template in (arrangement.blur, arrangement.sharp)
    )
    seen: set[tuple[str | None, str]] = set()
    for template in (arrangement.blur, arrangement.sharp):
        parts = template.split('/')
        up_to_clip = parts[: parts.index('{clip}') + 1]
        seen.update(key for key, _ in _expand(layout, root, up_to_clip, choice))
    return _Search(root, arrangement, frozenset(seen), blur, sharp)


def _expand(
    layout: Layout, folder: Path, parts: list[str], choice: str | None, split: str | None = None, clip: str = ''
) -> Iterator[tuple[tuple[str | None, str], Path]]:
    """All existing folders that a path with placeholders stands for, each with its (split, clip)."""
    if not parts:
        yield (split, clip), folder
        return
    part, rest = parts[0], parts[1:]
    if part == '{split}':
        for name in layout.splits:
            child = _child(folder, name)
            if child is not None:
                yield from _expand(layout, child, rest, choice, name, clip)
    elif part == '{clip}':
        for child in sorted(_folders(folder), key=lambda path: natural_key(path.name)):
            # Otherwise `{clip}/input` would fit `train/input`, too.
            if split is not None or child.name.casefold() not in layout.splits:
                yield from _expand(layout, child, rest, choice, split, child.name)
    else:
        child = _child(folder, part.replace('{choice}', choice or ''))
        if child is not None:
            yield from _expand(layout, child, rest, choice, split, clip)


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not is_litter(path.name) and path.is_dir()]


def _child(folder: Path, names: str) -> Path | None:
    """The folder in `folder` with one of the names (`a|b`), in any case; the exact spelling is preferred."""
    wanted = names.split('|')
    for name in wanted:
        if (folder / name).is_dir():
            return folder / name
    folded = {name.casefold() for name in wanted}
    return next((path for path in sorted(_folders(folder)) if path.name.casefold() in folded), None)


def _choices_present(layout: Layout, roots: Mapping[Path, str | None], search: _Search | None) -> tuple[str, ...]:
    """The values of the choice that folders are named for: folders of the arrangement, or those that hold it."""
    if layout.choice is None:
        return ()
    if search is not None and '{choice}' in search.arrangement.blur:
        parts = search.arrangement.blur.split('/')
        return tuple(value for value in layout.choice.values if any(_expand(layout, search.root, parts, value)))
    if search is not None and search.blur and roots[search.root] is None:
        return ()
    return tuple(value for value in layout.choice.values if value in roots.values())


def _complete_clips(layout: Layout, search: _Search, choice: str | None) -> tuple[Clip, ...]:
    problems = Problems()
    clips = []
    for key in sorted(search.seen, key=lambda key: (key[0] or '', natural_key(key[1]))):
        split, name = key[0] or _split_by_name(layout, key[1]), key[1]
        label = f'{split or "?"}/{name}'
        if split is None:
            problems.add(f'{label}: no folder says whether it belongs to {" or ".join(layout.splits)}')
        if key in search.blur and key in search.sharp:
            clips.append(Clip(split or '', name, search.blur[key], search.sharp[key]))
        else:
            missing = [side for side, found in (('blurry', search.blur), ('sharp', search.sharp)) if key not in found]
            problems.add(f'{label}: no folder of {" and no folder of ".join(missing)} frames')
    problems.raise_if_any(
        f'{search.root} does not hold whole clips ({counted(len(problems), "problem")})',
        f'Expected: {layout.spelt_out(search.arrangement, choice)}. Nothing was written.',
    )
    return tuple(sorted(clips, key=lambda clip: (layout.splits.index(clip.split), natural_key(clip.name))))


def _split_by_name(layout: Layout, clip: str) -> str | None:
    for split, names in layout.clips.items():
        if clip in names:
            return split
    return layout.split_of_other_clips


def _nothing_found(layout: Layout, source: Path) -> str:
    expected = '\n'.join(f'  {layout.spelt_out(arrangement)}' for arrangement in layout.arrangements)
    names = sorted(path.name for path in source.iterdir() if not is_litter(path.name))
    held = ', '.join(names[:8]) + (', ...' if len(names) > 8 else '') if names else 'nothing'
    hint = ''
    if source.name in layout.splits:
        hint = f'\nIs {source.parent} the folder you meant, the one above {source.name}?'
    return (
        f'SOURCE {source} holds no clips of {layout.title}. It holds: {held}.\n'
        f'Known arrangements of the folders of frames:\n{expected}{hint}'
    )

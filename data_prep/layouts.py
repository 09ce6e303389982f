"""Folder layouts of public data sets, and the search for clips in them.

A new data set is one more `Layout` in `LAYOUTS`: the command line, the checks and the converter follow from it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from dstnet_arch.data.lmdb_format import natural_key
from dstnet_arch.errors import DataError, Problems, counted

# Left behind by file managers and archivers, besides names that begin with a dot.
_LITTER = frozenset({'__macosx', 'thumbs.db', 'desktop.ini', '@eadir'})


@dataclass(frozen=True)
class Choice:
    """Variants that a data set contains side by side; one of them is converted.

    Attributes:
        option: on the command line, e.g. `--blur`.
        what: what the variants are, for the help text.
        values: each value and its meaning, which is recorded with the converted data.
        default: the value if the option is absent; None: the option is required.
    """

    option: str
    what: str
    values: Mapping[str, str]
    default: str | None

    @property
    def name(self) -> str:
        """The option without dashes."""
        return self.option.lstrip('-')


@dataclass(frozen=True)
class Arrangement:
    """Paths of a clip's folders of blurry and of sharp frames below SOURCE.

    A path consists of folder names, compared without regard to case, with `|` between alternatives, and of the
    placeholders `{split}`, `{clip}` and `{choice}` (the chosen value).
    """

    blur: str
    sharp: str


@dataclass(frozen=True)
class Layout:
    """A data set as distributed, and the re-arrangements of it that are in use.

    Attributes:
        command: name of the sub-command.
        title: name of the data set.
        arrangements: possible paths of the frames.
        splits: names of the splits.
        roots: folders below SOURCE that may contain the data set, as paths of folder names like in `Arrangement`.
        choice: the variants, or None.
        clips: numbers of frames by split and clip as distributed, as far as they are known.
        totals: numbers of clips and frames by split as distributed.
        split_of_other_clips: split of clips that neither a folder nor `clips` assigns to one; None: an error.
        remark: what else the user should know, for the help text.
    """

    command: str
    title: str
    arrangements: tuple[Arrangement, ...]
    splits: tuple[str, ...] = ('train', 'test')
    roots: tuple[str, ...] = ()
    choice: Choice | None = None
    clips: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    totals: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    split_of_other_clips: str | None = None
    remark: str = ''

    def format_arrangement(self, arrangement: Arrangement, choice: str | None = None) -> str:
        """Return the arrangement for messages, with all values of the choice if `choice` is None."""
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
        """`<split>/<name>`."""
        return f'{self.split}/{self.name}'


@dataclass(frozen=True)
class Found:
    """Result of `find_clips`.

    Attributes:
        clips: the complete clips.
        arrangement: the arrangement that they have.
        choices: values of the layout's choice that SOURCE contains; empty if no folder name says it.
    """

    clips: tuple[Clip, ...]
    arrangement: Arrangement
    choices: tuple[str, ...]


_GOPRO_TRAIN_CLIPS = (
    'GOPR0372_07_00 GOPR0372_07_01 GOPR0374_11_00 GOPR0374_11_01 GOPR0374_11_02 GOPR0374_11_03 GOPR0378_13_00 '
    'GOPR0379_11_00 GOPR0380_11_00 GOPR0384_11_01 GOPR0384_11_02 GOPR0384_11_03 GOPR0384_11_04 GOPR0385_11_00 '
    'GOPR0386_11_00 GOPR0477_11_00 GOPR0857_11_00 GOPR0868_11_01 GOPR0868_11_02 GOPR0871_11_01 GOPR0881_11_00 '
    'GOPR0884_11_00'
)
_GOPRO_TEST_CLIPS = (
    'GOPR0384_11_00 GOPR0384_11_05 GOPR0385_11_01 GOPR0396_11_00 GOPR0410_11_00 GOPR0854_11_00 GOPR0862_11_00 '
    'GOPR0868_11_00 GOPR0869_11_00 GOPR0871_11_00 GOPR0881_11_01'
)
_GOPRO_TRAIN = {
    **dict.fromkeys(_GOPRO_TRAIN_CLIPS.split(), 100),
    'GOPR0372_07_01': 75,
    'GOPR0374_11_00': 150,
    'GOPR0374_11_01': 80,
    'GOPR0374_11_03': 48,
    'GOPR0378_13_00': 110,
    'GOPR0380_11_00': 60,
    'GOPR0477_11_00': 80,
}
_GOPRO_TEST = {**dict.fromkeys(_GOPRO_TEST_CLIPS.split(), 100), 'GOPR0410_11_00': 134, 'GOPR0862_11_00': 77}

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
        what='which blurry frames to convert',
        values={
            'blur': 'averaged with a linear camera response: the stored values themselves',
            'blur_gamma': 'averaged with a gamma 2.2 camera response: in linear light',
        },
        default='blur',
    ),
    clips={'train': _GOPRO_TRAIN, 'test': _GOPRO_TEST},
    totals={'train': (22, 2103), 'test': (11, 1111)},
)

_DVD_TEST_VIDEOS = '720p_240fps_2 IMG_0003 IMG_0021 IMG_0030 IMG_0031 IMG_0032 IMG_0033 IMG_0037 IMG_0039 IMG_0049'
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
    clips={'test': dict.fromkeys(_DVD_TEST_VIDEOS.split(), 100)},
    totals={'train': (61, 5708), 'test': (10, 1000)},
    split_of_other_clips='train',
    remark='If no folder names the split, these ten videos of the published results are for testing: '
    f'{", ".join(_DVD_TEST_VIDEOS.split())}. All others are for training.',
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
        what='which exposure times to convert',
        values={
            '1ms8ms': 'sharp frames exposed for 1 ms, blurry ones for 8 ms',
            '2ms16ms': 'sharp frames exposed for 2 ms, blurry ones for 16 ms',
            '3ms24ms': 'sharp frames exposed for 3 ms, blurry ones for 24 ms',
        },
        default=None,
    ),
    totals={'train': (60, 6000), 'test': (20, 3000)},
    remark='RAW frames are ignored. Convert each exposure to a separate folder. Test sequences have 150 frames; in the '
    'older BSD_test100 they have 100, and scores on it are not comparable.',
)

LAYOUTS = (GOPRO, DVD, BSD)


def is_litter(name: str) -> bool:
    """Return True for hidden files, leftovers of other systems, and our own output."""
    return name.startswith('.') or name.casefold() in _LITTER or name.endswith(('.lmdb', '.lmdb.partial'))


def find_clips(layout: Layout, source: Path, choice: str | None) -> Found:
    """Find the clips of a data set in a folder.

    Args:
        layout: the data set's description.
        source: the folder that the user gave.
        choice: a value of `layout.choice`; None if the layout has no choice.

    Raises:
        DataError: `source` contains no clip in any known arrangement or not the chosen variant, or a clip lacks one of
            its folders or belongs to no known split.
    """
    if not source.is_dir():
        what = 'is not a folder' if source.exists() else 'does not exist'
        raise DataError(f'SOURCE {source} {what}; give the folder that {layout.title} was unpacked to')
    roots = _roots(layout, source)
    candidates = [
        _search(layout, root, arrangement, choice)
        for root, named in roots.items()
        if named in (None, choice)
        for arrangement in layout.arrangements
    ]
    # The arrangement with most complete clips, then with most folders; the first of equals.
    best = max(
        candidates, key=lambda found: (len(found.blur.keys() & found.sharp.keys()), found.num_folders), default=None
    )
    choices = _choices_present(layout, roots, best)
    if (best is None or not best.blur) and choices and choice not in choices and layout.choice is not None:
        value = choices[0]
        raise DataError(
            f'SOURCE {source} contains no {choice!r} frames, only {value!r} ({layout.choice.values[value]}); '
            f'to convert these, add {layout.choice.option} {value}'
        )
    if best is None or best.num_folders == 0:
        raise DataError(_nothing_found(layout, source))
    return Found(_complete_clips(layout, best, choice), best.arrangement, choices)


_ClipKey: TypeAlias = tuple['str | None', str]
"""Split, if a folder names it, and clip."""


@dataclass(frozen=True)
class _Search:
    """Folders that one arrangement finds below one root."""

    root: Path
    arrangement: Arrangement
    blur: Mapping[_ClipKey, Path]
    sharp: Mapping[_ClipKey, Path]

    @property
    def num_folders(self) -> int:
        return len(self.blur) + len(self.sharp)


def _roots(layout: Layout, source: Path) -> dict[Path, str | None]:
    """Folders that may contain the data set, SOURCE first, each with the value of the choice in its name."""
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
    return _Search(root, arrangement, blur, sharp)


def _expand(
    layout: Layout, folder: Path, parts: list[str], choice: str | None, split: str | None = None, clip: str = ''
) -> Iterator[tuple[_ClipKey, Path]]:
    """Yield all existing folders that match a path with placeholders, each with its split and clip."""
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
        for child in _folders(folder):
            # Otherwise `{clip}/input` would match `train/input`.
            if split is not None or child.name.casefold() not in layout.splits:
                yield from _expand(layout, child, rest, choice, split, child.name)
    else:
        child = _child(folder, part.replace('{choice}', choice or ''))
        if child is not None:
            yield from _expand(layout, child, rest, choice, split, clip)


def _folders(folder: Path) -> list[Path]:
    folders = [path for path in folder.iterdir() if not is_litter(path.name) and path.is_dir()]
    return sorted(folders, key=lambda path: natural_key(path.name))


def _child(folder: Path, names: str) -> Path | None:
    """Return the folder in `folder` with one of the names (`a|b`) in any case; the exact spelling is preferred."""
    alternatives = names.split('|')
    for name in alternatives:
        if (folder / name).is_dir():
            return folder / name
    folded = {name.casefold() for name in alternatives}
    return next((path for path in _folders(folder) if path.name.casefold() in folded), None)


def _choices_present(layout: Layout, roots: Mapping[Path, str | None], search: _Search | None) -> tuple[str, ...]:
    """Values of the choice in the names of folders: those of the frames, or the root's."""
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
    seen: set[_ClipKey] = set()
    for template in (search.arrangement.blur, search.arrangement.sharp):
        parts = template.split('/')
        up_to_clip = parts[: parts.index('{clip}') + 1]
        seen.update(key for key, _ in _expand(layout, search.root, up_to_clip, choice))
    for key in sorted(seen, key=lambda key: (key[0] or '', natural_key(key[1]))):
        split, name = key[0] or _split_by_name(layout, key[1]), key[1]
        label = f'{split or "?"}/{name}'
        if split is None:
            problems.add(f'{label}: no folder says whether it belongs to {" or ".join(layout.splits)}')
        missing = [side for side, found in (('blurry', search.blur), ('sharp', search.sharp)) if key not in found]
        if missing:
            problems.add(f'{label}: no folder of {" and no folder of ".join(missing)} frames')
        else:
            clips.append(Clip(split or '', name, search.blur[key], search.sharp[key]))
    problems.raise_if_any(
        f'{search.root} contains incomplete clips ({counted(len(problems), "problem")})',
        f'Expected: {layout.format_arrangement(search.arrangement, choice)}. Nothing was written.',
    )
    return tuple(sorted(clips, key=lambda clip: (layout.splits.index(clip.split), natural_key(clip.name))))


def _split_by_name(layout: Layout, clip: str) -> str | None:
    for split, names in layout.clips.items():
        if clip in names:
            return split
    return layout.split_of_other_clips


def _nothing_found(layout: Layout, source: Path) -> str:
    expected = '\n'.join(f'  {layout.format_arrangement(arrangement)}' for arrangement in layout.arrangements)
    names = sorted(path.name for path in source.iterdir() if not is_litter(path.name))
    contents = ', '.join(names[:8]) + (', ...' if len(names) > 8 else '') if names else 'nothing'
    hint = f'\nDid you mean {source.parent}, the folder above {source.name}?' if source.name in layout.splits else ''
    return (
        f'SOURCE {source} contains no clips of {layout.title}. It contains: {contents}.\n'
        f'Known arrangements of the folders of frames:\n{expected}{hint}'
    )

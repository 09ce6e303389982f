"""The footage that pictures are made of: one clip as several sources have it, matched frame by frame."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from dstnet_arch.data.frame_source import (
    IMAGE_EXTENSIONS,
    FolderSource,
    FrameSource,
    name_some,
    open_source,
    size_text,
)
from dstnet_arch.data.lmdb_format import natural_key
from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.visualize.canvas import Image

SHARP_NAMES = ('sharp', 'gt', 'GT')
"""A source of such a name is taken for the ground truth."""


class Spec(NamedTuple):
    """A source as it is asked for: its name in the picture, and its folder."""

    name: str
    path: Path


@dataclass(frozen=True)
class Track:
    """One source's frames of the clip.

    Attributes:
        name: the source's name in pictures.
        source: where they are read from.
        clip: the clip's name there.
        frames: frame -> its name there, which may have a suffix; in natural order.
    """

    name: str
    source: FrameSource
    clip: str
    frames: Mapping[str, str]

    def read(self, frame: str) -> Image:
        """(H, W, 3) uint8 RGB, as stored. Raises DataError where it cannot be read."""
        return self.source.read(self.clip, self.frames[frame])

    def shape(self, frame: str) -> tuple[int, int]:
        """(height, width), without decoding the picture."""
        return self.source.shape(self.clip, self.frames[frame])

    def __str__(self) -> str:
        return f'{self.name} ({self.source.root}, clip {self.clip})'


@dataclass(frozen=True)
class Footage:
    """One clip as several sources have it.

    Attributes:
        clip: its name for titles; empty where the sources call it differently.
        tracks: one for each source, under different names.
    """

    clip: str
    tracks: Sequence[Track]

    @property
    def names(self) -> list[str]:
        return [track.name for track in self.tracks]

    def title(self, frame: str) -> str:
        return f'{self.clip}/{frame}' if self.clip else frame

    def read(self, frame: str) -> dict[str, Image]:
        """The frame as each source has it."""
        return {track.name: track.read(frame) for track in self.tracks}

    def choose_frame(self, wanted: str | None) -> str:
        """A frame that all sources have in one size: the wanted one, or the middle one of those that all have.

        Raises:
            OptionsError: no source has the wanted frame.
            DataError: a source lacks it, or has it in another size.
        """
        if wanted is None:
            shared = self._shared()
            if not shared:
                raise DataError(self._lacking(self._all()))
            wanted = shared[len(shared) // 2]
        self._check_known('--frame', wanted)
        if any(wanted not in track.frames for track in self.tracks):
            raise DataError(self._lacking([wanted]))
        self._check_sizes([wanted])
        return wanted

    def choose_frames(self, start: str | None = None, end: str | None = None) -> list[str]:
        """All frames from `start` to `end`, both included, which every source must have, in one size.

        Raises:
            OptionsError: no source has `start` or `end`, or there is nothing between them.
            DataError: a source lacks frames of others, or sizes differ.
        """
        for option, frame in (('--start', start), ('--end', end)):
            if frame is not None:
                self._check_known(option, frame)
        everything = self._all()
        first = 0 if start is None else everything.index(start)
        last = len(everything) if end is None else everything.index(end) + 1
        if not (chosen := everything[first:last]):
            raise OptionsError(f'--start {start} comes after --end {end}. Exchange them.')
        if any(frame not in track.frames for track in self.tracks for frame in chosen):
            raise DataError(self._lacking(chosen))
        self._check_sizes(chosen)
        return chosen

    def _all(self) -> list[str]:
        return sorted({frame for track in self.tracks for frame in track.frames}, key=natural_key)

    def _shared(self) -> list[str]:
        return [frame for frame in self._all() if all(frame in track.frames for track in self.tracks)]

    def _check_known(self, option: str, frame: str) -> None:
        frames = self._all()
        if frame not in frames:
            hint = f' Did you mean {near}?' if (near := _nearest(frame, frames)) else ''
            raise OptionsError(
                f'{option} {frame} is in none of the sources, whose frames are {frames[0]} to {frames[-1]}.{hint}'
            )

    def _lacking(self, wanted: Sequence[str]) -> str:
        lines = [f'The sources do not have the same frames of {self.clip or "the clip"}:']
        for track in self.tracks:
            if missing := [frame for frame in wanted if frame not in track.frames]:
                lines.append(f'- {track} lacks {name_some(missing)}')
        if shared := self._shared():
            mend = f'All have {len(shared)} from {shared[0]} to {shared[-1]}: choose among them, or make the others'
        else:
            called = ', '.join(f'{next(iter(track.frames))} in {track.name}' for track in self.tracks)
            mend = f'Their first frames are {called}. Where names end in "_NAME", --suffix NAME leaves that out'
        return '\n'.join([*lines, f'{mend}.'])

    def _check_sizes(self, frames: Iterable[str]) -> None:
        seen: dict[tuple[int, int], str] = {}
        for frame in frames:
            for track in self.tracks:
                seen.setdefault(track.shape(frame), f'{track.name} (frame {frame})')
        if len(seen) > 1:
            sizes = ', '.join(f'{size_text(size)} in {where}' for size, where in seen.items())
            raise DataError(f'The frames differ in size: {sizes}. Only frames of one size can be put side by side.')


def open_footage(specs: Sequence[Spec], clip: str | None = None, suffixes: Collection[str] = ()) -> Footage:
    """Open the sources at one clip.

    Args:
        specs: each an LMDB folder or a folder of clip folders, of which the clip is taken; or a folder of frames,
            which is the clip itself.
        clip: by default the first that all have.
        suffixes: what names of frames may end in, after an underscore: results that were saved with `val.suffix`.

    Raises:
        OptionsError: no source, or two of one name; the clip is unknown, or must be given.
        DataError: a source cannot be read, or they have no clip in common.
    """
    names = [spec.name for spec in specs]
    if not names:
        raise OptionsError('No source was given. Give one or more as NAME=FOLDER, or -opt with the options of a test.')
    if twice := {name for name in names if names.count(name) > 1}:
        raise OptionsError(f'Two sources are called {", ".join(sorted(twice))}. Give each a name of its own.')
    roots: dict[str, FrameSource] = {}
    folders: dict[str, tuple[FrameSource, str]] = {}
    for name, path in specs:
        if _holds_frames(path) and not (clip and (path / clip).is_dir()):
            folders[name] = FolderSource(path.parent, [path.name]), path.name
        else:
            roots[name] = open_source(path)
    chosen = _choose_clip(roots, clip, alone=not folders) if roots else None
    tracks = []
    for name in names:
        source, own = folders[name] if name in folders else (roots[name], chosen or '')
        tracks.append(Track(name, source, own, _strip(source.clips[own], suffixes)))
    return Footage(chosen or _common_name([Path(os.path.abspath(path)) for _, path in specs]), tracks)


def _choose_clip(roots: Mapping[str, FrameSource], wanted: str | None, alone: bool) -> str:
    if wanted is not None:
        for name, source in roots.items():
            if wanted not in source.clips:
                hint = f' Did you mean {near}?' if (near := _nearest(wanted, source.clips)) else ''
                raise OptionsError(
                    f'There is no clip {wanted} in {name} ({source.root}), which has {name_some(list(source.clips))}.'
                    f'{hint}'
                )
        return wanted
    first = next(iter(roots.values()))
    shared = [clip for clip in first.clips if all(clip in source.clips for source in roots.values())]
    if not shared:
        lines = (f'- {name} ({source.root}): {name_some(list(source.clips))}' for name, source in roots.items())
        raise DataError('\n'.join(['The sources have no clip in common; rename or choose others:', *lines]))
    if not alone and len(shared) > 1:
        # Clips of different videos often number their frames alike: a mismatch would not be noticed.
        raise OptionsError(
            f'Some sources are the folder of one clip, others have several: {name_some(shared)}. Choose with --clip.'
        )
    return shared[0]


def _common_name(clips: Sequence[Path]) -> str:
    """What folders of one clip are called, or the folder that they are in: `<clip>/blur` and `<clip>/sharp`."""
    own, above = {clip.name for clip in clips}, {clip.parent.name for clip in clips}
    return next((names.pop() for names in (own, above) if len(names) == 1), '')


def _holds_frames(path: Path) -> bool:
    """Whether a folder is that of one clip. What cannot be read is left to `open_source`, which says why."""
    try:
        with os.scandir(path) as entries:
            return any(
                entry.name.lower().endswith(IMAGE_EXTENSIONS) and not entry.name.startswith('.') and entry.is_file()
                for entry in entries
            )
    except OSError:
        return False


def _strip(names: Iterable[str], suffixes: Collection[str]) -> dict[str, str]:
    frames: dict[str, str] = {}
    for name in names:
        ends = [f'_{suffix}' for suffix in suffixes if name.endswith(f'_{suffix}')]
        frame = name.removesuffix(max(ends, key=len, default=''))
        if frame in frames:
            raise OptionsError(
                f'Without --suffix, both {frames[frame]} and {name} are the frame {frame}. '
                'Keep the frames of different networks in different folders.'
            )
        frames[frame] = name
    return frames


def _nearest(name: str, names: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(name, list(names), 1, 0.5)), None)


# The command line, which all kinds of pictures share


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments that `footage_of` reads."""
    parser.add_argument(
        'sources',
        nargs='*',
        type=_spec,
        metavar='NAME=FOLDER',
        help='what to show, in this order: an LMDB, a folder of clip folders, or the folder of one clip',
    )
    parser.add_argument(
        '-opt',
        metavar='FILE',
        help='options of a test that has saved its pictures: shows blurry, restored and, where there is one, sharp; '
        'NAME=FOLDER adds others',
    )
    parser.add_argument('--dataset', metavar='KEY', help='which one under datasets of -opt; by default the first')
    parser.add_argument('--clip', help='by default the first that all sources have')
    parser.add_argument(
        '--suffix',
        action='append',
        default=[],
        metavar='NAME',
        help='leave "_NAME" out at the ends of names of frames (val.suffix of a test); may be repeated',
    )


def add_frame_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--frame', metavar='[CLIP/]FRAME', help='by default the middle one')


def add_range_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--start', metavar='FRAME', help='first frame; by default that of the clip')
    parser.add_argument('--end', metavar='FRAME', help='last frame, included; by default that of the clip')


def footage_of(args: argparse.Namespace) -> Footage:
    """The footage that the command line asks for. ``--frame CLIP/FRAME`` is split into its two arguments.

    Raises:
        OptionsError, DataError: see `open_footage`; or the options file is wrong, or its test has saved no pictures.
    """
    if '/' in (getattr(args, 'frame', None) or ''):
        clip, _, args.frame = args.frame.rpartition('/')
        if args.clip not in (None, clip):
            raise OptionsError(f'--frame names the clip {clip}, --clip {args.clip}. Leave one of them out.')
        args.clip = clip
    specs, suffixes = list(args.sources), set(args.suffix)
    if args.opt:
        before, after, suffix = _specs_of_test(args.opt, args.dataset)
        specs = before + specs + after
        suffixes |= {suffix} - {''}
    return open_footage(specs, args.clip, suffixes)


def options_of_test(file: str, dataset: str | None) -> tuple[dict[str, Any], Path, str]:
    """A test's data set, the folder of its results, and the suffix of the pictures in there.

    Raises:
        OptionsError: the file is wrong, or has no such data set.
    """
    from dstnet_arch.plugin.options import read_options  # only here: it needs what registers BasicSR's parts
    from dstnet_arch.plugin.options_sections import FILE_NAME

    opt = read_options(file, whoevers=True)
    datasets = opt.get('datasets')
    if not isinstance(datasets, dict) or not datasets or (dataset is not None and dataset not in datasets):
        there = ', '.join(datasets) if isinstance(datasets, dict) else 'none'
        raise OptionsError(f'{dataset or "no key"} given; the data sets of these options are: {there}.')
    key = dataset or next(iter(datasets))
    chosen, val = datasets[key], opt.get('val') or {}
    for place, section in (('name', opt), (f'datasets:{key}:name', chosen)):
        name = section.get('name') if isinstance(section, dict) else None
        if not isinstance(name, str) or not re.fullmatch(FILE_NAME, name):
            raise OptionsError(f'{file}: {place} is {name!r}; it names a folder of results: text without slashes.')
    suffix = val.get('suffix') if isinstance(val, dict) else None
    return dict(chosen), Path('results', opt['name']), str(suffix or '')


def _specs_of_test(file: str, key: str | None) -> tuple[list[Spec], list[Spec], str]:
    dataset, results, suffix = options_of_test(file, key)
    pictures = results / 'visualization' / dataset['name']
    if not pictures.is_dir():
        raise DataError(
            f'There are no restored frames in {pictures} (seen from {Path.cwd()}). Make them with '
            f'python -m basicsr.test -opt {file} --force_yml val:save_img=true'
        )
    before = [Spec('blurry', Path(dataset['dataroot_lq'])), Spec('restored', pictures)]
    after = [Spec('sharp', Path(dataset['dataroot_gt']))] if dataset.get('dataroot_gt') else []
    return before, after, suffix


def _spec(text: str) -> Spec:
    name, equals, path = text.partition('=')
    if not (name.strip() and equals and path):
        raise argparse.ArgumentTypeError(f'{text!r} is no source: give NAME=FOLDER, e.g. blurry=datasets/test/blur')
    return Spec(name.strip(), Path(path))

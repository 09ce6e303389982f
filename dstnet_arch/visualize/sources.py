"""Sources of figures: one clip as several sources have it, matched frame by frame."""

from __future__ import annotations

import argparse
import os
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
from dstnet_arch.data.image_file import to_8_bit
from dstnet_arch.data.lmdb_format import natural_key
from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.visualize.figures import Image

SHARP_NAMES = ('sharp', 'gt', 'GT')
"""Names of sources that are used as ground truth by default."""


class Spec(NamedTuple):
    """A source given by the user: its name in the figure and its folder."""

    name: str
    path: Path


@dataclass(frozen=True)
class Track:
    """One source's frames of the clip."""

    name: str
    source: FrameSource
    clip: str
    """Name of the clip in this source."""
    frames: Mapping[str, str]
    """Frame -> its name in this source, which may have a suffix; in natural order."""

    def read(self, frame: str) -> Image:
        """Read a frame: (H, W, 3), RGB, uint8 or uint16."""
        return to_8_bit(self.source.read(self.clip, self.frames[frame]))

    def shape(self, frame: str) -> tuple[int, int]:
        """Return (height, width) of a frame."""
        return self.source.shape(self.clip, self.frames[frame])


@dataclass(frozen=True)
class Footage:
    """One clip as several sources have it."""

    clip: str
    """Name of the clip for titles; empty if the sources use different names."""
    tracks: Sequence[Track]

    def title(self, frame: str) -> str:
        """Return `CLIP/FRAME`."""
        return f'{self.clip}/{frame}' if self.clip else frame

    def read(self, frame: str) -> dict[str, Image]:
        """Read the frame from each source."""
        return {track.name: track.read(frame) for track in self.tracks}

    def choose_frame(self, wanted: str | None) -> str:
        """Return a frame that all sources have in the same size: `wanted`, or the middle one of those in common.

        Raises:
            OptionsError: no source has `wanted`.
            DataError: some source lacks the frame, or has it in another size.
        """
        everything = self._all()
        if wanted is None:
            shared = [frame for frame in everything if all(frame in track.frames for track in self.tracks)]
            wanted = shared[len(shared) // 2] if shared else everything[0]
        self._check_known('--frame', wanted)
        self._check([wanted])
        return wanted

    def choose_frames(self, start: str | None = None, end: str | None = None) -> list[str]:
        """Return all frames from `start` to `end`, inclusive.

        Raises:
            OptionsError: no source has `start` or `end`, or there is nothing between them.
            DataError: some source lacks frames, or sizes differ.
        """
        for option, frame in (('--start', start), ('--end', end)):
            if frame is not None:
                self._check_known(option, frame)
        everything = self._all()
        first = 0 if start is None else everything.index(start)
        last = len(everything) if end is None else everything.index(end) + 1
        if not (chosen := everything[first:last]):
            raise OptionsError(f'--start {start} comes after --end {end}. Swap them.')
        self._check(chosen)
        return chosen

    def _all(self) -> list[str]:
        return sorted({frame for track in self.tracks for frame in track.frames}, key=natural_key)

    def _check_known(self, option: str, frame: str) -> None:
        frames = self._all()
        if frame not in frames:
            raise OptionsError(
                f'{option} {frame} is in none of the sources; their frames are {frames[0]} to {frames[-1]}.'
                f'{_suggestion(frame, frames)}'
            )

    def _check(self, wanted: Sequence[str]) -> None:
        """Check that all sources have these frames in the same size."""
        lines = [
            f'- {track.name} ({track.source.root}, clip {track.clip}) lacks {name_some(missing)}'
            for track in self.tracks
            if (missing := [frame for frame in wanted if frame not in track.frames])
        ]
        if lines:
            shared = [frame for frame in self._all() if all(frame in track.frames for track in self.tracks)]
            if shared:
                advice = f'All have {len(shared)} frames from {shared[0]} to {shared[-1]}: choose among these.'
            else:
                names = ', '.join(f'{next(iter(track.frames))} in {track.name}' for track in self.tracks)
                advice = f'Their first frames are {names}. If names end in "_NAME", use --suffix NAME.'
            raise DataError(
                '\n'.join([f'The sources have different frames of {self.clip or "the clip"}:', *lines, advice])
            )
        sizes = {
            track.shape(frame): f'{size_text(track.shape(frame))} in {track.name} (frame {frame})'
            for frame in wanted
            for track in self.tracks
        }
        if len(sizes) > 1:
            raise DataError(f'The frames differ in size: {", ".join(sizes.values())}. They must have the same size.')


def open_footage(specs: Sequence[Spec], clip: str | None = None, suffixes: Collection[str] = ()) -> Footage:
    """Open one clip of the sources.

    Args:
        specs: Each is an LMDB folder, a folder of clip folders, or the folder of one clip.
        clip: Name of the clip; default: the first that all have.
        suffixes: Suffixes of frame names after an underscore, from `val.suffix` of tests.

    Raises:
        OptionsError: no source, or two of the same name; the clip is unknown or ambiguous.
        DataError: a source cannot be read, or the sources have no clip in common.
    """
    names = [spec.name for spec in specs]
    if not names:
        raise OptionsError('No source was given. Give sources as NAME=FOLDER, or -opt with the options of a test.')
    if twice := {name for name in names if names.count(name) > 1}:
        raise OptionsError(f'Two sources have the name {", ".join(sorted(twice))}. Names must be unique.')
    sources: dict[str, FrameSource] = {}
    own: dict[str, str] = {}  # clips of the sources that are the folder of one clip
    for name, path in specs:
        if _has_frames(path) and not (clip and (path / clip).is_dir()):
            sources[name], own[name] = FolderSource(path.parent, {path.name: path}), path.name
        else:
            sources[name] = open_source(path)
    with_clips = {name: source for name, source in sources.items() if name not in own}
    chosen = _choose_clip(with_clips, clip, bool(own)) if with_clips else None
    tracks = []
    for name, source in sources.items():
        track_clip = own.get(name, chosen or '')
        tracks.append(Track(name, source, track_clip, _strip(source.clips[track_clip], suffixes)))
    return Footage(chosen or _common_name([Path(os.path.abspath(path)) for _, path in specs]), tracks)


def sharp_of(names: Collection[str], wanted: str | None) -> str | None:
    """Return the name of the ground truth, if there is one.

    Raises:
        OptionsError: `wanted` is not a source.
    """
    if wanted is not None and wanted not in names:
        raise OptionsError(f'--sharp {wanted} is not a source; the sources are {", ".join(names)}.')
    return wanted or next((name for name in SHARP_NAMES if name in names), None)


def _choose_clip(sources: Mapping[str, FrameSource], wanted: str | None, ambiguous: bool) -> str:
    for name, source in sources.items():
        if wanted is not None and wanted not in source.clips:
            raise OptionsError(
                f'{name} ({source.root}) has no clip {wanted}; its clips are {name_some(list(source.clips))}.'
                f'{_suggestion(wanted, source.clips)}'
            )
    if wanted is not None:
        return wanted
    first = next(iter(sources.values()))
    shared = [clip for clip in first.clips if all(clip in source.clips for source in sources.values())]
    if not shared:
        lines = (f'- {name} ({source.root}): {name_some(list(source.clips))}' for name, source in sources.items())
        raise DataError('\n'.join(['The sources have no clip in common:', *lines]))
    if ambiguous and len(shared) > 1:
        # Clips of different videos often have the same frame names: a mismatch would not be noticed.
        raise OptionsError(
            f'Some sources are the folder of one clip, others have several: {name_some(shared)}. Choose with --clip.'
        )
    return shared[0]


def _common_name(clips: Sequence[Path]) -> str:
    """Name shared by the clip folders or by their parents (`<clip>/blur` and `<clip>/sharp`)."""
    own, parents = {clip.name for clip in clips}, {clip.parent.name for clip in clips}
    return next((names.pop() for names in (own, parents) if len(names) == 1), '')


def _has_frames(path: Path) -> bool:
    try:
        return any(
            entry.suffix.lower() in IMAGE_EXTENSIONS and not entry.name.startswith('.') and entry.is_file()
            for entry in path.iterdir()
        )
    except OSError:
        return False  # open_source reports the reason


def _strip(names: Iterable[str], suffixes: Collection[str]) -> dict[str, str]:
    frames: dict[str, str] = {}
    for name in names:
        ends = [f'_{suffix}' for suffix in suffixes if name.endswith(f'_{suffix}')]
        frame = name.removesuffix(max(ends, key=len, default=''))
        if frame in frames:
            raise OptionsError(f'Without --suffix, {frames[frame]} and {name} are both frame {frame}.')
        frames[frame] = name
    return frames


def _suggestion(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), 1, 0.5)
    return f' Did you mean {near[0]}?' if near else ''


# Command line


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
        help='options of a test with saved images: shows blurry, restored and, if available, sharp; '
        'NAME=FOLDER adds others',
    )
    parser.add_argument('--dataset', metavar='KEY', help='key under datasets of -opt (default: the first)')
    parser.add_argument('--clip', help='clip to show (default: the first that all sources have)')
    parser.add_argument(
        '--suffix',
        action='append',
        default=[],
        metavar='NAME',
        help='ignore "_NAME" at the end of frame names (val.suffix of a test); may be repeated',
    )


def add_frame_arguments(parser: argparse.ArgumentParser) -> None:
    """Define --frame and --sharp."""
    parser.add_argument('--frame', metavar='[CLIP/]FRAME', help='frame to show (default: the middle one)')
    parser.add_argument(
        '--sharp', metavar='NAME', help=f'ground truth (default: the source {" or ".join(SHARP_NAMES)})'
    )


def footage_of(args: argparse.Namespace) -> Footage:
    """Open the footage that the command line asks for; `--frame CLIP/FRAME` is split into its two arguments.

    Raises:
        OptionsError: see `open_footage`; or the options file is wrong.
        DataError: see `open_footage`; or the test did not save images.
    """
    if '/' in (args.frame or ''):
        clip, _, args.frame = args.frame.rpartition('/')
        if args.clip not in (None, clip):
            raise OptionsError(f'--frame names the clip {clip}, but --clip is {args.clip}. Use one of them.')
        args.clip = clip
    specs, suffixes = list(args.sources), set(args.suffix)
    if args.opt:
        dataset, results, suffix = options_of_test(args.opt, args.dataset)
        images = results / 'visualization' / dataset['name']
        if not images.is_dir():
            raise DataError(
                f'{images} does not exist (seen from {Path.cwd()}). Save the restored frames first: '
                f'python -m basicsr.test -opt {args.opt} --force_yml val:save_img=true'
            )
        sharp = [Spec('sharp', Path(dataset['dataroot_gt']))] if dataset.get('dataroot_gt') else []
        specs = [Spec('blurry', Path(dataset['dataroot_lq'])), Spec('restored', images), *specs, *sharp]
        suffixes |= {suffix} - {''}
    return open_footage(specs, args.clip, suffixes)


def options_of_test(file: str, key: str | None) -> tuple[dict[str, Any], Path, str]:
    """Return a test's data set, the folder of its results, and the suffix of its saved images.

    Raises:
        OptionsError: the file is wrong or has no such data set.
    """
    import yaml

    from dstnet_arch.plugin.options import find_options

    try:
        opt = yaml.safe_load(find_options(file).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise OptionsError(f'-opt {file} cannot be read: {error}') from None
    datasets = opt.get('datasets') if isinstance(opt, dict) else None
    if not isinstance(datasets, dict) or not datasets:
        raise OptionsError(f'-opt {file} has no data sets. Give the options file of a test.')
    if key is not None and key not in datasets:
        raise OptionsError(f'--dataset {key} is unknown; the data sets of {file} are {", ".join(map(str, datasets))}.')
    dataset, val = datasets[key or next(iter(datasets))], opt.get('val')
    for section in (opt, dataset):
        name = section.get('name') if isinstance(section, dict) else None
        if not isinstance(name, str) or not name.strip('.') or set(name) & set('/\\:'):
            raise OptionsError(f'{file}: name is {name!r}; it must be the name of a folder of results.')
    if not isinstance(dataset.get('dataroot_lq'), str):
        raise OptionsError(f'{file}: the data set {dataset["name"]} has no dataroot_lq.')
    suffix = val.get('suffix') if isinstance(val, dict) else None
    return dataset, Path('results', opt['name']), str(suffix or '')


def _spec(text: str) -> Spec:
    name, equals, path = text.partition('=')
    if not (name.strip() and equals and path):
        raise argparse.ArgumentTypeError(f'{text!r} is not a source; write NAME=FOLDER, e.g. blurry=datasets/test/blur')
    return Spec(name.strip(), Path(path))

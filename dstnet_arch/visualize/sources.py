"""Sources of figures: versions of one clip, matched by the names of their frames."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dstnet_arch.data.folder_layouts import image_files
from dstnet_arch.data.frame_source import FolderSource, FrameSource, name_some, open_source, size_text
from dstnet_arch.data.lmdb_format import natural_key
from dstnet_arch.data.pairing import open_sources
from dstnet_arch.errors import DataError, OptionsError


class Place(NamedTuple):
    """Where a source has a frame."""

    source: FrameSource
    clip: str
    frame: str


@dataclass(frozen=True)
class Footage:
    """One clip as several sources have it.

    Attributes:
        clip: Name of the clip for titles; empty if every source is the folder of one clip.
        tracks: Name of the source -> frame -> its place.
    """

    clip: str
    tracks: Mapping[str, Mapping[str, Place]]

    def title(self, frame: str) -> str:
        """Return `CLIP/FRAME`."""
        return f'{self.clip}/{frame}' if self.clip else frame

    def read_from(self, name: str, frame: str) -> Any:
        """Read a frame of one source: (H, W, 3), RGB, uint8 or uint16."""
        place = self.tracks[name][frame]
        return place.source.read(place.clip, place.frame)

    def read(self, frame: str) -> dict[str, Any]:
        """Read the frame of each source."""
        return {name: self.read_from(name, frame) for name in self.tracks}

    def choose_frame(self, wanted: str | None) -> str:
        """Return `wanted`, or the middle one of the frames that all sources have; errors as `choose_frames`."""
        frames = self.choose_frames(wanted, wanted)
        return frames[len(frames) // 2]

    def choose_frames(self, start: str | None, end: str | None) -> list[str]:
        """Return the frames that all sources have, from `start` (default: the first) to `end` (default: the last).

        Raises:
            OptionsError: there are no such frames.
            DataError: the sources have no frames in common, or in different sizes.
        """
        tracks = list(self.tracks.values())
        shared = sorted(set(tracks[0]).intersection(*tracks[1:]), key=natural_key)
        if not shared:
            names = ', '.join(f'{next(iter(track.values())).frame} in {name}' for name, track in self.tracks.items())
            raise DataError(
                f'The sources have no frame names in common; the first frames are {names}. If names end in "_NAME", '
                'use --suffix NAME.'
            )
        for frame in (start, end):
            if frame is not None and frame not in shared:
                raise OptionsError(
                    f'Not all sources have the frame {frame}. Frames in all: {shared[0]} to {shared[-1]}.'
                )
        chosen = shared[shared.index(start or shared[0]) : shared.index(end or shared[-1]) + 1]
        if not chosen:
            raise OptionsError(f'--start {start} comes after --end {end}. Swap them.')
        sizes = {
            place.source.shape(place.clip, place.frame): name
            for name, track in self.tracks.items()
            for place in map(track.__getitem__, chosen)
        }
        if len(sizes) > 1:
            found = ', '.join(f'{size_text(size)} in {name}' for size, name in sizes.items())
            raise DataError(f'The frames differ in size: {found}.')
        return chosen


def open_footage(args: argparse.Namespace) -> Footage:
    """Open the sources of the command line; `--frame CLIP/FRAME` is split into its two arguments.

    Raises:
        OptionsError: there is no source, two have the same name, or the clip is unknown or ambiguous.
        DataError: a source cannot be read, or the sources have no clip in common.
    """
    if '/' in (getattr(args, 'frame', None) or ''):
        args.clip, _, args.frame = args.frame.rpartition('/')
    single = {name for name, path in args.sources if path.is_dir() and image_files(path)}  # folders of one clip
    given = [
        (name, FolderSource(path.parent, {path.name: path}) if name in single else open_source(path))
        for name, path in args.sources
    ]
    if args.opt:
        given = _open_test(args, given)
    sources = dict(given)
    if not sources:
        raise OptionsError('No source was given. Give sources as NAME=FOLDER, or -opt with the options of a test.')
    if len(sources) < len(given):
        raise OptionsError('Two sources have the same name. Names must be unique.')
    several = {name: source for name, source in sources.items() if name not in single}
    clip = _choose_clip(several, args.clip, ambiguous=bool(single)) if several else ''
    tracks = {}
    for name, source in sources.items():
        own = clip if name in several else next(iter(source.clips))
        tracks[name] = {f.removesuffix(f'_{args.suffix}'): Place(source, own, f) for f in source.clips[own]}
    return Footage(clip, tracks)


def _open_test(args: argparse.Namespace, others: list[tuple[str, FrameSource]]) -> list[tuple[str, FrameSource]]:
    """The first data set of a test, its saved images, and other sources."""
    from dstnet_arch.plugin.options import find_options, read_options

    opt = read_options(find_options(args.opt), strict=True)
    key, dataset = next(iter((opt.get('datasets') or {}).items()), ('', None))
    if not dataset:
        raise OptionsError(f'{args.opt} has no data sets. Give the options of a test.')
    images = Path('results', str(opt.get('name')), 'visualization', str(dataset.get('name')))
    if not images.is_dir():
        raise DataError(
            f'{images} does not exist (seen from {Path.cwd()}). Save the restored frames first: '
            f'python -m basicsr.test -opt {args.opt} --force_yml val:save_img=true'
        )
    args.results = images.parent.parent / images.name
    args.suffix = args.suffix or (opt.get('val') or {}).get('suffix')
    lq, gt = open_sources(dataset, gt_required=False, phase=key.partition('_')[0])
    sharp = [] if gt is None else [('sharp', gt)]
    return [('blurry', lq), ('restored', open_source(images)), *others, *sharp]


def _choose_clip(sources: Mapping[str, FrameSource], wanted: str | None, ambiguous: bool) -> str:
    first = next(iter(sources.values()))
    shared = [clip for clip in first.clips if all(clip in source.clips for source in sources.values())]
    if not shared or wanted not in (None, *shared):
        what = f'the clip {wanted}' if wanted else 'a clip in common'
        found = '; '.join(f'{name}: {name_some(list(source.clips))}' for name, source in sources.items())
        raise DataError(f'The sources do not have {what}. Their clips are: {found}.')
    if ambiguous and wanted is None and len(shared) > 1:
        # Clips of different videos often have the same frame names: a mismatch would not be noticed.
        raise OptionsError(f'Some sources are the folder of one clip, others have {len(shared)}. Choose with --clip.')
    return wanted or shared[0]

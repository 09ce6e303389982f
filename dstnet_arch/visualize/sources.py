"""Sources of figures: versions of one clip, matched by the names of their frames."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dstnet_arch.data.folder_layouts import image_files
from dstnet_arch.data.frame_source import FolderSource, FrameSource, name_some, open_source, size_text
from dstnet_arch.data.lmdb_format import natural_key
from dstnet_arch.data.pairing import open_sources
from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.visualize.figures import Image


@dataclass(frozen=True)
class Track:
    """One source's frames of the clip."""

    name: str
    source: FrameSource
    clip: str
    """Name of the clip in this source."""
    frames: Mapping[str, str]
    """Frame -> its name in this source, which may have a suffix."""

    def read(self, frame: str) -> Image:
        """Read a frame: (H, W, 3), RGB, uint8 or uint16."""
        return self.source.read(self.clip, self.frames[frame])

    def shape(self, frame: str) -> tuple[int, int]:
        """Return (height, width) of a frame."""
        return self.source.shape(self.clip, self.frames[frame])


@dataclass(frozen=True)
class Footage:
    """One clip as several sources have it."""

    clip: str
    """Name of the clip for titles; empty if every source is the folder of one clip."""
    tracks: Sequence[Track]

    def title(self, frame: str) -> str:
        """Return `CLIP/FRAME`."""
        return f'{self.clip}/{frame}' if self.clip else frame

    def read(self, frame: str) -> dict[str, Image]:
        """Read the frame from each source."""
        return {track.name: track.read(frame) for track in self.tracks}

    def choose_frame(self, wanted: str | None) -> str:
        """Return `wanted`, or the middle one of the frames that all sources have.

        Raises:
            OptionsError: a source lacks `wanted`.
            DataError: the sources have no frames in common, or in different sizes.
        """
        shared = [frame for frame in self._all_frames() if all(frame in track.frames for track in self.tracks)]
        if not shared:
            names = ', '.join(f'{next(iter(track.frames.values()))} in {track.name}' for track in self.tracks)
            raise DataError(
                f'The sources have no frame names in common; the first frames are {names}. If names end in "_NAME", '
                'use --suffix NAME.'
            )
        if wanted is not None and wanted not in shared:
            raise OptionsError(f'Not all sources have the frame {wanted}. Frames in all: {shared[0]} to {shared[-1]}.')
        frame = wanted or shared[len(shared) // 2]
        self._check_sizes([frame])
        return frame

    def choose_frames(self, start: str | None, end: str | None) -> list[str]:
        """Return the frames from `start` (default: the first) to `end` (default: the last), inclusive.

        Raises:
            OptionsError: there are no such frames.
            DataError: a source lacks some of them, or their sizes differ.
        """
        frames = self._all_frames()
        for option, frame in (('--start', start), ('--end', end)):
            if frame is not None and frame not in frames:
                raise OptionsError(f'{option} {frame} is not a frame. The frames are {frames[0]} to {frames[-1]}.')
        chosen = frames[frames.index(start or frames[0]) : frames.index(end or frames[-1]) + 1]
        if not chosen:
            raise OptionsError(f'--start {start} comes after --end {end}. Swap them.')
        for track in self.tracks:
            if missing := [frame for frame in chosen if frame not in track.frames]:
                raise DataError(f'{track.name} lacks the frames {name_some(missing)}. Use --start and --end.')
        self._check_sizes(chosen)
        return chosen

    def _all_frames(self) -> list[str]:
        return sorted({frame for track in self.tracks for frame in track.frames}, key=natural_key)

    def _check_sizes(self, frames: Sequence[str]) -> None:
        sizes = {track.shape(frame): track.name for frame in frames for track in self.tracks}
        if len(sizes) > 1:
            found = ', '.join(f'{size_text(size)} in {name}' for size, name in sizes.items())
            raise DataError(f'The frames differ in size: {found}.')


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments that `open_footage` reads."""
    parser.add_argument(
        'sources',
        nargs='*',
        type=_source,
        metavar='NAME=FOLDER',
        help='what to show: an LMDB, a folder of clip folders, or the folder of one clip; '
        'the source called sharp is the ground truth of scores',
    )
    parser.add_argument(
        '-opt',
        metavar='FILE',
        help='options of a test with saved images: shows blurry, restored and, if available, sharp; '
        'NAME=FOLDER adds others',
    )
    parser.add_argument('--dataset', metavar='KEY', help='key under datasets of -opt (default: the first)')
    parser.add_argument('--clip', help='clip to show (default: the first that all sources have)')
    parser.add_argument('--frame', metavar='[CLIP/]FRAME', help='frame to show (default: the middle one)')
    parser.add_argument(
        '--suffix', metavar='NAME', help='ignore "_NAME" at the end of frame names (default: val.suffix of -opt)'
    )


def open_footage(args: argparse.Namespace) -> Footage:
    """Open the sources of the command line; `--frame CLIP/FRAME` is split into its two arguments.

    Raises:
        OptionsError: there is no source, two have the same name, or the clip is unknown or ambiguous.
        DataError: a source cannot be read, or the sources have no clip in common.
    """
    if '/' in (args.frame or ''):
        args.clip, _, args.frame = args.frame.rpartition('/')
    given = [(name, _open(path)) for name, path in args.sources]
    if args.opt:
        given = _open_test(args, given)
    sources = dict(given)
    if not sources:
        raise OptionsError('No source was given. Give sources as NAME=FOLDER, or -opt with the options of a test.')
    if len(sources) < len(given):
        raise OptionsError('Two sources have the same name. Names must be unique.')
    single = {name for name, path in args.sources if _is_clip(path)}
    several = {name: source for name, source in sources.items() if name not in single}
    clip = _choose_clip(several, args.clip, ambiguous=bool(single)) if several else ''
    tracks = []
    for name, source in sources.items():
        own = clip if name in several else next(iter(source.clips))
        frames = {frame.removesuffix(f'_{args.suffix}'): frame for frame in source.clips[own]}
        tracks.append(Track(name, source, own, frames))
    return Footage(clip, tracks)


def _open_test(args: argparse.Namespace, others: list[tuple[str, FrameSource]]) -> list[tuple[str, FrameSource]]:
    from dstnet_arch.plugin.options import find_options, read_options

    opt = read_options(find_options(args.opt), strict=True)
    datasets = opt.get('datasets') or {}
    key = args.dataset or next(iter(datasets), '')
    if key not in datasets:
        raise OptionsError(f'{args.opt} has no data set {key}. Its data sets: {", ".join(datasets) or "none"}.')
    images = Path('results', str(opt.get('name')), 'visualization', str(datasets[key].get('name')))
    if not images.is_dir():
        raise DataError(
            f'{images} does not exist (seen from {Path.cwd()}). Save the restored frames first: '
            f'python -m basicsr.test -opt {args.opt} --force_yml val:save_img=true'
        )
    args.suffix = args.suffix or (opt.get('val') or {}).get('suffix')
    lq, gt = open_sources(datasets[key], gt_required=False, phase=key.partition('_')[0])
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


def _open(path: Path) -> FrameSource:
    return FolderSource(path.parent, {path.name: path}) if _is_clip(path) else open_source(path)


def _is_clip(path: Path) -> bool:
    return path.is_dir() and bool(image_files(path))


def _source(text: str) -> tuple[str, Path]:
    name, _, path = text.partition('=')
    if not name.strip() or not path:
        raise argparse.ArgumentTypeError(f'{text!r} is not a source; write NAME=FOLDER, e.g. blurry=datasets/test/blur')
    return name.strip(), Path(path)

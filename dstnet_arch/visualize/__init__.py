"""Figures and a report from the results of a test: ``dstnet visualize compare|crops|profile|report``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dstnet_arch.arguments import check_output, command_parser
from dstnet_arch.errors import OptionsError
from dstnet_arch.files import output_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dstnet_arch.visualize.sources import Footage

FORMATS = ('.png', '.pdf', '.svg')
KINDS = {
    'compare': 'one frame of several sources, side by side or split',
    'crops': 'marked crops of one frame of several sources, with scores of the full frame (Figures 4 to 8)',
    'profile': 'a column of pixels over time, for several sources (Figure 9)',
    'report': 'one HTML page with scores, frames under sliders, a column over time, and the settings of the test',
}
_EPILOG = """\
A source is an LMDB, a folder of clip folders, or the folder of one clip. Captions show PSNR and SSIM-3D of the full
frame if one source is called sharp.

examples:
  dstnet visualize {0} -opt options/test_DSTNet_GoPro.yml --clip GOPR0384_11_00 -o {0}{1}
  dstnet visualize {0} blurry=datasets/GoPro/test_blur.lmdb restored=results/NAME/visualization/GoPro -o {0}{1}"""
_VIDEO = """

For a comparison as video, use ffmpeg:
  ffmpeg -framerate 24 -pattern_type glob -i 'BLURRY/*.png' -framerate 24 -pattern_type glob -i 'RESTORED/*.png' \\
      -filter_complex hstack compared.mp4"""


def command(arguments: Sequence[str]) -> None:
    """Run ``dstnet visualize``."""
    args = _parser().parse_args(arguments)
    check_output(args.output, _suffixes(args.kind), args.overwrite)

    from dstnet_arch.visualize.sources import open_footage

    footage = open_footage(args)
    if args.kind == 'report':
        from dstnet_arch.html import save_page
        from dstnet_arch.visualize.page import report_page

        save_page(args.output, report_page(footage, args.results))
    else:
        draw = {'compare': _compare, 'crops': _crops, 'profile': _profile}[args.kind]
        figure = draw(args, footage)
        with output_file(args.output) as file:
            figure.savefig(file, format=args.output.suffix[1:].lower())
    print(f'Written: {args.output}')


def _parser() -> argparse.ArgumentParser:
    parser = command_parser('dstnet visualize', 'Make figures and a report from the results of a test.')
    parser.set_defaults(results=None)
    kinds = parser.add_subparsers(dest='kind', required=True, metavar='KIND')
    for kind, text in KINDS.items():
        suffixes = _suffixes(kind)
        added = kinds.add_parser(
            kind,
            help=text,
            description=f'Show {text}.',
            epilog=_EPILOG.format(kind, suffixes[0]) + _VIDEO * (kind == 'compare'),
        )
        add = added.add_argument
        add('sources', nargs='*', type=_source, metavar='NAME=FOLDER', help='what to show')
        add('-opt', metavar='FILE', help='options of a test with saved images: adds blurry, restored and sharp')
        add('--suffix', metavar='NAME', help='ignore "_NAME" at the end of frame names (default: val.suffix of -opt)')
        add('--clip', help='clip to show (default: the first that all sources have)')
        if kind != 'report':
            add('--frame', metavar='[CLIP/]FRAME', help='frame to show (default: the middle one)')
        add('-o', '--output', type=Path, default=Path(kind + suffixes[0]), metavar='FILE', help=', '.join(suffixes))
        add('--overwrite', action='store_true', help='replace an existing file')
        if kind == 'compare':
            add('--split', action='store_true', help='show a part of each source in one frame')
        if kind == 'crops':
            text = 'area in pixels; repeatable (default: where the sources differ most)'
            add('--crop', dest='crops', action='append', type=_area, metavar='X,Y,W,H', help=text)
        if kind == 'profile':
            add('--column', type=int, metavar='X', help='pixels from the left (default: the middle column)')
            add('--start', metavar='FRAME', help='first frame (default: the first of the clip)')
            add('--end', metavar='FRAME', help='last frame, inclusive (default: the last of the clip)')
    return parser


def _suffixes(kind: str) -> tuple[str, ...]:
    return ('.html',) if kind == 'report' else FORMATS


def _source(text: str) -> tuple[str, Path]:
    name, _, path = text.partition('=')
    if not name or not path:
        raise argparse.ArgumentTypeError(f'{text!r} is not a source; write NAME=FOLDER, e.g. blurry=datasets/test/blur')
    return name, Path(path)


def _area(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r'\d+(,\d+){3}', text):
        raise argparse.ArgumentTypeError(f'{text!r} is not an area; write LEFT,TOP,WIDTH,HEIGHT, e.g. 400,200,160,120')
    return tuple(map(int, text.split(',')))


def _compare(args: argparse.Namespace, footage: Footage) -> Figure:
    from dstnet_arch.visualize.figures import compare_figure

    frame = footage.choose_frame(args.frame)
    print(f'Frame {footage.title(frame)}')
    return compare_figure(footage.read(frame), args.split)


def _crops(args: argparse.Namespace, footage: Footage) -> Figure:
    from dstnet_arch.visualize.figures import crops_figure, find_crop, scores

    frame = footage.choose_frame(args.frame)
    images = footage.read(frame)
    height, width = next(iter(images.values())).shape[:2]
    crops = args.crops or [find_crop(list(images.values()), max(1, width // 6), max(1, height // 6))]
    for x, y, w, h in crops:
        if x + w > width or y + h > height or min(w, h) < 1:
            raise OptionsError(f'--crop {x},{y},{w},{h} is empty or exceeds the frames of {width}x{height}.')
    print(f'Frame {footage.title(frame)}, crops {" ".join(",".join(map(str, crop)) for crop in crops)}')
    captions = scores(images)
    print(*captions.values(), sep='\n')
    return crops_figure(images, crops, captions, footage.title(frame))


def _profile(args: argparse.Namespace, footage: Footage) -> Figure:
    from dstnet_arch.progress import Progress
    from dstnet_arch.visualize.figures import profile_figure, temporal_profile

    frames = footage.choose_frames(args.start, args.end)
    shown = frames[len(frames) // 2] if args.frame is None else footage.choose_frame(args.frame)
    first = next(iter(footage.read(shown).values()))
    width = first.shape[1]
    column = width // 2 if args.column is None else args.column
    if not 0 <= column < width:
        raise OptionsError(f'--column is {column}; it must be from 0 to {width - 1}.')
    profiles = {}
    with Progress(len(footage.tracks), 'source', 'reading') as progress:
        for name in footage.tracks:
            profiles[name] = temporal_profile((footage.read_from(name, frame) for frame in frames), column)
            progress.update()
    return profile_figure(first, column, profiles, footage.title(shown))

"""Several sources as one video, side by side or each of them a part of the frame."""

from __future__ import annotations

import argparse
from fractions import Fraction

from tqdm import tqdm

from dstnet_arch.arguments import frame_rate
from dstnet_arch.visualize.canvas import add_font_argument
from dstnet_arch.visualize.compare import add_view_arguments, check_view, view
from dstnet_arch.visualize.output import add_output_arguments, check_video, video_writer
from dstnet_arch.visualize.sources import add_range_arguments, add_source_arguments, footage_of

HELP = 'show several results as one video, side by side or split'
EXAMPLES = """\
Saved as .mp4 (MPEG-4 Part 2: for players; browsers do not take it), .mkv (FFV1: without loss, large), or as PNG files
in a folder. The names of the sources are written above their frames, with the PSNR of each whole frame where there is
a ground truth.

examples:
  dstnet visualize video -opt options/test_DSTNet_GoPro.yml --clip GOPR0384_11_00 -o compared.mp4
  dstnet visualize video blurry=datasets/GoPro/test_blur.lmdb restored=results/NAME/visualization/GoPro \\
      --mode split -o compared.mkv"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet visualize video``."""
    add_source_arguments(parser)
    add_range_arguments(parser)
    add_view_arguments(parser)
    parser.add_argument(
        '--fps', type=frame_rate, default=Fraction(24), help='frames in a second, e.g. 30 or 24000/1001; by default 24'
    )
    add_font_argument(parser)
    add_output_arguments(parser, '.mp4, .mkv, or a folder for PNG files')
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    check_video(args.output, args.overwrite)
    footage = footage_of(args)
    frames = footage.choose_frames(args.start, args.end)
    check_view(footage.names, footage.tracks[0].shape(frames[0])[1], args)
    with video_writer(args.output, args.fps, args.overwrite) as write:
        for frame in tqdm(frames, desc='Writing', unit='frame', delay=1, disable=None):
            write(view(footage.read(frame), args), frame)
    print(f'Video of {len(frames)} frames of {footage.clip or "the clip"}: {args.output}')

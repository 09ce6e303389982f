"""A frame before and after: blurry, restored and, where there is one, sharp, side by side."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dstnet_arch.data.frame_source import FolderSource, open_source
from dstnet_arch.errors import DataError, OptionsError
from dstnet_arch.metrics.psnr import psnr
from dstnet_arch.toolbox.options import read_options

HELP = 'show one frame before and after: blurry, restored and sharp side by side'
_GAP = 8  # pixels between two frames
_LABEL = 32  # pixels above them

Image = NDArray[np.uint8]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet visualize compare``."""
    parser.add_argument('-opt', required=True, metavar='FILE', help='options of the test, which has saved its pictures')
    parser.add_argument('--dataset', metavar='KEY', help='which one under datasets; by default the first')
    parser.add_argument('--frame', metavar='VIDEO/FRAME', help='by default the middle one of the first video')
    parser.add_argument('-o', '--output', type=Path, metavar='PNG', help='by default results/NAME/compare_DATASET.png')
    parser.set_defaults(run=_run)


def side_by_side(frames: dict[str, Image]) -> Image:
    """Put frames of one size next to each other under their names.

    Args:
        frames: name -> (H, W, 3) uint8 RGB. Where one is named 'sharp', the names of the others get their PSNR to it.

    Returns:
        (H + 32, n * W + (n - 1) * 8, 3) uint8 RGB.
    """
    height, width = next(iter(frames.values())).shape[:2]
    sheet = np.full((height + _LABEL, len(frames) * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for number, (name, frame) in enumerate(frames.items()):
        if 'sharp' in frames and name != 'sharp':
            name = f'{name}  {psnr(frame, frames["sharp"]):.2f} dB'
        left = number * (width + _GAP)
        sheet[_LABEL:, left : left + width] = frame
        # Written onto its own piece, so that a long name is cut off at the edge of its frame.
        label = np.full((_LABEL, width, 3), 255, np.uint8)
        cv2.putText(label, name, (4, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
        sheet[:_LABEL, left : left + width] = label
    return sheet


def _run(args: argparse.Namespace) -> None:
    opt = read_options(args.opt)
    dataset = _dataset(opt, args.dataset)
    results = Path('results', opt['name'])
    pictures = results / 'visualization' / dataset['name']
    if not pictures.is_dir():
        raise DataError(
            f'There are no restored frames in {pictures} (seen from {Path.cwd()}). Make them with '
            f'python -m basicsr.test -opt {args.opt} --force_yml val:save_img=true'
        )
    blurry, restored = open_source(dataset['dataroot_lq']), FolderSource(pictures)
    video, frame = _frame(blurry.clips, args.frame)
    suffix = (opt.get('val') or {}).get('suffix')
    saved = f'{frame}_{suffix}' if suffix else frame
    if saved not in restored.clips.get(video, []):
        raise DataError(f'There is no restored frame {video}/{saved} in {pictures}. Run the test again on this data.')
    frames = {'blurry': blurry.read(video, frame), 'restored': restored.read(video, saved)}
    if dataset.get('dataroot_gt'):
        frames['sharp'] = open_source(dataset['dataroot_gt']).read(video, frame)
    output = args.output or results / f'compare_{dataset["name"]}.png'
    _write(side_by_side(frames), output)
    print(f'Before and after, frame {video}/{frame}: {output}')


def _dataset(opt: dict[str, Any], key: str | None) -> dict[str, Any]:
    datasets = opt.get('datasets')
    if not isinstance(datasets, dict) or not datasets or (key is not None and key not in datasets):
        there = ', '.join(datasets) if isinstance(datasets, dict) else 'none'
        raise OptionsError(f'{key or "no key"} given; the data sets of these options are: {there}.')
    return dict(datasets[key or next(iter(datasets))])


def _frame(clips: dict[str, list[str]], wanted: str | None) -> tuple[str, str]:
    if wanted is None:
        video, frames = next(iter(clips.items()))
        return video, frames[len(frames) // 2]
    video, _, frame = wanted.rpartition('/')
    if frame not in clips.get(video, []):
        first = next(iter(clips))
        raise OptionsError(f'--frame {wanted} is not in the data. The first one is {first}/{clips[first][0]}.')
    return video, frame


def _write(image: Image, path: Path) -> None:
    encoded = cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.name}.partial')
    partial.write_bytes(encoded.tobytes())
    os.replace(partial, path)

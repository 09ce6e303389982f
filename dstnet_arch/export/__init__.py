"""Networks for other programs: ``dstnet export FORMAT``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from dstnet_arch._version import __version__
from dstnet_arch.archs.checkpoint import load_checkpoint
from dstnet_arch.archs.video_net import VideoNet, stored_config
from dstnet_arch.arguments import Size, size, whole_number
from dstnet_arch.errors import DSTNetError, OptionsError
from dstnet_arch.export.formats import DEFAULT_OPSET, FORMATS, MIN_OPSET, Run, quiet, root_reason, write
from dstnet_arch.export.network import MIN_DYNAMIC_SIDE, ClipNet
from dstnet_arch.files import incomplete_path
from dstnet_arch.weights import resolve_weights

TOLERANCE = 1e-4
"""How far the exported network may be from the network, relative to the largest value: a fortieth of a grey level."""

# A graph for any size is made from frames of the first and tried on all: odd sides, and multiples of 16 that need no
# padding.
_EXAMPLE_SIZES = (Size(101, 70), Size(64, 48))

_DESCRIPTION = f"""\
Write a network as one file that other programs run: clips (1, T, 3, H, W) of float32, RGB in [0, 1], in; restored
clips of the same shape, not clamped, out. The file is run and compared with the network before it gets its name.

The number of frames is fixed: the network goes through them in a loop, which all three formats unroll. The size is
fixed, too, or, with --dynamic, any from {MIN_DYNAMIC_SIDE}x{MIN_DYNAMIC_SIDE}.

  onnx          for ONNX Runtime, OpenVINO, TensorRT and others; needs the packages onnx, onnxscript and onnxruntime
  torchscript   for LibTorch (C++) and PyTorch without this package
  torch_export  an ExportedProgram, for PyTorch's own compilers
"""
_EPILOG = """\
examples:
  dstnet export onnx --weights GoPro --size 1280x720 --frames 5 -o dstnet.onnx
  dstnet export torchscript --weights experiments/NAME/models/net_g_latest.pth --dynamic -o dstnet.pt"""


def command(arguments: Sequence[str]) -> None:
    """``dstnet export``.

    Raises:
        DSTNetError: an argument is wrong, a package is missing, the network cannot be exported or what was exported
            does not do what the network does; see also `resolve_weights` and `load_checkpoint`.
    """
    args = _parser().parse_args(arguments)
    _check(args)
    net = load_checkpoint(resolve_weights(args.weights)).float()
    print('Exporting and checking; this takes from seconds to minutes.', file=sys.stderr)
    difference = export(net, args.output, args.format, args.frames, args.size, opset=args.opset, weights=args.weights)
    for shown, value in difference.items():
        print(f'Checked on {args.frames} frames of {shown}: the largest difference is {value:.1e}.')
    sizes = str(args.size) if args.size else f'any size from {MIN_DYNAMIC_SIDE}x{MIN_DYNAMIC_SIDE}'
    megabytes = args.output.stat().st_size / 1e6
    print(f'{args.output}: {FORMATS[args.format].title}, {args.frames} frames of {sizes}, {megabytes:.1f} MB')


def export(
    net: VideoNet,
    path: Path,
    format: str,
    num_frame: int,
    size: Size | None = None,
    *,
    opset: int = DEFAULT_OPSET,
    weights: str = '',
) -> dict[Size, float]:
    """Export a network and compare what was exported with it.

    Args:
        net: a DSTNet or DSTNetPlus; it is not changed.
        path: the file, which gets its name when it was found right. An older one is replaced.
        format: one of `FORMATS`.
        num_frame: T.
        size: of the frames; None: any.
        opset: version of ONNX's operators.
        weights: what the weights are called, for the metadata.

    Returns:
        For each size that was tried, the largest difference between the exported network and the network.

    Raises:
        DSTNetError: it cannot be exported or written; or the two differ by more than `TOLERANCE`, or not finite.
    """
    sizes = [size] if size else _EXAMPLE_SIZES
    clip_net = ClipNet(net, num_frame, dynamic=size is None)
    incomplete = incomplete_path(path)
    try:
        metadata = _metadata(net, num_frame, size, weights)
        write(format, clip_net, _clip(num_frame, sizes[0]), incomplete, opset, metadata)
        with quiet():
            run = FORMATS[format].load(incomplete)
        differences = {tried: _difference(net, run, num_frame, tried) for tried in sizes}
        os.replace(incomplete, path)
    finally:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            incomplete.unlink(missing_ok=True)
    return differences


def _difference(net: VideoNet, run: Run, num_frame: int, size: Size) -> float:
    clip = _clip(num_frame, size)
    with torch.no_grad():
        expected = net(clip.to(next(net.parameters()))).float().cpu()
        try:
            with quiet():
                actual = run(clip)
        except Exception as error:
            raise DSTNetError(
                f'What was exported does not run on frames of {size}, and was not kept: {root_reason(error)}. Export '
                'for one size, or in another format.'
            ) from error
    if actual.shape != expected.shape:
        raise DSTNetError(
            f'What was exported makes {tuple(actual.shape)} of frames of {size}, not {tuple(expected.shape)}, and was '
            'not kept. Export for one size, or in another format.'
        )
    difference = float((actual - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise DSTNetError(
            f'What was exported differs from the network by {difference:.1e} on frames of {size}, and was not kept. '
            'Try another version of PyTorch or another format.'
        )
    return difference


def _clip(num_frame: int, size: Size) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, num_frame, 3, size.height, size.width, generator=generator)


def _metadata(net: VideoNet, num_frame: int, size: Size | None, weights: str) -> dict[str, str]:
    return {
        'network': json.dumps(stored_config(net.get_extra_state()), sort_keys=True),
        'version': __version__,
        'torch': torch.__version__,
        'weights': Path(weights).name,
        'frames': str(num_frame),
        'size': str(size or 'any'),
        'layout': '(1, frames, 3, height, width), RGB',
        'range': '0 to 1; the output is not clamped',
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        'dstnet export',
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('format', choices=FORMATS, metavar='FORMAT', help=', '.join(FORMATS))
    parser.add_argument('-o', '--output', type=Path, required=True, metavar='FILE')
    parser.add_argument(
        '--weights', default='GoPro', metavar='NAME', help='released weights, fetched once, or a file; by default GoPro'
    )
    parser.add_argument('--frames', type=whole_number(1), default=5, metavar='T', help='of a clip, by default 5')
    sizes = parser.add_mutually_exclusive_group(required=True)
    sizes.add_argument('--size', type=size, metavar='WxH', help='of the frames, for example 1280x720')
    sizes.add_argument('--dynamic', action='store_true', help='for frames of any size')
    parser.add_argument(
        '--opset',
        type=whole_number(1),
        default=DEFAULT_OPSET,
        metavar='N',
        help=f"version of ONNX's operators, {MIN_OPSET} or more; by default {DEFAULT_OPSET}",
    )
    parser.add_argument('--overwrite', action='store_true', help='replace FILE if it exists')
    return parser


def _check(args: argparse.Namespace) -> None:
    """Say what is wrong before weights are fetched."""
    chosen = FORMATS[args.format]
    if args.output.suffix.lower() != chosen.suffix:
        raise OptionsError(f'-o {args.output}: {chosen.title} is saved as *{chosen.suffix}. Give such a name.')
    if args.output.is_dir() or not args.output.resolve().parent.is_dir():
        raise OptionsError(f'-o {args.output} is a folder, or is in a folder that is not there. Make it first.')
    if args.output.exists() and not args.overwrite:
        raise OptionsError(f'{args.output} exists already. Give another name with -o, or replace it with --overwrite.')
    if args.opset < MIN_OPSET:
        raise OptionsError(f'--opset {args.opset}: PyTorch writes {MIN_OPSET} and later ones.')
    chosen.check_packages()

"""``dstnet export``: networks as ONNX or `torch.export` files for other programs.

Exporters cannot trace `VideoNet.forward`: its chunks, fast paths and padding depend on the frame size.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dstnet_arch._version import __version__
from dstnet_arch.archs.checkpoint import load_checkpoint
from dstnet_arch.archs.video_net import VideoNet, stored_config
from dstnet_arch.arguments import Size, check_output, command_parser, size, whole_number
from dstnet_arch.errors import DSTNetError, OptionsError, first_line
from dstnet_arch.files import output_file
from dstnet_arch.progress import say
from dstnet_arch.streaming.stages import stages_of
from dstnet_arch.weights import resolve_weights

TOLERANCE = 1e-4
"""Maximum difference of the exported network, relative to the largest value (0.025 grey levels)."""
MIN_DYNAMIC_SIDE = 17
"""Smallest side with --dynamic: exporters treat feature maps of a single pixel as a special case."""
OPSET = 18
"""Version of ONNX's operators: the oldest one that PyTorch's exporter writes."""
METADATA = 'dstnet'
"""Prefix of the metadata keys in ONNX, and name of the JSON file in a `torch.export` file."""

# A graph for any size is made from frames of the first size and checked on both: odd sides, and multiples of 16.
_EXAMPLE_SIZES = (Size(101, 70), Size(64, 48))

Run = Callable[[Tensor], Tensor]

_DESCRIPTION = """\
Export a network to a file for other programs. Input: clips (1, T, 3, H, W), float32, RGB in [0, 1]. Output: restored
clips of the same shape, not clamped. The file is run and compared with the network before it is saved.

The number of frames is fixed, and so is the frame size, unless --dynamic is given.

  onnx          for ONNX Runtime, OpenVINO, TensorRT and others; needs the packages onnx, onnxscript and onnxruntime
  torch_export  an ExportedProgram for PyTorch without this package

examples:
  dstnet export onnx --weights GoPro --size 1280x720 --frames 5 -o dstnet.onnx
  dstnet export torch_export --weights experiments/NAME/models/net_g_latest.pth --dynamic -o dstnet.pt2"""


class ClipNet(nn.Module):
    """A network for clips of a fixed number of frames, in operations that exporters support.

    The weights are a copy in float32 on the CPU. Call it with gradients enabled: that disables the fast paths.

    Args:
        net: A DSTNet or DSTNetPlus.
        num_frame: T, 1 or more.
        dynamic: Accept frames of any size from `MIN_DYNAMIC_SIDE`.
    """

    def __init__(self, net: VideoNet, num_frame: int, dynamic: bool = False) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).cpu().float().requires_grad_(False)
        self.num_frame, self.dynamic = num_frame, dynamic
        self.eval()

    def forward(self, clip: Tensor) -> Tensor:
        """Restore a clip (1, T, 3, H, W), RGB in [0, 1]; the output has the same shape and is not clamped."""
        height, width = clip.shape[-2:]
        frames = self._pad(self._pad(clip.squeeze(0), -2), -1)  # (T, 3, H', W')
        stages, times = stages_of(self.net), range(self.num_frame)
        features = stages.encode(frames)
        for block in stages.blocks:
            features = block(features, self.num_frame)
        states = list(stages.prepare(frames, features).split(1))
        for step, order in ((stages.backward, times[::-1]), (stages.forward, times)):
            state = None
            for t in order:
                state = states[t] = step(states[t], state)
        restored = stages.finish(frames, torch.cat(states)).unsqueeze(0)
        if self.dynamic:  # slices would tie the graph to sizes that are, or are not, multiples of 16
            return restored.index_select(-2, torch.arange(height)).index_select(-1, torch.arange(width))
        return restored[..., :height, :width]

    def _pad(self, frames: Tensor, dim: int) -> Tensor:
        """`reflect_pad` along one dimension, without branches if the size is dynamic."""
        side, multiple = frames.shape[dim], self.net.size_multiple
        if self.dynamic:
            # Division of positive numbers: PyTorch and ONNX round negative ones differently.
            position = torch.arange((side + multiple - 1) // multiple * multiple)
        else:
            position = torch.arange(self.net.padded_side(side)) % max(2 * side - 2, 1)
        return frames.index_select(dim, torch.where(position < side, position, 2 * side - 2 - position))


class Format(NamedTuple):
    """An export format: its title, suffix, required packages, and functions that make a file's content and load it."""

    title: str
    suffix: str
    packages: tuple[str, ...]
    encode: Callable[[ClipNet, Tensor, Mapping[str, str]], bytes]
    decode: Callable[[bytes], Run]


def export(net: VideoNet, path: Path, format: str, num_frame: int, size: Size | None = None) -> dict[Size, float]:
    """Export a network, run the file and compare its output with the network's.

    Args:
        net: A DSTNet or DSTNetPlus; it is not changed.
        path: Output file, written atomically; an existing one is replaced.
        format: One of `FORMATS`.
        num_frame: T.
        size: Size of the frames; None: any.

    Returns:
        The largest difference for each size that was checked.

    Raises:
        DSTNetError: the network cannot be exported, the file cannot be written, or its output differs by more than
            `TOLERANCE` or is not finite.
    """
    chosen, sizes = FORMATS[format], [size] if size else list(_EXAMPLE_SIZES)
    metadata = {
        'network': json.dumps(stored_config(net.get_extra_state()), sort_keys=True),
        'version': __version__,
        'frames': str(num_frame),
        'size': str(size or 'any'),
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            clip_net = ClipNet(net, num_frame, dynamic=size is None)
            content = chosen.encode(clip_net, _clip(num_frame, sizes[0]), metadata)
            run = chosen.decode(content)
            differences = {tried: _difference(clip_net.net, run, num_frame, tried) for tried in sizes}
    except DSTNetError:
        raise
    except Exception as error:  # exporters raise whatever their parts raise
        advice = ' Export for one size, without --dynamic, or to another format.' if size is None else ''
        raise DSTNetError(
            f'{type(net).__name__} cannot be exported to {chosen.title}: {_root_reason(error)} '
            f'(PyTorch {torch.__version__}).{advice}'
        ) from error
    with output_file(path) as file:
        file.write(content)
    return differences


def _difference(net: VideoNet, run: Run, num_frame: int, size: Size) -> float:
    clip = _clip(num_frame, size)
    with torch.no_grad():
        expected, actual = net(clip), run(clip)
    difference = math.inf if actual.shape != expected.shape else float((actual - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise DSTNetError(
            f'The output of the exported file differs from the network by {difference:.1e} on frames of {size}. '
            'Try another version of PyTorch or another format.'
        )
    return difference


def _clip(num_frame: int, size: Size) -> Tensor:
    return torch.rand(1, num_frame, 3, size.height, size.width, generator=torch.Generator().manual_seed(0))


def _encode_onnx(net: ClipNet, clip: Tensor, metadata: Mapping[str, str]) -> bytes:
    import onnx

    names: dict[str, Any] = {'input_names': ['clip'], 'output_names': ['restored']}
    program = torch.onnx.export(_program(net, clip), dynamo=True, opset_version=OPSET, verbose=False, **names)
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # source lines, with paths of this machine
    onnx.helper.set_model_props(model, {f'{METADATA}.{key}': value for key, value in metadata.items()})
    return model.SerializeToString()


def _decode_onnx(content: bytes) -> Run:
    onnxruntime = import_module('onnxruntime')  # has no type information
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    return lambda clip: torch.from_numpy(session.run(['restored'], {'clip': clip.numpy()})[0])


def _encode_torch_export(net: ClipNet, clip: Tensor, metadata: Mapping[str, str]) -> bytes:
    content = io.BytesIO()
    torch.export.save(_program(net, clip), content, extra_files={f'{METADATA}.json': json.dumps(dict(metadata))})
    return content.getvalue()


def _decode_torch_export(content: bytes) -> Run:
    return torch.export.load(io.BytesIO(content)).module()


def _program(net: ClipNet, clip: Tensor) -> torch.export.ExportedProgram:
    sides = {3: torch.export.Dim.DYNAMIC, 4: torch.export.Dim.DYNAMIC} if net.dynamic else None
    with torch.enable_grad():  # the path of training; no weight requires gradients, so there is no backward pass
        return torch.export.export(net, (clip,), dynamic_shapes=(sides,), strict=False)


def _root_reason(error: BaseException) -> str:
    """First line of the innermost error: exporters wrap it in advice to their developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


FORMATS: dict[str, Format] = {
    'onnx': Format('ONNX', '.onnx', ('onnx', 'onnxscript', 'onnxruntime'), _encode_onnx, _decode_onnx),
    'torch_export': Format('torch.export', '.pt2', (), _encode_torch_export, _decode_torch_export),
}


def command(arguments: Sequence[str]) -> None:
    """Run ``dstnet export``."""
    args = _parser().parse_args(arguments)
    chosen = FORMATS[args.format]
    check_output(args.output, (chosen.suffix,), args.overwrite)
    if missing := [package for package in chosen.packages if find_spec(package) is None]:
        raise OptionsError(f'{chosen.title} needs {" and ".join(missing)}: pip install "dstnet-arch[export]"')
    net = load_checkpoint(resolve_weights(args.weights)).float()
    say('Exporting and checking; this takes seconds to minutes.')
    differences = export(net, args.output, args.format, args.frames, args.size)
    for checked, value in differences.items():
        print(f'Checked on {args.frames} frames of {checked}: the largest difference is {value:.1e}.')
    sizes = str(args.size) if args.size else f'any size from {MIN_DYNAMIC_SIDE}x{MIN_DYNAMIC_SIDE}'
    megabytes = args.output.stat().st_size / 1e6
    print(f'{args.output}: {chosen.title}, {args.frames} frames of {sizes}, {megabytes:.1f} MB')


def _parser() -> argparse.ArgumentParser:
    parser = command_parser('dstnet export', _DESCRIPTION)
    parser.add_argument('format', choices=FORMATS, metavar='FORMAT', help=', '.join(FORMATS))
    parser.add_argument('-o', '--output', type=Path, required=True, metavar='FILE')
    parser.add_argument('--weights', default='GoPro', metavar='NAME', help='released weights, or a file (GoPro)')
    parser.add_argument('--frames', type=whole_number(1), default=5, metavar='T', help='frames per clip (default: 5)')
    sizes = parser.add_mutually_exclusive_group(required=True)
    sizes.add_argument('--size', type=size, metavar='WxH', help='size of the frames, e.g. 1280x720')
    text = f'accept frames of any size with sides of {MIN_DYNAMIC_SIDE} pixels or more'
    sizes.add_argument('--dynamic', action='store_true', help=text)
    parser.add_argument('--overwrite', action='store_true', help='replace an existing FILE')
    return parser

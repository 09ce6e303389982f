"""What the arguments of ``dstnet deblur`` mean for one INPUT, settled before its frames are restored."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from dstnet_arch.archs.video_net import VideoNet
from dstnet_arch.data.frame_source import IMAGE_EXTENSIONS
from dstnet_arch.deblur.config import PRECISIONS, is_live, is_video
from dstnet_arch.errors import OptionsError, first_line
from dstnet_arch.streaming.live import LiveStreamer
from dstnet_arch.streaming.memory import free_memory, place_states
from dstnet_arch.streaming.streamer import Streamer
from dstnet_arch.video.sinks import Job
from dstnet_arch.video.sources import PictureSource, Source

if TYPE_CHECKING:  # it needs PyAV, without which folders can be restored
    from dstnet_arch.video.encoder import Encoding


def check_output(output: Path, source: Source) -> None:
    """Raise OptionsError where `output` is the input itself, or a picture."""
    if output.suffix.lower() in IMAGE_EXTENSIONS and not output.is_dir():
        raise OptionsError(
            f'-o {output}: the restored frames go to a folder, as PNG files, or to a video file. Give a name without '
            f'{output.suffix}, or {output.stem}.mp4.'
        )
    if isinstance(source, PictureSource) and output.resolve() in {path.resolve().parent for path in source.paths}:
        raise OptionsError(f'-o {output}: the input is in this folder, and is never touched. Give another one.')
    if source.path is not None and output.exists() and output.samefile(source.path):
        raise OptionsError(f'-o {output}: this is the input, which is never touched. Give another name.')


class VideoPlan(NamedTuple):
    """How the result is written to a video file.

    Attributes:
        encoding: of the frames.
        container: FFmpeg's name.
    """

    encoding: Encoding
    container: str


def plan_video(source: Source, args: argparse.Namespace) -> VideoPlan | None:
    """How the result is written to a video file, having warned of what gets lost; None where it goes to a folder.

    Raises:
        OptionsError: PyAV is not there, or see `choose_encoding`.
    """
    if not is_video(args.output):
        return None
    need_av(args.output)
    from dstnet_arch.video.encoder import choose_encoding, container_name

    encoding = choose_encoding(args.output, source, args.codec, args.quality, args.pix_fmt, args.format)
    warn(encoding.losses(source))
    return VideoPlan(encoding, container_name(args.output, args.format))


def need_av(name: object) -> None:
    """Raise OptionsError, about the video file `name`, where PyAV is not installed."""
    if not find_spec('av'):
        raise OptionsError(f'{name}: video files are written by PyAV, which is not installed. pip install av')


def warn(warnings: Iterable[str]) -> None:
    """Print warnings on standard error."""
    for warning in warnings:
        print(f'warning: {warning}', file=sys.stderr)


def choose_device(name: str | None, precision: str) -> torch.device:
    """The device to compute on, set to `precision`.

    Args:
        name: PyTorch's; None: a GPU where there is one.
        precision: one of `PRECISIONS`.

    Raises:
        OptionsError: it is not there, or does not have this precision.
    """
    name = name or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OptionsError(
            f'--device {name} cannot be used here: {first_line(error)}. --device cpu always can.'
        ) from None
    if device.type == 'cuda':
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == 'tf32'
    elif precision == 'tf32':
        raise OptionsError(f'--precision tf32 is there on NVIDIA GPUs alone, not on {device}. Take fp32.')
    return device


def make_streamer(net: VideoNet, source: Source, args: argparse.Namespace) -> Streamer | LiveStreamer:
    """What restores; states wait where the user says, or else where there is room for them."""
    if is_live(args):
        return make_live(net, args)
    make = partial(Streamer, net, autocast=PRECISIONS[args.precision], temp_dir=args.temp_dir, tile=args.tile)
    if args.store or args.interval:
        return make(store=args.store or 'host', interval=None if args.interval == 'all' else args.interval)
    place = place_states(make().state_bytes(*source.size), len(source), free_memory())
    return make(store=place.store, interval=place.interval)


def make_live(net: VideoNet, args: argparse.Namespace) -> LiveStreamer:
    """What restores with a bounded delay."""
    window = 1 if args.window is None else args.window
    lookahead = 4 if args.lookahead is None else args.lookahead
    return LiveStreamer(net, window, lookahead, autocast=PRECISIONS[args.precision])


def describe_states(streamer: Streamer | LiveStreamer, source: Source) -> str:
    """How frames are computed, and where states wait, to be shown to a user."""
    if isinstance(streamer, LiveStreamer):
        return f'Live: windows of {streamer.window}, {streamer.lookahead} frames ahead'
    where = {'device': 'on the device', 'host': 'in main memory', 'disk': 'on disk'}[streamer.store]
    count = streamer.num_states(len(source))
    size = count * streamer.state_bytes(*source.size)
    plan = streamer.plan(*source.size)
    return f'Computing: {plan}\nStates: {count} of {len(source)} at a time, {size / 1e9:.1f} GB {where}'


def job_of(source: Source, net: nn.Module, args: argparse.Namespace) -> Job:
    """What determines the frames of the result."""
    digest = hashlib.sha256()
    for tensor in net.state_dict().values():
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    # Shortened, because a user may see them when they differ.
    return {'input': source.identity()[:16], 'weights': digest.hexdigest()[:16], 'precision': args.precision}

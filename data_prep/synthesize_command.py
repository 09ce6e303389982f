"""The arguments of `python -m data_prep synthesize`. Heavy imports wait until it runs."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dstnet_arch.arguments import real_number, whole_number
from dstnet_arch.errors import DataError

if TYPE_CHECKING:
    from data_prep.blur_model import Response

TEXT = """\
Make training pairs from your own footage of a high frame rate, so that a network can be trained on your own camera.
The mean of N frames, taken in linear light, is a blurry frame; the one in the middle is its sharp partner.

Each VIDEO is a video file or a folder of frames. The result has GoPro's layout, OUTPUT/train|test/CLIP/blur|sharp/
000001.png, and `python -m data_prep gopro OUTPUT -o FOLDER` converts it. A clip is one shot of a video; no pair spans
a cut. CLIP/synthesis.json records how its pairs were made. An interrupted run continues when the same command is given
again, and nothing that is finished is made twice. docs/synthesize.md says how to film, and how to choose."""

EXAMPLES = """\
python -m data_prep synthesize a.mp4 b.mp4 c.mp4 -o pairs --test c --max-size 1280
  python -m data_prep synthesize slow.mp4 -o pairs --stride 1 --duty-cycle 0.5 --interpolate 16"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """All but --threads."""
    command.add_argument('videos', metavar='VIDEO', nargs='+', type=Path, help='video file, or folder of frames')
    command.add_argument('-o', '--output', type=Path, required=True, help='folder for the pairs')

    blur = command.add_argument_group('blur')
    blur.add_argument(
        '--window',
        type=_window,
        metavar='N',
        help='frames that are averaged: for how long the shutter is open. Odd, or a range such as 7-13, of which each '
        'clip takes another odd number (default 7-13, as GoPro)',
    )
    blur.add_argument(
        '--stride',
        type=whole_number(1),
        metavar='S',
        help='frames from one pair to the next: the rate of the pairs is that of the video divided by S (default: '
        'window / duty cycle)',
    )
    blur.add_argument(
        '--duty-cycle',
        type=real_number(0, 1, exclusive=True),
        metavar='D',
        help='part of the time from pair to pair in which the shutter is open (default: window / stride, or 1). '
        'With --stride and without --window, the window is D * S frames, whole or not',
    )
    blur.add_argument(
        '--response',
        default='gamma2.2',
        metavar='CURVE',
        help='how the camera stores light: srgb, gamma2.2, linear (the stored values are averaged themselves), or a '
        'text file with the light of each of the 256 values (default gamma2.2)',
    )
    blur.add_argument(
        '--interpolate',
        type=whole_number(1, 64),
        default=1,
        metavar='K',
        help='add K - 1 frames between any two, by optical flow, so that fast parts are smeared where the frame rate '
        'is too low for that (default 1: none)',
    )

    frames = command.add_argument_group('frames')
    frames.add_argument(
        '--crop', type=_crop, metavar='WxH[+X+Y]', help='take this part of each frame; without X and Y the middle'
    )
    size = frames.add_mutually_exclusive_group()
    size.add_argument(
        '--scale',
        type=real_number(0, 1, exclusive=True),
        metavar='F',
        help='scale down by F, averaging areas, which lessens the blur and noise of the video itself',
    )
    size.add_argument(
        '--max-size', type=whole_number(1), metavar='N', help='scale down until the longer side has N pixels at most'
    )
    frames.add_argument(
        '--cut-threshold',
        type=real_number(0, 255),
        default=12.0,
        metavar='T',
        help='grey levels by which frames must differ at a cut, on average (default 12; 255 finds none)',
    )
    frames.add_argument(
        '--min-pairs', type=whole_number(1), default=1, metavar='N', help='leave out shots of fewer pairs (default 1)'
    )

    camera = command.add_argument_group('camera (blurry frames only, in this order)')
    camera.add_argument(
        '--noise',
        nargs=2,
        type=real_number(0, 1),
        metavar=('READ', 'SHOT'),
        help='noise in linear light, whose full scale is 1: of standard deviation READ everywhere, and of variance '
        'SHOT times the light. Try 0.002 0.0005',
    )
    coding = camera.add_mutually_exclusive_group()
    coding.add_argument('--jpeg', type=whole_number(1, 100), metavar='QUALITY', help='through JPEG and back, 1 to 100')
    coding.add_argument(
        '--h264', type=whole_number(0, 51), metavar='CRF', help='through H.264 and back, 0 (best) to 51; needs PyAV'
    )

    result = command.add_argument_group('result')
    share = result.add_mutually_exclusive_group()
    share.add_argument(
        '--test', action='append', default=[], metavar='NAME', help='this VIDEO is for testing; may be given repeatedly'
    )
    share.add_argument(
        '--train-share',
        type=real_number(0, 1),
        metavar='P',
        help='take this share of the videos for training, the others for testing; which ones, --seed decides',
    )
    result.add_argument(
        '--seed', type=whole_number(0), default=0, help='of windows, noise and --train-share (default 0)'
    )
    result.add_argument('--preview', action='store_true', help='write CLIP/preview.jpg: some pairs side by side')
    result.add_argument(
        '--overwrite', action='store_true', help='replace clips that were made from these videos in another way'
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        DataError: see `synthesize`.
    """
    from data_prep.synthesize import synthesize
    from data_prep.synthesize_camera import Noise
    from data_prep.synthesize_footage import Geometry
    from data_prep.synthesize_plan import Settings

    settings = Settings(
        response=read_response(arguments.response),
        window=arguments.window,
        stride=arguments.stride,
        duty_cycle=arguments.duty_cycle,
        interpolate=arguments.interpolate,
        geometry=Geometry(arguments.crop, arguments.scale, arguments.max_size),
        noise=Noise(*arguments.noise) if arguments.noise else None,
        jpeg=arguments.jpeg,
        h264=arguments.h264,
        cut_threshold=arguments.cut_threshold,
        min_pairs=arguments.min_pairs,
        seed=arguments.seed,
    )
    synthesize(
        arguments.videos,
        arguments.output,
        settings,
        test=arguments.test,
        train_share=arguments.train_share,
        overwrite=arguments.overwrite,
        preview=arguments.preview,
        threads=arguments.threads,
    )


def read_response(text: str) -> Response:
    """A response curve by its name, or from a text file of 256 numbers.

    Raises:
        DataError: there is neither, or the file holds something else.
    """
    from data_prep.blur_model import RESPONSES, response_from_values

    if text in RESPONSES:
        return RESPONSES[text]
    path = Path(text)
    known = f'--response is one of {", ".join(RESPONSES)}, or a text file with the light of each value from 0 to 255'
    if not path.is_file():
        raise DataError(f'--response {text}: no such curve and no such file. {known}')
    try:
        numbers = [float(word) for word in path.read_text(encoding='utf-8').replace(',', ' ').split()]
        return response_from_values('file', numbers)
    except (OSError, ValueError) as error:
        raise DataError(f'--response {path}: {error}. {known}') from None


def _window(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'([0-9]{1,4})(?:-([0-9]{1,4}))?', text)
    if match is not None:
        first, last = int(match[1]), int(match[2] or match[1])
        if 1 <= first <= last and (match[2] or first % 2):
            return first, last
    raise argparse.ArgumentTypeError(f'{text!r} is neither an odd number nor a range such as 7-13')


def _crop(text: str) -> tuple[int, int, int | None, int | None]:
    match = re.fullmatch(r'([0-9]{1,6})x([0-9]{1,6})(?:\+([0-9]{1,6})\+([0-9]{1,6}))?', text)
    if match is None or not int(match[1]) or not int(match[2]):
        raise argparse.ArgumentTypeError(f'{text!r} is no part of a frame, such as 1280x720 or 1280x720+0+100')
    return int(match[1]), int(match[2]), *(int(part) if part else None for part in match.groups()[2:])  # type: ignore[return-value]

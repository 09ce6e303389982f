"""Arguments of `python -m data_prep synthesize`; heavy modules are imported when it runs."""

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
Make training pairs from your own high-frame-rate footage, to train a network for your own camera. The mean of N frames
in linear light is a blurry frame; the middle frame is its sharp partner.

Each VIDEO is a video file or a folder of frames. The output has GoPro's layout, OUTPUT/train|test/CLIP/blur|sharp/
000001.png, and `python -m data_prep gopro OUTPUT -o FOLDER` converts it. Each shot of a video becomes a clip; no pair
spans a cut. Frames of videos with variable frame rate are averaged by their times. CLIP/synthesis.json records how the
pairs were made. docs/synthesize.md explains how to film and how to choose the options."""

EXAMPLES = """\
python -m data_prep synthesize a.mp4 b.mp4 c.mp4 -o pairs --test c --max-size 1280
  python -m data_prep synthesize slow.mp4 -o pairs --stride 1 --duty-cycle 0.5 --interpolate 16"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add all arguments except --threads."""
    command.add_argument('videos', metavar='VIDEO', nargs='+', type=Path, help='video file or folder of frames')
    command.add_argument('-o', '--output', type=Path, required=True, help='folder for the pairs')

    blur = command.add_argument_group('blur')
    blur.add_argument(
        '--window',
        type=_window,
        metavar='N',
        help='exposure time in frames: an odd number, or a range such as 7-13 from which each clip uses one odd number '
        '(default 7-13, as GoPro)',
    )
    blur.add_argument(
        '--stride',
        type=whole_number(1),
        metavar='S',
        help='frames from one pair to the next; the frame rate is divided by S (default: window / duty cycle)',
    )
    blur.add_argument(
        '--duty-cycle',
        type=real_number(0, 1, exclusive=True),
        metavar='D',
        help='exposure time divided by the time between pairs (default: window / stride, or 1). With --stride and '
        'without --window, the exposure is D * S frames, which may be a fraction',
    )
    blur.add_argument(
        '--response',
        default='gamma2.2',
        metavar='CURVE',
        help='response curve of the camera: srgb, gamma2.2, linear (average stored values), or a text file with the '
        'light of each of the 256 stored values (default gamma2.2)',
    )
    blur.add_argument(
        '--interpolate',
        type=whole_number(1, 64),
        default=1,
        metavar='K',
        help='insert K - 1 frames between two frames by optical flow, if the frame rate is low for the motion '
        '(default 1: none)',
    )

    frames = command.add_argument_group('frames')
    size = frames.add_mutually_exclusive_group()
    size.add_argument(
        '--scale',
        type=real_number(0, 1, exclusive=True),
        default=1.0,
        metavar='F',
        help='scale down by F, averaging areas; this also reduces the blur and noise of the footage',
    )
    size.add_argument(
        '--max-size', type=whole_number(1), metavar='N', help='scale down to at most N pixels on the longer side'
    )
    frames.add_argument(
        '--cut-threshold',
        type=real_number(0, 255),
        default=12.0,
        metavar='T',
        help='minimum mean difference at a cut, in grey levels (default 12; 255 finds no cut)',
    )
    frames.add_argument(
        '--min-pairs', type=whole_number(1), default=1, metavar='N', help='skip shots with fewer pairs (default 1)'
    )

    result = command.add_argument_group('result')
    share = result.add_mutually_exclusive_group()
    share.add_argument(
        '--test', action='append', default=[], metavar='NAME', help='use this VIDEO for testing; may be repeated'
    )
    share.add_argument(
        '--train-share',
        type=real_number(0, 1),
        metavar='P',
        help='share of the videos for training, the others are for testing; chosen by a hash of their names',
    )
    result.add_argument('--preview', action='store_true', help='write CLIP/preview.jpg with some pairs')
    result.add_argument('--overwrite', action='store_true', help='replace earlier clips of these videos')


def run(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        DataError: see `synthesize`.
    """
    from data_prep.synthesize import synthesize
    from data_prep.synthesize_plan import Settings

    settings = Settings(
        response=read_response(arguments.response),
        window=arguments.window,
        stride=arguments.stride,
        duty_cycle=arguments.duty_cycle,
        interpolate=arguments.interpolate,
        scale=arguments.scale,
        max_size=arguments.max_size,
        cut_threshold=arguments.cut_threshold,
        min_pairs=arguments.min_pairs,
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
    """Return a response curve by name or from a text file of 256 numbers.

    Raises:
        DataError: no such name or file, or the file is not a curve.
    """
    from data_prep.blur_model import RESPONSES, response_from_values

    if text in RESPONSES:
        return RESPONSES[text]
    try:
        numbers = [float(word) for word in Path(text).read_text(encoding='utf-8').replace(',', ' ').split()]
        return response_from_values('file', numbers)
    except (OSError, ValueError) as error:
        raise DataError(
            f'--response {text}: {error}. Use {", ".join(RESPONSES)}, or a text file with the light of each stored '
            'value from 0 to 255'
        ) from None


def _window(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'([0-9]{1,4})(?:-([0-9]{1,4}))?', text)
    if match is not None:
        first, last = int(match[1]), int(match[2] or match[1])
        if 1 <= first <= last and (first % 2 or first < last):
            return first, last
    raise argparse.ArgumentTypeError(f'{text!r} is neither an odd number nor a range such as 7-13')

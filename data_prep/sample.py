"""The sample data set: photographs from scikit-image, filmed by a shaky virtual camera, in GoPro's layout.

The camera moves on a smooth random path (translation, rotation, slight zoom) and takes many short exposures, of which
`blur_model` makes blurry and sharp frames. Photographs of test clips are in no training clip.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.blur_model import GAMMA_22, Image, mean_light
from data_prep.convert import convert
from data_prep.layouts import GOPRO
from data_prep.lmdb_writer import PARTIAL_SUFFIX, write_text
from dstnet_arch.errors import DataError
from dstnet_arch.progress import Progress

RECIPE = 'sample.json'
BLUR_FOLDER = 'blur_gamma'  # GoPro's `blur` is the mean of the stored values, `blur_gamma` the mean in linear light
SUBFRAMES = 11
"""Short exposures per blurry frame; odd."""
MARGIN = 32
"""Least distance from the frame to the border of the photograph at rest, in pixels."""

_KNOT_SPACING = 4.0  # frames from one random position of the camera to the next, with smooth movement in between
_SPREAD = (1.0, 1.0, math.radians(0.9), 0.012)  # of x and y (relative), angle, logarithm of the scale
_PNG_LEVEL = 6  # small files; they are encoded once and decoded often
_TRAIN_SIZE = (160, 240)
_TEST_SIZE = (150, 234)  # no multiples of 16, so that testing on the sample runs through the padding


@dataclass(frozen=True)
class ClipPlan:
    """One clip to render."""

    split: str  # train or test
    name: str
    photograph: str  # name of a function of `skimage.data`
    first_number: int  # number of the first frame; as in GoPro, clips do not start at 0
    size: tuple[int, int]  # (height, width) of the frames
    num_frames: int
    blur_length: float  # mean camera movement while the shutter is open, in pixels


PLANS = (
    ClipPlan('train', 'MOTORCYCLE_00', 'stereo_motorcycle', 47, _TRAIN_SIZE, 16, 3.0),
    ClipPlan('train', 'COFFEE_00', 'coffee', 2481, _TRAIN_SIZE, 16, 3.5),
    ClipPlan('train', 'CHELSEA_00', 'chelsea', 301, _TRAIN_SIZE, 16, 5.0),
    ClipPlan('train', 'CAMERA_00', 'camera', 1, _TRAIN_SIZE, 16, 3.5),
    ClipPlan('train', 'COINS_00', 'coins', 905, _TRAIN_SIZE, 16, 3.0),
    ClipPlan('train', 'GRAVEL_00', 'gravel', 95, _TRAIN_SIZE, 16, 2.5),
    ClipPlan('test', 'ASTRONAUT_00', 'astronaut', 2801, _TEST_SIZE, 20, 3.0),
)


def make_sample(output: Path, seed: int = 0, threads: int | None = None, plans: Sequence[ClipPlan] = PLANS) -> None:
    """Render the sample data set to `<output>/raw` and convert it to `<output>/{train,test}_{blur,sharp}.lmdb`.

    The same seed gives the same bytes on one machine with one set of library versions. Finished parts of an earlier
    run are kept.

    Args:
        output: folder for the result.
        seed: of the camera paths.
        threads: threads that read and decode during the conversion.
        plans: the clips.

    Raises:
        DataError: `output` contains a sample of another recipe or something else; scikit-image is missing.
    """
    raw = Path(output) / 'raw'
    recipe = json.dumps({'seed': seed, 'plans': list(map(asdict, plans))}, indent=2) + '\n'
    try:
        if not raw.exists():
            _render(raw, seed, plans, recipe)
        elif not (raw / RECIPE).is_file() or (raw / RECIPE).read_text() != recipe:
            raise DataError(
                f'{raw} exists already and is not a sample of this recipe (seed {seed}). '
                'Move it away, or choose another folder with -o.'
            )
    except OSError as error:
        raise DataError(f'cannot write {raw}: {error}') from None
    convert(replace(GOPRO, title='Sample data', totals={}), raw, output, BLUR_FOLDER, threads)


def camera_path(rng: np.random.Generator, num_frames: int, blur_length: float) -> NDArray[np.float64]:
    """Return a smooth random camera path, sampled at every short exposure.

    Cubic splines connect random positions, so that a clip has sharper and blurrier frames, like hand-held ones.

    Returns:
        (num_frames * SUBFRAMES, 4): x and y in pixels, angle in radians, logarithm of the scale. x and y stay within
        MARGIN, even if that makes the blur shorter than `blur_length`.
    """
    from scipy.interpolate import CubicSpline

    count = math.ceil(num_frames / _KNOT_SPACING) + 2
    spline = CubicSpline(_KNOT_SPACING * np.arange(count), rng.standard_normal((count, 4)) * _SPREAD)
    # Not from the first knot on: near the ends the curve is less smooth.
    times = _KNOT_SPACING / 2 + np.arange(num_frames * SUBFRAMES) / SUBFRAMES
    path: NDArray[np.float64] = spline(times)
    path -= path.mean(axis=0)
    position = path[:, :2]
    length = float(np.hypot(*np.diff(position, axis=0).T).sum())
    position *= min(blur_length * num_frames / length, MARGIN / float(np.abs(position).max()))
    return path


def film(photograph: Image, path: NDArray[np.float64], size: tuple[int, int]) -> Iterator[Image]:
    """Render the photograph at each point of a camera path.

    Args:
        photograph: (height, width, 3), uint8.
        path: see `camera_path`; (0, 0, 0, 0) shows the centre.
        size: (height, width) of a frame.

    Yields:
        (height, width, 3), uint8, one for each point.
    """
    height, width = size
    middle = np.array([photograph.shape[1] - 1, photograph.shape[0] - 1]) / 2
    for x, y, angle, log_scale in path:
        turn = math.exp(log_scale) * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        offset = middle + np.array([x, y]) - turn @ np.array([width - 1, height - 1]) / 2
        yield cv2.warpAffine(
            photograph,
            np.column_stack([turn, offset]),
            (width, height),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )


def _render(raw: Path, seed: int, plans: Sequence[ClipPlan], recipe: str) -> None:
    """Write all frames and the recipe."""
    photographs = {plan.photograph: _load_photograph(plan.photograph) for plan in plans}
    partial = raw.with_name(raw.name + PARTIAL_SUFFIX)
    shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted run
    with Progress(sum(plan.num_frames for plan in plans), 'frame', 'rendering') as progress:
        for index, plan in enumerate(plans):
            # Random numbers of its own, so that a clip does not depend on the others.
            path = camera_path(np.random.default_rng([seed, index]), plan.num_frames, plan.blur_length)
            exposures = film(_fit(photographs[plan.photograph], plan.size), path, plan.size)
            clip = partial / plan.split / plan.name
            for folder in (BLUR_FOLDER, 'sharp'):
                (clip / folder).mkdir(parents=True)
            for number in range(plan.first_number, plan.first_number + plan.num_frames):
                group = list(islice(exposures, SUBFRAMES))
                blurry = GAMMA_22.image(mean_light(map(GAMMA_22.light, group), [1] * SUBFRAMES))
                for folder, image in ((BLUR_FOLDER, blurry), ('sharp', group[SUBFRAMES // 2])):
                    data = cv2.imencode(
                        '.png', np.ascontiguousarray(image[..., ::-1]), (cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL)
                    )[1]
                    (clip / folder / f'{number:06d}.png').write_bytes(data.tobytes())
                progress.update()
    write_text(partial / RECIPE, recipe)
    partial.rename(raw)


def _load_photograph(name: str) -> Image:
    """Load a photograph of `skimage.data` as (height, width, 3) uint8."""
    try:
        import skimage.data

        image = getattr(skimage.data, name)()
    except (ImportError, AttributeError, OSError) as error:
        raise DataError(
            f'the photograph {name!r} of scikit-image cannot be loaded ({error}).\n'
            'Install a version that ships it: pip install "scikit-image>=0.19"'
        ) from None
    if isinstance(image, tuple):  # a stereo pair
        image = image[0]
    if image.ndim == 2:
        image = np.stack([image] * 3, axis=-1)
    return np.ascontiguousarray(image[..., :3])


def _fit(photograph: Image, size: tuple[int, int]) -> Image:
    """Shrink a photograph until the frame with its margin just fits into it."""
    height, width = map(int, photograph.shape[:2])
    factor = max((size[0] + 2 * MARGIN) / height, (size[1] + 2 * MARGIN) / width)
    if factor >= 1:
        return photograph
    return cv2.resize(photograph, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA)

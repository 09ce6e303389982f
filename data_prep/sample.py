"""The sample data set: photographs from scikit-image, filmed by a shaky virtual camera, in GoPro's layout.

Each clip is one photograph seen through a camera that moves on a smooth random path (translation, rotation, slight
zoom). The path is rendered at a high frame rate, and `blur_model` turns runs of those frames into blurry and sharp
ones. Test clips show photographs that no training clip shows.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.blur_model import Image, blurry_and_sharp, power_law
from data_prep.convert import convert
from data_prep.layouts import GOPRO
from data_prep.lmdb_writer import PARTIAL_SUFFIX, write_text
from dstnet_arch.errors import DataError

RECIPE = 'sample.json'
# In GoPro's terms: its `blur` is the mean of the stored values, `blur_gamma` the mean of the light.
BLUR_FOLDER = 'blur_gamma'
_LAYOUT = replace(GOPRO, title='Sample data', roots=(), clips={}, totals={})


@dataclass(frozen=True)
class ClipPlan:
    """One clip to render."""

    split: str
    name: str
    photograph: str
    """A function of `skimage.data`."""
    first_number: int
    """Number of the first frame; like GoPro's clips, the sample's do not start at 0."""
    size: tuple[int, int]
    """(height, width) of the frames."""
    num_frames: int
    blur_length: float
    """How far the camera moves while its shutter is open, pixels, mean over the clip."""


@dataclass(frozen=True)
class Camera:
    """How all clips are filmed."""

    subframes: int = 11
    """Short exposures that make a blurry frame; odd."""
    gamma: float = 2.2
    knot_spacing: float = 4.0
    """Frames from one random position of the camera to the next; it moves smoothly in between."""
    angle: float = 0.9
    """Standard deviation, degrees."""
    zoom: float = 0.012
    """Standard deviation of the logarithm of the scale."""
    margin: int = 32
    """Least distance from the frame to the photograph's border when the camera is at rest, pixels."""


_TRAIN_SIZE = (160, 240)
# Multiples of 16 in neither direction, so that testing on the sample runs through the padding.
_TEST_SIZE = (150, 234)
PLANS = (
    ClipPlan('train', 'MOTORCYCLE_00', 'stereo_motorcycle', 47, _TRAIN_SIZE, 16, 3.0),
    ClipPlan('train', 'COFFEE_00', 'coffee', 2481, _TRAIN_SIZE, 16, 3.5),
    ClipPlan('train', 'CHELSEA_00', 'chelsea', 301, _TRAIN_SIZE, 16, 5.0),
    ClipPlan('train', 'CAMERA_00', 'camera', 1, _TRAIN_SIZE, 16, 3.5),
    ClipPlan('train', 'COINS_00', 'coins', 905, _TRAIN_SIZE, 16, 3.0),
    ClipPlan('train', 'GRAVEL_00', 'gravel', 95, _TRAIN_SIZE, 16, 2.5),
    ClipPlan('test', 'ASTRONAUT_00', 'astronaut', 2801, _TEST_SIZE, 20, 3.0),
)


def make_sample(
    output: Path,
    seed: int = 0,
    threads: int | None = None,
    plans: Sequence[ClipPlan] = PLANS,
    camera: Camera | None = None,
) -> None:
    """Render the sample data set to `<output>/raw` and convert it to `<output>/{train,test}_{blur,sharp}.lmdb`.

    The same seed gives the same bytes (on one machine, with one set of library versions). What an earlier run has
    finished is kept.

    Raises:
        DataError: `output` holds a sample of another recipe or something else in its place; scikit-image is missing.
    """
    output, camera = Path(output), camera or Camera()
    raw = output / 'raw'
    recipe: dict[str, Any] = {
        'seed': seed,
        'camera': asdict(camera),
        'plans': [{**asdict(plan), 'size': list(plan.size)} for plan in plans],
    }
    if raw.exists():
        made = _read_recipe(raw)
        if made is None or {key: made.get(key) for key in recipe} != recipe:
            raise DataError(
                f'{raw} exists already and is no sample of this recipe (seed {seed}). '
                'Move it away, or choose another folder with -o.'
            )
        print(f'{raw}: already rendered.')
    else:
        made = {**recipe, 'versions': _versions()}
        try:
            made['psnr_of_blurry'] = _render(raw, seed, plans, camera, made)
        except OSError as error:
            raise DataError(f'cannot write {raw}: {error}') from None
    for clip, value in made['psnr_of_blurry'].items():
        print(f'{clip}: blurry against sharp {value:.2f} dB')
    convert(_LAYOUT, raw, output, BLUR_FOLDER, threads, made={'what': 'sample', **made})


def camera_path(rng: np.random.Generator, num_frames: int, blur_length: float, camera: Camera) -> NDArray[np.float64]:
    """A smooth random path, sampled at every short exposure.

    It runs through random positions with cubic splines in between, so that the camera swings, speeds up and slows
    down, and a clip has sharper and blurrier frames, as hand-held ones have.

    Returns:
        (num_frames * subframes, 4): x and y in pixels, angle in radians, logarithm of the scale. x and y stay within
        the camera's margin, even where that makes the blur shorter than `blur_length`.
    """
    from scipy.interpolate import CubicSpline

    count = math.ceil(num_frames / camera.knot_spacing) + 2
    spread = np.array([1.0, 1.0, math.radians(camera.angle), camera.zoom])
    spline = CubicSpline(camera.knot_spacing * np.arange(count), rng.standard_normal((count, 4)) * spread)
    # Not from the first knot on: beyond the ends there is nothing to keep the curve calm.
    times = camera.knot_spacing / 2 + np.arange(num_frames * camera.subframes) / camera.subframes
    path: NDArray[np.float64] = spline(times)
    path -= path.mean(axis=0)
    position = path[:, :2]
    length = float(np.hypot(*np.diff(position, axis=0).T).sum())
    position *= min(blur_length * num_frames / length, camera.margin / float(np.abs(position).max()))
    return path


def film(photograph: Image, path: NDArray[np.float64], size: tuple[int, int]) -> Iterator[Image]:
    """What the camera sees at each point of its path.

    Args:
        photograph: (height, width, 3), uint8.
        path: See `camera_path`; (0, 0, 0, 0) looks straight at the middle.
        size: (height, width) of a frame.

    Yields:
        (height, width, 3), uint8, one for each point.
    """
    import cv2

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


def _render(
    raw: Path, seed: int, plans: Sequence[ClipPlan], camera: Camera, recipe: dict[str, Any]
) -> dict[str, float]:
    """Write all frames and the recipe; return the mean PSNR of each clip's blurry frames."""
    import cv2
    from tqdm import tqdm

    photographs = {plan.photograph: _load_photograph(plan.photograph) for plan in plans}
    partial = raw.with_name(raw.name + PARTIAL_SUFFIX)
    if partial.exists():
        print(f'{partial}: left by an interrupted run, made anew.')
        shutil.rmtree(partial)
    psnr: dict[str, float] = {}
    with tqdm(total=sum(plan.num_frames for plan in plans), desc='Rendering', unit='frame') as bar:
        for index, plan in enumerate(plans):
            # A stream for each clip, so that a clip does not depend on those before it.
            path = camera_path(np.random.default_rng([seed, index]), plan.num_frames, plan.blur_length, camera)
            photograph = _fit(photographs[plan.photograph], plan.size, camera.margin)
            values = []
            clip = partial / plan.split / plan.name
            for number, (blurry, sharp) in enumerate(
                blurry_and_sharp(film(photograph, path, plan.size), camera.subframes, power_law(camera.gamma)),
                start=plan.first_number,
            ):
                for folder, image in ((BLUR_FOLDER, blurry), ('sharp', sharp)):
                    data = cv2.imencode('.png', np.ascontiguousarray(image[..., ::-1]), _PNG_SETTINGS)[1]
                    target = clip / folder / f'{number:06d}.png'
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(data.tobytes())
                values.append(_psnr(blurry, sharp))
                bar.update()
            psnr[f'{plan.split}/{plan.name}'] = round(float(np.mean(values)), 3)
    write_text(partial / RECIPE, json.dumps({**recipe, 'psnr_of_blurry': psnr}, indent=2) + '\n')
    partial.rename(raw)
    return psnr


# Small files; the images are decoded often and encoded once.
_PNG_SETTINGS = (16, 6)  # cv2.IMWRITE_PNG_COMPRESSION, best


def _load_photograph(name: str) -> Image:
    """A photograph of `skimage.data` as (height, width, 3) uint8."""
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


def _fit(photograph: Image, size: tuple[int, int], margin: int) -> Image:
    """Shrink a photograph until the frame with its margin just fits in: as much to see as possible, and crisp."""
    import cv2

    height, width = map(int, photograph.shape[:2])
    factor = max((size[0] + 2 * margin) / height, (size[1] + 2 * margin) / width)
    if factor >= 1:
        return photograph
    return cv2.resize(photograph, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA)


def _psnr(a: Image, b: Image) -> float:
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 10 * math.log10(255**2 / max(error, 1e-10))


def _read_recipe(raw: Path) -> Mapping[str, Any] | None:
    try:
        recipe = json.loads((raw / RECIPE).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return None
    return recipe if isinstance(recipe, dict) and isinstance(recipe.get('psnr_of_blurry'), dict) else None


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    import cv2

    versions = {name: version(name) for name in ('numpy', 'scipy', 'scikit-image')}
    return {**versions, 'opencv': cv2.__version__}

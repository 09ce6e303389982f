"""The folder of a clip: its frames, its record and its preview, hidden as `.NAME.partial` until all of it is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data_prep.blur_model import Image
from data_prep.lmdb_writer import PARTIAL_SUFFIX, write_text
from data_prep.synthesize_camera import h264_round_trip
from data_prep.synthesize_plan import RECORD, ClipPlan, Settings, record_text
from dstnet_arch.data.image_check import PNG, check_structure
from dstnet_arch.errors import DataError

PREVIEW = 'preview.jpg'

_PNG_LEVEL = 3
_PREVIEW_ROWS = 4
_PREVIEW_WIDTH = 480


def partial_folder(output: Path, plan: ClipPlan) -> Path:
    """Where a clip grows."""
    return output / plan.split / f'.{plan.name}{PARTIAL_SUFFIX}'


def file_name(number: int) -> str:
    """Of the frames of a pair."""
    return f'{number:06d}.png'


def frame_folders(settings: Settings) -> tuple[str, str]:
    """Where a clip's blurry and sharp frames are written. H.264 needs all blurry ones before it can code the first."""
    return ('blur' if settings.h264 is None else 'blur.plain'), 'sharp'


def begin_clip(partial: Path, record: dict[str, Any], settings: Settings) -> set[int]:
    """Make a clip's folders, or find which of its pairs are there.

    Args:
        partial: Where it grows.
        record: How it is made.
        settings: The same, for all clips.

    Returns:
        The numbers of the pairs that are there, whole.
    """
    folders = [partial / name for name in frame_folders(settings)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    if not (partial / RECORD).exists():
        write_text(partial / RECORD, record_text({**record, 'versions': _versions()}))
    numbers = [pair['number'] for pair in record['pairs']]
    return {number for number in numbers if all(_is_whole(folder / file_name(number)) for folder in folders)}


def finish_clip(plan: ClipPlan, output: Path, settings: Settings, preview: bool) -> None:
    """When all pairs are there: do what concerns the clip as a whole, and give it its name.

    Args:
        plan: Of the clip.
        output: Folder of all clips.
        settings: How.
        preview: Write a contact sheet, too.
    """
    partial = partial_folder(output, plan)
    names = [file_name(number) for number in range(1, len(plan.centres) + 1)]
    if settings.h264 is not None:
        _code(partial, names, settings.h264)
    for temporary in partial.glob('*/.*.tmp'):
        temporary.unlink()
    if preview:
        _write_preview(partial, names)
    partial.rename(output / plan.split / plan.name)


def write_png(path: Path, image: Image) -> None:
    """Write a picture; it has its name when it is whole."""
    import cv2

    data = cv2.imencode('.png', image, (cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL))[1]
    temporary = path.with_name(f'.{path.name}.tmp')
    temporary.write_bytes(data.tobytes())
    os.replace(temporary, path)


def _read(path: Path) -> Image:
    import cv2

    image = cv2.imread(str(path))
    if image is None:
        raise DataError(f'{path} was changed while it was in use: run the same command again')
    return image


def _is_whole(path: Path) -> bool:
    try:
        data = path.read_bytes()
        check_structure(data)
    except (OSError, ValueError):
        return False
    return data.startswith(PNG)  # other kinds of files have passed the check


def _code(partial: Path, names: Sequence[str], crf: int) -> None:
    """Write what H.264 leaves of the blurry frames, and remove these. An interruption at any point costs time alone."""
    plain, coded = partial / 'blur.plain', partial / 'blur'
    shutil.rmtree(coded, ignore_errors=True)
    coded.mkdir()
    pictures = (_read(plain / name) for name in names)
    for name, picture in zip(names, h264_round_trip(pictures, crf), strict=True):
        write_png(coded / name, picture)
    shutil.rmtree(plain)


def _write_preview(partial: Path, names: Sequence[str]) -> None:
    """Some pairs, blurry on the left and sharp on the right."""
    import cv2
    import numpy as np

    count = min(_PREVIEW_ROWS, len(names))
    chosen = [names[(2 * i + 1) * len(names) // (2 * count)] for i in range(count)]
    rows = []
    for name in chosen:
        sides = [_read(partial / side / name) for side in ('blur', 'sharp')]
        factor = min(1.0, _PREVIEW_WIDTH / sides[0].shape[1])
        small = [cv2.resize(side, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) for side in sides]
        rows.append(np.hstack(small))
    data = cv2.imencode('.jpg', np.vstack(rows))[1]
    temporary = partial / f'.{PREVIEW}.tmp'
    temporary.write_bytes(data.tobytes())
    os.replace(temporary, partial / PREVIEW)


def _versions() -> dict[str, str]:
    import cv2

    versions = {'opencv': cv2.__version__}
    for name in ('dstnet-arch', 'numpy', 'mmcv-lite', 'av'):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions

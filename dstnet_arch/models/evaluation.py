"""Restore, score and save the clips of a data set, with loading, scoring and saving beside the network."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dstnet_arch.errors import DataError, DSTNetError
from dstnet_arch.files import atomic_file
from dstnet_arch.metrics.report import Record

Image = NDArray[np.uint8]
"""(H, W, 3), BGR, as BasicSR's metrics and OpenCV want it."""

Score = Callable[[Image, Image], Sequence[float]]
"""Scores of a picture against the ground truth, one for each metric."""


class ClipDataset(Protocol):
    """What `evaluate`, and a protocol that leaves out frames, need of a data set, e.g. `VideoDeblurTestDataset`."""

    videos: Mapping[str, Sequence[str]]
    num_frames: int
    has_gt: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


@dataclass
class Evaluation:
    """What `evaluate` found and how long it took.

    Attributes:
        records: scores for a `ScoreBook`, of the blurry frames (row 'input') and the restored ones.
        num_frame: frames that were restored, each once.
        seconds: wall-clock time.
        restore_seconds: of these, those in which the network was at work. The rest was spent waiting for loading,
            scoring and saving, which go on beside it.
    """

    records: list[Record] = field(default_factory=list)
    num_frame: int = 0
    seconds: float = 0.0
    restore_seconds: float = 0.0


class _Clip(NamedTuple):
    """A loaded clip; pictures only of the frames that count."""

    video: str
    frames: list[str]
    lq: Tensor  # (1, T, 3, H, W)
    keep: slice
    inputs: Iterable[Image | None]
    targets: Iterable[Image | None]


@torch.inference_mode()
def to_images(frames: Tensor, truncate: bool = False) -> list[Image]:
    """Quantise frames (T, 3, H, W), RGB, to T pictures: clamped to [0, 1], rounded (or truncated) to 0..255."""
    levels = frames.clamp(0, 1).mul_(255)
    levels = levels.to(torch.uint8) if truncate else levels.round_().to(torch.uint8)
    return list(levels.flip(1).permute(0, 2, 3, 1).contiguous().cpu().numpy())


def image_path(folder: Path, video: str, frame: str, suffix: str | None) -> Path:
    """Where the picture of a frame goes: ``folder/video/frame[_suffix].png``.

    Raises:
        DataError: the names, which come from the data, would lead out of `folder`.
    """
    path = folder / video / f'{frame}_{suffix}.png' if suffix else folder / video / f'{frame}.png'
    for name in (video, frame):
        if {'', '.', '..'} & set(re.split(r'[/\\]', name)) or '\0' in name:
            raise DataError(
                f'The frame {frame!r} of the video {video!r} would be saved outside {folder}. Names must be relative, '
                'without "." and ".." in them: rename it in the source and convert the data again.'
            )
    return path


def evaluate(
    dataset: ClipDataset,
    restore: Callable[[Tensor], Tensor],
    *,
    score: Score | None = None,
    score_input: bool = True,
    uncounted: Container[tuple[str, str]] = (),
    truncate: bool = False,
    save_path: Callable[[str, str], Path] | None = None,
    rank: int = 0,
    world_size: int = 1,
    pbar: str | None = None,
) -> Evaluation:
    """Restore the clips `rank`, `rank + world_size`, … of a data set, and score and save their frames.

    While `restore` runs, threads load the next clip and score and save the frames before. Only a few frames wait for
    them, so that memory does not grow with the data set.

    Args:
        dataset: its items are clips: 'lq' (T, 3, H, W) RGB in [0, 1], 'gt' the same or absent, 'video', 'frames' (T
            names), 'keep' (the half-open range of the frames that count).
        restore: maps (1, T, 3, H, W) to the restored clip, same shape, on any device.
        score: called in several threads at once. None, or a data set without ground truth: no scores.
        score_input: score the blurry input, too.
        uncounted: frames, as (video, frame), that are restored and saved, but not scored.
        truncate: how `restore`'s values become 8-bit levels, see `to_images`.
        save_path: where the picture of (video, frame) goes. None: nothing is saved.
        rank, world_size: which share of the clips to take.
        pbar: text in front of a progress bar on standard error; None: no bar.

    Raises:
        DataError: a clip cannot be loaded, scored or saved, or `restore` gave values that are not finite.
    """
    score = score if dataset.has_gt else None
    result = Evaluation()
    start = time.perf_counter()
    num_worker = max(1, (os.cpu_count() or 1) // (2 * world_size))
    pending: deque[Future[list[Record]]] = deque()

    def collect(at_most: int) -> None:
        while len(pending) > at_most:
            result.records += pending.popleft().result()
            result.num_frame += 1
            bar.update(min(world_size, dataset.num_frames - bar.n))  # the other ranks are about as far

    pool = ThreadPoolExecutor(num_worker, thread_name_prefix='score')
    bar = tqdm(total=dataset.num_frames, desc=pbar, unit='frame', disable=pbar is None)
    try:
        with closing(
            _clips_ahead(dataset, range(rank, len(dataset), world_size), score is not None, score_input)
        ) as clips:
            for clip in clips:
                since = time.perf_counter()
                images = _restored_images(restore, clip, truncate)
                result.restore_seconds += time.perf_counter() - since
                for frame, image, blurry, sharp in zip(clip.frames, images, clip.inputs, clip.targets, strict=True):
                    path = save_path(clip.video, frame) if save_path else None
                    sharp = None if (clip.video, frame) in uncounted else sharp
                    pending.append(pool.submit(_finish, clip.video, frame, image, blurry, sharp, score, path))
                    collect(at_most=4 * num_worker)
        collect(at_most=0)
        bar.update(dataset.num_frames - bar.n)
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()
    result.seconds = time.perf_counter() - start
    return result


def _clips_ahead(
    dataset: ClipDataset, indices: Iterable[int], with_gt: bool, with_input: bool
) -> Generator[_Clip, None, None]:
    """Load each clip while the one before is in use."""
    with ThreadPoolExecutor(1, thread_name_prefix='load') as loader:
        ahead: deque[Future[_Clip]] = deque()
        for index in indices:
            ahead.append(loader.submit(_load, dataset, index, with_gt, with_input))
            if len(ahead) > 1:
                yield ahead.popleft().result()
        if ahead:
            yield ahead.popleft().result()


def _load(dataset: ClipDataset, index: int, with_gt: bool, with_input: bool) -> _Clip:
    item = dataset[index]
    if missing := [key for key in ('lq', 'video', 'frames', 'keep') if key not in item]:
        raise DataError(
            f'{type(dataset).__name__} gives clips without {", ".join(missing)}. '
            'To validate and test, set the type of the data set to VideoDeblurTestDataset.'
        )
    keep = slice(*map(int, item['keep']))
    frames = list(item['frames'])[keep]
    nothing = [None] * len(frames)
    # Quantised here, in the loading thread, and only what counts: a quarter of the memory of float32 frames.
    return _Clip(
        video=item['video'],
        frames=frames,
        lq=item['lq'].unsqueeze(0),
        keep=keep,
        inputs=to_images(item['lq'][keep]) if with_gt and with_input else nothing,
        targets=to_images(item['gt'][keep]) if with_gt else nothing,
    )


def _restored_images(restore: Callable[[Tensor], Tensor], clip: _Clip, truncate: bool) -> list[Image]:
    restored = restore(clip.lq)[0, clip.keep]
    finite = torch.isfinite(restored).flatten(1).all(1).tolist()
    if not all(finite):
        raise DataError(
            f'Frame {clip.frames[finite.index(False)]} of {clip.video}: the network gave values that are not finite. '
            'Check its weights (path:pretrain_network_g), and set val:amp=none if it was fp16.'
        )
    return to_images(restored, truncate)


def _finish(
    video: str,
    frame: str,
    image: Image,
    blurry: Image | None,
    sharp: Image | None,
    score: Score | None,
    path: Path | None,
) -> list[Record]:
    """Save and score one frame (in a thread)."""
    if path:
        _save_png(image, path)
    if score is None or sharp is None:
        return []
    rows: Mapping[str, Image | None] = {'input': blurry, 'restored': image}
    try:
        return [(row, video, frame, tuple(score(i, sharp))) for row, i in rows.items() if i is not None]
    except DSTNetError:
        raise
    except Exception as error:  # whatever metric somebody registered
        raise DataError(f'Frame {frame} of {video} cannot be scored: {type(error).__name__}: {error}') from error


def _save_png(image: Image, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(cv2.imencode('.png', image)[1].tobytes())
    except OSError as error:
        raise DataError(
            f'The picture {path} cannot be written: {error}. Free some space or set val:save_img=false.'
        ) from error

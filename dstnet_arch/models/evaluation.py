"""Restore, score and save the clips of a test set."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from dstnet_arch.errors import DataError, DSTNetError
from dstnet_arch.files import atomic_file
from dstnet_arch.metrics.report import Record
from dstnet_arch.metrics.scorer import Scorer, to_picture
from dstnet_arch.models.clips import Clip, ClipDataset, bit_depth_of, load_clip, score_values, to_levels
from dstnet_arch.progress import Progress


def image_path(folder: Path, video: str, frame: str, suffix: str | None) -> Path:
    """Return the path of a saved frame: ``folder/video/frame[_suffix].png``.

    Raises:
        DataError: the names, which come from the data, lead out of `folder`.
    """
    path = folder / video / (f'{frame}_{suffix}.png' if suffix else f'{frame}.png')
    for name in (video, frame):
        # On Windows, a drive leads out as well.
        if {'', '.', '..'} & set(re.split(r'[/\\]', name)) or '\0' in name or Path(name).drive:
            raise DataError(
                f'The frame {frame!r} of the video {video!r} would be saved outside {folder}. Names must be relative '
                'and must not contain "." or "..": rename it in the source and convert the data again.'
            )
    return path


def evaluate(
    dataset: ClipDataset,
    restore: Callable[[Tensor], Tensor],
    *,
    scorer: Scorer | None = None,
    score_device: torch.device | None = None,
    score_input: bool = True,
    unscored: Container[tuple[str, str]] = (),
    truncate: bool = False,
    save_path: Callable[[str, str], Path] | None = None,
    rank: int = 0,
    world_size: int = 1,
    progress: Progress | None = None,
) -> list[Record]:
    """Restore the clips `rank`, `rank + world_size`, … of a test set, and score and save their frames.

    While the network runs, threads load the next clip and score and save the previous frames. The number of waiting
    frames is limited, so memory does not grow with the data set.

    Args:
        dataset: the test set.
        restore: maps (1, T, 3, H, W) to the restored clip of the same shape, on any device.
        scorer: computes scores; called in several threads. None: no scores.
        score_device: device on which all frames of a clip are scored at once after restoration; None: frame by frame on
            the CPU, in threads.
        score_input: also score the blurry input.
        unscored: frames, as (video, frame), that are restored and saved but not scored.
        truncate: quantise restored values by truncation instead of rounding.
        save_path: returns the path for a restored (video, frame), saved with the bit depth of the data set; None: do
            not save.
        rank: number of this process.
        world_size: number of processes that share the clips.
        progress: receives the number of frames that all processes have finished, estimated from this one.

    Returns:
        Scores of the blurry frames (row 'input') and the restored ones.

    Raises:
        DataError: a clip cannot be loaded, scored or saved, or its restored values are not finite.
    """
    records: list[Record] = []
    num_worker = max(1, (os.cpu_count() or 1) // (2 * world_size))
    pending: deque[Future[list[Record]]] = deque()

    def collect(at_most: int) -> None:
        while len(pending) > at_most:
            records.extend(pending.popleft().result())
            if progress is not None:
                progress.update(min(world_size, dataset.num_frames - progress.done))

    loader = ThreadPoolExecutor(1, thread_name_prefix='load')
    pool = ThreadPoolExecutor(num_worker, thread_name_prefix='score')
    try:
        indices = range(rank, len(dataset), world_size)
        for clip in _load_ahead(loader, dataset, indices, score_input and scorer is not None):
            restored = _restored_levels(restore, clip, bit_depth_of(dataset), truncate)
            scored = [i for i, frame in enumerate(clip.frames) if (clip.video, frame) not in unscored]
            if scorer is not None and score_device is not None and scored:
                records += _score(clip, scored, restored, scorer, score_device)
            if save_path or score_device is None:
                restored = restored.cpu()
            for i, frame in enumerate(clip.frames):
                path = save_path(clip.video, frame) if save_path else None
                in_thread = scorer if score_device is None and i in scored else None
                pending.append(pool.submit(_finish_frame, clip, i, restored, in_thread, path))
                collect(at_most=4 * num_worker)
        collect(at_most=0)
    finally:
        loader.shutdown(cancel_futures=True)
        pool.shutdown(cancel_futures=True)
    return records


def _load_ahead(
    loader: ThreadPoolExecutor, dataset: ClipDataset, indices: Sequence[int], with_inputs: bool
) -> Iterator[Clip]:
    """Load each clip while the previous one is in use."""
    ahead: Future[Clip] | None = None
    for index in indices:
        ready, ahead = ahead, loader.submit(load_clip, dataset, index, with_inputs)
        if ready:
            yield ready.result()
    if ahead:
        yield ahead.result()


def _restored_levels(restore: Callable[[Tensor], Tensor], clip: Clip, bit_depth: int, truncate: bool) -> Tensor:
    restored = restore(clip.lq)[0, clip.keep]
    finite = torch.isfinite(restored).flatten(1).all(1).tolist()
    if not all(finite):
        raise DataError(
            f'Frame {clip.frames[finite.index(False)]} of {clip.video}: the network returned non-finite values. Check '
            'its weights (path:pretrain_network_g), or set val:precision=fp32.'
        )
    return to_levels(restored, bit_depth, truncate)


def _finish_frame(clip: Clip, number: int, restored: Tensor, scorer: Scorer | None, path: Path | None) -> list[Record]:
    """Save a frame and score it (in a thread)."""
    if path:
        _save_png(restored[number], path)
    return _score(clip, [number], restored, scorer, restored.device) if scorer else []


def _score(clip: Clip, numbers: list[int], restored: Tensor, scorer: Scorer, device: torch.device) -> list[Record]:
    """Score frames of a clip, given by their positions among those that count."""
    names = [clip.frames[i] for i in numbers]

    def values(levels: Tensor) -> Tensor:
        return score_values(levels[numbers].to(device))

    try:
        targets = None if clip.targets is None else values(clip.targets)
        return [
            Record(row, clip.video, name, scores)
            for row, levels in {'input': clip.inputs, 'restored': restored}.items()
            if levels is not None
            for name, scores in zip(names, scorer(values(levels), targets), strict=True)
        ]
    except DSTNetError:
        raise
    except Exception as error:  # a registered metric can raise any error
        place = f'Frame {names[0]}' if len(names) == 1 else f'Frames {names[0]} to {names[-1]}'
        raise DataError(f'{place} of {clip.video} cannot be scored: {type(error).__name__}: {error}') from error


def _save_png(levels: Tensor, path: Path) -> None:
    picture = to_picture(levels)
    if picture.dtype != np.uint8:
        picture = picture.astype(np.uint16)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(cv2.imencode('.png', picture)[1].tobytes())
    except OSError as error:
        raise DataError(f'Cannot write {path}: {error}. Free some space or set val:save_img=false.') from error

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
import torch
from torch import Tensor
from tqdm import tqdm

from dstnet_arch.errors import DataError, DSTNetError
from dstnet_arch.files import atomic_file
from dstnet_arch.metrics.report import Record
from dstnet_arch.metrics.scorer import to_picture

Score = Callable[[Tensor, Tensor], Sequence[tuple[float, ...]]]
"""Scores of frames against the ground truth, both (N, 3, H, W) uint8 RGB: for each frame one of each metric."""


class ClipDataset(Protocol):
    """What `evaluate`, and a protocol that leaves out frames, need of a data set, e.g. `VideoRecurrentDeblurTestDataset`."""

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
    """A loaded clip; its 8-bit frames are only those that count, of N in all."""

    video: str
    frames: list[str]
    lq: Tensor  # (1, T, 3, H, W)
    keep: slice
    inputs: Tensor | None  # (N, 3, H, W) uint8
    targets: Tensor | None  # the same


@torch.inference_mode()
def to_levels(frames: Tensor, truncate: bool = False) -> Tensor:
    """Quantise frames of any shape to uint8, on their device: clamped to [0, 1], rounded (or truncated) to 0..255."""
    levels = frames.clamp(0, 1).mul_(255)
    return levels.to(torch.uint8) if truncate else levels.round_().to(torch.uint8)


def image_path(folder: Path, video: str, frame: str, suffix: str | None) -> Path:
    """Where the picture of a frame goes: ``folder/video/frame[_suffix].png``.

    Raises:
        DataError: the names, which come from the data, would lead out of `folder`.
    """
    path = folder / video / f'{frame}_{suffix}.png' if suffix else folder / video / f'{frame}.png'
    for name in (video, frame):
        # A drive, on Windows alone, leads out as well.
        if {'', '.', '..'} & set(re.split(r'[/\\]', name)) or '\0' in name or Path(name).drive:
            raise DataError(
                f'The frame {frame!r} of the video {video!r} would be saved outside {folder}. Names must be relative, '
                'without "." and ".." in them: rename it in the source and convert the data again.'
            )
    return path


def evaluate(
    dataset: ClipDataset,
    restore: Callable[[Tensor], Tensor],
    *,
    explain: Callable[[Tensor], str | None] | None = None,
    score: Score | None = None,
    score_device: torch.device | None = None,
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
        explain: says, for a clip of which the restored values are not finite, what was so first.
        score: called in several threads at once. None, or a data set without ground truth: no scores.
        score_device: where all frames of a clip are scored together, after they were restored; None: one by one on the
            CPU, in the threads.
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
                restored = _restored_levels(restore, clip, truncate, explain)
                result.restore_seconds += time.perf_counter() - since
                counted = [i for i, frame in enumerate(clip.frames) if (clip.video, frame) not in uncounted]
                if score is not None and score_device is not None:
                    result.records += _score(clip, counted, restored, score, score_device)
                if save_path or score_device is None:
                    restored = restored.cpu()
                for i, frame in enumerate(clip.frames):
                    path = save_path(clip.video, frame) if save_path else None
                    mine = [i] if score_device is None and i in counted else []
                    pending.append(pool.submit(_finish, clip, i, mine, restored, score, path))
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
            'To validate and test, set the type of the data set to VideoRecurrentDeblurTestDataset.'
        )
    keep = slice(*map(int, item['keep']))
    frames = list(item['frames'])[keep]
    # Quantised here, in the loading thread, and only what counts: a quarter of the memory of float32 frames.
    return _Clip(
        video=item['video'],
        frames=frames,
        lq=item['lq'].unsqueeze(0),
        keep=keep,
        inputs=to_levels(item['lq'][keep]) if with_gt and with_input else None,
        targets=to_levels(item['gt'][keep]) if with_gt else None,
    )


def _restored_levels(
    restore: Callable[[Tensor], Tensor],
    clip: _Clip,
    truncate: bool,
    explain: Callable[[Tensor], str | None] | None = None,
) -> Tensor:
    restored = restore(clip.lq)[0, clip.keep]
    finite = torch.isfinite(restored).flatten(1).all(1).tolist()
    if not all(finite):
        reason = explain(clip.lq) if explain else None
        first = f' The first: {reason}.' if reason else ''
        raise DataError(
            f'Frame {clip.frames[finite.index(False)]} of {clip.video}: the network gave values that are not finite.'
            f'{first} Check its weights (path:pretrain_network_g), and set val:amp=none if it was fp16.'
        )
    return to_levels(restored, truncate)


def _finish(
    clip: _Clip, number: int, counted: Sequence[int], restored: Tensor, score: Score | None, path: Path | None
) -> list[Record]:
    """Save a frame, and score those of `counted` (in a thread)."""
    if path:
        _save_png(restored[number], path)
    return _score(clip, counted, restored, score, restored.device) if score else []


def _score(clip: _Clip, numbers: Sequence[int], restored: Tensor, score: Score, device: torch.device) -> list[Record]:
    """Score frames of a clip, given by their positions among those that count."""
    if not numbers or clip.targets is None:
        return []
    chosen = list(numbers)
    names = [clip.frames[i] for i in chosen]
    targets = clip.targets[chosen].to(device)
    rows = {'input': clip.inputs, 'restored': restored}
    try:
        return [
            (row, clip.video, name, tuple(scores))
            for row, levels in rows.items()
            if levels is not None
            for name, scores in zip(names, score(levels[chosen].to(device), targets), strict=True)
        ]
    except DSTNetError:
        raise
    except Exception as error:  # whatever metric somebody registered
        what = f'Frame {names[0]}' if len(names) == 1 else f'Frames {names[0]} to {names[-1]}'
        raise DataError(f'{what} of {clip.video} cannot be scored: {type(error).__name__}: {error}') from error


def _save_png(levels: Tensor, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(cv2.imencode('.png', to_picture(levels))[1].tobytes())
    except OSError as error:
        raise DataError(
            f'The picture {path} cannot be written: {error}. Free some space or set val:save_img=false.'
        ) from error

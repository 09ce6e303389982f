"""Validation and test of a data set: restore, score and save its frames, and report the scores."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from datetime import date
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import cv2
import numpy as np
import torch
from basicsr.utils import get_root_logger
from torch import Tensor

from dstnet_arch.errors import DataError, DSTNetError, counted
from dstnet_arch.files import output_file, read_json
from dstnet_arch.metrics.protocols import PROTOCOLS
from dstnet_arch.metrics.report import Record, ScoreBook, score_text, write_text
from dstnet_arch.metrics.scorer import Scorer, needs_reference, to_picture
from dstnet_arch.metrics.tables import measured_row, published_for, result_tables
from dstnet_arch.models.clips import Clip, as_clips, load_clip, to_levels
from dstnet_arch.models.distributed import Ranks
from dstnet_arch.models.self_ensemble import RESTORATIONS
from dstnet_arch.precision import resolve_precision
from dstnet_arch.progress import Progress

Metrics = dict[str, dict[str, Any]]
"""Name -> entry of `val.metrics`."""
Restore = Callable[[Tensor], Tensor]
"""Maps (1, T, 3, H, W) to the restored clip of the same shape, on any device."""
Best = dict[str, dict[str, Any]]
"""Metric -> {'better', 'val', 'iter'}, as stock BasicSR stores the best scores of a data set."""


class Validator:
    """Restore data sets, score them, and report the scores.

    Attributes:
        protocol: the scoring protocol.
        metrics: the metrics: those of the protocol, if it has its own, else those of `val.metrics`. Metrics without
            ground truth, such as NIQE, are kept in both cases.
        precision: precision of the network.

    Args:
        opt: BasicSR's options.
        device: the device of the network.
        ranks: all processes of the run; rank 0 reports.

    Raises:
        OptionsError: unknown precision, or the device does not support it.
    """

    def __init__(self, opt: Mapping[str, Any], device: torch.device, ranks: Ranks) -> None:
        self._opt = opt
        self._val_opt: dict[str, Any] = opt.get('val') or {}
        # On a GPU, scores are computed between the clips: in threads, they would compete with the network for memory.
        self._score_device = device if device.type != 'cpu' else None
        self._ranks = ranks
        precision = self._val_opt.get('precision') or self._val_opt.get('amp')
        self.precision = resolve_precision(precision, device, option='val:precision')
        self.protocol = PROTOCOLS[self._val_opt.get('protocol') or 'dstnet']
        self.metrics: Metrics = self._val_opt.get('metrics') or {}
        # Scores of the blurry inputs never change, so repeated validations reuse them.
        self._input_records: WeakKeyDictionary[Any, list[Record]] = WeakKeyDictionary()
        if own := self.protocol.metrics:
            if self.metrics:
                get_root_logger().info(
                    f'val:protocol={self.protocol.name} defines its metrics ({", ".join(own)}): those of val:metrics '
                    'that need ground truth are ignored.'
                )
            self.metrics = own | self.metrics_for(has_gt=False)

    def metrics_for(self, has_gt: bool) -> Metrics:
        """Return the metrics to compute: all with ground truth, else those that need none."""
        return {name: opt for name, opt in self.metrics.items() if has_gt or not needs_reference(opt)}

    def run(self, dataset: Any, folder: Path, restore: Restore, save_img: bool) -> ScoreBook | None:
        """Restore and score a data set; each rank processes a share of the clips.

        Args:
            dataset: see `as_clips` for the supported ones.
            folder: folder of saved images.
            restore: see `Restore`.
            save_img: save the restored frames under the names of the source, with the bit depth of the data set.

        Returns:
            The scores, on all ranks; None if there are none.

        Raises:
            DataError: a clip cannot be loaded, scored or saved, its restored values are not finite, or no frame counts.
        """
        log = get_root_logger().info
        clips = as_clips(dataset)
        name, metrics = clips.opt['name'], self.metrics_for(clips.has_gt)
        if not metrics and not save_img:
            log(
                f'{name}: nothing to do. Set val:save_img=true to save images, or dataroot_gt and val:metrics to score.'
            )
            return None
        known = self._input_records.get(dataset, [])
        scored = self._scored_frames(clips.videos) if metrics else set()
        show_progress = self._val_opt.get('pbar', True) and self._ranks.rank == 0
        start = time.perf_counter()
        with (
            Progress(clips.num_frames, 'frame', f'testing {name}', log) if show_progress else nullcontext() as progress
        ):
            shares = self._ranks.gather(
                lambda: self._restore_share(
                    clips, restore, Scorer(metrics), scored, not known, folder if save_img else None, progress
                )
            )
        saved = f', saved in {folder}' if save_img else ''
        seconds = time.perf_counter() - start
        log(f'{name}: {counted(clips.num_frames, "frame")} restored in {seconds:.1f} s{saved}.')
        if not metrics:
            return None
        records = known + [record for share in shares for record in share]
        self._input_records[dataset] = [record for record in records if record.row == 'input']
        return ScoreBook(name, metrics, self.protocol, records)

    def check(self, dataset: Any) -> None:
        """Score one frame of a data set, unrestored, so that what prevents scores is found before a training.

        Raises:
            DataError: as `run`.
        """
        clips = as_clips(dataset)
        if metrics := self.metrics_for(clips.has_gt):
            self._scored_frames(clips.videos)
            clip = load_clip(clips, 0, with_inputs=True)
            unrestored = to_levels(clip.lq[0, clip.keep], clips.bit_depth)[0]
            records = _score(clip, 0, unrestored, Scorer(metrics), unrestored.device)
            ScoreBook(clips.opt['name'], metrics, self.protocol, records)

    def _scored_frames(self, videos: Mapping[str, Sequence[str]]) -> set[tuple[str, str]]:
        """Return the frames, as (video, frame), that the protocol scores; warn about videos without scores."""
        border = self.protocol.border_frames
        scored = {video: frames[border : len(frames) - border] for video, frames in videos.items()}
        rule = f'val:protocol={self.protocol.name} does not score the first and the last {border} frames of each video'
        if not any(scored.values()):
            raise DataError(
                f'{rule}, and no video has more than {2 * border} frames. Use longer videos or val:protocol=dstnet.'
            )
        if short := [video for video, frames in scored.items() if not frames]:
            get_root_logger().warning(f'{rule}: no scores for {", ".join(short)}.')
        return {(video, frame) for video, frames in scored.items() for frame in frames}

    def _restore_share(
        self,
        clips: Any,
        restore: Restore,
        scorer: Scorer,
        scored: set[tuple[str, str]],
        score_input: bool,
        folder: Path | None,
        progress: Progress | None,
    ) -> list[Record]:
        """Restore, score and save the clips of this rank.

        While the network runs, threads load the next clip and score and save the previous frames. The number of waiting
        frames is limited, so memory does not grow with the data set.
        """
        records: list[Record] = []
        waiting: deque[Future[list[Record]]] = deque()
        world_size = self._ranks.world_size
        threads = max(1, (os.cpu_count() or 1) // (2 * world_size))
        device = self._score_device if scorer.on_any_device else None

        def collect(at_most: int) -> None:
            while len(waiting) > at_most:
                records.extend(waiting.popleft().result())
                if progress is not None:  # the other ranks are assumed to be as fast
                    progress.update(min(world_size, clips.num_frames - progress.done))

        with ThreadPoolExecutor(1) as loader, ThreadPoolExecutor(threads) as pool:
            indices = range(self._ranks.rank, len(clips), world_size)
            for clip in _load_ahead(loader, clips, indices, score_input and bool(scored)):
                restored = restore(clip.lq)[0, clip.keep]
                _check_finite(clip, restored)
                levels = to_levels(restored, clips.bit_depth, self.protocol.truncates)
                on_host = levels.cpu() if folder or device is None else levels
                for i, frame in enumerate(clip.frames):
                    path = folder and image_path(folder, clip.video, frame, self._val_opt.get('suffix'))
                    is_scored = (clip.video, frame) in scored
                    if is_scored and device is not None:
                        records += _score(clip, i, levels[i], scorer, device)
                    in_thread = scorer if is_scored and device is None else None
                    waiting.append(pool.submit(_finish_frame, clip, i, on_host[i], in_thread, path))
                    collect(at_most=4 * threads)
            collect(at_most=0)
        return records

    def report(
        self, book: ScoreBook, dataset: Any, folder: Path, iteration: int | None = None, best: Best | None = None
    ) -> None:
        """Write the scores of a data set to files and log them.

        After a test on a data set of the paper, this includes the paper's table with a row for this run.

        Args:
            book: result of `run`.
            dataset: the data set.
            folder: folder of the files.
            iteration: the current iteration in training.
            best: the best scores so far in training.

        Raises:
            DataError: a file cannot be written.
        """
        clips = as_clips(dataset)
        provenance = {
            'frames_restored': clips.num_frames,
            'bit_depth': clips.bit_depth,
            'run': self._opt['name'],
            **({'weights': self._opt['path'].get('pretrain_network_g')} if iteration is None else {}),
            **({'iteration': iteration} if iteration is not None else {}),
            'network': dict(self._opt['network_g']),
            'precision': self.precision.name,
            'self_ensemble': bool(self._val_opt.get('self_ensemble')),
            'streaming': bool(self._val_opt.get('streaming')),
            'metrics': {name: dict(self.metrics[name]) for name in book.metrics},
            'date': date.today().isoformat(),
        }
        stem = book.dataset if iteration is None else f'{book.dataset}_{iteration}'
        frames_csv = book.write(folder, stem, **provenance)
        notes = [
            f'Best {metric}: {score_text(metric, best[metric]["val"])} (iteration {best[metric]["iter"]})'
            for metric in book.metrics
            if best is not None
        ]
        if self._val_opt.get('self_ensemble'):
            notes.append(f'Self-ensemble: the mean of {RESTORATIONS} restorations')
        text = book.table([*notes, f'Scores of each frame: {frames_csv}'])
        in_paper = self.protocol.name == 'dstnet' and published_for(book.dataset)
        if iteration is None and clips.has_gt and in_paper:
            table = result_tables([measured_row(book.summary(**provenance))])
            path = folder / f'{book.dataset}_table.md'
            write_text(path, table)
            text = f'{text}\n{table}\nTable: {path}'
        get_root_logger().info(text)

    def saved_scores(self, folder: Path, last: int) -> Iterator[tuple[int, str, dict[str, float]]]:
        """Read the scores that `report` has written to a folder during training, with this protocol and these metrics.

        Yields:
            Iteration, at most `last`, name of the data set, and mean of each metric, by iteration.
        """
        found = []
        for path in folder.glob('*_summary.json'):
            with suppress(AttributeError, KeyError, OSError, TypeError, ValueError):  # damaged or of another version
                summary = read_json(path)
                same_metrics = summary['metrics'].items() <= self.metrics.items()
                if summary['protocol'] == self.protocol.name and same_metrics and summary['iteration'] <= last:
                    # JSON has no infinity and stores None instead.
                    means = summary[f'mean_over_{self.protocol.over}']['restored']
                    finite = {name: float('inf') if mean is None else float(mean) for name, mean in means.items()}
                    found.append((int(summary['iteration']), str(summary['dataset']), finite))
        yield from sorted(found, key=lambda scores: scores[:2])


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


def _load_ahead(loader: ThreadPoolExecutor, clips: Any, indices: Sequence[int], with_inputs: bool) -> Iterator[Clip]:
    """Load each clip while the previous one is in use."""
    ahead: Future[Clip] | None = None
    for index in indices:
        ready, ahead = ahead, loader.submit(load_clip, clips, index, with_inputs)
        if ready:
            yield ready.result()
    if ahead:
        yield ahead.result()


def _check_finite(clip: Clip, restored: Tensor) -> None:
    finite = torch.isfinite(restored).flatten(1).all(1).tolist()
    if not all(finite):
        raise DataError(
            f'Frame {clip.frames[finite.index(False)]} of {clip.video}: the network returned non-finite values. Check '
            'its weights (path:pretrain_network_g), or set val:precision=fp32.'
        )


def _finish_frame(clip: Clip, i: int, levels: Tensor, scorer: Scorer | None, path: Path | None) -> list[Record]:
    """Save and score frame `i` of those that count."""
    if path:
        _save_png(levels, path)
    return _score(clip, i, levels, scorer, levels.device) if scorer else []


def _score(clip: Clip, i: int, restored: Tensor, scorer: Scorer, device: torch.device) -> list[Record]:
    def values(levels: Tensor) -> Tensor:
        """Return (1, 3, H, W) in 0..255, the range of all metrics: uint8, or float64 for 16-bit levels."""
        levels = levels[None].to(device)
        return levels if levels.dtype == torch.uint8 else levels.double() / 257  # 65535 / 255

    rows = {'restored': restored} if clip.inputs is None else {'input': clip.inputs[i], 'restored': restored}
    try:
        target = None if clip.targets is None else values(clip.targets[i])
        return [
            Record(row, clip.video, clip.frames[i], scorer(values(levels), target)[0]) for row, levels in rows.items()
        ]
    except DSTNetError:
        raise
    except Exception as error:  # a registered metric can raise any error
        raise DataError(
            f'Frame {clip.frames[i]} of {clip.video} cannot be scored: {type(error).__name__}: {error}'
        ) from error


def _save_png(levels: Tensor, path: Path) -> None:
    picture = to_picture(levels)
    if picture.dtype != np.uint8:
        picture = picture.astype(np.uint16)
    with output_file(path, DataError) as file:
        file.write(cv2.imencode('.png', picture)[1].tobytes())

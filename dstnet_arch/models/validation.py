"""Validation and test of a data set: what is scored, and the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from basicsr.utils import get_root_logger
from torch import Tensor

from dstnet_arch.errors import DataError, counted
from dstnet_arch.files import read_json
from dstnet_arch.metrics.protocols import PROTOCOLS
from dstnet_arch.metrics.report import Record, ScoreBook
from dstnet_arch.metrics.scorer import Scorer, needs_reference
from dstnet_arch.metrics.tables import measured_row, published_for, render, result_tables, write_text
from dstnet_arch.models.clips import ClipDataset, as_clips, bit_depth_of
from dstnet_arch.models.distributed import Ranks
from dstnet_arch.models.evaluation import evaluate, image_path
from dstnet_arch.models.self_ensemble import RESTORATIONS
from dstnet_arch.precision import resolve_precision
from dstnet_arch.progress import Progress

Metrics = dict[str, dict[str, Any]]
"""Name -> entry of `val.metrics`."""
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
        self._device = device
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

    def run(self, dataset: Any, folder: Path, restore: Callable[[Tensor], Tensor], save_img: bool) -> ScoreBook | None:
        """Restore, score and save a data set; each rank processes a share of the clips.

        Args:
            dataset: see `as_clips` for the supported ones.
            folder: folder of saved images.
            restore: see `evaluate`.
            save_img: save the restored frames under the names of the source.

        Returns:
            The scores, on all ranks; None if there are none.

        Raises:
            DataError: a clip cannot be loaded, scored or saved, or no frame counts.
        """
        log = get_root_logger().info
        clips = as_clips(dataset)
        name = clips.opt['name']
        metrics = self.metrics_for(clips.has_gt)
        if not metrics and not save_img:
            log(
                f'{name}: nothing to do. Set val:save_img=true to save images, or dataroot_gt and val:metrics to score.'
            )
            return None
        known = self._input_records.get(dataset)
        if (bits := bit_depth_of(clips)) > 8 and known is None:
            log(f'{name}: {bits}-bit images; scores and saved images keep {bits} bits.')
        scorer = Scorer(metrics)
        show_progress = self._val_opt.get('pbar', True) and self._ranks.rank == 0
        start = time.perf_counter()
        with (
            Progress(clips.num_frames, 'frame', f'testing {name}', log) if show_progress else nullcontext() as progress
        ):
            shares = self._ranks.gather(
                lambda: evaluate(
                    clips,
                    restore,
                    scorer=scorer if metrics else None,
                    score_device=self._device if self._device.type != 'cpu' and scorer.on_any_device else None,
                    score_input=not known,
                    unscored=self._unscored_frames(clips.videos) if metrics else (),
                    truncate=self.protocol.truncates,
                    save_path=partial(image_path, folder, suffix=self._val_opt.get('suffix')) if save_img else None,
                    rank=self._ranks.rank,
                    world_size=self._ranks.world_size,
                    progress=progress,
                )
            )
        saved = f', saved in {folder}' if save_img else ''
        seconds = time.perf_counter() - start
        log(f'{name}: {counted(clips.num_frames, "frame")} restored in {seconds:.1f} s{saved}.')
        records = [*(known or []), *(record for share in shares for record in share)]
        self._input_records[dataset] = [record for record in records if record.row == 'input']
        if not metrics:
            return None
        book = ScoreBook(name, metrics, self.protocol)
        book.add(records)
        return book

    def _unscored_frames(self, videos: Mapping[str, Sequence[str]]) -> set[tuple[str, str]]:
        """Return the frames that the protocol does not score, and warn about videos without scores."""
        border = self.protocol.border_frames
        scored = {video: frames[border : len(frames) - border] for video, frames in videos.items()}
        rule = f'val:protocol={self.protocol.name} does not score the first and the last {border} frames of each video'
        if not any(scored.values()):
            raise DataError(
                f'{rule}, and no video has more than {2 * border} frames. Use longer videos or val:protocol=dstnet.'
            )
        if short := [video for video, frames in scored.items() if not frames]:
            get_root_logger().warning(f'{rule}: no scores for {", ".join(short)}.')
        return {(video, frame) for video in videos for frame in set(videos[video]) - set(scored[video])}

    def report(
        self, book: ScoreBook, dataset: Any, folder: Path, iteration: int | None = None, best: Best | None = None
    ) -> None:
        """Write the scores of a data set to files and log them.

        After a test on a data set of the paper, this includes the paper's table with a row for this run.

        Args:
            book: result of `run`.
            dataset: the data set.
            folder: folder of the files.
            iteration: in training, the current iteration.
            best: in training, the best scores so far.

        Raises:
            DataError: a file cannot be written.
        """
        clips: ClipDataset = as_clips(dataset)
        provenance = {
            'frames_restored': clips.num_frames,
            'bit_depth': bit_depth_of(clips),
            'run': self._opt['name'],
            **({'weights': self._opt['path'].get('pretrain_network_g')} if iteration is None else {}),
            **({'iteration': iteration} if iteration is not None else {}),
            'network': dict(self._opt['network_g']),
            'precision': self.precision.name,
            'self_ensemble': bool(self._val_opt.get('self_ensemble')),
            'streaming': bool(self._val_opt.get('streaming')),
            'metrics': {name: dict(self.metrics[name]) for name in book.columns},
            'date': date.today().isoformat(),
        }
        stem = book.dataset if iteration is None else f'{book.dataset}_{iteration}'
        frames_csv = book.write(folder, stem, **provenance)
        notes = [
            f'Best {column.label}: {best[metric]["val"]:.{column.digits}f} (iteration {best[metric]["iter"]})'
            for metric, column in book.columns.items()
            if best is not None
        ]
        if self._val_opt.get('self_ensemble'):
            notes.append(f'Self-ensemble: the mean of {RESTORATIONS} restorations')
        lines = [book.table(*notes, f'Scores of each frame: {frames_csv}').text()]
        in_paper = self.protocol.name == 'dstnet' and published_for(book.dataset)
        if iteration is None and clips.has_gt and in_paper:
            tables = result_tables([measured_row(book.summary(**provenance))])
            path = folder / f'{book.dataset}_table.md'
            write_text(path, render(tables, 'markdown'))
            write_text(path.with_suffix('.csv'), render(tables, 'csv'))
            lines.append(f'{render(tables, "text")}Table: {path} and .csv')
        get_root_logger().info('\n'.join(lines))

    def saved_scores(self, folder: Path, last: int) -> Iterator[tuple[int, str, dict[str, float]]]:
        """Read the scores that `report` has written during training, with this protocol and these metrics.

        Args:
            folder: folder of the files.
            last: the last iteration to read.

        Yields:
            Iteration, name of the data set, and mean of each metric, by iteration.
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

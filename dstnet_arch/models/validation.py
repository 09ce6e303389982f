"""Validation and test of a data set: which frames count, the report, and the best scores so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
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
from dstnet_arch.metrics.protocols import Protocol
from dstnet_arch.metrics.report import Record, ScoreBook
from dstnet_arch.metrics.scorer import Scorer
from dstnet_arch.metrics.table import csv_text, write_text
from dstnet_arch.metrics.tables import CSV_HEADER, published_for, result_tables
from dstnet_arch.models.clips import ClipDataset, as_clips, bit_depth_of
from dstnet_arch.models.distributed import Ranks
from dstnet_arch.models.evaluation import Evaluation, evaluate, image_path
from dstnet_arch.models.self_ensemble import RESTORATIONS
from dstnet_arch.models.settings import metrics_of, precision_of, protocol_of, without_reference
from dstnet_arch.progress import Progress

Best = dict[str, dict[str, Any]]
"""Metric -> {'better', 'val', 'iter'}, as stock BasicSR stores the best scores of a data set."""

_NAMES_SHOWN = 5


class Validator:
    """Restore data sets, score them, and report the scores.

    Attributes:
        protocol: the scoring protocol.
        metrics: name -> entry of the options, of all metrics.
        precision: precision of the network.

    Args:
        opt: BasicSR's options.
        device: the device of the network.
        ranks: all processes of the run; rank 0 reports.

    Raises:
        OptionsError: unknown protocol, metric or precision.
    """

    def __init__(self, opt: Mapping[str, Any], device: torch.device, ranks: Ranks) -> None:
        self._opt = opt
        self._val_opt: dict[str, Any] = opt.get('val') or {}
        self._device = device
        self._ranks = ranks
        self.precision = precision_of(self._val_opt, 'val', device)
        self.protocol = protocol_of(self._val_opt)
        self.metrics = metrics_of(self._val_opt, self.protocol)
        # Scores of the blurry inputs never change, so repeated validations reuse them.
        self._input_records: WeakKeyDictionary[Any, list[Record]] = WeakKeyDictionary()
        if self.protocol.metrics and self._val_opt.get('metrics'):
            get_root_logger().info(
                f'val:protocol={self.protocol.name} defines its metrics ({", ".join(self.protocol.metrics)}): those of '
                'val:metrics that need ground truth are ignored.'
            )

    def metrics_for(self, has_gt: bool) -> dict[str, dict[str, Any]]:
        """Return the metrics to compute: all with ground truth, else those that need none."""
        return self.metrics if has_gt else without_reference(self.metrics)

    def run(
        self,
        dataset: Any,
        folder: Path,
        restore: Callable[[Tensor], Tensor],
        explain: Callable[[Tensor], str | None],
        save_img: bool,
    ) -> ScoreBook | None:
        """Restore, score and save a data set; each rank processes a share of the clips.

        Args:
            dataset: see `as_clips` for the supported ones.
            folder: folder of saved images.
            restore: see `evaluate`.
            explain: see `evaluate`.
            save_img: save the restored frames under the names of the source.

        Returns:
            The scores, on all ranks; None if there are none.

        Raises:
            DataError: a clip cannot be loaded, scored or saved, or no frame counts.
        """
        clips = as_clips(dataset)
        name = clips.opt['name']
        metrics = self.metrics_for(clips.has_gt)
        if not metrics and not save_img:
            get_root_logger().info(
                f'{name}: nothing to do. Set val:save_img=true to save images, or dataroot_gt and val:metrics to score.'
            )
            return None
        known = self._input_records.get(dataset)
        if (bits := bit_depth_of(clips)) > 8 and known is None:
            get_root_logger().info(f'{name}: {bits}-bit images; scores and saved images keep {bits} bits.')
        scorer = Scorer(metrics)
        show_progress = self._val_opt.get('pbar', True) and self._ranks.rank == 0
        progress = Progress(clips.num_frames, 'frame', name, get_root_logger().info) if show_progress else None
        try:
            shares = self._ranks.gather(
                lambda: evaluate(
                    clips,
                    restore,
                    scorer=scorer if metrics else None,
                    score_device=self._device if self._device.type != 'cpu' and scorer.on_any_device else None,
                    score_input=not known,
                    unscored=unscored_frames(self.protocol, clips.videos) if metrics else frozenset(),
                    truncate=self.protocol.truncates,
                    save_path=partial(image_path, folder, suffix=self._val_opt.get('suffix')) if save_img else None,
                    explain=explain,
                    rank=self._ranks.rank,
                    world_size=self._ranks.world_size,
                    progress=progress,
                )
            )
        finally:
            if progress is not None:
                progress.close()
        _log_times(name, shares, folder if save_img else None)
        records = [*(known or []), *(record for share in shares for record in share.records)]
        self._input_records[dataset] = [record for record in records if record.row == 'input']
        if not metrics:
            return None
        book = ScoreBook(name, metrics, self.protocol)
        book.add(records)
        return book

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
        if iteration is None and clips.has_gt:
            lines += _write_paper_table(book, folder, **provenance)
        get_root_logger().info('\n'.join(lines))


def unscored_frames(protocol: Protocol, videos: Mapping[str, Sequence[str]]) -> frozenset[tuple[str, str]]:
    """Return the frames that a protocol does not score, as (video, frame), and warn about videos without scores.

    Args:
        protocol: the scoring protocol.
        videos: names of the videos of a test set and of their frames, in order.

    Raises:
        DataError: no frame is left.
    """
    border = protocol.border_frames
    short = [video for video, frames in videos.items() if len(frames) <= 2 * border]
    rule = f'val:protocol={protocol.name} does not score the first and the last {border} frames of each video'
    if len(short) == len(videos):
        raise DataError(
            f'{rule}, and no video has more than {2 * border} frames. Use longer videos or val:protocol=dstnet.'
        )
    if short:
        more = f' and {len(short) - _NAMES_SHOWN} more' if len(short) > _NAMES_SHOWN else ''
        get_root_logger().warning(f'{rule}: no scores for {", ".join(short[:_NAMES_SHOWN])}{more}.')
    return protocol.unscored_frames(videos)


def _log_times(dataset: str, shares: Sequence[Evaluation], folder: Path | None) -> None:
    frames = counted(sum(share.num_frame for share in shares), 'frame')
    seconds = max(share.seconds for share in shares)
    restoring = max(share.restore_seconds for share in shares)
    saved = f', saved in {folder}' if folder else ''
    get_root_logger().info(
        f'{dataset}: {frames} restored in {seconds:.1f} s ({restoring:.1f} s in the network){saved}.'
    )


def _write_paper_table(book: ScoreBook, folder: Path, **provenance: Any) -> list[str]:
    """Write `<dataset>_table.md` and `.csv` if the paper has a table for this set and protocol; return log lines."""
    if book.protocol.name != 'dstnet' or not published_for(book.dataset):
        return []
    (table,) = result_tables([book.summary(**provenance)])
    path = folder / f'{book.dataset}_table.md'
    write_text(path, table.render('markdown'))
    write_text(path.with_suffix('.csv'), csv_text([CSV_HEADER]) + table.render('csv'))
    return [table.render('text') + f'Table: {path} and .csv']


def best_to_resume(resume_state: Mapping[str, Any], validator: Validator) -> dict[str, Best]:
    """Return the best scores in a training state; none if the metrics or the protocol have changed since."""
    if resume_state.get('protocol', validator.protocol.name) != validator.protocol.name:
        return {}
    best: dict[str, Best] = {
        dataset: record
        for dataset, record in resume_state.get('best_metric_results', {}).items()
        if record.keys() == validator.metrics.keys()
    }
    for record in best.values():
        for entry in record.values():
            entry['val'], entry['iter'] = float(entry['val']), int(entry['iter'])
    return best


def saved_means(folder: Path, iteration: int, validator: Validator) -> Iterator[tuple[str, dict[str, float | None]]]:
    """Read the summaries of an iteration: (data set, metric -> mean) of each data set.

    Summaries with another protocol or other metrics than the validator's are skipped.
    """
    protocol = validator.protocol
    for path in folder.glob(f'*_{iteration}_summary.json'):
        # Damaged files and those of other versions are skipped: best scores are not worth losing a run.
        with suppress(KeyError, OSError, TypeError, ValueError):
            summary = read_json(path)
            means = dict(summary[f'mean_over_{protocol.over}']['restored'])
            numbers = all(mean is None or isinstance(mean, (int, float)) for mean in means.values())
            same = summary['protocol'] == protocol.name and means.keys() <= validator.metrics.keys()
            if same and numbers and isinstance(summary['dataset'], str):
                yield summary['dataset'], means

"""Scores of a test set: collected frame by frame, then written as a table, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dstnet_arch.data.lmdb_format import natural_key
from dstnet_arch.errors import DataError, counted
from dstnet_arch.files import output_file
from dstnet_arch.metrics.protocols import Over, Protocol
from dstnet_arch.metrics.tables import markdown_table

ROWS = {'input': 'blurry input', 'restored': 'restored'}
"""Rows of a report and their names in tables."""
_LABELS = {'psnr': 'PSNR (dB)', 'ssim3d': 'SSIM-3D', 'ssim': 'SSIM (2-D)'}


class Record(NamedTuple):
    """Scores of one frame, in a form that processes can exchange."""

    row: str
    video: str
    frame: str
    scores: tuple[float, ...]


class ScoreBook:
    """Scores of the blurry and the restored frames of a test set, and their means.

    Papers use two means: over all frames (`over='frames'`) and over the means of the videos (`over='clips'`). The
    protocol defines the default. Infinite scores (the PSNR of identical frames) are left out of means and counted.

    Args:
        dataset: name of the test set.
        metrics: name -> entry of `val.metrics`, in the order of the columns.
        protocol: the scoring protocol.
        records: for each frame the scores of its input and of its result, in any order.

    Raises:
        DataError: a score is NaN or minus infinity, or a frame has two results.
    """

    def __init__(
        self, dataset: str, metrics: Mapping[str, Mapping[str, Any]], protocol: Protocol, records: Iterable[Record]
    ) -> None:
        self.dataset = dataset
        self.protocol = protocol
        self.metrics = metrics
        scores: dict[tuple[str, str], dict[str, tuple[float, ...]]] = {}
        for record in records:
            place = f'{dataset}, video {record.video}, frame {record.frame} ({ROWS[record.row]})'
            for metric, score in zip(metrics, record.scores, strict=True):
                if math.isnan(score) or score == -math.inf:
                    raise DataError(
                        f'{place}: {metric} is {score}. The metric is not defined for this frame, for example because '
                        'it is too small: check the frame, or remove the metric from val:metrics.'
                    )
            of_frame = scores.setdefault((record.video, record.frame), {})
            if record.row in of_frame:
                raise DataError(f'{place} was scored twice. Names of frames must be unique within a video.')
            of_frame[record.row] = record.scores
        self._frames = sorted(scores, key=lambda place: tuple(map(natural_key, place)))
        self._scores = np.array([[scores[place][row] for row in ROWS] for place in self._frames])  # (N, rows, metrics)
        videos = [video for video, _ in self._frames]
        self._clips = {video: self._scores[np.equal(videos, video)] for video in dict.fromkeys(videos)}

    def mean(self, row: str, over: Over | None = None) -> dict[str, float]:
        """Return the mean of each metric, infinity if all scores are infinite.

        Args:
            row: a key of `ROWS`.
            over: default: the protocol's.
        """
        of_clips = np.stack([_mean(scores) for scores in self._clips.values()])
        means = _mean(self._scores if (over or self.protocol.over) == 'frames' else of_clips)
        return dict(zip(self.metrics, means[list(ROWS).index(row)].tolist(), strict=True))

    def infinite(self, row: str) -> dict[str, int]:
        """Return the number of infinite scores of each metric, which are left out of means."""
        counts = np.isinf(self._scores[:, list(ROWS).index(row)]).sum(axis=0)
        return dict(zip(self.metrics, counts.tolist(), strict=True))

    def table(self, notes: Iterable[str] = ()) -> str:
        """Return a Markdown table of the protocol's means: blurry input, restored frames and the gain.

        The gain is positive if the restored frames are better, whether higher or lower values are better.

        Args:
            notes: more paragraphs below the table.
        """
        means = {row: self.mean(row) for row in ROWS}
        rows = [[title, *(score_text(*item) for item in means[row].items())] for row, title in ROWS.items()]
        gain, own_notes = ['gain'], []
        for metric, opt in self.metrics.items():
            difference = means['restored'][metric] - means['input'][metric]
            if opt.get('better') == 'lower':
                difference = -difference
                own_notes.append(f'{metric}: lower is better')
            gain.append(score_text(metric, difference, '+') if math.isfinite(difference) else '-')
            for row, title in ROWS.items():
                if count := self.infinite(row)[metric]:
                    text = f'{count} infinite (identical frames), not included in the mean'
                    own_notes.append(f'{metric}, {title}: {text}')
        return markdown_table(
            f'{self.dataset}: {counted(len(self._frames), "frame")} of {counted(len(self._clips), "video")}',
            ['', *(_LABELS.get(metric, metric) for metric in self.metrics)],
            [*rows, gain],
            [*own_notes, f'Protocol {self.protocol}', *notes],
        )

    def summary(self, **extra: Any) -> dict[str, Any]:
        """Return the means and their meaning, ready for JSON, followed by `extra`.

        Keys: `dataset`, `protocol`, `protocol_description`, `mean_over` (the protocol's mean: 'frames' or 'clips'),
        `frames` and `videos` (numbers of scored ones), `mean_over_frames` and `mean_over_clips` (row -> metric -> mean;
        null if all scores are infinite) and `infinite_left_out` (row -> metric -> number of frames).
        """

        def means(over: Over) -> dict[str, dict[str, float | None]]:
            of_rows = {row: self.mean(row, over) for row in ROWS}
            # JSON has no infinity.
            return {row: {k: v if math.isfinite(v) else None for k, v in of_rows[row].items()} for row in ROWS}

        return {
            'dataset': self.dataset,
            'protocol': self.protocol.name,
            'protocol_description': str(self.protocol),
            'mean_over': self.protocol.over,
            'frames': len(self._frames),
            'videos': len(self._clips),
            'mean_over_frames': means('frames'),
            'mean_over_clips': means('clips'),
            'infinite_left_out': {row: self.infinite(row) for row in ROWS},
            **extra,
        }

    def write(self, folder: Path, stem: str, **extra: Any) -> Path:
        """Write `<stem>_frames.csv`, `<stem>_clips.csv` and `<stem>_summary.json`; each replaces an older file.

        The CSV files have the columns `video, frame` or `video, frames` (their number), then `input_<metric>` and
        `restored_<metric>` for each metric, then `protocol`.

        Args:
            folder: created if needed.
            stem: start of the file names.
            **extra: more entries of the summary.

        Returns:
            The path of `<stem>_frames.csv`.

        Raises:
            DataError: a file cannot be written.
        """
        columns = [*(f'{row}_{metric}' for metric in self.metrics for row in ROWS), 'protocol']

        def line(first: str, second: object, scores: NDArray[np.float64]) -> list[object]:
            return [first, second, *scores.T.ravel().tolist(), self.protocol.name]

        frames = [line(*place, scores) for place, scores in zip(self._frames, self._scores, strict=True)]
        clips = [line(video, len(scores), _mean(scores)) for video, scores in self._clips.items()]
        frames_csv = folder / f'{stem}_frames.csv'
        write_text(frames_csv, _csv([['video', 'frame', *columns], *frames]))
        write_text(folder / f'{stem}_clips.csv', _csv([['video', 'frames', *columns], *clips]))
        text = json.dumps(self.summary(**extra), indent=2, allow_nan=False, ensure_ascii=False)
        write_text(folder / f'{stem}_summary.json', text + '\n')
        return frames_csv


def _mean(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the first axis, without infinite scores."""
    finite = np.isfinite(scores)
    count = finite.sum(axis=0)
    return np.where(count, np.where(finite, scores, 0).sum(axis=0) / np.maximum(count, 1), math.inf)


def score_text(metric: str, score: float, sign: str = '') -> str:
    """Format a score of a metric for tables."""
    return f'{score:{sign}.{2 if metric == "psnr" else 4}f}'


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        DataError: the file cannot be written.
    """
    with output_file(path, DataError) as file:
        file.write(text.encode('utf-8'))

"""Scores of a test set: collected frame by frame, then written as a table, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
    Results do not depend on the order in which scores are added.

    Args:
        dataset: name of the test set.
        metrics: name -> entry of `val.metrics`, in the order of the columns.
        protocol: the scoring protocol.
    """

    def __init__(self, dataset: str, metrics: Mapping[str, Mapping[str, Any]], protocol: Protocol) -> None:
        self.dataset = dataset
        self.protocol = protocol
        self.metrics = metrics
        self._videos: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {}  # video -> frame -> row -> scores

    def add(self, records: Iterable[Record]) -> None:
        """Add the scores of all frames, blurry and restored.

        Raises:
            DataError: a score is NaN or minus infinity, or a frame has two results.
        """
        for row, video, frame, scores in sorted(records, key=lambda r: (natural_key(r.video), natural_key(r.frame))):
            place = f'{self.dataset}, video {video}, frame {frame} ({ROWS[row]})'
            for metric, score in zip(self.metrics, scores, strict=True):
                if math.isnan(score) or score == -math.inf:
                    raise DataError(
                        f'{place}: {metric} is {score}. The metric is not defined for this frame, for example because '
                        'it is too small: check the frame, or remove the metric from val:metrics.'
                    )
            of_frame = self._videos.setdefault(video, {}).setdefault(frame, {})
            if row in of_frame:
                raise DataError(f'{place} was scored twice. Names of frames must be unique within a video.')
            of_frame[row] = scores

    def mean(self, row: str, over: Over | None = None) -> dict[str, float]:
        """Return the mean of each metric, infinity if all scores are infinite.

        Args:
            row: a key of `ROWS`.
            over: default: the protocol's.
        """
        if (over or self.protocol.over) == 'frames':
            scores = self._scores(row)
        else:
            scores = [_means([frame[row] for frame in frames.values()]) for frames in self._videos.values()]
        return dict(zip(self.metrics, _means(scores), strict=True))

    def infinite(self, row: str) -> dict[str, int]:
        """Return the number of infinite scores of each metric, which are left out of means."""
        columns = zip(*self._scores(row), strict=True)
        return {metric: sum(map(math.isinf, column)) for metric, column in zip(self.metrics, columns, strict=True)}

    def _scores(self, row: str) -> list[tuple[float, ...]]:
        return [frame[row] for frames in self._videos.values() for frame in frames.values()]

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
        frames = counted(sum(map(len, self._videos.values())), 'frame')
        return markdown_table(
            f'{self.dataset}: {frames} of {counted(len(self._videos), "video")}',
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
            'frames': sum(map(len, self._videos.values())),
            'videos': len(self._videos),
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
        header = [*(f'{row}_{metric}' for metric in self.metrics for row in ROWS), 'protocol']
        frame_lines: list[list[object]] = [['video', 'frame', *header]]
        clip_lines: list[list[object]] = [['video', 'frames', *header]]
        for video, frames in self._videos.items():
            for frame, scores in frames.items():
                frame_lines.append([video, frame, *_interleave(scores), self.protocol.name])
            means = {row: _means([scores[row] for scores in frames.values()]) for row in ROWS}
            clip_lines.append([video, len(frames), *_interleave(means), self.protocol.name])
        text = json.dumps(self.summary(**extra), indent=2, allow_nan=False, ensure_ascii=False)
        frames_csv = folder / f'{stem}_frames.csv'
        write_text(frames_csv, _csv(frame_lines))
        write_text(folder / f'{stem}_clips.csv', _csv(clip_lines))
        write_text(folder / f'{stem}_summary.json', text + '\n')
        return frames_csv


def score_text(metric: str, score: float, sign: str = '') -> str:
    """Format a score of a metric for tables."""
    return f'{score:{sign}.{2 if metric == "psnr" else 4}f}'


def _means(scores: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """Return the mean of each column, without infinite scores."""
    means = []
    for values in zip(*scores, strict=True):
        finite = [value for value in values if math.isfinite(value)]
        # fsum rounds once at the end, so the result does not depend on the order.
        means.append(math.fsum(finite) / len(finite) if finite else math.inf)
    return tuple(means)


def _interleave(scores: Mapping[str, tuple[float, ...]]) -> list[float]:
    return [score for pair in zip(*(scores[row] for row in ROWS), strict=True) for score in pair]


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

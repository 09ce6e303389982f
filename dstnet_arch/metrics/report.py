"""Scores of a test set: collected frame by frame, then written as a table, CSV and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dstnet_arch.data.lmdb_format import natural_key
from dstnet_arch.errors import DataError, counted
from dstnet_arch.metrics.protocols import Over, Protocol
from dstnet_arch.metrics.tables import Table, csv_text, write_text

ROWS = {'input': 'blurry input', 'restored': 'restored'}
"""Rows of a report and their names in tables."""


class Record(NamedTuple):
    """Scores of one frame, in a form that processes can exchange."""

    row: str
    video: str
    frame: str
    scores: tuple[float, ...]


class Column(NamedTuple):
    """Format of a metric in tables."""

    label: str
    digits: int = 4
    higher_is_better: bool = True


COLUMNS = {
    'psnr': Column('PSNR (dB)', 2),
    'ssim3d': Column('SSIM-3D'),
    'ssim': Column('SSIM (2-D)'),
}
"""Formats of the metrics in this project's options files."""


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
        self.columns = {
            name: COLUMNS.get(name, Column(name))._replace(higher_is_better=opt.get('better') != 'lower')
            for name, opt in metrics.items()
        }
        self._scores: dict[str, dict[tuple[str, str], tuple[float, ...]]] = {row: {} for row in ROWS}

    def add(self, records: Iterable[Record]) -> None:
        """Add scores.

        Raises:
            DataError: a score is NaN or minus infinity, or a frame has two results.
        """
        for row, video, frame, scores in records:
            place = f'{self.dataset}, video {video}, frame {frame} ({ROWS[row]})'
            for metric, score in zip(self.columns, scores, strict=True):
                if math.isnan(score) or score == -math.inf:
                    raise DataError(
                        f'{place}: {metric} is {score}. The metric is not defined for this frame, for example because '
                        'it is too small: check the frame, or remove the metric from val:metrics.'
                    )
            if (video, frame) in self._scores[row]:
                raise DataError(f'{place} was scored twice. Names of frames must be unique within a video.')
            self._scores[row][video, frame] = scores

    def mean(self, row: str, over: Over | None = None) -> dict[str, float]:
        """Return the mean of each metric, infinity if all scores are infinite; `{}` if the row has no scores.

        Args:
            row: a key of `ROWS`.
            over: default: the protocol's.
        """
        if (over or self.protocol.over) == 'frames':
            return self._means(list(self._scores[row].values()))
        return self._means([tuple(means.values()) for means in self.clip_means(row).values()])

    def clip_means(self, row: str) -> dict[str, dict[str, float]]:
        """Return the mean of each metric over the frames of each video: {video: {metric: mean}}."""
        return {
            video: self._means([self._scores[row][video, frame] for frame in frames])
            for video, frames in self._videos(row).items()
        }

    def infinite(self, row: str) -> dict[str, int]:
        """Return the number of infinite scores of each metric, which are left out of means."""
        scores = self._scores[row].values()
        return {metric: sum(math.isinf(values[i]) for values in scores) for i, metric in enumerate(self.columns)}

    def table(self, *notes: str) -> Table:
        """Return a table of the protocol's means: blurry input, restored frames and the gain.

        The gain is positive if the restored frames are better, whether higher or lower values are better.

        Args:
            *notes: more lines to print below the table.
        """
        videos = self._videos(*ROWS)
        means = {row: self.mean(row) for row in ROWS if self._scores[row]}
        rows = [[ROWS[row]] for row in means] + [['gain']] * (len(means) == len(ROWS))
        own_notes = []
        for metric, (label, digits, higher_is_better) in self.columns.items():
            values = [mean[metric] for mean in means.values()]
            cells = [f'{value:.{digits}f}' for value in values]
            if len(values) == len(ROWS):
                gain = values[1] - values[0] if higher_is_better else values[0] - values[1]
                cells.append(f'{gain:+.{digits}f}' if math.isfinite(gain) else '-')
            rows = [[*row, cell] for row, cell in zip(rows, cells, strict=True)]
            for row in means:
                if count := self.infinite(row)[metric]:
                    text = f'{count} infinite (identical frames), not included in the mean'
                    own_notes.append(f'{label}, {ROWS[row]}: {text}')
            if not higher_is_better:
                own_notes.append(f'{label}: lower is better')
        frames = counted(sum(map(len, videos.values())), 'frame')
        return Table(
            title=f'{self.dataset}: {frames} of {counted(len(videos), "video")}',
            header=['', *(column.label for column in self.columns.values())],
            rows=rows,
            notes=[*own_notes, f'Protocol {self.protocol}', *notes],
        )

    def summary(self, **extra: Any) -> dict[str, Any]:
        """Return the means and their meaning, ready for JSON, followed by `extra`.

        Keys: `dataset`, `protocol`, `protocol_description`, `mean_over` (the protocol's mean: 'frames' or 'clips'),
        `frames` and `videos` (numbers of scored ones), `mean_over_frames` and `mean_over_clips` (row -> metric -> mean;
        null if all scores are infinite) and `infinite_left_out` (row -> metric -> number of frames).
        """
        rows = [row for row in ROWS if self._scores[row]]
        videos = self._videos(*ROWS)
        return {
            'dataset': self.dataset,
            'protocol': self.protocol.name,
            'protocol_description': str(self.protocol),
            'mean_over': self.protocol.over,
            'frames': sum(map(len, videos.values())),
            'videos': len(videos),
            'mean_over_frames': {row: _without_infinity(self.mean(row, over='frames')) for row in rows},
            'mean_over_clips': {row: _without_infinity(self.mean(row, over='clips')) for row in rows},
            'infinite_left_out': {row: self.infinite(row) for row in rows},
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
        header = [*(f'{row}_{metric}' for metric in self.columns for row in ROWS), 'protocol']
        frame_lines: list[list[object]] = [['video', 'frame', *header]]
        clip_lines: list[list[object]] = [['video', 'frames', *header]]
        empty = ('',) * len(self.columns)

        def line(first: str, second: object, scores: Iterable[Sequence[object]]) -> list[object]:
            return [first, second, *(cell for pair in zip(*scores, strict=True) for cell in pair), self.protocol.name]

        clip_means = [self.clip_means(row) for row in ROWS]
        for video, frames in self._videos(*ROWS).items():
            for frame in frames:
                scores = (self._scores[row].get((video, frame), empty) for row in ROWS)
                frame_lines.append(line(video, frame, scores))
            means = (tuple(of_row[video].values()) if video in of_row else empty for of_row in clip_means)
            clip_lines.append(line(video, len(frames), means))
        text = json.dumps(self.summary(**extra), indent=2, allow_nan=False, ensure_ascii=False)
        frames_csv = folder / f'{stem}_frames.csv'
        write_text(frames_csv, csv_text(frame_lines))
        write_text(folder / f'{stem}_clips.csv', csv_text(clip_lines))
        write_text(folder / f'{stem}_summary.json', text + '\n')
        return frames_csv

    def _videos(self, *rows: str) -> dict[str, list[str]]:
        """Names of all videos with a score in any of the rows and of their frames, in natural order."""
        keys = {key for row in rows for key in self._scores[row]}
        videos: dict[str, list[str]] = {}
        for video, frame in sorted(keys, key=lambda key: tuple(map(natural_key, key))):
            videos.setdefault(video, []).append(frame)
        return videos

    def _means(self, scores: Sequence[tuple[float, ...]]) -> dict[str, float]:
        means = {}
        for metric, values in zip(self.columns, zip(*scores, strict=True), strict=False):  # empty without scores
            finite = [value for value in values if math.isfinite(value)]
            # fsum rounds once at the end, so the result does not depend on the order.
            means[metric] = math.fsum(finite) / len(finite) if finite else math.inf
        return means


def _without_infinity(values: Mapping[str, float]) -> dict[str, float | None]:
    # JSON has no infinity.
    return {key: value if math.isfinite(value) else None for key, value in values.items()}

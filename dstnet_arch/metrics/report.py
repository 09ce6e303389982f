"""The scores of a test run: collected frame by frame, then written as a table, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dstnet_arch.data.lmdb_format import natural_key
from dstnet_arch.files import atomic_file
from dstnet_arch.metrics.protocols import PROTOCOLS, Over, Protocol

ROWS = {'input': 'blurry input', 'restored': 'restored'}
"""The rows of a report and their names in the table, in its order."""

Record = tuple[str, str, str, tuple[float, ...]]
"""(row, video, frame, one score for each metric): plain values, so that processes can exchange them."""


class Column(NamedTuple):
    """How the table shows a metric."""

    label: str
    digits: int = 4
    higher_is_better: bool = True


COLUMNS = {
    'psnr': Column('PSNR (dB)', 2),
    'ssim3d': Column('SSIM-3D'),
    'ssim': Column('SSIM (2-D)'),
}
"""The metrics of the project's options files, by their keys there."""


class ScoreBook:
    """Scores of blurry and restored frames against the sharp ones, and the means that papers report.

    Two means are in use: over all frames of a set (the paper's: `over='frames'`), and over the means of the clips
    (stock BasicSR's: `over='clips'`); they differ where clips differ in length. The protocol says which one is meant
    where none is named. An infinite score, i.e. the PSNR of identical frames, is left out of means and counted, in the
    JSON summary and below the table. All results are independent of the order in which scores were added.

    Args:
        metrics: the keys of the metrics, in the order of the columns, e.g. ('psnr', 'ssim3d', 'ssim').
        dataset: name of the test set.
        columns: how to show metrics that are not in `COLUMNS`, or to show those otherwise. A metric in neither is
            shown under its key, with four digits, as one where higher is better.
        protocol: how the scores were taken; every report names it. Only frames that count get scores.

    Raises:
        ValueError: a metric is named twice.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        dataset: str,
        columns: Mapping[str, Column] | None = None,
        protocol: Protocol = PROTOCOLS['dstnet'],
    ) -> None:
        self.metrics = tuple(metrics)
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f'a metric is named twice: {", ".join(self.metrics)}')
        self.dataset = dataset
        self.protocol = protocol
        shown = {**COLUMNS, **(columns or {})}
        self.columns = {metric: shown.get(metric, Column(metric)) for metric in self.metrics}
        self._scores: dict[str, dict[tuple[str, str], tuple[float, ...]]] = {row: {} for row in ROWS}

    def add(self, row: str, video: str, frame: str, values: Mapping[str, float]) -> None:
        """Enter the scores of one frame.

        Args:
            row: 'input' for the blurry frame, 'restored' for the restored one.
            video: name of the video.
            frame: name of the frame.
            values: one score for each metric of this book.

        Raises:
            ValueError: unknown row, missing or unknown metrics, a score that is not a number (NaN, or minus
                infinity), or a frame that has its scores already.
        """
        if set(values) != set(self.metrics):
            raise ValueError(
                f'{_place(row, video, frame)}: got scores for {", ".join(values) or "nothing"}, '
                f'expected {", ".join(self.metrics) or "none"}'
            )
        self.merge([(row, video, frame, tuple(float(values[metric]) for metric in self.metrics))])

    @property
    def records(self) -> list[Record]:
        """All scores as plain tuples, sorted; `merge` of another book takes them."""
        return [(row, *key, self._scores[row][key]) for row in ROWS for key in self._frames(row)]

    def merge(self, records: Iterable[Record]) -> None:
        """Enter records of other books with the same metrics, e.g. of other processes: all of them or none.

        Raises as `add` does.
        """
        new: dict[str, dict[tuple[str, str], tuple[float, ...]]] = {row: {} for row in ROWS}
        for row, video, frame, scores in records:
            if row not in ROWS:
                raise ValueError(f'{_place(row, video, frame)}: the row must be one of {", ".join(ROWS)}')
            if len(scores) != len(self.metrics):
                raise ValueError(
                    f'{_place(row, video, frame)}: got {len(scores)} scores, expected one each for '
                    f'{", ".join(self.metrics) or "no metric"}'
                )
            for metric, score in zip(self.metrics, scores, strict=True):
                if math.isnan(score) or score == -math.inf:
                    raise ValueError(
                        f'{_place(row, video, frame)}: {metric} is {score}; the frame or its ground truth '
                        'probably holds values that are not finite'
                    )
            if (video, frame) in self._scores[row] or (video, frame) in new[row]:
                raise ValueError(f'{_place(row, video, frame)}: the frame has its scores already')
            new[row][video, frame] = tuple(scores)
        for row, frames in new.items():
            self._scores[row].update(frames)

    @property
    def num_frames(self) -> int:
        """Frames with a score in any row."""
        return len(self._frames(*ROWS))

    @property
    def num_videos(self) -> int:
        """Videos with a score in any row."""
        return len(self._videos(*ROWS))

    def mean(self, row: str, over: Over | None = None) -> dict[str, float]:
        """Mean of each metric over all frames, or over the means of all clips; `{}` where the row has no scores.

        Infinity where all frames have an infinite score.
        """
        if (over or self.protocol.over) == 'frames':
            return self._means(row, self._frames(row))
        clips = self.clip_means(row).values()
        return {metric: _finite_mean([clip[metric] for clip in clips]) for metric in self.metrics if clips}

    def clip_means(self, row: str) -> dict[str, dict[str, float]]:
        """Mean of each metric over the frames of each video, in natural order of the names: {video: {metric: mean}}."""
        return {video: self._means(row, keys) for video, keys in self._videos(row).items()}

    def infinite(self, row: str) -> dict[str, int]:
        """Number of frames left out of the mean of each metric, their score being infinite."""
        scores = self._scores[row].values()
        return {metric: sum(math.isinf(values[i]) for values in scores) for i, metric in enumerate(self.metrics)}

    def table(self) -> str:
        """The protocol's means as text: the blurry input, the restored frames, what was gained, and the protocol.

        A gain is positive where the restored frames are better, whether higher or lower is better. It is given where
        both rows hold the same frames.
        """
        if not self.num_frames:
            return f'{self.dataset}: no frame was scored'
        frames, videos = self.num_frames, self.num_videos
        title = f'{self.dataset}, {frames} frame{"s" * (frames != 1)} of {videos} video{"s" * (videos != 1)}'
        means = {row: self.mean(row) for row in ROWS if self._scores[row]}
        lines = [[title, *(column.label for column in self.columns.values())]]
        for row, values in means.items():
            lines.append([ROWS[row], *(f'{values[key]:.{column.digits}f}' for key, column in self.columns.items())])
        if self._scores['input'].keys() == self._scores['restored'].keys():
            lines.append(['gain', *(self._gain(metric, means) for metric in self.metrics)])
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        text = [
            '  '.join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]).rstrip() for cells in lines
        ]
        return '\n'.join(text + self._notes())

    def _gain(self, metric: str, means: Mapping[str, Mapping[str, float]]) -> str:
        column = self.columns[metric]
        before, after = means['input'][metric], means['restored'][metric]
        if not math.isfinite(before) or not math.isfinite(after):
            return '-'
        gain = after - before if column.higher_is_better else before - after
        return f'{gain:+.{column.digits}f}'

    def _notes(self) -> list[str]:
        notes = []
        for metric, column in self.columns.items():
            for row, name in ROWS.items():
                if count := self.infinite(row)[metric]:
                    notes.append(f'{column.label}, {name}: {count} infinite (identical frames), left out of the mean')
            if not column.higher_is_better:
                notes.append(f'{column.label}: lower is better')
        for row, name in ROWS.items():
            if 0 < len(self._scores[row]) < self.num_frames:
                notes.append(f'{name}: {len(self._scores[row])} of {self.num_frames} frames have scores')
        return [*notes, f'protocol {self.protocol}']

    def write_csv(self, folder: str | os.PathLike[str], stem: str | None = None) -> tuple[Path, Path]:
        """Write `<stem>_frames.csv` and `<stem>_clips.csv`; files of these names are replaced, each at once.

        Columns: `video, frame` and `video, frames` (their number), then for each metric `input_<metric>` and
        `restored_<metric>`; empty where a row has no score; then the name of the `protocol`. Scores stand there in
        full, an infinite one as `inf`.

        Args:
            folder: made where it does not exist.
            stem: start of the file names; `dataset` by default.

        Returns:
            The two paths.

        Raises:
            ValueError: the stem holds a slash.
        """
        stem = self.dataset if stem is None else stem
        if Path(stem).name != stem:
            raise ValueError(f'{stem!r} cannot begin a file name; pass another `stem`')
        header = [*(f'{row}_{metric}' for metric in self.metrics for row in ROWS), 'protocol']
        frame_lines: list[list[object]] = [['video', 'frame', *header]]
        for key in self._frames(*ROWS):
            scores = {row: self._scores[row].get(key) for row in ROWS}
            cells = [values[i] if (values := scores[row]) else '' for i in range(len(self.metrics)) for row in ROWS]
            frame_lines.append([*key, *cells, self.protocol.name])
        clip_lines: list[list[object]] = [['video', 'frames', *header]]
        means = {row: self.clip_means(row) for row in ROWS}
        for video, keys in self._videos(*ROWS).items():
            cells = [means[row].get(video, {}).get(metric, '') for metric in self.metrics for row in ROWS]
            clip_lines.append([video, len(keys), *cells, self.protocol.name])
        paths = Path(folder) / f'{stem}_frames.csv', Path(folder) / f'{stem}_clips.csv'
        for path, lines in zip(paths, (frame_lines, clip_lines), strict=True):
            text = io.StringIO()
            csv.writer(text, lineterminator='\n').writerows(lines)
            write_text(path, text.getvalue())
        return paths

    def summary(self, **extra: Any) -> dict[str, Any]:
        """The means, and what they are of.

        Keys: `dataset`, `protocol`, `protocol_in_words`, `mean_over` ('frames' or 'clips': which of the two means
        counts), `frames`, `videos` (numbers of those that count), `mean_over_frames` and `mean_over_clips` (row ->
        metric -> mean; null where all scores are infinite), `infinite_left_out` (row -> metric -> number of frames),
        then `extra`. Only rows that have scores appear.

        Raises:
            ValueError: a key of `extra` is one of these.
        """
        rows = [row for row in ROWS if self._scores[row]]
        summary: dict[str, Any] = {
            'dataset': self.dataset,
            'protocol': self.protocol.name,
            'protocol_in_words': str(self.protocol),
            'mean_over': self.protocol.over,
            'frames': self.num_frames,
            'videos': self.num_videos,
            'mean_over_frames': {row: _without_infinity(self.mean(row, over='frames')) for row in rows},
            'mean_over_clips': {row: _without_infinity(self.mean(row, over='clips')) for row in rows},
            'infinite_left_out': {row: self.infinite(row) for row in rows},
        }
        if taken := summary.keys() & extra.keys():
            raise ValueError(f'the summary has keys of its own named {", ".join(sorted(taken))}; rename the extra ones')
        return {**summary, **extra}

    def write_json(self, path: str | os.PathLike[str], **extra: Any) -> Path:
        """Write the `summary`; a file of this name is replaced at once.

        Raises:
            ValueError: as `summary`, or a value in `extra` is not finite.
            TypeError: a value in `extra` has no form in JSON.
        """
        text = json.dumps(self.summary(**extra), indent=2, allow_nan=False, ensure_ascii=False)
        write_text(Path(path), text + '\n')
        return Path(path)

    def _frames(self, *rows: str) -> list[tuple[str, str]]:
        """(video, frame) of all frames with a score in any of the rows, in natural order."""
        keys = {key for row in rows for key in self._scores[row]}
        return sorted(keys, key=lambda key: tuple(map(natural_key, key)))

    def _videos(self, *rows: str) -> dict[str, list[tuple[str, str]]]:
        """The keys of `_frames`, by video."""
        videos: dict[str, list[tuple[str, str]]] = {}
        for key in self._frames(*rows):
            videos.setdefault(key[0], []).append(key)
        return videos

    def _means(self, row: str, keys: Sequence[tuple[str, str]]) -> dict[str, float]:
        scores = [self._scores[row][key] for key in keys]
        return {
            metric: _finite_mean([values[i] for values in scores]) for i, metric in enumerate(self.metrics) if scores
        }


def _place(row: str, video: str, frame: str) -> str:
    return f'score of video {video!r}, frame {frame!r} ({row})'


def _finite_mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    # fsum rounds once, at the end: ten scores of 0.1 have the mean 0.1, and no order of adding can show.
    return math.fsum(finite) / len(finite) if finite else math.inf


def _without_infinity(values: Mapping[str, float]) -> dict[str, float | None]:
    # JSON has no infinity.
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader, or an interruption, never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(text.encode('utf-8'))

"""``dstnet visualize report``: an HTML page about a test."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dstnet_arch.data.image_file import to_8_bit
from dstnet_arch.errors import DataError, counted
from dstnet_arch.files import read_json
from dstnet_arch.html import MAX_POINTS, encode_profile, frame_values, line_chart, render, spaced_positions
from dstnet_arch.metrics.report import ROWS, score_text
from dstnet_arch.progress import Progress
from dstnet_arch.visualize.figures import scores, temporal_profile
from dstnet_arch.visualize.sources import Footage

_NUM_SHOWN = 5  # frames under a slider
_FACTS = ('run', 'weights', 'precision', 'protocol_description', 'network', 'self_ensemble', 'streaming', 'date')


def report_page(footage: Footage, results: Path | None) -> str:
    """Return the page: scores, frames of the first two sources under sliders, and temporal profiles of all sources.

    Args:
        footage: a clip in two or more sources.
        results: start of the names of the files of scores that a test has written, such as ``results/NAME/DATASET``.

    Raises:
        DataError: there is only one source, or a file is damaged.
    """
    frames = footage.choose_frames(None, None)
    names = list(footage.tracks)
    if len(names) == 1:
        raise DataError('A report compares sources, but only one was given. Give another one as NAME=FOLDER.')
    shown = []
    for position in sorted(spaced_positions(len(frames), _NUM_SHOWN)):
        images = footage.read(frames[position])
        captions = scores(images)
        before, after = (to_8_bit(images[name]) for name in names[:2])
        note = '; '.join(captions[name] for name in names[:2]) if 'sharp' in images else ''
        shown.append(frame_values(frames[position], before, after, note))
    every = -(-len(frames) // MAX_POINTS)
    column = shown[0]['width'] // 2
    profiles = {}
    with Progress(len(names), 'source', 'reading') as progress:
        for name in names:
            columns = temporal_profile((footage.read_from(name, frame) for frame in frames[::every]), column)
            profiles[name] = encode_profile(to_8_bit(columns))
            progress.update()
    return render(
        'test_report.html.j2',
        title=f'Test of {results.parent.name} on {results.name}' if results else f'Comparison of {", ".join(names)}',
        clip=footage.clip or 'the clip',
        names=names[:2],
        frames=shown,
        column=column,
        width=shown[0]['width'],
        every=every,
        profiles=profiles,
        **_scores(results, footage.clip),
    )


def _scores(results: Path | None, clip: str) -> dict[str, Any]:
    if results is None or not (summary_file := results.with_name(f'{results.name}_summary.json')).exists():
        return {}
    try:
        summary = read_json(summary_file)
        of_frames, of_clips = (_table(results.with_name(f'{results.name}_{kind}.csv')) for kind in ('frames', 'clips'))
        metrics = list(summary['metrics'])
        means = summary[f'mean_over_{summary["mean_over"]}']
        return {
            'summary': {
                'header': ['', *metrics],
                'rows': [
                    [title, *(_text(metric, means[row][metric]) for metric in metrics)] for row, title in ROWS.items()
                ],
                'note': f'Means over {counted(summary["frames"], "frame")} of {counted(summary["videos"], "clip")}.',
            },
            'clips': {
                'header': ['clip', 'frames', *(f'{metric}, {title}' for metric in metrics for title in ROWS.values())],
                'rows': [
                    [row['video'], row['frames'], *(_text(m, float(row[f'{r}_{m}'])) for m in metrics for r in ROWS)]
                    for row in of_clips
                ],
            },
            'charts': {
                metric: line_chart(
                    {
                        title: [float(frame[f'{row}_{metric}']) for frame in of_frames if frame['video'] == clip]
                        for row, title in ROWS.items()
                    },
                    metric,
                )
                for metric in metrics
            },
            'facts': {key.replace('_', ' '): _fact(summary[key]) for key in _FACTS if key in summary},
        }
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise DataError(f'The scores {results}_*.csv and .json are damaged: {error}. Repeat the test.') from None


def _table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text('utf-8'))))


def _text(metric: str, score: float | None) -> str:
    return 'infinite' if score is None else score_text(metric, score)


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ', '.join(f'{key}: {content}' for key, content in value.items())
    return {True: 'yes', False: 'no'}.get(value, str(value))

"""What a validation or a test leaves behind: files of scores, and lines for the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from basicsr.utils import get_root_logger

from dstnet_arch.errors import DataError
from dstnet_arch.files import read_json
from dstnet_arch.metrics.protocols import Protocol
from dstnet_arch.metrics.report import COLUMNS, Column, ScoreBook, write_text
from dstnet_arch.metrics.tables import published_for, result_tables
from dstnet_arch.models.evaluation import Evaluation

_NAMED_AT_MOST = 5


def uncounted_frames(protocol: Protocol, videos: Mapping[str, Sequence[str]]) -> frozenset[tuple[str, str]]:
    """The frames that a protocol does not count, as (video, frame); videos of which nothing counts are warned of.

    Args:
        protocol: the protocol.
        videos: names of the videos of a test set and of all their frames, in order.

    Raises:
        DataError: no frame is left.
    """
    border = protocol.border_frames
    short = [video for video, frames in videos.items() if len(frames) <= 2 * border]
    rule = f'val:protocol {protocol.name} leaves out the first and the last {border} frames of each video'
    if len(short) == len(videos):
        raise DataError(
            f'{rule}, and none here has more than {2 * border}: no frame counts. Give longer videos, or set '
            'val:protocol=dstnet.'
        )
    if short:
        more = f' and {len(short) - _NAMED_AT_MOST} more' if len(short) > _NAMED_AT_MOST else ''
        get_root_logger().warning(f'{rule}: nothing of {", ".join(short[:_NAMED_AT_MOST])}{more} counts.')
    return protocol.uncounted(videos)


def columns_of(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Column]:
    """How the tables show the scores of `val.metrics`: name -> column."""
    return {
        metric: COLUMNS.get(metric, Column(metric))._replace(higher_is_better=opt.get('better') != 'lower')
        for metric, opt in metrics.items()
    }


def log_times(dataset: str, shares: Sequence[Evaluation], folder: Path | None) -> None:
    """Log how long the ranks' shares of a data set took, and where pictures were saved, if anywhere."""
    frames = sum(share.num_frame for share in shares)
    seconds = max(share.seconds for share in shares)
    restoring = max(share.restore_seconds for share in shares)
    saved = f', saved in {folder}' if folder else ''
    get_root_logger().info(
        f'{dataset}: {frames} frames restored in {seconds:.1f} s ({restoring:.1f} s in the network){saved}.'
    )


def scores_of(folder: Path, iteration: int, protocol: Protocol) -> Iterator[tuple[str, dict[str, float | None]]]:
    """What `write_scores` has written in `folder` of an iteration: (data set, metric -> mean) of each data set."""
    for path in folder.glob(f'*_{iteration}_summary.json'):
        # What is no summary of this version is passed over: a run is not lost for a best score.
        with suppress(KeyError, OSError, TypeError, ValueError):
            summary = read_json(path)
            means = dict(summary[f'mean_over_{protocol.over}']['restored'])
            numbers = all(mean is None or isinstance(mean, (int, float)) for mean in means.values())
            if summary['protocol'] == protocol.name and isinstance(summary['dataset'], str) and numbers:
                yield summary['dataset'], means


def write_scores(book: ScoreBook, folder: Path, stem: str, provenance: Mapping[str, Any]) -> Path:
    """Write `<stem>_frames.csv`, `<stem>_clips.csv` and `<stem>_summary.json`; returns the first one's path.

    Raises:
        DataError: they cannot be written.
    """
    try:
        frames_csv, _ = book.write_csv(folder, stem)
        book.write_json(folder / f'{stem}_summary.json', **provenance)
    except (ValueError, OSError) as error:
        raise DataError(f'The tables {folder / stem}_* cannot be made: {error}') from error
    return frames_csv


def write_result_table(book: ScoreBook, folder: Path, provenance: Mapping[str, Any]) -> list[str]:
    """Put the scores of a test into the paper's table of its data set: `<dataset>_table.md` and `.csv`.

    Returns:
        The table as lines for the log; none, and no files, where the paper has no table of this data set or the scores
        follow another protocol than its own.

    Raises:
        DataError: they cannot be written.
    """
    if book.protocol.name != 'dstnet' or not published_for(book.dataset):
        return []
    (table,) = result_tables([book.summary(**provenance)])
    markdown, as_csv = (folder / f'{book.dataset}_table.{suffix}' for suffix in ('md', 'csv'))
    try:
        write_text(markdown, table.markdown())
        write_text(as_csv, table.csv())
    except OSError as error:
        raise DataError(f'The table {markdown} cannot be written: {error}') from error
    return [table.text(), f'The same table: {markdown} and {as_csv.name}']

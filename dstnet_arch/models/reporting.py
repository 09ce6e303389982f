"""What a validation or a test leaves behind: files of scores, and lines for the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from basicsr.utils import get_root_logger

from dstnet_arch.errors import DataError
from dstnet_arch.metrics.protocols import Protocol
from dstnet_arch.metrics.report import ScoreBook, write_text
from dstnet_arch.metrics.tables import published_for, result_tables

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

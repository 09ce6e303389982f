"""Converting a data set as distributed to LMDB: find the clips, check everything, then write."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data_prep.layouts import Clip, Layout, find_clips
from data_prep.lmdb_writer import Frame, bytes_needed, default_threads, is_complete, write_lmdb
from data_prep.synthesize_record import as_synthesized
from dstnet_arch._version import __version__
from dstnet_arch.data.folder_layouts import image_files
from dstnet_arch.data.frame_source import size_text
from dstnet_arch.data.image_file import read_header
from dstnet_arch.data.lmdb_format import check_key
from dstnet_arch.errors import DataError, Problems, counted
from dstnet_arch.progress import Progress

_NOTES_SHOWN = 10


def convert(
    layout: Layout,
    source: Path,
    output: Path,
    choice: str | None = None,
    threads: int | None = None,
    raw: bool = False,
) -> None:
    """Convert a data set to `<output>/<split>_{blur,sharp}.lmdb`.

    Nothing is written before all folders, names, headers and sizes are checked. Finished LMDBs are kept, interrupted
    ones are resumed, anything else in the way is an error.

    Args:
        layout: the data set's description.
        source: folder that it was unpacked to.
        output: folder for the results; made if necessary.
        choice: value of the layout's choice; None: the default.
        threads: threads that read and decode.
        raw: store uncompressed pixels instead of the files.

    Raises:
        DataError: see above; the text says what to do.
    """
    source, output = Path(source), Path(output)
    if layout.choice is not None:
        choice = choice or layout.choice.default
    clips = find_clips(layout, source, choice)
    layout = as_synthesized(layout, clips)
    frames, notes = check_clips(layout, source, clips, raw)
    if output.exists() and not output.is_dir():
        raise DataError(f'{output} is a file; choose another folder with -o')
    parts = {output / f'{split}_{side}.lmdb': listed for (split, side), listed in frames.items()}
    complete = {path for path, listed in parts.items() if is_complete(path, listed)}
    _check_space(output, sum(bytes_needed(path, listed) for path, listed in parts.items() if path not in complete))

    print(f'{layout.title} in {source}: {counted(len(clips), "clip")}, e.g. {clips[0].blur} with {clips[0].sharp}.')
    info: dict[str, Any] = {
        'data_set': layout.title,
        'made_by': f'data_prep of dstnet-arch {__version__}',
        'source': str(source.resolve()),
        'first_clip': [str(side.relative_to(source)) for side in (clips[0].blur, clips[0].sharp)],
        'stored': 'raw pixels' if raw else 'files',
    }
    if layout.choice is not None and choice is not None:
        info[layout.choice.option.lstrip('-')] = {'value': choice, 'meaning': layout.choice.values[choice]}
        print(f'{layout.choice.option} {choice}: {layout.choice.values[choice]}.')
    for note in notes[:_NOTES_SHOWN]:
        print(f'Note: {note}.')
    if len(notes) > _NOTES_SHOWN:
        print(f'... and {len(notes) - _NOTES_SHOWN} more notes like these.')

    for path, listed in parts.items():
        if path not in complete:
            bit_depth = max(frame.header.bit_depth for frame in listed)
            write_lmdb(path, listed, {**info, 'bit_depth': bit_depth}, threads)
        size = (path / 'data.mdb').stat().st_size / 1e6
        state = ', already complete' if path in complete else ''
        print(f'{path}: {counted(len(listed), "frame")}, {size:.1f} MB{state}')


def check_clips(
    layout: Layout, source: Path, clips: Iterable[Clip], raw: bool = False
) -> tuple[dict[tuple[str, str], list[Frame]], list[str]]:
    """Check names, partners, sizes and headers of all frames.

    Returns:
        The frames by (split, side), clip by clip in natural order; and notes on what is unusual, but no error.

    Raises:
        DataError: lists all problems.
    """
    problems = Problems()
    notes: list[str] = []
    pairs: list[tuple[Clip, str, Path, Path]] = []
    lengths: dict[Clip, int] = {}
    for clip in clips:
        blur, sharp = (_list_frames(folder, problems) for folder in (clip.blur, clip.sharp))
        for side, partners, what in ((blur, sharp, 'sharp'), (sharp, blur, 'blurry')):
            for name in side.keys() - partners.keys():
                problems.add(f'{side[name].relative_to(source)}: no {what} frame of that name')
        names = [name for name in blur if name in sharp]
        try:
            for key in (clip.name, *(f'{clip.name}/{name}' for name in names)):
                check_key(key)
        except ValueError as error:
            problems.add(f'{clip.label}: {error}; rename the clip or its frames in SOURCE')
        pairs += [(clip, name, blur[name], sharp[name]) for name in names]
        numbers = [int(name) for name in names if name.isdecimal()]
        gap = next(((a, b) for a, b in itertools.pairwise(numbers) if b != a + 1), None)
        if gap:
            notes.append(f'{clip.label}: {gap[1]} follows {gap[0]}; the frames are used as one clip')
        lengths[clip] = len(names)
    problems.found.sort()
    frames = _read_headers(source, pairs, raw, problems)
    problems.raise_if_any(f'{source} cannot be converted ({counted(len(problems), "problem")})', 'Nothing was written.')
    for split, totals in layout.totals.items():
        found = [length for clip, length in lengths.items() if clip.split == split]
        if found and (len(found), sum(found)) != totals:
            notes.insert(
                0,
                f'{split} has {counted(len(found), "clip")} and {counted(sum(found), "frame")}, as distributed '
                f'{totals[0]} and {totals[1]}',
            )
    misplaced = [clip.label for clip in lengths if clip.split == 'train' and clip.name in layout.test_clips]
    if misplaced:
        notes.insert(0, f'clips for testing are among those for training, e.g. {misplaced[0]}')
    return frames, notes


def _list_frames(folder: Path, problems: Problems) -> dict[str, Path]:
    """Return the images of a folder by their names without extension."""
    frames: dict[str, Path] = {}
    for path in image_files(folder):
        if path.stem in frames:
            problems.add(f'{path}: {frames[path.stem].name} has the same name')
        frames[path.stem] = path
    return frames


def _read_headers(
    source: Path, pairs: Sequence[tuple[Clip, str, Path, Path]], raw: bool, problems: Problems
) -> dict[tuple[str, str], list[Frame]]:
    jobs = [
        (clip, side, f'{clip.name}/{name}', path)
        for clip, name, blur, sharp in pairs
        for side, path in (('blur', blur), ('sharp', sharp))
    ]

    def read(job: tuple[Clip, str, str, Path]) -> Frame | str:
        _, _, key, path = job
        origin = path.relative_to(source).as_posix()
        try:
            status = path.stat()
            with open(path, 'rb') as file:
                header = read_header(file)
            return Frame(key, path, origin, status.st_size, status.st_mtime_ns, header, raw)
        except (OSError, ValueError) as error:
            return f'{origin} {getattr(error, "strerror", None) or error}'

    frames: dict[tuple[str, str], list[Frame]] = {}
    by_clip: dict[Clip, list[Frame]] = {}
    with (
        ThreadPoolExecutor(default_threads()) as pool,
        Progress(len(jobs), 'frame', f'checking {source}') as progress,
    ):
        for (clip, side, _, _), result in zip(jobs, pool.map(read, jobs), strict=True):
            progress.update()
            if isinstance(result, str):
                problems.add(result)
                continue
            frames.setdefault((clip.split, side), []).append(result)
            by_clip.setdefault(clip, []).append(result)
    for listed in by_clip.values():
        usual = Counter(frame.header[:2] for frame in listed).most_common(1)[0][0]
        for frame in listed:
            if frame.header[:2] != usual:
                size = size_text(frame.header[:2])
                problems.add(f'{frame.origin} is {size}, other frames of the clip are {size_text(usual)}')
    return frames


def _check_space(output: Path, needed: int) -> None:
    folder = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f'{output} needs {needed / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free on its disk. '
            'Free some space, or choose another folder with -o. Nothing was written.'
        )

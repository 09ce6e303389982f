"""Converting a data set as distributed to LMDB: find the clips, check everything, then write."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data_prep.layouts import Clip, Found, Layout, find_clips, is_litter
from data_prep.lmdb_writer import Frame, bytes_needed, default_threads, is_complete, write_lmdb, write_text
from data_prep.synthesize_record import as_synthesized
from dstnet_arch._version import __version__
from dstnet_arch.data.image_file import read_header
from dstnet_arch.data.lmdb_format import IMAGE_EXTENSIONS, check_key, frame_key, natural_key
from dstnet_arch.errors import DataError, Problems, counted
from dstnet_arch.files import read_json
from dstnet_arch.progress import Progress

DATASET_INFO = 'dataset_info.json'
FORMAT = 1
"""Version of `dataset_info.json` and of the folders beside it."""

_NOTES_SHOWN = 10


def convert(
    layout: Layout,
    source: Path,
    output: Path,
    choice: str | None = None,
    threads: int | None = None,
    made: Mapping[str, Any] | None = None,
    raw: bool = False,
) -> None:
    """Convert a data set to `<output>/<split>_{blur,sharp}.lmdb` and describe it in `<output>/dataset_info.json`.

    Nothing is written before all folders, names, headers and sizes are checked. Finished LMDBs are kept, interrupted
    ones are resumed, anything else in the way is an error.

    Args:
        layout: the data set's description.
        source: folder that it was unpacked to.
        output: folder for the results; made if necessary.
        choice: value of the layout's choice; None: the default.
        threads: threads that read and decode.
        made: for `dataset_info.json`, how the frames were made if this program made them.
        raw: store uncompressed pixels instead of the files.

    Raises:
        DataError: see above; the text says what to do.
    """
    source, output = Path(source), Path(output)
    if layout.choice is not None:
        choice = choice or layout.choice.default
        if choice not in layout.choice.values:
            raise DataError(f'add {layout.choice.option} with one of: {", ".join(layout.choice.values)}')
    found = find_clips(layout, source, choice)
    layout = as_synthesized(layout, found.clips)
    frames, notes = check_clips(layout, source, found.clips, raw)
    if output.exists() and not output.is_dir():
        raise DataError(f'{output} is a file; choose another folder with -o')
    info = _read_info(output)
    parts = {output / f'{split}_{side}.lmdb': listed for (split, side), listed in frames.items()}
    complete = {path for path, listed in parts.items() if is_complete(path, listed)}
    _check_space(output, sum(bytes_needed(path, listed) for path, listed in parts.items() if path not in complete))

    arrangement = layout.format_arrangement(found.arrangement, choice)
    print(f'{layout.title} in {source}: {counted(len(found.clips), "clip")}, {arrangement}.')
    if layout.choice is not None:
        print(_choice_text(layout, found, choice or ''))
    notes += [f'SOURCE has no part {split!r}' for split in layout.splits if (split, 'blur') not in frames]
    for note in notes[:_NOTES_SHOWN]:
        print(f'Note: {note}.')
    if len(notes) > _NOTES_SHOWN:
        print(f'... and {len(notes) - _NOTES_SHOWN} more notes like these.')

    for path, listed in parts.items():
        if path in complete:
            print(f'{path}: already complete.')
        else:
            write_lmdb(path, listed, threads)

    info['format'] = FORMAT
    info['data_set'] = layout.title
    info['made_by'] = f'data_prep of dstnet-arch {__version__}'
    info.setdefault('splits', {}).update(_describe(layout, source, found, choice, frames))
    if made is not None:
        info['made'] = dict(made)
    try:
        write_text(output / DATASET_INFO, json.dumps(info, indent=2) + '\n')
    except OSError as error:
        raise DataError(f'cannot write {output / DATASET_INFO}: {error}') from None
    for path, listed in parts.items():
        clips = len({frame.key.rpartition('/')[0] for frame in listed})
        size = (path / 'data.mdb').stat().st_size / 1e6
        print(f'{path}: {counted(clips, "clip")}, {counted(len(listed), "frame")}, {size:.1f} MB')


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
        blur = _list_frames(clip.blur, source, problems, notes)
        sharp = _list_frames(clip.sharp, source, problems, notes)
        if not blur and not sharp:
            problems.add(f'{clip.label}: no frames')
        for side, partners, what in ((blur, sharp, 'sharp'), (sharp, blur, 'blurry')):
            for name in side.keys() - partners.keys():
                problems.add(f'{side[name].relative_to(source)}: no {what} frame of that name')
        names = sorted(blur.keys() & sharp.keys(), key=natural_key)
        _check_names(clip, names, problems)
        pairs += [(clip, name, blur[name], sharp[name]) for name in names]
        notes += _gap_notes(clip, names)
        lengths[clip] = len(names)
    notes = _differences_from_published(layout, lengths) + notes
    problems.found.sort()
    frames = _read_headers(source, pairs, raw, problems, notes)
    problems.raise_if_any(f'{source} cannot be converted ({counted(len(problems), "problem")})', 'Nothing was written.')
    return frames, notes


def _list_frames(folder: Path, source: Path, problems: Problems, notes: list[str]) -> dict[str, Path]:
    """Return the images of a folder by their names without extension."""
    frames: dict[str, Path] = {}
    others = []
    try:
        paths = sorted(path for path in folder.iterdir() if not is_litter(path.name))
    except OSError as error:
        problems.add(f'{folder.relative_to(source)}: {error.strerror or error}')
        return {}
    for path in paths:
        if path.suffix.lower() not in IMAGE_EXTENSIONS or not path.is_file():
            others.append(path.name)
        elif path.stem in frames:
            problems.add(f'{path.relative_to(source)}: {frames[path.stem].name} has the same name')
        else:
            frames[path.stem] = path
    if others:
        notes.append(f'{folder.relative_to(source)} contains other files, which are ignored: {", ".join(others[:3])}')
    return frames


def _check_names(clip: Clip, names: Sequence[str], problems: Problems) -> None:
    try:
        check_key(clip.name)
    except ValueError as error:
        problems.add(f'{clip.label}: {error}; rename the clip in SOURCE')
        return
    for name in names:
        try:
            frame_key(clip.name, name)
        except ValueError as error:
            problems.add(f'{clip.label}: {error}; rename the frame in SOURCE')


def _gap_notes(clip: Clip, names: Sequence[str]) -> list[str]:
    if not all(name.isascii() and name.isdigit() for name in names):
        return []
    numbers = sorted(map(int, names))
    gaps = [(a, b) for a, b in itertools.pairwise(numbers) if b != a + 1]
    if not gaps:
        return []
    more = f' ({len(gaps)} gaps in all)' if len(gaps) > 1 else ''
    return [f'{clip.label}: the numbering has a gap, {gaps[0][1]} follows {gaps[0][0]}{more}; it is used as one clip']


def _differences_from_published(layout: Layout, lengths: Mapping[Clip, int]) -> list[str]:
    """Describe how the clips, given with their numbers of frames, differ from the data set as distributed."""
    notes = []
    for split, totals in layout.totals.items():
        found = {clip.name: length for clip, length in lengths.items() if clip.split == split}
        totals_here = len(found), sum(found.values())
        if found and totals_here != totals:
            missing = [name for name in layout.clips.get(split, {}) if name not in found]
            more = f' and {len(missing) - 3} more' if len(missing) > 3 else ''
            named = f'; missing: {", ".join(missing[:3])}{more}' if missing else ''
            notes.append(
                f'{split} has {counted(totals_here[0], "clip")} and {counted(totals_here[1], "frame")}, '
                f'as distributed {totals[0]} and {totals[1]}{named}'
            )
    for clip, length in lengths.items():
        for split, published in layout.clips.items():
            if split != clip.split and clip.name in published:
                notes.append(f'{clip.label} belongs to {split} as distributed')
            elif split == clip.split and published.get(clip.name, length) != length:
                notes.append(f'{clip.label} has {counted(length, "frame")}, {published[clip.name]} as distributed')
    return notes


def _read_headers(
    source: Path, pairs: Sequence[tuple[Clip, str, Path, Path]], raw: bool, problems: Problems, notes: list[str]
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
        Progress(len(jobs), 'frame', f'Checking {source}') as progress,
    ):
        for (clip, side, _, _), result in zip(jobs, pool.map(read, jobs), strict=True):
            progress.update()
            if isinstance(result, str):
                problems.add(result)
                continue
            frames.setdefault((clip.split, side), []).append(result)
            by_clip.setdefault(clip, []).append(result)
    for listed in by_clip.values():
        usual = Counter((frame.header.width, frame.header.height) for frame in listed).most_common(1)[0][0]
        for frame in listed:
            size = frame.header.width, frame.header.height
            if size != usual:
                problems.add(
                    f'{frame.origin} is {size[0]}x{size[1]}, other frames of the clip are {usual[0]}x{usual[1]}'
                )
    unusual = [frame.origin for listed in by_clip.values() for frame in listed if frame.header.channels != 3]
    if unusual:
        notes.append(f'{counted(len(unusual), "frame")} in gray or with alpha, e.g. {unusual[0]}; they are read as RGB')
    return frames


def _check_space(output: Path, needed: int) -> None:
    folder = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f'{output} needs {needed / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free on its disk. '
            'Free some space, or choose another folder with -o. Nothing was written.'
        )


def _choice_text(layout: Layout, found: Found, choice: str) -> str:
    assert layout.choice is not None
    text = f'{layout.choice.name}: {choice} ({layout.choice.values[choice]})'
    if not found.choices:
        return f'{text}; no folder name confirms it, set it with {layout.choice.option} if this is wrong.'
    others = [value for value in found.choices if value != choice]
    if others:
        return f'{text}; SOURCE also contains {" and ".join(others)}, see {layout.choice.option}.'
    return f'{text}; SOURCE contains no other.'


def _describe(
    layout: Layout, source: Path, found: Found, choice: str | None, frames: Mapping[tuple[str, str], Sequence[Frame]]
) -> dict[str, Any]:
    """Return the entries of `dataset_info.json` by split."""
    splits: dict[str, Any] = {}
    for (name, side), listed in frames.items():
        if side != 'blur':
            continue
        split: dict[str, Any] = {'source': str(source.resolve())}
        split['arrangement'] = {'blur': found.arrangement.blur, 'sharp': found.arrangement.sharp}
        if layout.choice is not None and choice is not None:
            split[layout.choice.name] = {
                'value': choice,
                'meaning': layout.choice.values[choice],
                'confirmed_by_folder_name': bool(found.choices),
            }
        split['stored'] = 'raw pixels' if any(frame.raw for frame in listed) else 'files'
        split['bit_depth'] = max(frame.header.bit_depth for frame in listed)
        split['num_frames'] = len(listed)
        split['clips'] = dict(Counter(frame.key.rpartition('/')[0] for frame in listed))
        splits[name] = split
    return splits


def _read_info(output: Path) -> dict[str, Any]:
    """Return an earlier run's description, whose other splits are kept."""
    path = output / DATASET_INFO
    remedy = 'Move it away, or choose another folder with -o.'
    try:
        info = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f'{path} cannot be read ({error}). {remedy}') from None
    if info.get('format') != FORMAT or not isinstance(info.get('splits'), dict):
        raise DataError(f'{path} exists already and was not made by data_prep. {remedy}')
    return info

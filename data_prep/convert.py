"""From a data set as distributed to LMDB: find the clips, check everything, then write."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.layouts import Clip, Found, Layout, find_clips, is_litter
from data_prep.lmdb_writer import (
    Frame,
    bytes_needed,
    default_threads,
    is_complete,
    open_for_reading,
    read_keys,
    write_lmdb,
    write_text,
)
from data_prep.synthesize_plan import as_synthesized
from dstnet_arch.data.image_check import read_header
from dstnet_arch.data.lmdb_format import check_key, frame_key, natural_key
from dstnet_arch.deblur.ranks import ALONE, Ranks, in_contact, share
from dstnet_arch.errors import DataError, Problems, counted

DATASET_INFO = 'dataset_info.json'
FORMAT = 1
"""Of `dataset_info.json` and of the folders beside it; counts up when they change."""

_WARNINGS_SHOWN = 10


@dataclass(frozen=True)
class Part:
    """One LMDB to make: the blurry or the sharp frames of one split."""

    split: str
    side: str
    path: Path
    frames: Sequence[Frame]


def convert(
    layout: Layout,
    source: Path,
    output: Path,
    choice: str | None = None,
    threads: int | None = None,
    made: Mapping[str, Any] | None = None,
    raw: bool = False,
    ranks: Ranks = ALONE,
) -> None:
    """Convert a data set to `<output>/<split>_{blur,sharp}.lmdb` and describe it in `<output>/dataset_info.json`.

    Nothing is written before all folders, names, headers and sizes have been checked. What is complete already stays
    as it is; what an interrupted run left is continued; anything else in the way is an error.

    Args:
        layout: The data set's description.
        source: Folder that it was unpacked to.
        output: Folder for the results; made if need be.
        choice: Value of the layout's choice, or None: the default.
        threads: Threads that read and decode.
        made: How the frames came about, for `dataset_info.json`, if this program made them.
        raw: Store the pixels, uncompressed, in place of the files.
        ranks: Which of how many processes this is that have been given this task: each writes some of the LMDBs, and
            rank 0 does the rest when all of them are there.

    Raises:
        DataError: see above; the text says what to do.
    """
    source, output = Path(source), Path(output)
    stated = choice is not None
    if layout.choice is not None:
        choice = choice or layout.choice.default
        if choice not in layout.choice.values:
            raise DataError(f'add {layout.choice.option} with one of: {", ".join(layout.choice.values)}')
    found = find_clips(layout, source, choice)
    layout = as_synthesized(layout, found.clips)
    frames, notes = check_clips(layout, source, found.clips)
    if raw:
        frames = {part: [replace(frame, raw=True) for frame in listed] for part, listed in frames.items()}
    parts = [
        Part(split, side, output / f'{split}_{side}.lmdb', frames[split, side])
        for split in layout.splits
        for side in ('blur', 'sharp')
        if (split, side) in frames
    ]
    if output.exists() and not output.is_dir():
        raise DataError(f'{output} is a file; choose another folder with -o')
    info = _read_info(output)
    complete = {part.path for part in parts if is_complete(part.path, part.frames)}
    _check_space(output, sum(bytes_needed(part.path, part.frames) for part in parts if part.path not in complete))

    say = print if ranks.rank == 0 else _say_nothing
    arrangement = layout.spelt_out(found.arrangement, choice)
    say(f'{layout.title} in {source}: {counted(len(found.clips), "clip")}, {arrangement}.')
    if layout.choice is not None:
        say(_choice_text(layout, found, choice or '', stated))
    notes += [f'SOURCE has no part {split!r}' for split in layout.splits if (split, 'blur') not in frames]
    for note in notes[:_WARNINGS_SHOWN]:
        say(f'Note: {note}.')
    if len(notes) > _WARNINGS_SHOWN:
        say(f'... and {len(notes) - _WARNINGS_SHOWN} more notes like these.')

    for part in parts:
        if part.path in complete:
            say(f'{part.path}: already complete.')
    _write_parts([part for part in parts if part.path not in complete], threads, ranks)
    if ranks.rank > 0:
        return
    _check_pairs(parts)

    info['format'] = FORMAT
    info['data_set'] = layout.title
    info['made_by'] = f'data_prep of {_tool_version()}'
    info.setdefault('splits', {}).update(_describe(layout, source, found, choice, stated, parts))
    if made is not None:
        info['made'] = dict(made)
    try:
        write_text(output / DATASET_INFO, json.dumps(info, indent=2) + '\n')
    except OSError as error:
        raise DataError(f'cannot write {output / DATASET_INFO}: {error}') from None
    _print_summary(parts)


def _say_nothing(text: str) -> None:
    pass


def _write_parts(parts: Sequence[Part], threads: int | None, ranks: Ranks) -> None:
    """Have each rank write its share. An LMDB can have one writer alone, so what is shared out is whole ones.

    Raises:
        DataError: on rank 0, when all have come to their end: what went wrong on any of them.
    """
    problem = ''
    sizes = [bytes_needed(part.path, part.frames) for part in parts]
    threads = threads or max(1, default_threads() // ranks.local_size)
    with in_contact(ranks) as gather:
        sizes = gather(sizes)[0]  # of one and the same moment
        try:
            for i in share(sizes, ranks.rank, ranks.world_size):
                write_lmdb(parts[i].path, parts[i].frames, threads)
        except (DataError, OSError) as error:
            problem = str(error)
        problems = [
            text if ranks.world_size == 1 else f'rank {rank}: {text}'
            for rank, text in enumerate(gather(problem))
            if text
        ]
    # One rank tells it all and gives the status: a launcher ends the others when one has failed.
    if problems and ranks.rank == 0:
        raise DataError('\n'.join(problems))


def check_clips(
    layout: Layout, source: Path, clips: Iterable[Clip]
) -> tuple[dict[tuple[str, str], list[Frame]], list[str]]:
    """Check names, partners, sizes and headers of all frames.

    Returns:
        The frames by (split, side), clip by clip in natural order; and notes on what is odd, but no error.

    Raises:
        DataError: with everything that is wrong.
    """
    problems = Problems()
    notes: list[str] = []
    pairs: list[tuple[Clip, str, Path, Path]] = []
    lengths: dict[Clip, int] = {}
    for clip in clips:
        blur = _list_frames(layout, clip.blur, source, problems, notes)
        sharp = _list_frames(layout, clip.sharp, source, problems, notes)
        if not blur and not sharp:
            problems.add(f'{clip.label}: no frames')
        for side, partners, what in ((blur, sharp, 'sharp'), (sharp, blur, 'blurry')):
            for name in side.keys() - partners.keys():
                problems.add(f'{side[name].relative_to(source)}: no {what} frame of that name')
        names = sorted(blur.keys() & sharp.keys(), key=natural_key)
        pairs += [(clip, name, blur[name], sharp[name]) for name in names]
        notes += _odd_numbering(clip, names)
        lengths[clip] = len(names)
    notes = _unlike_distributed(layout, lengths) + notes
    problems.found.sort()
    frames = _read_headers(source, pairs, problems, notes)
    problems.raise_if_any(f'{source} cannot be converted ({counted(len(problems), "problem")})', 'Nothing was written.')
    return frames, notes


def _list_frames(layout: Layout, folder: Path, source: Path, problems: Problems, notes: list[str]) -> dict[str, Path]:
    """The images of a folder by their names without extension."""
    frames: dict[str, Path] = {}
    others = []
    try:
        paths = sorted(path for path in folder.iterdir() if not is_litter(path.name))
    except OSError as error:
        problems.add(f'{folder.relative_to(source)}: {error.strerror or error}')
        return {}
    for path in paths:
        if path.suffix.lower() not in layout.extensions or not path.is_file():
            others.append(path.name)
        elif path.stem in frames:
            problems.add(f'{path.relative_to(source)}: {frames[path.stem].name} has the same name')
        else:
            frames[path.stem] = path
    if others:
        notes.append(f'{folder.relative_to(source)} holds other things, which are left out: {", ".join(others[:3])}')
    return frames


def _odd_numbering(clip: Clip, names: Sequence[str]) -> list[str]:
    if not all(name.isascii() and name.isdigit() for name in names):
        return []
    numbers = sorted(map(int, names))
    gaps = [(a, b) for a, b in itertools.pairwise(numbers) if b != a + 1]
    if not gaps:
        return []
    more = f' ({len(gaps)} gaps in all)' if len(gaps) > 1 else ''
    return [f'{clip.label}: the numbering has a gap, {gaps[0][1]} follows {gaps[0][0]}{more}; it is taken as one clip']


def _unlike_distributed(layout: Layout, lengths: Mapping[Clip, int]) -> list[str]:
    """How the clips, given with their numbers of frames, differ from the data set as distributed."""
    notes = []
    for split, totals in layout.totals.items():
        found = {clip.name: length for clip, length in lengths.items() if clip.split == split}
        here = len(found), sum(found.values())
        if found and here != totals:
            missing = [name for name in layout.clips.get(split, {}) if name not in found]
            more = f' and {len(missing) - 3} more' if len(missing) > 3 else ''
            named = f'; missing: {", ".join(missing[:3])}{more}' if missing else ''
            notes.append(
                f'{split} has {counted(here[0], "clip")} and {counted(here[1], "frame")}, '
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
    source: Path, pairs: Sequence[tuple[Clip, str, Path, Path]], problems: Problems, notes: list[str]
) -> dict[tuple[str, str], list[Frame]]:
    from tqdm import tqdm

    jobs = []
    badly_named = _check_clip_names({clip for clip, *_ in pairs}, problems)
    for clip, name, blur, sharp in pairs:
        key = f'{clip.name}/{name}'
        jobs += [(clip, 'blur', key, blur), (clip, 'sharp', key, sharp)]
        try:
            frame_key(clip.name, name)
        except ValueError as error:
            if clip not in badly_named:
                problems.add(f'{clip.label}: {error}; rename the frame in SOURCE')

    def read(job: tuple[Clip, str, str, Path]) -> Frame | str:
        _, _, key, path = job
        origin = path.relative_to(source).as_posix()
        try:
            status = path.stat()
            return Frame(key, path, origin, status.st_size, status.st_mtime_ns, read_header(path))
        except (OSError, ValueError) as error:
            return f'{origin} {getattr(error, "strerror", None) or error}'

    frames: dict[tuple[str, str], list[Frame]] = {}
    sizes: dict[Clip, Counter[tuple[int, int]]] = {}
    read_frames: list[tuple[Clip, Frame]] = []
    unusual = []
    with ThreadPoolExecutor(default_threads()) as pool:
        for (clip, side, _, _), result in tqdm(
            zip(jobs, pool.map(read, jobs), strict=True), 'Checking', len(jobs), unit='frame', leave=False, delay=1
        ):
            if isinstance(result, str):
                problems.add(result)
                continue
            frames.setdefault((clip.split, side), []).append(result)
            sizes.setdefault(clip, Counter())[result.shape[:2]] += 1
            read_frames.append((clip, result))
            if result.shape[2] != 3:
                unusual.append(result.origin)
    for clip, frame in read_frames:
        height, width = sizes[clip].most_common(1)[0][0]
        if frame.shape[:2] != (height, width):
            problems.add(f'{frame.origin} is {frame.shape[1]}x{frame.shape[0]}, others of the clip {width}x{height}')
    if unusual:
        notes.append(
            f'{counted(len(unusual), "frame")} in gray or with alpha, e.g. {unusual[0]}; BasicSR reads RGB of them'
        )
    return frames


def _check_clip_names(clips: Iterable[Clip], problems: Problems) -> set[Clip]:
    """Report the clips whose names cannot be used: once for a clip, not for each of its frames."""
    bad = set()
    for clip in sorted(clips, key=lambda clip: clip.label):
        try:
            check_key(clip.name)
        except ValueError as error:
            problems.add(f'{clip.label}: {error}; rename the clip in SOURCE')
            bad.add(clip)
    return bad


def _check_space(output: Path, needed: int) -> None:
    folder = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f'{output} needs {needed / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free on its disk. '
            'Free some, or choose another folder with -o. Nothing was written.'
        )


def _check_pairs(parts: Sequence[Part]) -> None:
    keys = {}
    for part in parts:
        with open_for_reading(part.path) as env:
            keys[part.split, part.side] = read_keys(env)
    for split, _ in keys:
        if keys[split, 'blur'] != keys[split, 'sharp']:
            key = min(keys[split, 'blur'] ^ keys[split, 'sharp'])
            raise DataError(f'{split}_blur.lmdb and {split}_sharp.lmdb differ in keys, e.g. {key}: move both away')


def _choice_text(layout: Layout, found: Found, choice: str, stated: bool) -> str:
    assert layout.choice is not None
    name = layout.choice.option.lstrip('-')
    text = f'{name}: {choice} ({layout.choice.values[choice]})'
    if not found.choices:
        known = 'as you say' if stated else f'assumed: say it with {layout.choice.option}'
        return f'{text}; the names of the folders do not tell, {known}.'
    others = [value for value in found.choices if value != choice]
    if others:
        return f'{text}; SOURCE also holds {" and ".join(others)}, see {layout.choice.option}.'
    return f'{text}; SOURCE holds no other.'


def _describe(
    layout: Layout, source: Path, found: Found, choice: str | None, stated: bool, parts: Sequence[Part]
) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    for part in parts:
        if part.side != 'blur':
            continue
        split: dict[str, Any] = {'source': str(source.resolve())}
        split['arrangement'] = {'blur': found.arrangement.blur, 'sharp': found.arrangement.sharp}
        if layout.choice is not None and choice is not None:
            by = 'the name of the folder' if found.choices else 'the user' if stated else 'nobody: assumed'
            name = layout.choice.option.lstrip('-')
            split[name] = {'value': choice, 'meaning': layout.choice.values[choice], 'stated_by': by}
        split['stored'] = 'raw pixels' if any(frame.raw for frame in part.frames) else 'files'
        split['num_frames'] = len(part.frames)
        split['clips'] = dict(Counter(frame.key.rpartition('/')[0] for frame in part.frames))
        splits[part.split] = split
    return splits


def _read_info(output: Path) -> dict[str, Any]:
    """An earlier run's description, of which the parts that this run does not touch are kept."""
    path = output / DATASET_INFO
    remedy = 'Move it away, or choose another folder with -o.'
    try:
        info = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f'{path} cannot be read ({error}). {remedy}') from None
    if not isinstance(info, dict) or info.get('format') != FORMAT or not isinstance(info.get('splits'), dict):
        raise DataError(f'{path} exists already and is none of ours. {remedy}')
    return info


def _tool_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f'dstnet-arch {version("dstnet-arch")}'
    except PackageNotFoundError:
        return 'dstnet-arch, not installed'


def _print_summary(parts: Sequence[Part]) -> None:
    for part in parts:
        clips = len({frame.key.rpartition('/')[0] for frame in part.frames})
        size = os.path.getsize(part.path / 'data.mdb') / 1e6
        print(f'{part.path}: {counted(clips, "clip")}, {counted(len(part.frames), "frame")}, {size:.1f} MB')

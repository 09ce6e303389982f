"""Converting a data set as distributed to LMDB: find the clips, check everything, then write."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.layouts import Clips, Layout, find_clips
from data_prep.lmdb_writer import Frame, bytes_needed, is_complete, write_lmdb
from data_prep.synthesize import RECORD, read_record
from dstnet_arch._version import __version__
from dstnet_arch.arguments import check_writable
from dstnet_arch.data.frame_source import FolderSource
from dstnet_arch.data.lmdb_format import check_key
from dstnet_arch.data.pairing import find_problems
from dstnet_arch.errors import DataError, Problems, counted
from dstnet_arch.progress import say


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
        choice: the variant; None: the default.
        threads: threads that read and decode.
        raw: store uncompressed pixels instead of the files.

    Raises:
        DataError: see above; the text says what to do.
    """
    choice = choice or layout.default
    clips = find_clips(layout, source, choice)
    example = next(folder for blur, _ in clips.values() for folder in blur.values())
    if record := read_record(example.parent):
        meaning = f'synthesized with the camera response {record["response"]}, see {RECORD} of each clip'
        layout = replace(
            layout, title='Synthesized pairs', choices={**layout.choices, 'blur': meaning}, test_clips=(), totals={}
        )
    frames = _check_clips(source, clips, raw)
    todo = {name for name, listed in frames.items() if not is_complete(output / name, listed)}
    if todo:
        check_writable(output)
    _check_space(output, sum(bytes_needed(output / name, frames[name]) for name in todo))

    info: dict[str, Any] = {
        'data_set': layout.title,
        'made_by': f'data_prep of dstnet-arch {__version__}',
        'source': str(source.resolve()),
        'example': str(example.relative_to(source)),
        'stored': 'raw pixels' if raw else 'files',
    }
    say(f'{layout.title} in {source}, e.g. {example}.')
    if choice:
        info[layout.option.lstrip('-')] = {'value': choice, 'meaning': layout.choices[choice]}
        say(f'{layout.option} {choice}: {layout.choices[choice]}.')
    for note in _find_notes(layout, clips, frames):
        say(f'Note: {note}.')
    for name, listed in frames.items():
        if name in todo:
            bit_depth = max(frame.header.bit_depth for frame in listed)
            write_lmdb(output / name, listed, {**info, 'bit_depth': bit_depth}, threads)
        size = (output / name / 'data.mdb').stat().st_size / 1e6
        state = '' if name in todo else ', already complete'
        say(f'{output / name}: {counted(len(listed), "frame")}, {size:.1f} MB{state}')


def _check_clips(source: Path, clips: Mapping[str, tuple[Clips, Clips]], raw: bool) -> dict[str, list[Frame]]:
    """Check names, partners, sizes and headers; return the frames of each LMDB, clip by clip in natural order."""
    problems = Problems()
    frames: dict[str, list[Frame]] = {}
    sources = {split: [FolderSource(source, folders) for folders in sides] for split, sides in clips.items()}
    for split, (blur, sharp) in sources.items():
        for clip, names in blur.clips.items():
            try:
                for key in (clip, *(f'{clip}/{name}' for name in names)):
                    check_key(key)
            except ValueError as error:
                problems.add(f'{split}/{clip}: {error}; rename the clip or its frames in SOURCE')
        problems.found += find_problems(blur, sharp).found
    problems.raise_if_any(f'{source} cannot be converted ({counted(len(problems), "problem")})', 'Nothing was written.')
    for split, sides in sources.items():
        for name, side in zip(('blur', 'sharp'), sides, strict=True):
            listed = frames[f'{split}_{name}.lmdb'] = []
            for clip, names in side.clips.items():
                for frame in names:
                    path, header = side.path(clip, frame), side.header(clip, frame)
                    origin = path.relative_to(source).as_posix()
                    listed.append(Frame(f'{clip}/{frame}', path, origin, path.stat(), header, raw))
    return frames


def _find_notes(
    layout: Layout, clips: Mapping[str, tuple[Clips, Clips]], frames: Mapping[str, Sequence[Frame]]
) -> list[str]:
    """Return what is unusual, but no error."""
    notes = []
    if 'train' in clips and (misplaced := sorted(clips['train'][0].keys() & set(layout.test_clips))):
        notes.append(f'clips for testing are among those for training, e.g. train/{misplaced[0]}')
    for split, totals in layout.totals.items():
        if split in clips and (found := (len(clips[split][0]), len(frames[f'{split}_blur.lmdb']))) != totals:
            numbers = f'{counted(found[0], "clip")} and {counted(found[1], "frame")}'
            notes.append(f'{split} has {numbers}, as distributed {totals[0]} and {totals[1]}')
    return notes


def _check_space(output: Path, needed: int) -> None:
    folder = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f'{output} needs {needed / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free on its disk. '
            'Free some space, or choose another folder with -o. Nothing was written.'
        )

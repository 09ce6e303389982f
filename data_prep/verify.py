"""Verifying a converted data set: decode everything and compare it with `meta_info.txt`."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import lmdb
import numpy as np

from data_prep.lmdb_writer import PARTIAL_SUFFIX, default_threads, read_keys
from dstnet_arch.data.frame_source import size_text
from dstnet_arch.data.image_file import decode
from dstnet_arch.data.lmdb_file import open_lmdb
from dstnet_arch.data.lmdb_format import META_INFO, MetaEntry, read_meta_info
from dstnet_arch.errors import DataError, Problems, counted
from dstnet_arch.progress import Progress


@dataclass
class Report:
    """Contents and problems of one LMDB."""

    name: str
    keys: set[str] = field(default_factory=set)
    num_clips: int = 0
    num_bytes: int = 0
    problems: Problems = field(default_factory=Problems)


def verify(path: Path, threads: int | None = None) -> bool:
    """Check an LMDB folder, or all of those in a folder, and print a table.

    Every image is decoded; `meta_info.txt` must list exactly the existing keys with the right sizes; a blurry set and
    its sharp one must have the same keys. An unfinished conversion is a fault. Each LMDB is read in a child process,
    because a damaged one can end the process that reads it.

    Returns:
        True if there is no fault.

    Raises:
        DataError: there is nothing to check at `path`.
    """
    path = Path(path)
    unfinished: list[Path] = []
    if (path / 'data.mdb').exists() or path.suffix == '.lmdb':
        if not path.is_dir():
            raise DataError(f'{path} does not exist')
        folders = [path]
    else:
        folders = sorted(path.glob('*.lmdb'))
        unfinished = sorted(path.glob('*.lmdb' + PARTIAL_SUFFIX))
    if not folders and not unfinished:
        raise DataError(f'{path} contains no .lmdb folders; give one, or the folder that data_prep wrote with -o')
    reports = [_verify_in_child(folder, threads or default_threads()) for folder in folders]
    for folder in unfinished:
        report = Report(folder.name)
        report.problems.add('unfinished: run the conversion again to resume it')
        reports.append(report)
    _compare_pairs(reports)
    _print_table(reports)
    return not any(report.problems for report in reports)


def verify_lmdb(path: Path, threads: int) -> Report:
    """Check a single LMDB folder in this process; all faults are in the report."""
    report = Report(path.name)
    entries: dict[str, MetaEntry] = {}
    try:
        entries = {entry.key: entry for entry in read_meta_info(path)}
    except (OSError, ValueError) as error:
        report.problems.add(str(error))
    report.num_clips = len({entry.clip for entry in entries.values()})
    try:
        with closing(open_lmdb(path)) as env:
            report.num_bytes = (path / 'data.mdb').stat().st_size
            report.keys = read_keys(env)
            _decode_all(env, entries, threads, report)
    except lmdb.Error as error:
        report.problems.add(f'data.mdb is damaged ({error})')
        return report
    except (OSError, DataError) as error:
        report.problems.add(str(error))
        return report
    if entries:
        for key in sorted(entries.keys() - report.keys):
            report.problems.add(f'{key} is in {META_INFO}, but not in the data')
        for key in sorted(report.keys - entries.keys()):
            report.problems.add(f'{key} is in the data, but not in {META_INFO}')
    return report


def _verify_in_child(folder: Path, threads: int) -> Report:
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_report, args=(folder, threads, sender), daemon=True)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited by the child; this process handles Ctrl-C
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, handler)
    sender.close()
    try:
        report: Report = receiver.recv()
    except EOFError:
        process.join()
        report = Report(folder.name)
        report.problems.add(
            f'reading data.mdb ended the process (exit code {process.exitcode}): it is probably damaged. Convert the '
            'data again'
        )
    finally:
        process.terminate()
        process.join()
    return report


def _send_report(folder: Path, threads: int, sender: Connection) -> None:
    sender.send(verify_lmdb(folder, threads))


def _decode_all(env: lmdb.Environment, entries: dict[str, MetaEntry], threads: int, report: Report) -> None:
    def find_fault(key: str) -> str | None:
        try:
            with env.begin(buffers=True) as transaction:
                shape = decode(np.frombuffer(transaction.get(key.encode('ascii'), b''), np.uint8))[1]
        except ValueError as error:
            return str(error)
        listed = entries[key].shape[:2] if key in entries else shape
        return None if listed == shape else f'is {size_text(shape)}, but {size_text(listed)} in {META_INFO}'

    # Keys that are not ASCII are reported as missing from meta_info.txt.
    keys = sorted(key for key in report.keys if '\\' not in key)
    with ThreadPoolExecutor(threads) as pool, Progress(len(keys), 'frame', f'verifying {report.name}') as progress:
        for key, fault in zip(keys, pool.map(find_fault, keys), strict=True):
            progress.update()
            if fault:
                report.problems.add(f'{key} {fault}')


def _compare_pairs(reports: Sequence[Report]) -> None:
    by_name = {report.name: report for report in reports if report.keys}  # without keys it is unreadable
    for name, blur in by_name.items():
        sharp = by_name.get(f'{name.removesuffix("blur.lmdb")}sharp.lmdb')
        if name.endswith('blur.lmdb') and sharp is not None:
            for one, other in ((blur, sharp), (sharp, blur)):
                for key in sorted(one.keys - other.keys):
                    other.problems.add(f'{key} is in {one.name}, but not here')


def _print_table(reports: Sequence[Report]) -> None:
    width = max(len(report.name) for report in reports)
    print(f'{"":{width}}  clips  frames        MB  result')
    for report in reports:
        result = counted(len(report.problems), 'fault') if report.problems else 'ok'
        size = f'{report.num_bytes / 1e6:8.1f}'
        print(f'{report.name:{width}}  {report.num_clips:5}  {len(report.keys):6}  {size}  {result}')
    for report in reports:
        if report.problems:
            print(f'{report.name}:\n{report.problems.text()}')

"""Verifying a converted data set: decode everything and compare it with `meta_info.txt`."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
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

# Names of pairs: ours, and those in use with stock BasicSR.
_PAIRS = (('blur', 'sharp'), ('blur', 'gt'), ('input', 'gt'), ('lq', 'gt'), ('LQ', 'GT'))


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
    its sharp one must have the same keys. An unfinished conversion is a fault. LMDBs are read in a child process,
    because a damaged one can end the process that reads it.

    Returns:
        True if there is no fault.

    Raises:
        DataError: there is nothing to check at `path`.
    """
    path = Path(path)
    if (path / 'data.mdb').exists() or path.suffix == '.lmdb':
        if not path.is_dir():
            raise DataError(f'{path} does not exist')
        folders, unfinished = [path], []
    else:
        folders = sorted(path.glob('*.lmdb'))
        unfinished = sorted(path.glob('*.lmdb' + PARTIAL_SUFFIX))
    if not folders and not unfinished:
        raise DataError(f'{path} contains no .lmdb folders; give one, or the folder that data_prep wrote with -o')
    reports = _verify_in_child(folders, threads or default_threads())
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
    except (OSError, DataError) as error:
        report.problems.add(str(error))
        return report
    except lmdb.Error as error:
        report.problems.add(f'data.mdb is damaged ({error})')
        return report
    if entries:
        for key in sorted(entries.keys() - report.keys):
            report.problems.add(f'{key} is in {META_INFO}, but not in the data')
        for key in sorted(report.keys - entries.keys()):
            report.problems.add(f'{key} is in the data, but not in {META_INFO}')
    return report


def _verify_in_child(folders: Sequence[Path], threads: int) -> list[Report]:
    """Verify the folders in a child process, and those after one that ends it in another one."""
    context = multiprocessing.get_context('spawn')
    reports: list[Report] = []
    while len(reports) < len(folders):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(folders[len(reports) :], threads, sender), daemon=True)
        with _interrupts_ignored():  # inherited by the child; this process handles Ctrl-C
            process.start()
        sender.close()
        try:
            while len(reports) < len(folders):
                reports.append(receiver.recv())
        except EOFError:
            process.join()
            report = Report(folders[len(reports)].name)
            report.problems.add(
                f'data.mdb is damaged: reading it ended the process (exit code {process.exitcode}). Delete the folder '
                'and convert the data again'
            )
            reports.append(report)
        finally:
            process.terminate()
            process.join()
    return reports


def _child(folders: Sequence[Path], threads: int, sender: Connection) -> None:
    for folder in folders:
        sender.send(verify_lmdb(folder, threads))


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _decode_all(env: lmdb.Environment, entries: dict[str, MetaEntry], threads: int, report: Report) -> None:
    def find_fault(key: str) -> str | None:
        try:
            with env.begin(buffers=True) as transaction:
                height, width = decode(np.frombuffer(transaction.get(key.encode('ascii'), b''), np.uint8))[1]
        except ValueError as error:
            return str(error)
        listed = entries[key].shape if key in entries else (height, width)
        if listed[:2] != (height, width):
            return f'is {size_text((height, width))}, but {size_text(listed[:2])} in {META_INFO}'
        return None

    # Keys that are not ASCII are reported as missing from meta_info.txt.
    keys = sorted(key for key in report.keys if '\\' not in key)
    with ThreadPoolExecutor(threads) as pool, Progress(len(keys), 'frame', f'verifying {report.name}') as progress:
        for key, fault in zip(keys, pool.map(find_fault, keys), strict=True):
            progress.update()
            if fault:
                report.problems.add(f'{key} {fault}')


def _compare_pairs(reports: list[Report]) -> None:
    by_name = {report.name: report for report in reports}
    for report in reports:
        for first, second in _PAIRS:
            stem = report.name.removesuffix(f'{first}.lmdb')
            partner = by_name.get(f'{stem}{second}.lmdb')
            # Without keys the LMDB is unreadable, and a fault already.
            if stem == report.name or partner is None or not report.keys or not partner.keys:
                continue
            for key in sorted(report.keys - partner.keys):
                partner.problems.add(f'{key} is in {report.name}, but not here')
            for key in sorted(partner.keys - report.keys):
                report.problems.add(f'{key} is in {partner.name}, but not here')


def _print_table(reports: list[Report]) -> None:
    width = max(len(report.name) for report in reports)
    print(f'{"":{width}}  clips  frames        MB  result')
    for report in reports:
        result = counted(len(report.problems), 'fault') if report.problems else 'ok'
        size = f'{report.num_bytes / 1e6:8.1f}'
        print(f'{report.name:{width}}  {report.num_clips:5}  {len(report.keys):6}  {size}  {result}')
    for report in reports:
        if report.problems:
            print(f'{report.name}:\n{report.problems.text()}')

"""Read a converted data set back: everything is decoded and compared with what the text files say."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import lmdb

from data_prep.lmdb_writer import PARTIAL_SUFFIX, default_threads, in_order, open_for_reading, read_keys
from dstnet_arch.data.image_check import decode_image
from dstnet_arch.data.lmdb_format import META_INFO, MetaEntry, read_meta_info
from dstnet_arch.errors import DataError, Problems, counted

# Names that pair off: ours, and those in use with stock BasicSR.
_PAIRS = (('blur', 'sharp'), ('blur', 'gt'), ('input', 'gt'), ('lq', 'gt'), ('LQ', 'GT'))


@dataclass
class Report:
    """What was found in one LMDB."""

    name: str
    keys: set[str] = field(default_factory=set)
    num_clips: int = 0
    num_bytes: int = 0
    problems: Problems = field(default_factory=Problems)


def verify(path: Path, threads: int | None = None) -> bool:
    """Check an LMDB folder, or all of those in a folder, and print a table.

    Every image is decoded; `meta_info.txt` must name exactly the keys there are, with the right sizes; a blurry set
    and its sharp one must hold the same keys. An unfinished conversion counts as a fault.

    Returns:
        Whether everything is right.

    Raises:
        DataError: nothing to check at `path`.
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
        raise DataError(f'{path} holds no .lmdb folders; give one of them, or the folder that data_prep wrote with -o')
    reports = [verify_lmdb(folder, threads or default_threads()) for folder in folders]
    for folder in unfinished:
        report = Report(folder.name)
        report.problems.add('unfinished: run the conversion again, it will continue')
        reports.append(report)
    _compare_pairs(reports)
    _print_table(reports)
    return not any(report.problems for report in reports)


def verify_lmdb(path: Path, threads: int) -> Report:
    """Check a single LMDB folder; what is wrong is in the report, nothing is raised."""
    report = Report(path.name)
    entries: dict[str, MetaEntry] = {}
    try:
        entries = {entry.key: entry for entry in read_meta_info(path)}
    except (OSError, ValueError) as error:
        report.problems.add(str(error))
    report.num_clips = len({entry.clip for entry in entries.values()})
    try:
        with open_for_reading(path) as env:
            report.num_bytes = (path / 'data.mdb').stat().st_size
            report.keys = read_keys(env)
            _decode_all(env, entries, threads, report)
    except (OSError, DataError) as error:
        report.problems.add(str(error))
    if entries:
        for key in sorted(entries.keys() - report.keys):
            report.problems.add(f'{key} stands in {META_INFO}, but not in the data')
        for key in sorted(report.keys - entries.keys()):
            report.problems.add(f'{key} is in the data, but not in {META_INFO}')
    return report


def _decode_all(env: lmdb.Environment, entries: dict[str, MetaEntry], threads: int, report: Report) -> None:
    from tqdm import tqdm

    def decode(key: str) -> tuple[int, int]:
        with env.begin() as transaction:
            image = decode_image(transaction.get(key.encode('ascii'), b''))
        return image.shape[0], image.shape[1]

    # Keys that are not plain ASCII were reported as missing from meta_info.txt already.
    keys = sorted(key for key in report.keys if '\\' not in key)
    with ThreadPoolExecutor(threads) as pool, tqdm(total=len(keys), desc=report.name, unit='frame', leave=False) as bar:
        for key, decoding in in_order(pool, decode, keys, ahead=4 * threads):
            bar.update()
            try:
                height, width = decoding.result()
            except ValueError as error:
                report.problems.add(f'{key} {error}')
                continue
            if key in entries and entries[key].shape[:2] != (height, width):
                shape = entries[key].shape
                report.problems.add(f'{key} is {width}x{height}, but {shape[1]}x{shape[0]} by {META_INFO}')


def _compare_pairs(reports: list[Report]) -> None:
    by_name = {report.name: report for report in reports}
    for report in reports:
        for first, second in _PAIRS:
            stem = report.name.removesuffix(f'{first}.lmdb')
            partner = by_name.get(f'{stem}{second}.lmdb')
            if stem == report.name or partner is None:
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

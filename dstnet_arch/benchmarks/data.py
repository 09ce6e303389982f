"""``dstnet benchmark data``: making an LMDB, against stock BasicSR, and training samples from it."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import torch

from dstnet_arch.benchmarks import cli, report
from dstnet_arch.benchmarks.harness import Measurement, Workload, measure, ratio, spread
from dstnet_arch.benchmarks.pictures import write_gopro_tree

OURS, OURS_RAW = 'data_prep', 'data_prep --raw'
STOCK, STOCK_PARALLEL = 'stock', 'stock, multiprocessing_read'
STORES = {'PNG': False, 'raw pixels': True}
"""How frames lie in the LMDB, and whether that is `data_prep --raw`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet benchmark data``."""
    parser.add_argument('--size', type=cli.size, default=cli.Size(1280, 720), metavar='WxH', help='default 1280x720')
    parser.add_argument('--clips', type=cli.positive, default=2, metavar='N', help='made to measure with, by default 2')
    parser.add_argument('--length', type=cli.positive, default=20, metavar='N', help='frames of each, by default 20')
    parser.add_argument('--frames', type=cli.positive, default=15, metavar='N', help='of a sample, by default 15')
    parser.add_argument('--crop', type=cli.positive, default=256, metavar='N', help='side of a sample, by default 256')
    parser.add_argument('--samples', type=cli.positive, default=8, metavar='N', help='in a timed run, by default 8')
    parser.add_argument(
        '--workers', type=cli.positive, metavar='N', help='of the data loader, by default as many as cores'
    )
    parser.add_argument('--repeats', type=cli.positive, default=5, metavar='N', help='timed rounds, by default 5')
    parser.add_argument('--warmup', type=cli.positive, default=1, metavar='N', help='rounds before, by default 1')
    parser.add_argument('--no-memory', action='store_true', help='measure time only')
    parser.add_argument('--no-stock', action='store_true', help='leave stock BasicSR out')
    cli.add_output_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Measure, print the tables, write the JSON file."""
    args.device = torch.device('cpu')
    args.workers = args.workers or report.machine(args.device)['cores'] or 1
    with tempfile.TemporaryDirectory(prefix='dstnet_benchmark_') as folder, _one_thread():
        tree = Path(folder, 'pictures')
        files = write_gopro_tree(tree, args.clips, args.length, args.size)
        picture_bytes = sum(file.stat().st_size for file in files) / len(files)
        conversion = _measure_conversion(tree, len(files), args)
        loading = _measure_loading(tree, Path(folder), args)
    pictures = {'pictures': len(files), 'bytes_a_picture': picture_bytes}
    path = report.write_json(args.output, 'data', args, [*conversion, *loading], **pictures)
    print(_conversion_table(conversion))
    print(f'{len(files)} pictures of {args.size}, {picture_bytes / 1e6:.2f} MB each; {report.made_on(args)}')
    print(f'Ratios are to {conversion[0]["name"]}: below 1 is faster. Peak: without its children.')
    print(f'\n{_loading_table(loading)}')
    print(f'A sample is {args.frames} blurry and {args.frames} sharp frames, of each {args.crop}x{args.crop} pixels.')
    print(f'Written: {path}')


# ---- conversion


def _measure_conversion(tree: Path, pictures: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    kinds = [*[STOCK, STOCK_PARALLEL] * (not args.no_stock), OURS, OURS_RAW]
    workloads = [Workload(kind, prepare_conversion, {'kind': kind, 'tree': str(tree)}) for kind in kinds]
    found = measure(workloads, args.device, args.repeats, args.warmup, not args.no_memory)
    return [
        {
            'part': 'conversion',
            'name': kind,
            'seconds_per_picture': report.as_object(spread([s / pictures for s in found[kind].seconds])),
            'runs_seconds': found[kind].seconds,
            'ratio': report.as_object(ratio(found[kind], found[kinds[0]])),
            'peak_memory_bytes': found[kind].peak_memory,
            'failure': found[kind].failure,
        }
        for kind in kinds
    ]


def prepare_conversion(kind: str, tree: str) -> Callable[[], None]:
    """The function makes LMDB folders of the blurry and the sharp frames, beside `tree`, and removes them again."""
    source = Path(tree)

    def convert() -> None:
        with tempfile.TemporaryDirectory(dir=source.parent) as output, silence():
            make_lmdbs(kind, source, Path(output))

    return convert


def make_lmdbs(kind: str, source: Path, output: Path) -> None:
    """Convert a tree as `write_gopro_tree` makes it to ``<output>/train_{blur,sharp}.lmdb``."""
    if kind in (OURS, OURS_RAW):
        from data_prep.convert import convert
        from data_prep.layouts import GOPRO

        convert(GOPRO, source, output, raw=kind == OURS_RAW)
        return
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    for side in ('blur', 'sharp'):
        paths = sorted(path.relative_to(source).as_posix() for path in source.glob(f'train/*/{side}/*.png'))
        keys = [f'{clip}/{name.removesuffix(".png")}' for _, clip, _, name in (path.split('/') for path in paths)]
        target = str(output / f'train_{side}.lmdb')
        make_lmdb_from_imgs(str(source), target, paths, keys, multiprocessing_read=kind == STOCK_PARALLEL)


# ---- loading


def _measure_loading(tree: Path, folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    workloads, workers = [], {}
    for store, raw in STORES.items():
        with silence():
            make_lmdbs(OURS_RAW if raw else OURS, tree, folder / store)
        for number in (0, args.workers):
            name = f'{store}, ' + (f'{number} workers' if number else 'one core')
            shape = {'folder': str(folder / store), 'frames': args.frames, 'crop': args.crop}
            samples = args.samples * max(1, number)
            workloads.append(Workload(name, prepare_loading, {**shape, 'samples': samples, 'workers': number}))
            workers[name] = number
    found = measure(workloads, args.device, args.repeats, args.warmup, with_memory=False)
    return [
        {
            'part': 'loading',
            'name': item.name,
            'workers': workers[item.name],
            'samples_per_second': _rate(found[item.name], item.arguments['samples']),
            'ratio': report.as_object(ratio(found[item.name], found[workloads[workers[item.name] > 0].name])),
            'failure': found[item.name].failure,
        }
        for item in workloads
    ]


def prepare_loading(folder: str, frames: int, crop: int, samples: int, workers: int) -> Callable[[], None]:
    """The function loads so many training samples, always others: in this thread, or through a loader's workers."""
    from torch.utils.data import DataLoader

    from dstnet_arch.data.sampler import VideoDeblurSampler
    from dstnet_arch.data.video_recurrent_deblur_dataset import VideoRecurrentDeblurDataset

    roots = {f'dataroot_{key}': f'{folder}/train_{side}.lmdb' for key, side in (('lq', 'blur'), ('gt', 'sharp'))}
    dataset = VideoRecurrentDeblurDataset({**roots, 'num_frame': frames, 'gt_size': crop})
    if not workers:
        draws = count()

        def load() -> None:
            for draw in (next(draws) for _ in range(samples)):
                dataset[draw % len(dataset), draw]

        return load
    sampler = VideoDeblurSampler(dataset, 1, 0, ratio=samples / len(dataset))
    loader = DataLoader(dataset, sampler=sampler, num_workers=workers, persistent_workers=True)
    epochs = count()

    def load_in_workers() -> None:
        sampler.set_epoch(next(epochs))
        for _ in loader:
            pass

    return load_in_workers


def _rate(measurement: Measurement, samples: int) -> dict[str, float] | None:
    return report.as_object(spread([samples / s for s in measurement.seconds]))


# ---- what both need


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread in OpenCV and PyTorch, as in a loader's worker: figures are of one core unless they say otherwise."""
    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])


@contextmanager
def silence() -> Iterator[None]:
    """Hide what converters print: it is not the command's result."""
    with open(os.devnull, 'w') as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _conversion_table(results: list[dict[str, Any]]) -> str:
    rows = [
        [
            item['name'],
            report.with_quartiles(item['seconds_per_picture'], 2, 1e3),
            report.with_quartiles(item['ratio'], 3),
            report.number(item['peak_memory_bytes'], 0, 2**-20),
        ]
        for item in results
    ]
    header = ['Conversion', 'ms a picture (quartiles)', 'ratio (quartiles)', 'peak MiB']
    return '\n'.join([report.text_table(header, rows), *report.failures(results)])


def _loading_table(results: list[dict[str, Any]]) -> str:
    rows = [
        [item['name'], report.with_quartiles(item['samples_per_second'], 2), report.with_quartiles(item['ratio'], 3)]
        for item in results
    ]
    header = ['Training samples', 'a second (quartiles)', 'time, ratio (quartiles)']
    return '\n'.join([report.text_table(header, rows), *report.failures(results)])

"""``dstnet benchmark eval``: what reading, scoring and saving add to a test run, and what single scores take."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dstnet_arch.benchmarks import cli, report
from dstnet_arch.benchmarks.data import OURS, OURS_RAW, STORES, make_lmdbs, silence
from dstnet_arch.benchmarks.forward import build
from dstnet_arch.benchmarks.harness import PRECISIONS, Workload, measure, ratio, spread, tf32
from dstnet_arch.benchmarks.networks import find
from dstnet_arch.benchmarks.pictures import moving_pictures, write_gopro_tree

RUNS = {
    'network alone': (),
    '+ reading': ('reading',),
    '+ scores': ('reading', 'scores'),
    '+ pictures saved': ('reading', 'scores', 'saving'),
}
"""Test runs, and what each does beside restoring."""

METRICS = {
    'psnr': {'type': 'calculate_psnr', 'crop_border': 0},
    'ssim3d': {'type': 'calculate_ssim3d', 'crop_border': 0},
    'ssim': {'type': 'calculate_ssim', 'crop_border': 0},
}
"""Those of the project's options files."""

_STOCK, _BATCHES = 'as registered', 'in batches'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``dstnet benchmark eval``."""
    parser.add_argument('--network', default='DSTNet', metavar='NAME', help='by default DSTNet')
    parser.add_argument('--size', type=cli.size, default=cli.Size(1280, 720), metavar='WxH', help='default 1280x720')
    parser.add_argument('--clips', type=cli.positive, default=2, metavar='N', help='in a test run, by default 2')
    parser.add_argument('--store', choices=list(STORES), default='PNG', help='frames in the LMDB, by default PNG')
    parser.add_argument('--dtype', choices=list(PRECISIONS), default='fp32', help='by default fp32, without TF32')
    parser.add_argument('--only', choices=['runs', 'scores'], help='measure test runs only, or single scores only')
    cli.add_arguments(parser, frames=10)


def run(args: argparse.Namespace) -> None:
    """Measure, print the tables, write the JSON file."""
    args.no_memory = True
    cli.prepare(args)
    find(args.network)
    runs = _measure_runs(args) if args.only != 'scores' else []
    metrics = _measure_metrics(args) if args.only != 'runs' else []
    path = report.write_json(args.output, 'eval', args, [*runs, *metrics], reference='network alone')
    if runs:
        print(_runs_table(runs))
        print(
            f'{args.network}, {args.dtype}; {args.clips} clips of {args.frames} frames of {args.size}, {args.store}; '
            f'{report.made_on(args)}'
        )
        print('Beside the network: the share of the run in which the network waits for the rest, or shares the cores.')
    if metrics:
        print(_metrics_table(metrics))
        print(f'One pair of frames of {args.size}. As registered: on the CPU. In batches: where the network is;')
        print(report.made_on(args))
    print(f'Written: {path}')


# ---- test runs


def _measure_runs(args: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix='dstnet_benchmark_') as folder:
        tree, store = Path(folder, 'pictures'), Path(folder, 'lmdb')
        write_gopro_tree(tree, args.clips, args.frames, args.size)
        with silence():
            make_lmdbs(OURS_RAW if STORES[args.store] else OURS, tree, store)
        setting = {
            'network': args.network,
            'folder': str(store),
            'frames': args.frames,
            'device': str(args.device),
            'dtype': args.dtype,
        }
        workloads = [
            Workload(name, prepare_run, {**setting, 'parts': list(parts)}, memory=False) for name, parts in RUNS.items()
        ]
        found = measure(workloads, args.device, args.repeats, args.warmup, with_memory=False)
    frames = args.clips * args.frames
    alone = found['network alone']
    results = []
    for name in RUNS:
        rounds = zip(alone.seconds, found[name].seconds, strict=True) if alone.seconds and found[name].seconds else ()
        results.append(
            {
                'part': 'run',
                'name': name,
                'seconds_per_frame': report.as_object(spread([s / frames for s in found[name].seconds])),
                'ratio': report.as_object(ratio(found[name], alone)),
                'share_beside_network': report.as_object(spread([1 - network / whole for network, whole in rounds])),
                'failure': found[name].failure,
            }
        )
    return results


def prepare_run(
    network: str, folder: str, frames: int, device: str, dtype: str, parts: Sequence[str]
) -> Callable[[], None]:
    """The function tests a network on the clips of an LMDB, as `VideoRecurrentDeblurModel` does.

    Args:
        network: its name.
        folder: with ``train_{blur,sharp}.lmdb``.
        frames: of a clip.
        device, dtype: what it computes on and in.
        parts: of 'reading' (else the clips are in memory), 'scores' and 'saving'.
    """
    from dstnet_arch.data.video_recurrent_deblur_dataset import VideoRecurrentDeblurTestDataset
    from dstnet_arch.metrics.scorer import Scorer
    from dstnet_arch.models.evaluation import evaluate, image_path

    roots = {f'dataroot_{key}': f'{folder}/train_{side}.lmdb' for key, side in (('lq', 'blur'), ('gt', 'sharp'))}
    dataset = VideoRecurrentDeblurTestDataset({**roots, 'clip_length': frames})
    clips: Any = dataset if 'reading' in parts else InMemory(dataset)
    net, _ = build(find(network), [1, 1, 3, 16, 16], device)
    net.eval()
    precision = PRECISIONS[dtype]
    half = precision.dtype if precision.dtype != torch.float32 else None
    place = torch.device(device)
    numbers = count()

    def restore(lq: Tensor) -> Tensor:
        with torch.inference_mode(), tf32(precision.tf32), torch.autocast(place.type, half, enabled=half is not None):
            restored: Tensor = net(lq.to(place))
            return restored.float().nan_to_num_()  # random weights may overflow; scores take the same time

    def test() -> None:
        with tempfile.TemporaryDirectory(dir=folder, prefix=f'saved_{next(numbers)}_') as saved:
            evaluate(
                clips,
                restore,
                score=Scorer(METRICS) if 'scores' in parts else None,
                score_device=place if place.type != 'cpu' else None,
                save_path=(lambda clip, frame: image_path(Path(saved), clip, frame, None))
                if 'saving' in parts
                else None,
            )

    return test


class InMemory:
    """The clips of a data set, read before they are asked for; without ground truth."""

    has_gt = False

    def __init__(self, dataset: Any) -> None:
        self.videos: Mapping[str, Sequence[str]] = dataset.videos
        self.num_frames: int = dataset.num_frames
        self._clips = [dataset[index] for index in range(len(dataset))]
        for clip in self._clips:
            clip.pop('gt', None)

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        return self._clips[index]


# ---- scores


def _measure_metrics(args: argparse.Namespace) -> list[dict[str, Any]]:
    workloads = [
        Workload(
            f'{name}, {how}',
            prepare_metric,
            {'metric': name, 'size': list(args.size), 'device': str(args.device), 'batched': how == _BATCHES},
            memory=False,
        )
        for name in METRICS
        for how in (_STOCK, _BATCHES)
    ]
    found = measure(workloads, args.device, args.repeats, args.warmup, with_memory=False)
    return [
        {
            'part': 'metric',
            'name': item.name,
            'seconds_per_pair': report.as_object(spread(found[item.name].seconds)),
            'ratio': report.as_object(ratio(found[item.name], found[workloads[number // 2 * 2].name])),
            'failure': found[item.name].failure,
        }
        for number, item in enumerate(workloads)
    ]


def prepare_metric(metric: str, size: Sequence[int], device: str, batched: bool) -> Callable[[], None]:
    """The function scores one pair of frames: by the function registered with BasicSR, or by ours on the device."""
    from basicsr.metrics import calculate_metric

    from dstnet_arch.metrics.scorer import Scorer

    (blurry, sharp), *_ = moving_pictures(1, cli.Size(*size))
    opt = METRICS[metric]
    if not batched:
        return lambda: calculate_metric({'img': blurry, 'img2': sharp}, opt)
    frames = [torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous().to(device) for picture in (blurry, sharp)]
    scorer = Scorer({metric: opt})

    def score() -> None:
        scorer(*frames)

    return score


# ---- tables


def _runs_table(results: list[dict[str, Any]]) -> str:
    rows = [
        [
            item['name'],
            report.with_quartiles(item['seconds_per_frame'], 2, 1e3),
            report.with_quartiles(item['ratio'], 3),
            report.with_quartiles(item['share_beside_network'], 1, 100),
        ]
        for item in results
    ]
    header = ['Test run', 'ms a frame (quartiles)', 'ratio (quartiles)', '% beside the network (quartiles)']
    return '\n'.join([report.text_table(header, rows), *report.failures(results)])


def _metrics_table(results: list[dict[str, Any]]) -> str:
    rows = [
        [item['name'], report.with_quartiles(item['seconds_per_pair'], 2, 1e3), report.with_quartiles(item['ratio'], 3)]
        for item in results
    ]
    return '\n'.join(
        [report.text_table(['Score', 'ms a pair (quartiles)', 'ratio (quartiles)'], rows), *report.failures(results)]
    )

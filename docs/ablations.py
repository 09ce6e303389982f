"""The paper's ablations in miniature: Tables 4, 5 and 6 and two peers, trained on generated data.

    python docs/ablations.py            # train and test what is missing, then write the tables
    python docs/ablations.py --gpu      # the same on a GPU, which all processes share
    python docs/ablations.py --table    # only write the tables from the results so far

Every variant has the same reduced width, number of iterations, data and seeds. Training clips and test clips show
different photographs of scikit-image. One process with one thread runs on each core; a stopped run continues with the
jobs that have no result yet. Results go to docs/ablations/results.json, the tables to docs/ablations/tables.md.
All runs of one table have to be made on the same kind of machine.

BasicVSR++ is not among the peers: its flow network needs frames of 256 pixels and more, these have 160x240.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import yaml
from tqdm import tqdm

from data_prep.sample import PLANS, ClipPlan, make_sample
from dstnet_arch.benchmarks.report import machine
from dstnet_arch.files import atomic_file, read_json
from dstnet_arch.plugin.options import find_options, read_options

FOLDER = Path(__file__).with_name('ablations')
ITERATIONS = 1200
SEEDS = (0, 1, 2)
DSTNET: dict[str, Any] = {'type': 'DSTNet', 'num_feat': 16, 'num_block': 4, 'num_cwgdn': 2}
EDVR: dict[str, Any] = {
    'type': 'EDVR', 'num_feat': 16, 'num_frame': 5, 'deformable_groups': 4, 'num_extract_block': 2,
    'num_reconstruct_block': 4, 'hr_in': True, 'with_predeblur': True,
}  # fmt: skip


class Variant(NamedTuple):
    """A network and its row in the paper.

    Attributes:
        table: 'Table 4' to 'Table 6', or 'Peers'.
        label: name of the row.
        network: the options section network_g.
        lr: learning rate; None: that of the sample's options, 2e-3, at which EDVR learns nothing. 4e-4 is the rate of
            its own training.
    """

    table: str
    label: str
    network: dict[str, Any]
    lr: float | None = None


VARIANTS = {
    'full': Variant('all', 'DSTNet', DSTNET),
    'spatial-gmlp': Variant('Table 4', 'w/ gMLP', {**DSTNET, 'spatial': 'gmlp'}),
    'spatial-none': Variant('Table 4', 'w/o CWGDN', {**DSTNET, 'spatial': 'none'}),
    'fusion-blend': Variant('Table 5', 'w/ feature fusion [27], Eq. (11)', {**DSTNET, 'fusion': 'blend'}),
    'fusion-none': Variant('Table 5', 'w/o Eq. (3)', {**DSTNET, 'fusion': 'none'}),
    'pixel_filter-false': Variant('Table 5', 'w/o Eq. (4)', {**DSTNET, 'pixel_filter': False}),
    'propagation-none': Variant('Table 6', 'w/o WaveletFP', {**DSTNET, 'propagation': 'none'}),
    'propagation-bilinear': Variant('Table 6', 'w/ bilinear in FP', {**DSTNET, 'propagation': 'bilinear'}),
    'DSTNetPlus': Variant(
        'Peers', 'DSTNet+', {'type': 'DSTNetPlus', 'num_feat': 16, 'num_kernel_block': 1, 'num_block': 4}
    ),
    'EDVR': Variant(
        'Peers', 'EDVR', {'type': 'SlidingWindow', 'num_frame': 5, 'size_multiple': 16, 'network': EDVR}, 4e-4
    ),
}  # fmt: skip

_MORE = ('rocket', 'brick', 'grass', 'retina', 'hubble_deep_field', 'immunohistochemistry', 'moon')
_TRAIN = replace(PLANS[0])
PHOTOGRAPHS: tuple[ClipPlan, ...] = (
    *(plan for plan in PLANS if plan.split == 'train' and plan.photograph not in ('coffee',)),
    *(
        replace(_TRAIN, name=f'{name.upper()}_00', photograph=name, first_number=1, blur_length=2.5 + 0.5 * (i % 5))
        for i, name in enumerate(_MORE)
    ),
    *(plan for plan in PLANS if plan.split == 'test'),
    replace(PLANS[-1], name='COFFEE_00', photograph='coffee', first_number=7, blur_length=4.0),
)
"""The sample set with more photographs; 'astronaut' and 'coffee' are held out for the test."""


def main() -> None:
    """Run the missing jobs and write the tables."""
    parser = argparse.ArgumentParser(description='Train and test the ablations in miniature.')
    parser.add_argument('--work', type=Path, default=Path('experiments/ablations'), help='folder for data and runs')
    parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1, help='processes at once (default: cores)')
    parser.add_argument('--iterations', type=int, default=ITERATIONS)
    parser.add_argument('--results', type=Path, default=FOLDER / 'results.json')
    parser.add_argument('--gpu', action='store_true', help='train and test on the GPU, in float32')
    parser.add_argument('--table', action='store_true', help='only write the tables')
    args = parser.parse_args()
    results = read_json(args.results) if args.results.exists() else {}
    if not args.table:
        jobs = [f'{name}_{seed}' for seed, name in product(SEEDS, VARIANTS)]
        jobs = [job for job in jobs if results.get(job, {}).get('iterations') != args.iterations]
        work = args.work.absolute()
        make_sample(work / 'data', plans=PHOTOGRAPHS)
        with ThreadPoolExecutor(args.jobs) as pool, tqdm(total=len(jobs), unit='run') as bar:
            runs = {pool.submit(run, job, work, args.iterations, args.gpu): job for job in jobs}
            for done in as_completed(runs):
                if done.exception():
                    tqdm.write(f'{runs[done]}: {done.exception()}. See {work / runs[done]}/*.log.')
                else:
                    results[runs[done]] = done.result()
                    _write(args.results, json.dumps(results, indent=1, sort_keys=True) + '\n')
                    _write(args.results.with_name('tables.md'), tables(results))
                bar.update()
    _write(args.results.with_name('tables.md'), tables(results))
    print(tables(results))


def run(job: str, work: Path, iterations: int, gpu: bool) -> dict[str, Any]:
    """Train one variant with one seed and score it; returns its scores, parameters and time."""
    variant, _, seed = job.rpartition('_')
    folder = work / job
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
    folder.mkdir(parents=True)
    for phase in ('train', 'test'):
        opt = read_options(str(find_options(f'{phase}_DSTNet_sample')))
        opt.update(name=job, num_gpu=int(gpu), manual_seed=int(seed), network_g=VARIANTS[variant].network)
        for dataset, section in opt['datasets'].items():
            split = 'train' if dataset == 'train' else 'test'
            section['dataroot_lq'] = str(work / 'data' / f'{split}_blur.lmdb')
            section['dataroot_gt'] = str(work / 'data' / f'{split}_sharp.lmdb')
        if phase == 'train':
            opt['train']['total_iter'] = iterations
            opt['train']['precision'] = 'fp32'
            opt['train']['optim_g']['lr'] = VARIANTS[variant].lr or opt['train']['optim_g']['lr']
            opt['train']['scheduler']['periods'] = [iterations]
            opt['val']['val_freq'] = opt['logger']['save_checkpoint_freq'] = 10 * iterations  # at the end only
            opt['logger']['use_tb_logger'] = False
            opt['datasets']['train']['num_worker_per_gpu'] = 0
            opt['datasets']['train']['persistent_workers'] = False
            del opt['datasets']['val'], opt['val']
        else:
            opt['path']['pretrain_network_g'] = str(folder / 'experiments' / job / 'models' / 'net_g_latest.pth')
            opt['val'].update(save_img=False, precision='fp32')
        (folder / f'{phase}.yml').write_text(yaml.safe_dump(opt, sort_keys=False), encoding='utf-8')
    seconds: dict[str, float] = {}
    for phase in ('train', 'test'):
        begin = time.monotonic()
        with open(folder / f'{phase}.log', 'w', encoding='utf-8') as log:
            command = [sys.executable, '-m', f'basicsr.{phase}', '-opt', f'{phase}.yml']
            environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
            done = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log)
        if done.returncode == 2:  # an error that the log explains, such as a loss that is not finite
            return {'iterations': iterations, 'failed': (folder / f'{phase}.log').read_text('utf-8').splitlines()[-1]}
        done.check_returncode()
        seconds[phase] = round(time.monotonic() - begin, 1)
    summary = read_json(next((folder / 'results' / job).glob('*_summary.json')))
    from dstnet_arch.archs.checkpoint import read_state_dict

    state = read_state_dict(folder / 'experiments' / job / 'models' / 'net_g_latest.pth')
    return {
        'iterations': iterations,
        'scores': summary['mean_over_frames'],
        'parameters': sum(v.numel() for k, v in state.items() if k != '_extra_state'),
        'seconds': seconds,
        'machine': _machine(gpu),
        'date': summary['date'],
    }


def _machine(gpu: bool) -> dict[str, Any]:
    import torch

    return machine(torch.device('cuda', 0) if gpu else torch.device('cpu'))


def tables(results: dict[str, Any]) -> str:
    """Markdown tables: mean and standard deviation over the seeds, parameters and training time."""
    lines = [
        '# The ablations in miniature',
        '',
        'Made by `python docs/ablations.py`. DSTNet with 16 features, 4 residual blocks and 2 CWGDN blocks (the paper:',
        '64, 15, 5), trained on generated clips and tested on two clips of held-out photographs. The difference is to',
        'the full network of the same seed. These networks are far from converged: only the order can be compared with',
        'the paper, and only where the spread over the seeds is smaller than the difference.',
        '',
    ]
    base = _psnr(results, 'full')
    for table in ('Table 4', 'Table 5', 'Table 6', 'Peers'):
        lines += [
            f'## {table}',
            '',
            '| | PSNR (dB) | difference (dB) | SSIM-3D | parameters | training (s) | seeds |',
            '| --- | ---: | ---: | ---: | ---: | ---: | ---: |',
        ]
        for name, variant in VARIANTS.items():
            if variant.table not in (table, 'all'):
                continue
            psnr = _psnr(results, name)
            if not psnr:
                lines.append(f'| {variant.label} | not run yet | | | | | 0 |')
                continue
            runs = [results[f'{name}_{seed}'] for seed in psnr]
            paired = [value - base[seed] for seed, value in psnr.items() if seed in base]
            ssim = [run['scores']['restored']['ssim3d'] for run in runs]
            lines.append(
                f'| {variant.label} | {_spread(list(psnr.values()), 2)} | '
                f'{"" if name == "full" else _spread(paired, 2, "+")} | {_spread(ssim, 4)} | '
                f'{runs[0]["parameters"]:,} | {mean(run["seconds"]["train"] for run in runs):.0f} | {len(runs)} |'
            )
        lines.append('')
    if results:
        lines += [f'{job}: {run["failed"].split(". ")[0]}.' for job, run in results.items() if 'failed' in run]
        first = next(run for run in results.values() if 'scores' in run)
        scores, facts = first['scores']['input'], first['machine']
        place = facts.get('gpu') or f'{facts["cpu"]} ({facts["isa"]}), one thread per run'
        lines += [
            f'Blurry input: {scores["psnr"]:.2f} dB, SSIM-3D {scores["ssim3d"]:.4f}. {first["iterations"]} iterations, '
            f'{place}, several runs at a time, PyTorch {facts["torch"]}, {first["date"]}.',
        ]
    return '\n'.join(lines) + '\n'


def _psnr(results: dict[str, Any], name: str) -> dict[int, float]:
    """PSNR by seed, of the seeds that have been run."""
    found = {seed: results.get(f'{name}_{seed}') for seed in SEEDS}
    return {seed: run['scores']['restored']['psnr'] for seed, run in found.items() if run and 'scores' in run}


def _spread(values: list[float], digits: int, sign: str = '') -> str:
    if not values:
        return ''
    text = f'{mean(values):{sign}.{digits}f}'
    return f'{text} ± {stdev(values):.{digits}f}' if len(values) > 1 else text


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(text.encode())


if __name__ == '__main__':
    main()

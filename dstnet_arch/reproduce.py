"""``dstnet reproduce``: one row of the paper's Tables 1 to 3 from a data set and weights, in one command."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from dstnet_arch._version import __version__
from dstnet_arch.arguments import check_writable, command_parser
from dstnet_arch.errors import DataError, DSTNetError, OptionsError
from dstnet_arch.files import read_json
from dstnet_arch.metrics.report import write_text

NETWORKS = {'DSTNet': 'DSTNet', 'DSTNet-L': 'DSTNet-L', 'DSTNetPlus': 'DSTNet+', 'DSTNetPlus-L': 'DSTNet+L'}
"""Network -> its name in the tables."""
EXPOSURES = ('1ms8ms', '2ms16ms', '3ms24ms')
RELEASED = {
    ('gopro', 'DSTNet'): 'GoPro',
    ('gopro', 'DSTNet-L'): 'GoPro-L',
    ('dvd', 'DSTNet'): 'DVD',
    ('bsd', 'DSTNet'): 'BSD',
}
"""(data set, network) -> released weights. The authors' repository has none of DSTNet+."""
PSNR_TOLERANCE, SSIM_TOLERANCE = 0.02, 0.0005
"""Differences from the printed scores (dB, SSIM) that still count as reproduced: rounding and number format."""

_OPTIONS_SUFFIX = {'gopro': 'GoPro', 'dvd': 'DVD'}
_DESCRIPTION = """\
Reproduce a row of the paper's tables: use or convert the data set, download the released weights, test, and compare
the scores with the printed ones. Each step that is already done is skipped: after an interruption, run the same command
again.
"""


@dataclass(frozen=True)
class Reproduction:
    """What to reproduce.

    Attributes:
        dataset: 'gopro', 'dvd' or 'bsd'.
        data: The data set as downloaded, or converted by ``python -m data_prep``.
        network: A key of `NETWORKS`.
        weights: 'released' or a file.
        exposure: BSD only, one of `EXPOSURES`.
        blur: GoPro only, 'blur' or 'blur_gamma'.
        output: Folder of the report.
        force_yml: ``KEY=VALUE`` options of the test, as for ``--force_yml``.
    """

    dataset: str
    data: Path
    network: str = 'DSTNet'
    weights: str = 'released'
    exposure: str = EXPOSURES[0]
    blur: str = 'blur'
    output: Path = Path('results/reproduce')
    force_yml: Sequence[str] = ()

    @property
    def set_name(self) -> str:
        """Name of the test set in options files and tables, for example 'BSD1ms8ms'."""
        return _OPTIONS_SUFFIX.get(self.dataset, f'BSD{self.exposure}')

    @property
    def name(self) -> str:
        """Name of the run."""
        weights = 'released' if self.weights == 'released' else Path(self.weights).stem
        blur = '' if self.blur == 'blur' else f'_{self.blur}'
        return f'reproduce_{self.network}_{self.set_name}{blur}_{weights}'


def command(arguments: Sequence[str]) -> int:
    """Run ``dstnet reproduce``; the exit status is 0 if the printed scores are reproduced, otherwise 1."""
    parser = command_parser('dstnet reproduce', _DESCRIPTION)
    add = parser.add_argument
    add('dataset', choices=('gopro', 'dvd', 'bsd'))
    add('--data', type=Path, required=True, metavar='DIR', help='the data set, downloaded or converted')
    add('--network', choices=list(NETWORKS), default='DSTNet', help='default: DSTNet')
    add('--weights', default='released', metavar='FILE', help="default: the authors' released weights")
    add('--exposure', choices=EXPOSURES, default=EXPOSURES[0], help='of BSD (default: 1ms8ms)')
    add('--blur', choices=('blur', 'blur_gamma'), default='blur', help='of GoPro (default: blur)')
    add('-o', '--output', type=Path, default=Path('results/reproduce'), metavar='DIR', help='folder of the report')
    add('--force_yml', nargs='+', default=[], metavar='KEY=VALUE', help='options of the test, as for basicsr.test')
    return 0 if reproduce(Reproduction(**vars(parser.parse_args(arguments))))['reproduced'] else 1


def reproduce(task: Reproduction) -> dict[str, Any]:
    """Reproduce one row, write ``<output>/<name>/report.md`` and ``report.json``, and return the content of the latter.

    Raises:
        DSTNetError: The data or the weights are missing or wrong, or a step failed.
    """
    _check(task)
    weights = _weights(task)
    _check_weights(task, weights)
    report = _compare(task, _test(task, weights, _data(task)), weights)
    text = _markdown(task, report)
    folder = task.output / task.name
    write_text(folder / 'report.json', json.dumps(report, indent=2, ensure_ascii=False) + '\n')
    write_text(folder / 'report.md', text)
    print(f'\n{text}\nReport: {folder / "report.md"}')
    return report


def _check(task: Reproduction) -> None:
    """Everything that can be known before the first step."""
    from dstnet_arch.plugin.stock import require_basicsr

    require_basicsr()
    if not task.data.is_dir():
        raise DataError(f'--data {task.data} is not a folder. Give the folder of the downloaded data set.')
    option, variant = {'gopro': ('blur', task.blur), 'bsd': ('exposure', task.exposure)}.get(task.dataset, ('', ''))
    info = task.data / 'test_blur.lmdb' / 'dataset_info.json'
    if info.is_file() and (found := read_json(info).get(option, {}).get('value', variant)) != variant:
        raise DataError(f'--data {task.data} was converted with --{option} {found}. Give that of {variant}.')
    if task.weights == 'released' and (task.dataset, task.network) not in RELEASED:
        raise OptionsError(
            f"The authors' repository has no weights of {task.network} for {task.set_name}. Give a file with --weights."
        )
    check_writable(task.output)
    _options_file(task)


def _options_file(task: Reproduction) -> Path:
    from dstnet_arch.plugin.options import find_options

    return find_options(f'test_{task.network}_{task.set_name}')


def _weights(task: Reproduction) -> Path:
    from dstnet_arch.weights import resolve_weights

    return resolve_weights(RELEASED[task.dataset, task.network] if task.weights == 'released' else task.weights)


def _check_weights(task: Reproduction, weights: Path) -> None:
    """Compare weights with the network of the options, before a conversion of hours and the test."""
    from dstnet_arch.archs.checkpoint import load_checkpoint
    from dstnet_arch.plugin.options import read_options

    net = load_checkpoint(weights)
    found = {'type': type(net).__name__, **net.config}
    wanted = read_options(str(_options_file(task)))['network_g']
    forced = {option.partition('=')[0].removeprefix('network_g:') for option in task.force_yml}
    different = [k for k, v in wanted.items() if v is not None and k not in forced and found.get(k, v) != v]
    if different:
        raise OptionsError(
            f'{weights} is a network with {", ".join(f"{k}={found[k]}" for k in different)}; {task.network} has '
            f'{", ".join(f"{k}={wanted[k]}" for k in different)}. Choose other weights or another --network, or test '
            f'it all the same with --force_yml {" ".join(f"network_g:{k}={found[k]}" for k in different)}.'
        )


def _data(task: Reproduction) -> dict[str, str]:
    """Options of the test set. A converted set and GoPro's own layout are used in place, others are converted."""
    folder = task.data
    if not all((folder / name).is_dir() for name in ('test_blur.lmdb', 'test_sharp.lmdb')):
        if task.dataset == 'gopro':
            return {'dataroot_lq': str(folder), 'dataroot_gt': str(folder), 'blur': task.blur}
        more = ['--exposure', task.exposure] if task.dataset == 'bsd' else []
        folder = Path('datasets', f'BSD_{task.exposure}' if task.dataset == 'bsd' else task.set_name)
        # This keeps a data set that was converted from the same files, and refuses another one.
        _run(['data_prep', task.dataset, str(task.data), '-o', str(folder), *more], f'Converting {task.data}')
    return {'dataroot_lq': str(folder / 'test_blur.lmdb'), 'dataroot_gt': str(folder / 'test_sharp.lmdb')}


def _test(task: Reproduction, weights: Path, roots: dict[str, str]) -> dict[str, Any]:
    """The summary of the test run; one of an earlier run with the same weights, data and options is used again."""
    options = _options_file(task)
    inputs = {
        'weights_sha256': hashlib.sha256(weights.read_bytes()).hexdigest(),
        'options_sha256': hashlib.sha256(options.read_bytes()).hexdigest(),
        'data': {key: str(Path(value).absolute()) for key, value in roots.items()},
        'force': list(task.force_yml),
    }
    results = Path('results') / task.name / f'{task.set_name}_summary.json'
    done = results.with_name('inputs.json')  # BasicSR moves the folder of an earlier test aside
    if done.is_file() and results.is_file() and read_json(done) == inputs:
        print(f'The test has already run: {results}')
        return read_json(results)
    forced = [
        f'name={task.name}',
        f'path:pretrain_network_g={weights}',
        'path:param_key_g=~',
        *(f'datasets:test:{key}={value}' for key, value in roots.items()),
        *task.force_yml,
    ]
    _run(['basicsr.test', '-opt', str(options), '--force_yml', *forced], 'Testing')
    if not results.is_file():
        raise DSTNetError(f'The test wrote no scores ({results}). Does the data set have ground truth?')
    write_text(done, json.dumps(inputs, indent=2) + '\n')
    return read_json(results)


def _run(module: Sequence[str], what: str) -> None:
    print(f'{what}: python -m {" ".join(module)}', flush=True)
    status = subprocess.run([sys.executable, '-m', *module]).returncode
    if status:
        raise DSTNetError(f'{what} failed (exit status {status}); the reason is above. Run the same command again.')


def _compare(task: Reproduction, summary: dict[str, Any], weights: Path) -> dict[str, Any]:
    from dstnet_arch.metrics.tables import measured_row, published_for

    row = measured_row(summary)
    table = published_for(task.set_name)
    assert table is not None
    printed = next((r for r in table['rows'] if r['method'] == NETWORKS[task.network]), None)
    difference = {
        key: None if printed is None or printed[key] is None or value is None else value - printed[key]
        for key, value in (('psnr', row.psnr), ('ssim', row.ssim))
    }
    reproduced = False
    if table['frames'] not in (None, summary['frames']):
        verdict = (
            f'Not comparable: {summary["frames"]} frames were scored, the printed scores are of {table["frames"]}.'
        )
    elif difference['psnr'] is None:
        verdict = 'No scores are printed for this network on this set.'
    else:
        reproduced = abs(difference['psnr']) <= PSNR_TOLERANCE and abs(difference['ssim'] or 0) <= SSIM_TOLERANCE
        outcome = 'Reproduced' if reproduced else 'Not reproduced'
        verdict = f'{outcome} within {PSNR_TOLERANCE} dB and {SSIM_TOLERANCE}.'
    return {
        'task': {key: str(value) for key, value in asdict(task).items()},
        'weights': str(weights),
        'table': table['title'],
        'frames': summary['frames'],
        'measured': {'psnr': row.psnr, 'ssim': row.ssim},
        'printed': printed,
        'difference': difference,
        'reproduced': reproduced,
        'verdict': verdict,
        'precision': summary.get('precision'),
        'dstnet_arch': __version__,
        'date': date.today().isoformat(),
    }


def _markdown(task: Reproduction, report: dict[str, Any]) -> str:
    def cells(name: str, scores: dict[str, Any] | None, formats: tuple[str, str] = ('.2f', '.4f')) -> str:
        values = [(scores or {}).get(key) for key in ('psnr', 'ssim')]
        texts = ['-' if v is None else format(v, spec) for v, spec in zip(values, formats, strict=True)]
        return f'| {name} | {" | ".join(texts)} |'

    return f"""# {task.network} on {task.set_name}

| {report['table']} | PSNR (dB) | SSIM-3D |
| --- | ---: | ---: |
{cells(f'{NETWORKS[task.network]}, printed', report['printed'])}
{cells('measured here', report['measured'])}
{cells('difference', report['difference'], ('+.3f', '+.4f'))}

**{report['verdict']}**

{report['frames']} frames, weights `{report['weights']}`, {report['precision']}, dstnet-arch {__version__},
{report['date']}.
"""

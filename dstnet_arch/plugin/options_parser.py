"""BasicSR's ``parse_options`` with the options checked first."""

from __future__ import annotations

import argparse
import copy
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from dstnet_arch.errors import OptionsError, install_excepthook
from dstnet_arch.plugin.options import check_options, concerns_us, find_options, force, read_options
from dstnet_arch.plugin.registration import names

ParseOptions = Callable[..., tuple[dict[str, Any], argparse.Namespace]]


def checked_parse_options(parse: ParseOptions) -> ParseOptions:
    """Wrap BasicSR's ``parse_options``: options of this package are checked before anything is created.

    Other people's options pass through unchanged.
    """

    def parse_options(root_path: str, is_train: bool = True) -> tuple[dict[str, Any], argparse.Namespace]:
        install_excepthook()
        given = given_options()
        if given.opt is None:
            return parse(root_path, is_train)  # BasicSR's parser complains
        file = find_options(given.opt)
        raw = read_options(file)
        if not concerns_us(raw):
            return parse(root_path, is_train)

        from dstnet_arch.plugin.run_lock import hold_run

        if given.launcher == 'slurm' and 'SLURM_PROCID' not in os.environ:
            raise OptionsError('--launcher slurm needs a Slurm job. Start with srun, or use torchrun.')
        # For BasicSR's own torch.load, whatever the environment says. With both set, nothing can be loaded.
        os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
        os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
        forced = force(raw, given.force_yml)
        launched = {'dist': given.launcher != 'none', 'auto_resume': given.auto_resume}
        checked = check_options(copy.deepcopy(forced), is_train, **launched)
        with _given_to_basicsr(file, checked):
            opt, args = parse(root_path, is_train)
        _check_processes(opt, forced.get('num_gpu'))
        if opt['dist'] and forced.get('manual_seed') is None:
            _take_seed_of_rank_0(opt)
        train = opt['datasets'].get('train', {})
        if train.get('type') in names('DATASET_REGISTRY'):
            train['manual_seed'] = opt['manual_seed']  # a data set gets its own section only
        _check_place(file, opt)
        hold_run(opt)
        return opt, args

    return parse_options


def given_options() -> argparse.Namespace:
    """Read the arguments of this process's command line that matter here; the rest is in `others`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('-opt')
    parser.add_argument('--launcher', default='none')
    parser.add_argument('--auto_resume', action='store_true')
    parser.add_argument('--force_yml', nargs='+', action='extend', default=[])
    given, others = parser.parse_known_args()
    given.others = others
    return given


@contextmanager
def _given_to_basicsr(file: Path, opt: dict[str, Any]) -> Iterator[None]:
    """Make BasicSR's ``parse_options`` use these options instead of the file and the forced values.

    BasicSR would construct any Python object that the file names, use the last of two equal keys, fail on quoted
    numbers, and evaluate forced values as Python.
    """
    from basicsr.utils import options

    given = given_options()
    resume = ['--auto_resume'] if given.auto_resume else []
    command_line = [sys.argv[0], '-opt', str(file), '--launcher', given.launcher, *resume, *given.others]

    class Loader:
        def __init__(self, stream: Any) -> None:
            pass

        def get_single_data(self) -> dict[str, Any]:
            return copy.deepcopy(opt)

        def dispose(self) -> None:
            pass

    stock, argv = options.ordered_yaml, sys.argv
    options.ordered_yaml = lambda: (Loader, yaml.SafeDumper)
    sys.argv = command_line
    try:
        yield
    finally:
        options.ordered_yaml, sys.argv = stock, argv


def _check_processes(opt: dict[str, Any], num_gpu: Any) -> None:
    """Refuse several GPUs in one process.

    BasicSR would use DataParallel, which is slower, and count fewer samples than it draws: training would end before
    `total_iter`.
    """
    if not opt['dist'] and opt['num_gpu'] > 1:
        how = f'torchrun --nproc_per_node={opt["num_gpu"]} -m basicsr.train -opt … --launcher pytorch'
        if num_gpu != 'auto':
            raise OptionsError(f'num_gpu is {num_gpu}, but one process uses one GPU. Set it to auto and start {how}')
        print(f'Using one of {opt["num_gpu"]} GPUs. To use all: {how}', flush=True)
        opt['num_gpu'] = 1
    if opt['dist'] and opt['num_gpu'] == 0:
        import torch.distributed

        if torch.distributed.get_backend() == 'nccl':
            raise OptionsError(
                'num_gpu: 0 given, but the processes would communicate through GPUs. Set it to auto, or hide the GPUs: '
                'CUDA_VISIBLE_DEVICES= torchrun …'
            )


def _take_seed_of_rank_0(opt: dict[str, Any]) -> None:
    """Without a `manual_seed` every rank has drawn its own and would draw samples in another order."""
    import torch.distributed
    from basicsr.utils import set_random_seed

    seed = [opt['manual_seed']]
    torch.distributed.broadcast_object_list(seed, src=0)
    opt['manual_seed'] = seed[0]
    set_random_seed(seed[0] + opt['rank'])


def _check_place(file: Path, opt: dict[str, Any]) -> None:
    """BasicSR copies the options file into the folder of the run, after it may have moved that folder away."""
    folder = Path(opt['path'].get('experiments_root', '.'))
    if opt['is_train'] and file.resolve().is_relative_to(folder.resolve()):
        raise OptionsError(
            f'The options file {file} is in the folder of the run itself, {folder}. Use a copy elsewhere.'
        )

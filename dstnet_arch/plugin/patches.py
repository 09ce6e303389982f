"""Repairs for stock BasicSR 1.4.2 on today's libraries, one function each; its files are never touched.

Each docstring names the defect and the condition under which the repair acts. Everything else keeps BasicSR's own
behaviour. One more repair, for modules that torchvision and SciPy have moved, is needed while BasicSR is being imported
and stands in the start-up hook (``startup/_dstnet_arch_hook.py``).
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sized
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed

from dstnet_arch.errors import OptionsError, install_excepthook
from dstnet_arch.plugin.options import checked_parse_options
from dstnet_arch.plugin.resume import resuming_anywhere

_applied = False


def apply() -> None:
    """Apply every repair, once. One that does not fit the BasicSR at hand is named on stderr and left out."""
    global _applied
    if _applied:
        return
    _applied = True
    for patch in PATCHES:
        try:
            patch()
        except Exception as error:
            print(
                f'dstnet_arch: BasicSR is used without the repair "{patch.__name__}" '
                f'({type(error).__name__}: {error}); it was made for BasicSR 1.4.2.',
                file=sys.stderr,
            )


def outputs_in_current_folder() -> None:
    """Have ``experiments/``, ``results/`` and ``tb_logger/`` made in the current folder.

    Defect: BasicSR writes to the parent of its package folder, which after ``pip install`` is site-packages; and
    ``--auto_resume``, which looks in the current folder, finds nothing and begins the run anew.
    Acts: where a pipeline is given that folder as its root. Other roots, and a source checkout of BasicSR, stay.
    """
    options, misc, logger = (import_module(f'basicsr.utils.{name}') for name in ('options', 'misc', 'logger'))
    parse, rename, init_tb_logger = options.parse_options, misc.mkdir_and_rename, logger.init_tb_logger
    installed = Path(import_module('basicsr').__file__ or '').resolve().parent.parent
    if (installed / 'setup.py').exists():
        return

    def elsewhere(path: str) -> str:
        resolved = Path(path).resolve()
        if resolved == installed:
            return os.getcwd()
        if resolved.is_relative_to(installed / 'tb_logger'):
            return str(Path.cwd() / resolved.relative_to(installed))
        return path

    @functools.wraps(parse)
    def parse_options(root_path: str, is_train: bool = True) -> Any:
        return parse(elsewhere(root_path), is_train)

    @functools.wraps(rename)
    def mkdir_and_rename(path: str) -> None:
        rename(elsewhere(path))

    @functools.wraps(init_tb_logger)
    def init_tb_logger_here(log_dir: str) -> Any:
        return init_tb_logger(elsewhere(log_dir))

    _replace(parse, parse_options)
    _replace(rename, mkdir_and_rename)
    _replace(init_tb_logger, init_tb_logger_here)


def clear_option_errors() -> None:
    """Check options as a whole and report errors in one message.

    Defect: a missing file, a misspelt key or a wrong value ends in a traceback from somewhere deep, or is passed over.
    Acts: for options that name this package's model or data sets; a file that cannot be read is reported for all.
    """
    parse = import_module('basicsr.utils.options').parse_options
    _replace(parse, functools.wraps(parse)(checked_parse_options(parse)))


def resume_anywhere() -> None:
    """Resume without CUDA, and from the newest state that is whole.

    Defect: ``load_resume_state`` asks for the current CUDA device, puts everything there (random states, too, which
    belong on the CPU), and stops at a damaged file.
    Acts: where there is no CUDA, and for options that name this package's model or data sets.
    """
    train = import_module('basicsr.train')
    load = train.load_resume_state
    _replace(load, functools.wraps(load)(resuming_anywhere(load)))

    # `python -m basicsr.train` executes the file a second time, as __main__, after this. Parsing the options is the
    # first thing that its pipeline does, so there is the place to reach that copy.
    parse = import_module('basicsr.utils.options').parse_options

    @functools.wraps(parse)
    def parse_options(root_path: str, is_train: bool = True) -> Any:
        main = sys.modules['__main__']
        if _file(main) == _file(train):
            vars(main)['load_resume_state'] = train.load_resume_state
        return parse(root_path, is_train)

    _replace(parse, parse_options)


def distributed_anywhere() -> None:
    """Run torch.distributed without a GPU, and on the right GPU of each machine.

    Defect: ``init_dist`` divides by the number of GPUs and asks for NCCL, which needs one; and it takes the GPU from
    the global rank, which is wrong where machines run different numbers of processes.
    Acts: without a GPU the backend is gloo; with one it is taken from LOCAL_RANK (torchrun) or SLURM_LOCALID.
    """
    dist_util = import_module('basicsr.utils.dist_util')

    def init_pytorch(backend: str, **kwargs: Any) -> None:
        if 'RANK' not in os.environ:
            raise OptionsError(
                '--launcher pytorch given, but no launcher has set RANK. Start the processes with torchrun: '
                'torchrun --nproc_per_node=N -m basicsr.train -opt FILE --launcher pytorch'
            )
        if torch.cuda.is_available():
            local_rank = int(os.environ.get('LOCAL_RANK', os.environ['RANK']))
            torch.cuda.set_device(local_rank % torch.cuda.device_count())
        elif backend == 'nccl':
            backend = 'gloo'
        torch.distributed.init_process_group(backend=backend, **kwargs)
        install_excepthook()  # over PyTorch's own, which swallows what the one below it prints before it exits

    def init_slurm(backend: str, port: int | None = None) -> None:
        nodes = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
        os.environ['MASTER_ADDR'] = subprocess.run(nodes, check=True, capture_output=True, text=True).stdout.split()[0]
        os.environ['MASTER_PORT'] = str(port or os.environ.get('MASTER_PORT', 29500))
        os.environ['WORLD_SIZE'] = os.environ['SLURM_NTASKS']
        os.environ['RANK'] = os.environ['SLURM_PROCID']
        os.environ['LOCAL_RANK'] = os.environ.get('SLURM_LOCALID', os.environ['SLURM_PROCID'])
        init_pytorch(backend)

    _replace(dist_util._init_dist_pytorch, init_pytorch)
    _replace(dist_util._init_dist_slurm, init_slurm)


def folders_before_the_other_ranks() -> None:
    """Have all ranks wait until rank 0 has made the folders of the run.

    Defect: nobody waits, so a rank that is quicker copies the options file into a folder that is not there, and ends.
    Acts: where several ranks are in contact.
    """
    make = import_module('basicsr.utils.misc').make_exp_dirs

    @functools.wraps(make)
    def make_exp_dirs(opt: Any) -> None:
        make(opt)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            device_ids = [torch.cuda.current_device()] if torch.distributed.get_backend() == 'nccl' else None
            torch.distributed.barrier(device_ids=device_ids)

    _replace(make, make_exp_dirs)


def sampler_of_the_dataset() -> None:
    """Let a training set bring the sampler that it needs, as the class attribute ``sampler_class``.

    Defect: ``train.py`` hard-codes ``EnlargedSampler``, which passes no position in the run to the data set, so that an
    interrupted run cannot draw the same samples again; and which leaves an incomplete batch at the end of an epoch,
    which is dropped, so that runs with few samples end before ``total_iter``.
    Acts: for data sets with that attribute. All others get an ``EnlargedSampler``, and the class stays the same object.
    """
    stock = import_module('basicsr.data.data_sampler').EnlargedSampler

    def new(cls: type, dataset: Sized, num_replicas: int, rank: int, ratio: float = 1) -> Any:
        sampler_class = getattr(type(dataset), 'sampler_class', None)
        if cls is stock and sampler_class is not None:
            return sampler_class(dataset, num_replicas, rank, ratio)
        return object.__new__(cls)

    stock.__new__ = new


def no_warning_at_start() -> None:
    """Silence runpy's warning at every ``python -m basicsr.train`` and ``python -m basicsr.test``.

    Defect: ``basicsr/__init__`` imports these two files, which runpy then executes; with ``-W error`` nothing runs.
    Acts: on this one warning about these two modules.
    """
    warnings.filterwarnings('ignore', r"'basicsr\.(train|test)' found in sys\.modules", RuntimeWarning)


PATCHES = (
    no_warning_at_start,
    outputs_in_current_folder,
    clear_option_errors,
    resume_anywhere,
    distributed_anywhere,
    folders_before_the_other_ranks,
    sampler_of_the_dataset,
)


def _replace(old: Callable[..., Any], new: Callable[..., Any]) -> None:
    """Put a function in another's place under every name that it has: BasicSR's modules import from each other."""
    for name, module in list(sys.modules.items()):
        if name.partition('.')[0] == 'basicsr':
            for attribute in [key for key, value in vars(module).items() if value is old]:
                setattr(module, attribute, new)


def _file(module: ModuleType) -> Path | None:
    file = getattr(module, '__file__', None)
    return Path(file).resolve() if file else None

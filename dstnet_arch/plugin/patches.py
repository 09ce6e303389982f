"""Patches of stock BasicSR 1.4.2 for today's libraries, one function each. BasicSR's files are never changed.

Each docstring names the defect and when the patch acts. Everything else keeps BasicSR's own behaviour.
"""

from __future__ import annotations

import functools
import io
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sized
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from dstnet_arch.errors import OptionsError, install_excepthook
from dstnet_arch.plugin.options import concerns_us
from dstnet_arch.plugin.options_parser import checked_parse_options
from dstnet_arch.plugin.progress import show_progress
from dstnet_arch.plugin.resume import resuming_anywhere


@functools.cache
def apply() -> None:
    """Apply every patch, once."""
    for patch in PATCHES:
        patch()


def outputs_in_current_folder() -> None:
    """Create ``experiments/``, ``results/`` and ``tb_logger/`` in the current folder.

    Defect: BasicSR writes to the parent of its package folder, which after ``pip install`` is site-packages; and
    ``--auto_resume``, which looks in the current folder, finds nothing there and starts the run from the beginning.
    Acts: if a pipeline is given that folder as its root. Other roots, and a source checkout of BasicSR, are unchanged.
    """
    # The parent first: an installer may have made the package, or each of its files, a link to another folder.
    installed = Path(import_module('basicsr').__file__ or '').parent.parent.resolve()
    if (installed / 'setup.py').exists():
        return

    def here(argument: Any) -> Any:
        resolved = Path(argument).resolve() if isinstance(argument, str) else Path()
        if resolved == installed or resolved.is_relative_to(installed / 'tb_logger'):
            return str(Path.cwd() / resolved.relative_to(installed))
        return argument

    def redirect(function: Callable[..., Any]) -> None:
        @functools.wraps(function)
        def redirected(*args: Any, **kwargs: Any) -> Any:
            return function(*map(here, args), **{name: here(value) for name, value in kwargs.items()})

        _replace(function, redirected)

    redirect(import_module('basicsr.utils.options').parse_options)
    redirect(import_module('basicsr.utils.misc').mkdir_and_rename)
    redirect(import_module('basicsr.utils.logger').init_tb_logger)


def clear_option_errors() -> None:
    """Check options as a whole and end with one message after errors that the user can fix, and after Ctrl-C.

    Defect: a missing file, a misspelt key or a wrong value ends in a traceback from deep inside, or is ignored; and
    ``--local-rank``, which ``torch.distributed.launch`` passes since PyTorch 2.0, is an unknown argument.
    Acts: for options that name this package's model or data sets. A file that cannot be read is reported, and the
    argument accepted, for all.
    """
    parse = import_module('basicsr.utils.options').parse_options
    _replace(parse, checked_parse_options(parse))


def text_in_utf8() -> None:
    """Write the log and the copy of the options file in UTF-8.

    Defect: both use the locale's encoding, so names outside of cp1252 or ASCII end in a UnicodeEncodeError.
    Acts: always. In a UTF-8 locale the files are the same as before.
    """
    get = import_module('basicsr.utils.logger').get_root_logger
    copy = import_module('basicsr.utils.options').copy_opt_file

    @functools.wraps(get)
    def get_root_logger(*args: Any, **kwargs: Any) -> logging.Logger:
        logger: logging.Logger = get(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler) and isinstance(handler.stream, io.TextIOWrapper):
                handler.stream.reconfigure(encoding='utf-8', errors='backslashreplace')
        return logger

    rank_and_size = import_module('basicsr.utils.dist_util').get_dist_info

    @functools.wraps(copy)
    def copy_opt_file(opt_file: str, experiments_root: str) -> None:
        if rank_and_size()[0] > 0:
            return
        header = f'# GENERATE TIME: {time.asctime()}\n# CMD:\n# {" ".join(sys.argv)}\n\n'
        content = header.encode('utf-8', 'backslashreplace') + Path(opt_file).read_bytes()
        Path(experiments_root, Path(opt_file).name).write_bytes(content)

    _replace(get, get_root_logger)
    _replace(copy, copy_opt_file)


def resume_anywhere() -> None:
    """Resume without CUDA, and from the newest state that is not damaged.

    Defect: ``load_resume_state`` asks for the current CUDA device, loads everything to it (random states, too, which
    belong on the CPU), and stops at a damaged file.
    Acts: without CUDA, and for options that name this package's model or data sets.
    """
    train = import_module('basicsr.train')
    _replace(train.load_resume_state, resuming_anywhere(train.load_resume_state))

    # `python -m basicsr.train` executes the file a second time, as __main__, after this. The first thing that its
    # pipeline does is to parse the options, so that is the place to patch this second copy.
    parse = import_module('basicsr.utils.options').parse_options

    @functools.wraps(parse)
    def parse_options(root_path: str, is_train: bool = True) -> Any:
        main = sys.modules['__main__']
        file = getattr(main, '__file__', None)  # None in an interactive session
        if file and Path(file).resolve() == Path(train.__file__ or '').resolve():
            vars(main)['load_resume_state'] = train.load_resume_state
        return parse(root_path, is_train)

    _replace(parse, parse_options)


def distributed_anywhere() -> None:
    """Run torch.distributed without a GPU, and on the right GPU of each machine.

    Defect: ``init_dist`` divides by the number of GPUs and asks for NCCL, which needs one; it derives the GPU from the
    global rank, which is wrong if machines run different numbers of processes; and it ends in a KeyError without a
    launcher.
    Acts: without a GPU the backend is gloo; with one it is given by LOCAL_RANK (torchrun) or SLURM_LOCALID.
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
        install_excepthook()  # again: PyTorch has installed its own, which loses what the one below it prints

    def init_slurm(backend: str, port: int | None = None) -> None:
        if 'SLURM_PROCID' not in os.environ:
            raise OptionsError('--launcher slurm needs a Slurm job. Start with srun, or use torchrun.')
        nodes = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
        os.environ['MASTER_ADDR'] = subprocess.check_output(nodes, text=True).split()[0]
        os.environ['MASTER_PORT'] = str(port or os.environ.get('MASTER_PORT', 29500))
        os.environ['WORLD_SIZE'] = os.environ['SLURM_NTASKS']
        os.environ['RANK'] = os.environ['SLURM_PROCID']
        os.environ['LOCAL_RANK'] = os.environ.get('SLURM_LOCALID', os.environ['SLURM_PROCID'])
        init_pytorch(backend)

    _replace(dist_util._init_dist_pytorch, init_pytorch)
    _replace(dist_util._init_dist_slurm, init_slurm)


def folders_before_the_other_ranks() -> None:
    """Have all ranks wait until rank 0 has created the folders of the run.

    Defect: nothing waits, so a faster rank copies the options file into a folder that does not exist, and fails.
    Acts: with several ranks.
    """
    make = import_module('basicsr.utils.misc').make_exp_dirs

    @functools.wraps(make)
    def make_exp_dirs(opt: Any) -> None:
        make(opt)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()

    _replace(make, make_exp_dirs)


def sampler_of_the_dataset() -> None:
    """Let a training set choose its sampler, as the class attribute ``sampler_class``.

    Defect: ``train.py`` hard-codes ``EnlargedSampler``, which does not know the position in the run, so that a resumed
    run cannot draw the same samples again; and which leaves an incomplete batch at the end of an epoch, which is
    dropped, so that runs with few samples end before ``total_iter``.
    Acts: for data sets with that attribute. All others get an ``EnlargedSampler``, and the class is the same object.
    """
    stock = import_module('basicsr.data.data_sampler').EnlargedSampler

    def new(cls: type, dataset: Sized, num_replicas: int, rank: int, ratio: float = 1) -> Any:
        sampler_class = getattr(type(dataset), 'sampler_class', None)
        if cls is stock and sampler_class is not None:
            return sampler_class(dataset, num_replicas, rank, ratio)
        return object.__new__(cls)

    stock.__new__ = new


def progress_from_the_start() -> None:
    """Show the progress of training from the first iteration on.

    Defect: nothing is shown until ``print_freq`` iterations are done, which takes minutes on a busy machine.
    Acts: for options that name this package's model or data sets.
    """
    build = import_module('basicsr.models').build_model

    @functools.wraps(build)
    def build_model(opt: dict[str, Any]) -> Any:
        model = build(opt)
        if opt.get('is_train') and opt.get('rank') == 0 and concerns_us(opt):
            show_progress(model, opt)
        return model

    _replace(build, build_model)


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
    text_in_utf8,
    resume_anywhere,
    distributed_anywhere,
    folders_before_the_other_ranks,
    sampler_of_the_dataset,
    progress_from_the_start,
)


def _replace(old: Callable[..., Any], new: Callable[..., Any]) -> None:
    """Replace a function under every name that it has: BasicSR's modules import from each other."""
    for name, module in list(sys.modules.items()):
        if name.partition('.')[0] == 'basicsr':
            for attribute in [key for key, value in vars(module).items() if value is old]:
                setattr(module, attribute, new)

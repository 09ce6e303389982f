"""BasicSR's ``parse_options`` with the options checked first."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed
import yaml

from dstnet_arch.errors import OptionsError, escape_unencodable_output, install_excepthook
from dstnet_arch.plugin.options import concerns_us, find_options, force, read_options
from dstnet_arch.plugin.progress import interrupted
from dstnet_arch.plugin.registration import names
from dstnet_arch.plugin.startup._dstnet_arch_hook import raise_on_interrupt

ParseOptions = Callable[..., tuple[dict[str, Any], argparse.Namespace]]


def checked_parse_options(parse: ParseOptions) -> ParseOptions:
    """Wrap BasicSR's ``parse_options``: options of this package are checked before anything is created.

    Other people's options pass through unchanged.
    """

    @functools.wraps(parse)
    def parse_options(root_path: str, is_train: bool = True) -> tuple[dict[str, Any], argparse.Namespace]:
        escape_unencodable_output()
        install_excepthook()
        # torch.distributed.launch passes --local-rank; BasicSR knows --local_rank.
        sys.argv[1:] = [argument.replace('--local-rank', '--local_rank') for argument in sys.argv[1:]]
        given = given_options()
        file = given.opt and find_options(given.opt)
        raw = read_options(file) if file else {}
        if not concerns_us(raw):
            opt, args = parse(root_path, is_train)
            raise_on_interrupt()
            return opt, args

        from dstnet_arch.plugin.options_check import check_options
        from dstnet_arch.plugin.run_lock import hold_run

        # For BasicSR's own torch.load, whatever the environment says. With both set, nothing can be loaded.
        os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
        os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
        launched = {'dist': given.launcher != 'none', 'auto_resume': given.auto_resume}
        checked = check_options(force(raw, given.force_yml), is_train, **launched)
        opt, args = _parse_checked(parse, root_path, is_train, checked, given)
        args.opt = str(file)
        if opt['dist'] and checked.get('manual_seed') is None:
            _take_seed_of_rank_0(opt)
        train = opt['datasets'].get('train', {})
        if train.get('type') in names('DATASET_REGISTRY'):
            train['manual_seed'] = opt['manual_seed']  # a data set gets its own section only
        folder = Path(opt['path'].get('experiments_root', '.'))
        if is_train and file.resolve().is_relative_to(folder.resolve()):
            # BasicSR copies the file into this folder, after it may have moved the folder away.
            raise OptionsError(
                f'The options file {file} is in the folder of the run itself, {folder}. Use a copy elsewhere.'
            )
        hold_run(opt)
        raise_on_interrupt()
        install_excepthook(functools.partial(interrupted, opt))
        return opt, args

    return parse_options


def given_options() -> argparse.Namespace:
    """Read the arguments of this process's command line that matter here; the rest is in `others`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('-opt')
    parser.add_argument('--launcher', default='none')
    parser.add_argument('--auto_resume', action='store_true')
    parser.add_argument('--force_yml', nargs='+', action='extend', default=[])
    given, given_others = parser.parse_known_args()
    given.others = given_others
    return given


def _parse_checked(
    parse: ParseOptions, root_path: str, is_train: bool, opt: dict[str, Any], given: argparse.Namespace
) -> tuple[dict[str, Any], argparse.Namespace]:
    """Have BasicSR parse a file with the checked options.

    From the original, BasicSR would construct any Python object that a tag names, use the last of two equal keys, and
    evaluate forced values as Python.
    """
    before = sys.argv
    resume = ['--auto_resume'] if given.auto_resume else []
    try:
        with TemporaryDirectory() as folder:
            file = Path(folder, 'checked.yml')
            file.write_text(yaml.safe_dump(opt, sort_keys=False), encoding='ascii')
            sys.argv = [before[0], '-opt', str(file), '--launcher', given.launcher, *resume, *given.others]
            return parse(root_path, is_train)
    finally:
        sys.argv = before


def _take_seed_of_rank_0(opt: dict[str, Any]) -> None:
    """Without a `manual_seed` every rank has drawn its own and would draw samples in another order."""
    from basicsr.utils import set_random_seed

    seed = [opt['manual_seed']]
    torch.distributed.broadcast_object_list(seed, src=0)
    opt['manual_seed'] = seed[0]
    set_random_seed(seed[0] + opt['rank'])

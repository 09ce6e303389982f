"""Options files: reading them safely, and one clear error in place of what stock BasicSR makes of a wrong one."""

from __future__ import annotations

import argparse
import ast
import copy
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from dstnet_arch.errors import DSTNetError, OptionsError, install_excepthook, message_of
from dstnet_arch.plugin.registration import names

_MOST_VALUES = 100_000  # in an options file; ours have about a hundred

ParseOptions = Callable[..., tuple[dict[str, Any], argparse.Namespace]]


class _Loader(yaml.SafeLoader):
    """Constructs nothing but plain values, and notes what stock BasicSR would run or drop without a word."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.problems: list[str] = []

    def leave_out(self, node: yaml.Node) -> None:
        self.problems.append(
            f'line {node.start_mark.line + 1} has the tag {node.tag}. Options are data: plain values and the standard '
            'tags of YAML, such as !!float, are allowed. Take the tag out'
        )

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in {key for key in keys if keys.count(key) > 1}:
            self.problems.append(f'{key} stands twice in the section from line {node.start_mark.line + 1} on. Keep one')
        return super().construct_mapping(node, deep)


_Loader.add_constructor(None, _Loader.leave_out)  # every tag that SafeLoader does not know


def read_options(path: str | Path, whoevers: bool = False) -> dict[str, Any]:
    """Read an options file, as data only: no tag in it can run code.

    Args:
        path: the file.
        whoevers: refuse tags that construct Python objects, and keys that stand twice, in other people's options too.

    Raises:
        OptionsError: the file is missing, is no YAML, or holds something else than keys and values; or it is for this
            package's model or data sets, or does not plainly say which, and holds such tags or keys.
    """
    try:
        text = Path(path).read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise OptionsError(
            f'The options file {path} cannot be read: {getattr(error, "strerror", None) or error}. '
            f'Give the path of a YAML file, e.g. -opt options/train_DSTNet_GoPro.yml (seen from {Path.cwd()}).'
        ) from None
    try:
        loader = _Loader(text)
        opt = loader.get_single_data()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # PyYAML lets those of bad values through
        mark = getattr(error, 'problem_mark', None)
        reason = f'line {mark.line + 1}: {getattr(error, "problem", "")}' if mark else ' '.join(str(error).split())
        raise OptionsError(
            f'The options file {path} is not valid YAML: {reason}. Mend it there, or close what the lines before open.'
        ) from None
    if not isinstance(opt, dict):
        raise OptionsError(f'The options file {path} holds no keys. See options/train_DSTNet_GoPro.yml for an example.')
    plainly_others = isinstance(opt.get('model_type'), str) and not concerns_us(opt)
    if not _is_countable(opt):
        loader.problems.append('an alias (*name) stands for its own surroundings, or too often. Write the values out')
    if loader.problems and (whoevers or not plainly_others):
        raise OptionsError(f'The options file {path}: {"; ".join(loader.problems)}.')
    return opt


def concerns_us(opt: dict[str, Any]) -> bool:
    """Whether options are for this package's model or data sets, and not for somebody else's alone."""
    datasets = opt.get('datasets')
    sections = datasets.values() if isinstance(datasets, dict) else []
    types = {str(section.get('type')) for section in sections if isinstance(section, dict)}
    return str(opt.get('model_type')) in names('MODEL_REGISTRY') or not types.isdisjoint(names('DATASET_REGISTRY'))


def force(opt: dict[str, Any], entries: Sequence[str]) -> dict[str, Any]:
    """Apply ``--force_yml`` entries to a copy of the options, to the same effect as stock BasicSR, evaluating nothing.

    Raises:
        OptionsError: an entry is not of the form ``key=value`` or ``section:key=value``, or names a section that the
            file does not have.
    """
    opt = copy.deepcopy(opt)
    for entry in entries:
        keys, *values = entry.split('=')
        if len(values) != 1:
            raise OptionsError(
                f'--force_yml {entry}: {"no" if not values else "more than one"} "=" given. '
                'Allowed: section:key=value, e.g. train:total_iter=1000; a value with "=" in it goes into the file.'
            )
        *sections, last = keys.strip().split(':')
        place: Any = opt
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict) or not last:
            near = get_close_matches(keys.strip(), _paths(opt), 1, 0.5)
            raise OptionsError(
                f'--force_yml {entry}: there is no section {":".join(sections)} in the options file. '
                + (f'The nearest key is {near[0]}.' if near else 'Give a key that stands in the file.')
            )
        place[last] = _forced_value(entry, values[0].strip())
    return opt


def checked_parse_options(parse: ParseOptions) -> ParseOptions:
    """Wrap BasicSR's ``parse_options``: options of this package are checked as a whole, before anything is created.

    Other people's options pass through as they are.
    """

    def parse_options(root_path: str, is_train: bool = True) -> tuple[dict[str, Any], argparse.Namespace]:
        install_excepthook()
        given = given_options()
        raw = read_options(given.opt) if given.opt is not None else {}  # without a file, BasicSR's parser complains
        if not concerns_us(raw):
            return parse(root_path, is_train)

        from dstnet_arch.plugin.options_schema import check_options
        from dstnet_arch.plugin.run_lock import hold_run

        # For BasicSR's own torch.load, whatever the environment asks for. With both set, nothing can be loaded.
        os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
        os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
        forced = force(raw, given.force_yml)
        launched = {'dist': given.launcher != 'none', 'auto_resume': given.auto_resume}
        checked = check_options({**copy.deepcopy(forced), **launched}, is_train)
        with _given_to_basicsr({key: value for key, value in checked.items() if key in forced}):
            opt, args = parse(root_path, is_train)
        _check_processes(opt, forced.get('num_gpu'))
        if opt['dist'] and forced.get('manual_seed') is None:
            _take_seed_of_rank_0(opt)
        opt = check_options(opt, is_train)  # once more: BasicSR has added to the options
        _check_place(given.opt, opt)
        hold_run(opt)
        return opt, args

    return parse_options


def given_options() -> argparse.Namespace:
    """What BasicSR's parser will read from this process's command line; what does not matter here is in `others`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('-opt')
    parser.add_argument('--launcher', default='none')
    parser.add_argument('--auto_resume', action='store_true')
    parser.add_argument('--force_yml', nargs='+', action='extend', default=[])
    given, others = parser.parse_known_args()
    given.others = others
    return given


def command(arguments: Sequence[str]) -> int:
    """``dstnet options check FILE...``: check options files without running anything."""
    parser = argparse.ArgumentParser(prog='dstnet options', description='Check options files.')
    parser.add_argument('action', choices=['check'])
    parser.add_argument('files', nargs='+', metavar='FILE')
    parser.add_argument('--no-paths', action='store_true', help='do not ask for data and weights to be there')
    args = parser.parse_args(arguments)

    from dstnet_arch.plugin.options_schema import check_options

    status = 0
    for file in args.files:
        try:
            opt = read_options(file)
            datasets = opt.get('datasets')
            is_train = isinstance(opt.get('train'), dict) or (isinstance(datasets, dict) and 'train' in datasets)
            check_options(opt, is_train, check_paths=not args.no_paths)
        except DSTNetError as error:
            print(f'{file}: {message_of(error)}', file=sys.stderr)
            status = 2
        else:
            print(f'{file}: fine')
    return status


def _check_processes(opt: dict[str, Any], num_gpu: Any) -> None:
    """Several GPUs are for several processes.

    Within one, BasicSR would use DataParallel, which is slower, and count fewer samples than it draws: training would
    end before `total_iter`.
    """
    if not opt['dist'] and opt['num_gpu'] > 1:
        how = f'torchrun --nproc_per_node={opt["num_gpu"]} -m basicsr.train -opt … --launcher pytorch'
        if num_gpu != 'auto':
            raise OptionsError(f'num_gpu is {num_gpu}, but one process uses one GPU. Set it to auto and start {how}')
        print(f'One process uses one of the {opt["num_gpu"]} GPUs here; all of them: {how}', flush=True)
        opt['num_gpu'] = 1
    if opt['dist'] and opt['num_gpu'] == 0:
        import torch.distributed

        if torch.distributed.get_backend() == 'nccl':
            raise OptionsError(
                'num_gpu: 0 given for several processes, which find GPUs here and would talk through them. Allowed: '
                'auto; or hide the GPUs: CUDA_VISIBLE_DEVICES= torchrun …'
            )


def _take_seed_of_rank_0(opt: dict[str, Any]) -> None:
    """Without a `manual_seed` every rank has drawn one of its own, and would take the data in an order of its own."""
    import torch.distributed
    from basicsr.utils import set_random_seed

    seed = [opt['manual_seed']]
    torch.distributed.broadcast_object_list(seed, src=0)
    opt['manual_seed'] = seed[0]
    set_random_seed(seed[0] + opt['rank'])


def _check_place(file: str, opt: dict[str, Any]) -> None:
    """BasicSR copies the options file into the folder of the run, from which it may just have moved it away."""
    folder = Path(opt['path'].get('experiments_root', '.'))
    if opt['is_train'] and Path(file).resolve().is_relative_to(folder.resolve()):
        raise OptionsError(
            f'The options file {file} is in the folder of the run itself, {folder}. Copy it to another place and give '
            'the copy.'
        )


@contextmanager
def _given_to_basicsr(opt: dict[str, Any]) -> Iterator[None]:
    """Have BasicSR's ``parse_options`` take these options, in place of the file and the forced values that it reads.

    It would construct any Python object that the file names, take the last of two equal keys, fail over numbers in
    quotes, which are numbers by now, and run what the forced values make of Python's brackets and quotes.
    """
    from basicsr.utils import options

    given = given_options()
    resume = ['--auto_resume'] if given.auto_resume else []
    command_line = [sys.argv[0], '-opt', given.opt, '--launcher', given.launcher, *resume, *given.others]

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


def _is_countable(opt: dict[str, Any]) -> bool:
    """Whether going through all values comes to an end, and soon: aliases can make a short file endless."""
    waiting: list[Any] = [opt]
    for _ in range(_MOST_VALUES):
        if not waiting:
            return True
        value = waiting.pop()
        if isinstance(value, (dict, list)):
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return False


def _forced_value(entry: str, value: str) -> Any:
    from basicsr.utils.options import _postprocess_yml_value

    try:
        # BasicSR evaluates what starts with a bracket as Python.
        return ast.literal_eval(value) if value.startswith('[') else _postprocess_yml_value(value)
    except (ValueError, SyntaxError):
        raise OptionsError(
            f'--force_yml {entry}: {value} is no value. '
            'Allowed: a number, true, false, ~, text, or a list such as [1,2].'
        ) from None


def _paths(opt: dict[str, Any], prefix: str = '') -> Iterator[str]:
    for key, value in opt.items():
        yield f'{prefix}{key}'
        if isinstance(value, dict):
            yield from _paths(value, f'{prefix}{key}:')

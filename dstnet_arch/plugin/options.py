"""Options files: find, read and check them, and hand them to stock BasicSR."""

from __future__ import annotations

import argparse
import ast
import copy
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from dstnet_arch.errors import OptionsError, counted, install_excepthook
from dstnet_arch.plugin.registration import names

_MAX_VALUES = 100_000  # of an options file; ours have about a hundred
_TRAIN, _TEST = 'VideoRecurrentDeblurDataset', 'VideoRecurrentDeblurTestDataset'
RELEASED_TYPES = {
    'VideoRecurrentModel': ('MODEL_REGISTRY', 'VideoRecurrentDeblurModel'),
    'GOPRORecurrentDataset': ('DATASET_REGISTRY', _TRAIN),
    'DVDRecurrentDataset': ('DATASET_REGISTRY', _TRAIN),
    'BSDRecurrentDataset': ('DATASET_REGISTRY', _TRAIN),
    'BSDRecurrentdatasets': ('DATASET_REGISTRY', _TRAIN),
    'VideoRecurrentSplitClipsTestDataset': ('DATASET_REGISTRY', _TEST),
    'VideoRecurrentSplitClipsTestdatasets': ('DATASET_REGISTRY', _TEST),
    'Deblur': ('ARCH_REGISTRY', 'DSTNet'),
    'Deblur_L': ('ARCH_REGISTRY', 'DSTNet'),
    'DSTNetPlus_Final': ('ARCH_REGISTRY', 'DSTNetPlus'),
    'FFT': ('LOSS_REGISTRY', 'FrequencyLoss'),
}
"""Types of the released code, a fork of BasicSR: the registry that the fork puts them into, and their names here."""

ParseOptions = Callable[..., tuple[dict[str, Any], argparse.Namespace]]


def options_folder() -> Path:
    """Return the folder of this package's options files: in the wheel, or in the checkout of an editable install."""
    package = Path(__file__).parents[1]
    return package / 'options' if (package / 'options').is_dir() else package.parent / 'options'


def find_options(name: str) -> Path:
    """Return the path of an options file: `name` itself, or else the packaged file of that name.

    Args:
        name: a path, or the name of a packaged file, e.g. 'train_DSTNet_GoPro', with or without 'options/' and '.yml'.

    Raises:
        OptionsError: there is no such file.
    """
    if name and os.path.exists(name):
        return Path(name)
    packaged = sorted(options_folder().rglob('*.yml'))
    stem = name.removeprefix('options/').removesuffix('.yml')
    for path in packaged:
        if stem in (path.stem, path.relative_to(options_folder()).with_suffix('').as_posix()):
            return path
    near = get_close_matches(Path(name).stem, [path.stem for path in packaged], 1)
    raise OptionsError(
        f'The options file {name} does not exist (current folder: {Path.cwd()}). '
        + (f'Did you mean {near[0]}? ' if near else '')
        + 'Packaged files can be given by name: dstnet options list. To edit them: dstnet options copy DIR.'
    )


class _Loader(yaml.SafeLoader):
    """Constructs plain values only, and notes what stock BasicSR would execute or drop silently."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.problems: list[str] = []

    def leave_out(self, node: yaml.Node) -> None:
        self.problems.append(
            f'line {node.start_mark.line + 1} has the tag {node.tag}; only the standard tags of YAML, such as !!float, '
            'are allowed. Remove it'
        )

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in {key for key in keys if keys.count(key) > 1}:
            self.problems.append(f'{key} occurs twice in the section that begins in line {node.start_mark.line + 1}')
        return super().construct_mapping(node, deep)


_Loader.add_constructor(None, _Loader.leave_out)  # every tag that SafeLoader does not know


def read_options(path: str | Path, strict: bool = False) -> dict[str, Any]:
    """Read an options file as data: no tag in it can run code.

    Args:
        path: the file.
        strict: refuse tags that construct Python objects and duplicate keys in all files. By default, files for other
            packages' models may contain them.

    Raises:
        OptionsError: the file cannot be read, is not valid YAML, does not consist of keys and values, or contains what
            `strict` refuses.
    """
    try:
        text = Path(path).read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise OptionsError(
            f'The options file {path} cannot be read: {getattr(error, "strerror", None) or error}. '
            'Give the path of a YAML file.'
        ) from None
    try:
        loader = _Loader(text)
        opt = loader.get_single_data()
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        RecursionError,
    ) as error:  # PyYAML does not convert bad values' errors
        mark = getattr(error, 'problem_mark', None)
        reason = f'line {mark.line + 1}: {getattr(error, "problem", "")}' if mark else ' '.join(str(error).split())
        raise OptionsError(
            f'The options file {path} is not valid YAML: {reason}. Fix that line or the ones before it.'
        ) from None
    if not isinstance(opt, dict):
        raise OptionsError(f'The options file {path} contains no keys. For an example: dstnet options copy DIR.')
    if not _is_finite(opt):
        loader.problems.append('an alias (*name) refers to its own section, or is repeated too often')
    theirs = isinstance(opt.get('model_type'), str) and not concerns_us(opt)
    if loader.problems and (strict or not theirs):
        raise OptionsError(f'The options file {path}: {"; ".join(loader.problems)}.')
    return opt


def concerns_us(opt: dict[str, Any]) -> bool:
    """Return True if options use this package's model or data sets, or types that exist only in the released code."""
    datasets = opt.get('datasets')
    sections = datasets.values() if isinstance(datasets, dict) else []
    types = {str(section.get('type')) for section in sections if isinstance(section, dict)}
    ours = str(opt.get('model_type')) in names('MODEL_REGISTRY') or not types.isdisjoint(names('DATASET_REGISTRY'))
    return ours or bool(released_types(opt))


def released_types(opt: dict[str, Any]) -> dict[str, str]:
    """Return the types of the released code in options that no package has registered, by the path of their key."""
    sections = {'network_g': opt.get('network_g')}
    for name in ('datasets', 'train'):
        values = opt.get(name)
        sections |= {f'{name}:{key}': value for key, value in values.items()} if isinstance(values, dict) else {}
    types = {f'{path}:type': values.get('type') for path, values in sections.items() if isinstance(values, dict)}
    found = {path: name for path, name in types.items() if isinstance(name, str) and name in RELEASED_TYPES}
    if not found:
        return {}
    registries = import_module('basicsr.utils.registry')
    found = {path: name for path, name in found.items() if name not in getattr(registries, RELEASED_TYPES[name][0])}
    model = {'model_type': opt['model_type']} if opt.get('model_type') == 'VideoRecurrentModel' else {}
    return model | found if found else {}  # stock BasicSR has a model of that name, too


def force(opt: dict[str, Any], entries: Sequence[str]) -> dict[str, Any]:
    """Apply ``--force_yml`` entries to a copy of the options as stock BasicSR does, without evaluating code.

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
                'Allowed: section:key=value, e.g. train:total_iter=1000. Put a value that contains "=" into the file.'
            )
        *sections, last = keys.strip().split(':')
        place: Any = opt
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict) or not last:
            near = get_close_matches(keys.strip(), _paths(opt), 1, 0.5)
            raise OptionsError(
                f'--force_yml {entry}: the options file has no section {":".join(sections)}. '
                + (f'Did you mean {near[0]}?' if near else 'Use a key of the file.')
            )
        place[last] = _forced_value(entry, values[0].strip())
    return opt


def check_options(opt: dict[str, Any], is_train: bool, *, check_paths: bool = True) -> dict[str, Any]:
    """Check the options of a run that uses our model or our data sets, before anything is created.

    Text from YAML or ``--force_yml`` is replaced by the values that it stands for, and the few keys that stock BasicSR
    reads without a default are filled in. With another model than ours only the sections of our data sets are checked.

    Args:
        opt: the options, as BasicSR's ``parse_options`` returns them or as the file has them; changed in place.
        is_train: True for training, False for a test.
        check_paths: check that the data, weights and states exist and fit. Relative paths start at the current folder.

    Returns:
        `opt`.

    Raises:
        OptionsError: names every problem, with what was given and what is allowed.
    """
    from dstnet_arch.plugin.options_check import validate

    released = released_types(opt)
    right, problems = validate(opt, is_train, check_paths, released)
    if problems:
        lines = [f'The options have {counted(len(problems), "problem")}:', *problems]
        remedy = 'Fix the options file or override values with --force_yml section:key=value. Keys: docs/options.md.'
        if released:
            size = 'DSTNet-L' if 'Deblur_L' in released.values() else 'DSTNet'
            network = 'DSTNetPlus' if 'DSTNetPlus_Final' in released.values() else size
            remedy = (
                'These options are for the released code. Begin with '
                f'options/{"train" if is_train else "test"}_{network}_GoPro.yml (dstnet options copy DIR).'
            )
        raise OptionsError('\n  '.join(lines) + f'\n{remedy}')
    _update(opt, right)
    train = (opt.get('datasets') or {}).get('train') or {}
    if train.get('type') in names('DATASET_REGISTRY') and 'manual_seed' in opt:
        train['manual_seed'] = opt['manual_seed']  # a data set gets its own section only
    return opt


def _update(opt: dict[str, Any], right: dict[str, Any]) -> None:
    for key, value in right.items():
        if isinstance(value, dict) and isinstance(opt.get(key), dict):
            _update(opt[key], value)
        elif key not in opt or type(opt[key]) is not type(value) or opt[key] != value:
            opt[key] = value


# In front of stock BasicSR


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

        from dstnet_arch.plugin.options_environment import slurm_problem
        from dstnet_arch.plugin.run_lock import hold_run

        if given.launcher == 'slurm' and (problem := slurm_problem()):
            raise OptionsError(problem)
        # For BasicSR's own torch.load, whatever the environment says. With both set, nothing can be loaded.
        os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
        os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
        forced = force(raw, given.force_yml)
        launched = {'dist': given.launcher != 'none', 'auto_resume': given.auto_resume}
        checked = check_options({**copy.deepcopy(forced), **launched}, is_train)
        with _given_to_basicsr(file, {key: value for key, value in checked.items() if key in forced}):
            opt, args = parse(root_path, is_train)
        _check_processes(opt, forced.get('num_gpu'))
        if opt['dist'] and forced.get('manual_seed') is None:
            _take_seed_of_rank_0(opt)
        opt = check_options(opt, is_train, check_paths=False)  # again: BasicSR has added to the options
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


def _is_finite(opt: dict[str, Any]) -> bool:
    """Return False if aliases make a short file endless or very long."""
    waiting: list[Any] = [opt]
    for _ in range(_MAX_VALUES):
        if not waiting:
            return True
        value = waiting.pop()
        if isinstance(value, (dict, list)):
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return False


def _forced_value(entry: str, value: str) -> Any:
    from basicsr.utils.options import _postprocess_yml_value

    try:
        # BasicSR evaluates text that starts with a bracket as Python.
        return ast.literal_eval(value) if value.startswith('[') else _postprocess_yml_value(value)
    except (ValueError, SyntaxError):
        raise OptionsError(
            f'--force_yml {entry}: {value} is not a value. '
            'Allowed: a number, true, false, ~, text, or a list such as [1,2].'
        ) from None


def _paths(opt: dict[str, Any], prefix: str = '') -> Iterator[str]:
    for key, value in opt.items():
        yield f'{prefix}{key}'
        if isinstance(value, dict):
            yield from _paths(value, f'{prefix}{key}:')

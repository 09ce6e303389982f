"""Options files: find, read, override and check them."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from dstnet_arch.errors import OptionsError, counted
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
# YAML 1.1 reads 1e-4 as text, and a run named 2025-03-07 as a date.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(':timestamp')]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = re.compile(r'[-+]?\d+(\.\d*)?[eE][-+]?\d+$')
_Loader.add_implicit_resolver('tag:yaml.org,2002:float', _FLOAT, list('-+0123456789'))


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
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # PyYAML does not convert all of them
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
    """Apply ``--force_yml`` entries to a copy of the options. Their values are read as in an options file.

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


def check_options(
    opt: dict[str, Any], is_train: bool, *, check_paths: bool = True, dist: bool = False, auto_resume: bool = False
) -> dict[str, Any]:
    """Check the options of a run that uses our model or our data sets, before anything is created.

    Text from YAML or ``--force_yml`` is replaced by the values that it stands for, and the few keys that stock BasicSR
    reads without a default are filled in. With another model than ours only the sections of our data sets are checked.

    Args:
        opt: the options, as the file has them; changed in place.
        is_train: True for training, False for a test.
        check_paths: check that the data, weights and states exist and fit. Relative paths start at the current folder.
        dist: True if a launcher starts several processes.
        auto_resume: True if the run resumes from its last training state.

    Returns:
        `opt`.

    Raises:
        OptionsError: names every problem, with what was given and what is allowed.
    """
    from dstnet_arch.plugin.options_check import validate
    from dstnet_arch.plugin.options_schema import Run

    released = released_types(opt)
    right, problems = validate(Run(opt, is_train, check_paths, dist, auto_resume), released)
    if problems:
        remedy = 'Fix the options file or override values with --force_yml section:key=value. Keys: docs/options.md.'
        if released:
            networks = {'Deblur_L': 'DSTNet-L', 'DSTNetPlus_Final': 'DSTNetPlus'}
            network = next((networks[name] for name in released.values() if name in networks), 'DSTNet')
            remedy = (
                'These options are for the released code. Begin with '
                f'options/{"train" if is_train else "test"}_{network}_GoPro.yml (dstnet options copy DIR).'
            )
        heading = f'The options have {counted(len(problems), "problem")}:'
        raise OptionsError('\n  '.join([heading, *problems]) + f'\n{remedy}')
    _update(opt, right)
    return opt


def _update(opt: dict[str, Any], right: dict[str, Any]) -> None:
    for key, value in right.items():
        if isinstance(value, dict) and isinstance(opt.get(key), dict):
            _update(opt[key], value)
        elif key not in opt or type(opt[key]) is not type(value) or opt[key] != value:
            opt[key] = value


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


def _forced_value(entry: str, text: str) -> Any:
    try:
        loader = _Loader(text)
        value = loader.get_single_data()
        if not loader.problems:
            return value
    except (yaml.YAMLError, ValueError):
        pass
    raise OptionsError(
        f'--force_yml {entry}: {text} is not a value. Allowed: a number, true, false, ~, text, or a list such as [1,2].'
    )


def _paths(opt: dict[str, Any], prefix: str = '') -> Iterator[str]:
    for key, value in opt.items():
        yield f'{prefix}{key}'
        if isinstance(value, dict):
            yield from _paths(value, f'{prefix}{key}:')
